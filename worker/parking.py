"""Parking: batches that only wait for outputs which are known to be away leave the listing that is walked again and again.

So a hundred thousand of them cost a sweep nothing. One is let out for each probe, all of them when the output is back, and
whoever has waited for longer than RETRY_FOR, to be given up.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.owing import RETRY_FOR
from worker.quay import Quay
from worker.spool import Ticket


def let_out(quay: Quay, *, most: int) -> list[Ticket]:
    """Put parked batches back that may be delivered now, at most so many for each output; they are due at once."""
    outputs = quay.spool.parked_for()
    opened = quay.circuits.opened(outputs)
    waiting: list[Ticket] = []
    for output in outputs:
        circuit = opened.get(output)
        if circuit and circuit.probe_at > quay.clock():
            continue
        # Only now is it listed, which may be long.
        parked = quay.spool.parked(output)
        going = (
            parked[:most] if circuit is None else [*parked[:1], *_given_up(quay, output, parked[1:], most)]
        )
        waiting += [back for ticket in going if (back := quay.spool.unpark(ticket, output))]
    return waiting


def _given_up(quay: Quay, output: str, parked: Sequence[Ticket], most: int) -> Sequence[Ticket]:
    """Those that were pulled so long ago that their time may be over; delivering finds out."""
    said = quay.settings.outputs.get(output)
    seconds = (said.terms.retry_for if said else RETRY_FOR).total_seconds()
    last = (quay.clock() - seconds) * 1e6
    return [ticket for ticket in parked if ticket.sequence < last][:most]


def waiting_batches(quay: Quay) -> list[Ticket]:
    """Every batch that waits, parked or not."""
    parked = [ticket for output in quay.spool.parked_for() for ticket in quay.spool.parked(output)]
    return [*quay.spool.tickets(), *parked]
