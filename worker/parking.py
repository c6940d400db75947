"""Parking: batches that only wait for outputs which are known to be away leave the listing that is walked again and again.

So a hundred thousand of them cost a sweep nothing. Each lies in a place that is named after all the outputs it waits for.
It is let out when any of these is back; one is let out for each probe; and so is whoever may have waited for longer than
RETRY_FOR, to be given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from worker.circuit import OpenCircuit
from worker.ordering import first_in_line, ordered
from worker.owing import RETRY_FOR
from worker.quay import Quay
from worker.spool import Ticket, outputs_of, place_of

_LOOKS = 24
"""So often in the time of RETRY_FOR a batch is looked at that may or may not have waited for so long."""


def park(quay: Quay, ticket: Ticket, outputs: Iterable[str]) -> None:
    """Put a batch aside that waits for these outputs and for no others."""
    quay.spool.park(ticket, place_of(outputs), quay.clock())


def let_out(quay: Quay, *, most: int) -> list[Ticket]:
    """Put parked batches back that may be delivered now, at most so many of each place; they are due at once."""
    places = quay.spool.parked_for()
    opened = quay.circuits.opened({output for place in places for output in outputs_of(place)})
    waiting: list[Ticket] = []
    for place in places:
        outputs = outputs_of(place)
        away = {output: opened[output] for output in outputs if output in opened}
        back = outputs - away.keys()
        if not back and all(circuit.probe_at > quay.clock() for circuit in away.values()):
            continue
        # Only now is it listed, which may be long.
        parked = quay.spool.parked(place)
        going = _for_those_back(quay, back, parked) if back else _for_a_probe(quay, away, parked)
        waiting += [out for ticket in going[:most] if (out := quay.spool.unpark(ticket, place))]
    return waiting


def _for_those_back(quay: Quay, back: frozenset[str], parked: Sequence[Ticket]) -> Sequence[Ticket]:
    """Whoever can be delivered to outputs that are back: with an order to keep, the first of each mailbox."""
    return first_in_line(parked) if back == ordered(quay, back) else parked


def _for_a_probe(quay: Quay, away: Mapping[str, OpenCircuit], parked: Sequence[Ticket]) -> Sequence[Ticket]:
    """The one that was parked first, and whose turn it is, and whoever may have to be given up."""
    turn = first_in_line(parked)[:1] if ordered(quay, away) else ()
    over = (ticket for ticket in parked if any(_over(quay, ticket, circuit) for circuit in away.values()))
    return list(dict.fromkeys((*parked[:1], *turn, *over)))


def _over(quay: Quay, ticket: Ticket, circuit: OpenCircuit) -> bool:
    """Whether a batch may have waited for longer than RETRY_FOR; delivering finds out.

    While its output has not been away for so long, that is only so if it was asked for the batch before: rarely.
    """
    said = quay.settings.outputs.get(circuit.output)
    seconds = (said.terms.retry_for if said else RETRY_FOR).total_seconds()
    last = quay.clock() - seconds
    looked_at = quay.clock() - seconds / _LOOKS
    return ticket.sequence < last * 1e6 and (circuit.since < last or ticket.due < looked_at)


def waiting_batches(quay: Quay) -> list[Ticket]:
    """Every batch that waits, parked or not."""
    parked = [ticket for place in quay.spool.parked_for() for ticket in quay.spool.parked(place)]
    return [*quay.spool.tickets(), *parked]
