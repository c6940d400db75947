"""Ordering: an output with ORDERED=yes gets the messages of a mailbox in the order in which they were pulled.

A batch is handed to it when no earlier batch of its mailbox owes it anything. What waits for a person in `failed` is passed
over: else one refused message would stop a mailbox for ever. Nothing is locked, because an earlier batch owes until it is
concluded, and none comes in before one that is there: a mailbox is pulled by one process at a time, forwards. What comes
late by its nature, because a server withheld it or a backfill brings it, takes its place behind the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from worker.errors import MailquayError
from worker.quay import Quay
from worker.spool import Batch, Ticket, outputs_of

_EACH_SECONDS, _LONGEST_SECONDS = 5, 600
"""How long a batch waits for each that is before it; the one right behind is called as soon as it is its turn."""
_LOOKS = 3
"""How often a batch is looked for that others keep on renaming; then it is taken to owe."""

Waiting = tuple[Ticket, str]
"""A batch, and the place where it is parked, if it is."""


def ordered(quay: Quay, outputs: Iterable[str]) -> frozenset[str]:
    """Those of these outputs that want their messages in order."""
    said = quay.settings.outputs
    return frozenset(name for name in outputs if name in said and said[name].terms.ordered)


def first_in_line(tickets: Iterable[Ticket]) -> Sequence[Ticket]:
    """The batch of each mailbox that was pulled first, in the order in which they were given."""
    first: dict[str, Ticket] = {}
    given = list(tickets)
    for ticket in given:
        if ticket.sequence < first.setdefault(ticket.mailbox, ticket).sequence:
            first[ticket.mailbox] = ticket
    return [ticket for ticket in given if ticket is first[ticket.mailbox]]


def held_back(quay: Quay, batch: Batch, outputs: Collection[str]) -> dict[str, int]:
    """Those of these outputs that earlier batches have to reach first, and when to look again, in Unix seconds."""
    wanted = ordered(quay, outputs)
    if not wanted:
        return {}
    before = [
        (ticket, place)
        for ticket, place in _of_mailbox(quay, batch.mailbox)
        if ticket.sequence < batch.sequence and ticket.batch != batch.id
    ]
    held: frozenset[str] = frozenset()
    # The first one most likely owes, and what is parked need not be opened.
    for waiting in sorted(before, key=lambda found: (not found[1], found[0].sequence)):
        held |= wanted & _owed(quay, waiting, else_all_of=wanted)
        if held == wanted:
            break
    until = int(quay.clock()) + min(_LONGEST_SECONDS, _EACH_SECONDS * len(before))
    return dict.fromkeys(held, until)


def next_in_line(quay: Quay, batch: Batch) -> Ticket | None:
    """The batch behind this one in its mailbox, due at once, if it waits for its turn."""
    now = quay.clock()
    away = quay.circuits.opened(ordered(quay, quay.settings.outputs)).keys()
    behind = [
        (ticket, place)
        for ticket, place in _of_mailbox(quay, batch.mailbox)
        if ticket.sequence > batch.sequence and (place or ticket.due > now)
    ]
    for ticket, place in sorted(behind, key=lambda found: found[0].sequence):
        if ordered(quay, _owed(quay, (ticket, place))) - away:
            return quay.spool.unpark(ticket, place) if place else quay.spool.postpone(ticket, int(now))
    return None


def its_turn_came(quay: Quay, batch: Batch, held: Collection[str]) -> bool:
    """Whether an output that was not asked for a batch might be by now; to be found out when the batch waits for all to see.

    Otherwise the one before it could be concluded just in between, and would call nobody.
    """
    return bool(held) and len(held_back(quay, batch, held)) < len(held)


def _of_mailbox(quay: Quay, mailbox: str) -> list[Waiting]:
    """Every batch of a mailbox that waits."""
    waiting = [(ticket, "") for ticket in quay.spool.tickets()]
    if places := quay.spool.parked_for():
        waiting += [(ticket, place) for place in places for ticket in quay.spool.parked(place)]
        # What was let out meanwhile was in neither listing.
        waiting += [(ticket, "") for ticket in quay.spool.tickets()]
    return list(dict.fromkeys(found for found in waiting if found[0].mailbox == mailbox))


def _owed(quay: Quay, waiting: Waiting, *, else_all_of: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a batch owes; nothing when it is gone or cannot be read: then it is pulled again, behind the others.

    One that has another name by now, because somebody began it, is looked for; `else_all_of` when it is not to be caught.
    """
    ticket, place = waiting
    for _ in range(_LOOKS):
        if place:
            return outputs_of(place)
        try:
            with quay.spool.open(ticket) as opened:
                return frozenset(output for entry in opened.batch.entries for output in entry.owed)
        except FileNotFoundError:
            found = [one for one in _of_mailbox(quay, ticket.mailbox) if one[0].batch == ticket.batch]
            if not found:
                return frozenset()
            ticket, place = found[-1]
        except MailquayError:
            return frozenset()
    return else_all_of
