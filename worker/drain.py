"""Patience until the spool is empty: when to look again at what is due later, or parked for an output that is away.

It delivers nothing itself: `once.run` does, and asks it whether to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.backlog import Waiting, waiting
from worker.once import Totals
from worker.owing import is_due
from worker.quay import Quay

_LOOK_SECONDS = 5.0
"""Other processes may deliver, too: so often it is looked, however far away the next due time is."""
_SHORTEST_SECONDS = 0.2
_SHARE = 20
"""Looking takes no more than one part in so many of the time, however many names there are."""

Show = Callable[[int, int, str], None]
"""Called with how many messages are done, of how many, and what is waited for."""


class Drain:
    """Goes on until nothing waits or, in `limit` seconds if there is one, the time is over."""

    def __init__(
        self, quay: Quay, *, limit: float | None, show: Show, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._quay = quay
        self._ends_at = None if limit is None else quay.clock() + limit
        self._show = show
        self._sleep = sleep
        self._done = 0
        self._left = waiting(quay).messages

    def progress(self, totals: Totals) -> None:
        """Show how far it is; what is in work may have been done by others."""
        done = totals.delivered + totals.dropped + totals.failed
        self._left = max(0, self._left - (done - self._done))
        self._done = done
        self._show(done, done + self._left, "")

    def go_on(self, idle: bool) -> bool:
        """Whether to go on; without anything to do it waits before it answers."""
        now = self._quay.clock()
        if self._ends_at is not None and now >= self._ends_at:
            return False
        if not idle:
            return True
        found = waiting(self._quay)
        if not found.tickets:
            return False
        self._left = found.messages
        looked = self._quay.clock()
        pause = max(_next(self._quay, found, looked) - looked, _SHARE * (looked - now), _SHORTEST_SECONDS)
        if self._ends_at is not None:
            pause = min(pause, max(0.0, self._ends_at - looked))
        self._show(self._done, self._done + self._left, _told(found))
        self._sleep(pause)
        return True


def _next(quay: Quay, found: Waiting, now: float) -> float:
    """When something may be due: a batch, or the probe of an output that is away."""
    probes = [circuit.probe_at for circuit in quay.circuits.opened(found.away).values()]
    due = [ticket.due for ticket in found.ready if not is_due(ticket.due, now)]
    return min([*due, *probes, now + _LOOK_SECONDS])


def _told(found: Waiting) -> str:
    away = ", ".join(sorted(found.away))
    return f"waiting for {away}, which is away" if away else "waiting for the next try"
