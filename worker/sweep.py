"""The safety net: whatever was lost between Redis, beat and a worker that died is found again here.

It walks the spool for batches that are due, and the timetable for bells that nobody answered, and rings again; it lets
out what was parked for an output that is back or is to be probed; it removes what dead processes left unfinished and what
was kept for long enough. It delivers nothing itself and may run as often as anybody likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from worker.owing import is_due
from worker.parking import let_out
from worker.quay import Quay
from worker.spool import Ticket
from worker.timetable import ALERT, KEEP_ALIVE, SWEEP

log = structlog.get_logger("sweep")

_UNANSWERED_SECONDS = 120.0
"""A bell that nobody has answered for so long is rung again."""
_AT_ONCE = 1000
"""Batches rung in one sweep; the next sweep goes on."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    batches: int = 0
    mailboxes: int = 0
    cleaned: int = 0
    waiting: int = 0


def sweep(quay: Quay, *, ring: Callable[[Ticket], None], ring_pull: Callable[[str], None]) -> Swept:
    """Ring again for what is due and forgotten, and clean up."""
    now = quay.clock()
    cleaned = quay.spool.clean()
    let_out(quay, most=_AT_ONCE)
    waiting = quay.spool.tickets()
    due = [ticket for ticket in waiting if is_due(ticket.due, now)][:_AT_ONCE]
    for ticket in due:
        ring(ticket)
    forgotten = [bell for bell in quay.timetable.unanswered() if now - bell.last > _UNANSWERED_SECONDS]
    for bell in forgotten:
        kind, _, mailbox = bell.entry.partition(":")
        if kind not in {SWEEP, KEEP_ALIVE, ALERT}:
            quay.timetable.rung_again(bell, now)
            ring_pull(mailbox)
    quay.timetable.answered(SWEEP)
    swept = Swept(len(due), len(forgotten), cleaned, len(waiting))
    # A sweep that found nothing is worth no line every ten seconds.
    say = log.debug if swept == Swept() else log.info
    say(
        "sweep.finished",
        batches=swept.batches,
        mailboxes=swept.mailboxes,
        cleaned=swept.cleaned,
        waiting=swept.waiting,
    )
    return swept
