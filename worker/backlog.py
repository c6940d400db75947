"""What waits, for which output and why. Names tell nearly all of it, so a hundred thousand parked batches cost a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from worker.circuit import OpenCircuit
from worker.errors import MailquayError
from worker.quay import Quay
from worker.spool import Batch, Ticket, outputs_of

_READ = 500
"""So many batches that are not parked are opened to see whom they wait for."""


@dataclass(frozen=True)
class Waiting:
    """Every batch that waits: those in the listing, and those in each place where batches are parked."""

    ready: Sequence[Ticket]
    parked: Mapping[str, Sequence[Ticket]]

    @cached_property
    def tickets(self) -> list[Ticket]:
        """All of them."""
        return [*self.ready, *(ticket for tickets in self.parked.values() for ticket in tickets)]

    @property
    def away(self) -> frozenset[str]:
        """The outputs that batches are parked for."""
        return frozenset(output for place in self.parked for output in outputs_of(place))

    @property
    def messages(self) -> int:
        """How many messages still owe something."""
        return sum(ticket.messages for ticket in self.tickets)

    @property
    def octets(self) -> int:
        """How large these are."""
        return sum(ticket.octets for ticket in self.tickets)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one output: how many messages, since when the oldest was there (Unix seconds; 0: nothing waits).

    `circuit` is there while the output is away; `reason` is what it said last.
    """

    output: str
    messages: int
    since: float
    reason: str
    circuit: OpenCircuit | None


def waiting(quay: Quay) -> Waiting:
    """Look at what waits, by names only."""
    parked = {output: quay.spool.parked(output) for output in quay.spool.parked_for()}
    return Waiting(quay.spool.tickets(), {output: tickets for output, tickets in parked.items() if tickets})


def backlogs(quay: Quay, found: Waiting) -> tuple[list[Backlog], int]:
    """What waits for each output, those configured and others; and how many messages were not looked into.

    A batch that is parked counts for every output that it waits for: the name of its place tells them all.
    """
    messages: dict[str, int] = dict.fromkeys(quay.settings.outputs, 0)
    since: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for place, tickets in found.parked.items():
        oldest = min(ticket.sequence for ticket in tickets) / 1e6
        for output in outputs_of(place):
            messages[output] = messages.get(output, 0) + sum(ticket.messages for ticket in tickets)
            since[output] = min(since.get(output, oldest), oldest)
    for ticket in found.ready[:_READ]:
        if batch := _batch(quay, ticket):
            for output in batch.owed:
                owed = sum(output in entry.owed for entry in batch.entries)
                messages[output] = messages.get(output, 0) + owed
                since[output] = min(since.get(output, batch.created), batch.created)
                if state := batch.outputs.get(output):
                    reasons[output] = state.reason or reasons.get(output, "")
    circuits = quay.circuits.opened(messages)
    reasons |= {output: circuit.reason for output, circuit in circuits.items()}
    told = [
        Backlog(output, count, since.get(output, 0.0), reasons.get(output, ""), circuits.get(output))
        for output, count in sorted(messages.items())
    ]
    return told, sum(ticket.messages for ticket in found.ready[_READ:])


def _batch(quay: Quay, ticket: Ticket) -> Batch | None:
    """What a batch says; None when it is gone meanwhile, or cannot be read."""
    try:
        with quay.spool.open(ticket) as opened:
            return opened.batch
    except (MailquayError, FileNotFoundError):
        return None
