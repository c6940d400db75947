"""Whether a role does its work: what container health checks and people ask.

A worker that answers pings and finishes nothing while work is due is unhealthy; one with nothing to do is not. It
looks only at what was finished and what is due, and never talks to Celery.
"""

from __future__ import annotations

import socket
from typing import cast

from worker import state
from worker.quay import Quay

STALLED_SECONDS = 300.0
"""Work that is due for so long, while the asked worker finished nothing, makes it unhealthy."""
_BEAT_SECONDS = 30.0

ROLES = ("beat", "puller", "deliverer")


def finished(quay: Quay, role: str) -> None:
    """Record that a worker of this role on this host finished a task, whatever came of it."""
    quay.client.hset(state.FINISHED, f"{role}@{socket.gethostname()}", int(quay.clock() * 1000))


def illness(quay: Quay, role: str, *, host: str | None = None) -> str | None:
    """What is wrong with a role on a host, in a sentence; None when it is well.

    Raises:
        RedisUnavailable: then nobody can work.
    """
    host = host or socket.gethostname()
    now = quay.clock()
    if role == "beat":
        ticked = _time(quay, state.BEATS, host)
        if now - ticked > _BEAT_SECONDS:
            return f"beat on {host} has not ticked for {now - ticked:.0f} s: mailboxes are not called"
        return None
    idle = now - _time(quay, state.FINISHED, f"{role}@{host}")
    if idle <= STALLED_SECONDS:
        return None
    waiting = _oldest_pull(quay, now) if role == "puller" else _oldest_batch(quay, now)
    if waiting > STALLED_SECONDS:
        return f"the {role} on {host} finished nothing for {STALLED_SECONDS:.0f} s, but work waits for {waiting:.0f} s"
    return None


def _time(quay: Quay, key: str, field: str) -> float:
    return int(cast("str | None", quay.client.hget(key, field)) or 0) / 1000


def _oldest_pull(quay: Quay, now: float) -> float:
    pulls = [bell for bell in quay.timetable.unanswered() if bell.entry.startswith("pull:")]
    return now - pulls[0].first if pulls else 0.0


def _oldest_batch(quay: Quay, now: float) -> float:
    tickets = quay.spool.tickets()
    return now - tickets[0].due if tickets and tickets[0].due else 0.0
