"""Whether a role does its work: what container health checks and people ask.

A worker that answers pings and finishes nothing while work is due is unhealthy; one with nothing to do is not. It
looks only at what was done and what is due, and never talks to Celery.
"""

from __future__ import annotations

import socket
from typing import cast

from worker import state
from worker.quay import Quay

_BEAT_SECONDS = 30.0
"""A beat ticks every second."""
_REMEMBERED_SECONDS = 7 * 86_400
"""Signs of life of hosts that are long gone are forgotten after this."""

ROLES = ("beat", "puller", "deliverer", "watcher")


def sign_of_life(quay: Quay, role: str) -> None:
    """Record that this role did a piece of work on this host just now, whatever came of it.

    Raises:
        RedisUnavailable: it was not recorded.
    """
    moment = int(quay.clock() * 1000)
    quay.client.set(state.life_key(role, socket.gethostname()), moment, ex=_REMEMBERED_SECONDS)


def illness(quay: Quay, role: str, *, host: str | None = None) -> str | None:
    """What is wrong with a role on a host, by default this one, in a sentence; None when it is well.

    Raises:
        RedisUnavailable: then nobody can work.
    """
    host = host or socket.gethostname()
    now = quay.clock()
    last = int(cast("str | None", quay.client.get(state.life_key(role, host))) or 0) / 1000
    since = f"for {now - last:.0f} s" if last else "so far"
    if role == "beat":
        if now - last <= _BEAT_SECONDS:
            return None
        return (
            f"beat on {host} has not ticked {since}: no mailbox is called. Look at its log, or start it again"
        )
    if role == "watcher":
        # It shows itself three times in the life of a lease.
        if now - last <= max(_BEAT_SECONDS, quay.lease_seconds):
            return None
        return f"the watcher on {host} has not shown itself {since}: new mail waits for the schedule. Start it again"
    patience = quay.settings.stalled_after.total_seconds()
    if now - last <= patience:
        return None
    waiting = _oldest_pull(quay, now) if role == "puller" else _oldest_batch(quay, now)
    if waiting <= patience:
        return None
    return (
        f"the {role} on {host} has finished nothing {since}, but work waits for {waiting:.0f} s. "
        "Look at its log, or start it again"
    )


def _oldest_pull(quay: Quay, now: float) -> float:
    """For how many seconds the bell of a mailbox has been unanswered."""
    pulls = [bell for bell in quay.timetable.unanswered() if bell.entry.startswith("pull:")]
    return now - pulls[0].first if pulls else 0.0


def _oldest_batch(quay: Quay, now: float) -> float:
    """For how many seconds a batch has been due; negative when all are due later."""
    tickets = quay.spool.tickets()
    return now - tickets[0].due if tickets else 0.0
