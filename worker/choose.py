"""Whom of a batch's outputs to ask now: not those that are due later, known to be away, or held back by the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.output import Receipt, Retry
from worker.circuit import OpenCircuit
from worker.ordering import held_back
from worker.owing import outputs_due
from worker.quay import Quay
from worker.spool import Batch, OutputState


@dataclass(frozen=True, slots=True)
class Chosen:
    """The outputs of a batch that are `due`; those `away`, which are not asked; and those `held` back, each until when.

    `receipts` are for what waited for an output for so long, while it was away, that it may be over. `probes` are those of
    the due ones that are away, and are asked to see whether they are back.
    """

    batch: Batch
    due: frozenset[str]
    away: Mapping[str, OpenCircuit]
    held: Mapping[str, int]
    receipts: Mapping[tuple[str, str], Receipt]
    probes: frozenset[str] = frozenset()


def choose(quay: Quay, batch: Batch) -> Chosen:
    """Who is asked now. A circuit that is open lets one caller through now and then, and that may be this one."""
    now = quay.clock()
    opened = quay.circuits.opened(batch.owed)
    # While an output is away its circuit says when it is asked, and not how often this batch was turned down.
    due = sorted({*outputs_due(batch, now), *opened})
    # Whose turn it is does not matter while nobody may ask.
    open_to_it = [output for output in due if output not in opened or opened[output].probe_at <= now]
    held = held_back(quay, batch, open_to_it)
    away = {
        output: circuit
        for output, circuit in opened.items()
        if output in held or circuit.probe_at > now or not quay.circuits.admits(output)
    }
    held = {output: until for output, until in held.items() if output not in away}
    receipts = {
        (entry.id, output): Retry(circuit.reason)
        for output, circuit in away.items()
        if quay.clock() - _since(batch, circuit) > quay.terms(batch.mailbox).seconds(output)
        for entry in batch.entries
        if output in entry.owed
    }
    asked = frozenset(due) - held.keys() - away.keys()
    return Chosen(batch, asked, away, held, receipts, asked & opened.keys())


def _since(batch: Batch, circuit: OpenCircuit) -> float:
    """Since when the output has not taken the batch, which it may never have been asked for."""
    known = batch.outputs.get(circuit.output, OutputState()).since
    return known or max(batch.created, circuit.since)


def since_noted(batch: Batch, chosen: Chosen) -> Batch:
    """The batch with the time since which outputs that are away have not taken it."""
    since = {
        output: replace(batch.outputs.get(output, OutputState()), since=int(_since(batch, circuit)))
        for output, circuit in chosen.away.items()
    }
    return replace(batch, outputs={**batch.outputs, **since})


def due_again(batch: Batch, away: Mapping[str, OpenCircuit], held: Mapping[str, int]) -> int:
    """When to look at a batch again, in Unix seconds, with outputs that are not asked: those away, and those held back.

    One that waits for nobody but outputs that are away is parked, and is looked at when it is let out.
    """
    if away.keys() == batch.outputs.keys():
        return 0
    probes = {output: int(circuit.probe_at) + 1 for output, circuit in away.items()}
    return min(max(state.due, {**probes, **held}.get(output, 0)) for output, state in batch.outputs.items())
