"""Ordering: an output with ORDERED=yes gets the messages of a mailbox in the order in which they were pulled.

A batch is handed to it when no earlier batch of its mailbox owes it anything. What waits for a person in `failed` is passed
over: else one refused message would stop a mailbox for ever. Nothing is locked, because an earlier batch owes until it is
concluded, and none comes in before one that is there: a mailbox is pulled by one process at a time, forwards. What comes
late by its nature, because a server withheld it or a backfill brings it, takes its place behind the others.
"""

from __future__ import annotations

from collections.abc import Collection

from worker.errors import MailquayError
from worker.quay import Quay
from worker.spool import Batch, Ticket

_EACH_SECONDS, _LONGEST_SECONDS = 5, 60
"""How long a batch waits for each that is before it; the one right behind is called as soon as it is its turn."""


def ordered(quay: Quay, outputs: Collection[str]) -> frozenset[str]:
    """Those of these outputs that want their messages in order."""
    said = quay.settings.outputs
    return frozenset(name for name in outputs if name in said and said[name].terms.ordered)


def held_back(quay: Quay, batch: Batch, outputs: Collection[str]) -> dict[str, int]:
    """Those of these outputs that earlier batches have to reach first, and when to look again, in Unix seconds."""
    wanted = ordered(quay, outputs)
    before: dict[str, int] = dict.fromkeys(wanted, 0)
    if wanted:
        for ticket, parked in _of_mailbox(quay, batch.mailbox):
            if ticket.sequence < batch.sequence and ticket.batch != batch.id:
                for output in wanted & _owed(quay, ticket, parked):
                    before[output] += 1
    now = int(quay.clock())
    return {
        output: now + min(_LONGEST_SECONDS, _EACH_SECONDS * count)
        for output, count in before.items()
        if count
    }


def next_in_line(quay: Quay, batch: Batch) -> Ticket | None:
    """The batch behind this one in its mailbox, due at once, if it waits for its turn."""
    now = quay.clock()
    behind = [
        ticket
        for ticket in quay.spool.tickets()
        if ticket.mailbox == batch.mailbox and ticket.sequence > batch.sequence and ticket.due > now
    ]
    first = min(behind, key=lambda ticket: ticket.sequence, default=None)
    return first and quay.spool.postpone(first, 0)


def _of_mailbox(quay: Quay, mailbox: str) -> list[tuple[Ticket, str]]:
    """Every batch of a mailbox that waits, with the output that it is parked for, if it is."""
    waiting = [(ticket, "") for ticket in quay.spool.tickets()]
    for output in quay.spool.parked_for():
        waiting += [(ticket, output) for ticket in quay.spool.parked(output)]
    return [(ticket, parked) for ticket, parked in waiting if ticket.mailbox == mailbox]


def _owed(quay: Quay, ticket: Ticket, parked: str) -> frozenset[str]:
    """What a batch owes; nothing when it is gone meanwhile or cannot be read: then it is pulled again, behind the others."""
    try:
        with quay.spool.open(ticket, parked=parked) as opened:
            return frozenset(output for entry in opened.batch.entries for output in entry.owed)
    except (MailquayError, FileNotFoundError):
        return frozenset()
