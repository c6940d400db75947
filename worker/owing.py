"""What a batch still owes after its outputs have answered: receipts in, the next step out.

Pure: the time and the jitter come in, nothing is written. Due times live in the batch, never in a Celery ETA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pipelines.output import Accepted, Receipt, Refused, Retry
from worker.spool import Batch, Entry, OutputState

RETRY_FOR_SECONDS = 3 * 86400
"""A message that an output did not accept in this time waits for a person."""
_LONGEST_RETRY_SECONDS = 600.0

Receipts = Mapping[tuple[str, str], Receipt]
"""(message id, output) -> what that output said of that message. A pair without a receipt was not tried."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that one output refused, or never accepted in all the time it had."""

    entry: Entry
    output: str
    reason: str


@dataclass(frozen=True, slots=True)
class Owing:
    """What follows: `done` messages owe nothing, `again` owe something at `due`, `failures` wait for a person."""

    done: tuple[Entry, ...] = ()
    again: tuple[Entry, ...] = ()
    due: int = 0
    outputs: Mapping[str, OutputState] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    accepted: int = 0


def outputs_due(batch: Batch, now: float) -> list[str]:
    """The outputs that something is owed to and that may be asked now."""
    owed = {output for entry in batch.entries for output in entry.owed}
    return sorted(output for output in owed if batch.outputs.get(output, OutputState()).due <= now)


def owing(batch: Batch, receipts: Receipts, *, now: float, jitter: Callable[[], float]) -> Owing:
    """What the batch owes after these receipts. `jitter` gives a factor from 0.5 to 1.0."""
    states = {
        output: _state(batch, output, receipts, now=now, jitter=jitter)
        for output in sorted({output for entry in batch.entries for output in entry.owed})
    }
    done: list[Entry] = []
    again: list[Entry] = []
    failures: list[Failure] = []
    accepted = 0
    for entry in batch.entries:
        still: list[str] = []
        failed = False
        for output in entry.owed:
            receipt = receipts.get((entry.id, output))
            if isinstance(receipt, Accepted):
                accepted += 1
            elif isinstance(receipt, Refused):
                failed = True
                failures.append(Failure(entry, output, receipt.reason))
            elif isinstance(receipt, Retry) and now - states[output].since > RETRY_FOR_SECONDS:
                failed = True
                failures.append(
                    Failure(
                        entry, output, f"not accepted in {RETRY_FOR_SECONDS // 86400} days: {receipt.reason}"
                    )
                )
            else:
                still.append(output)
        if still:
            again.append(replace(entry, owed=tuple(still)))
        elif not failed:
            done.append(entry)
    left = {output for entry in again for output in entry.owed}
    kept = {output: found for output, found in states.items() if output in left}
    return Owing(
        done=tuple(done),
        again=tuple(again),
        due=min((found.due for found in kept.values()), default=0),
        outputs=kept,
        failures=tuple(failures),
        accepted=accepted,
    )


def _state(
    batch: Batch, output: str, receipts: Receipts, *, now: float, jitter: Callable[[], float]
) -> OutputState:
    """When to ask an output next: what it asked for itself, else doubling from a second to ten minutes."""
    before = batch.outputs.get(output, OutputState())
    retries = [
        receipt for (_, name), receipt in receipts.items() if name == output and isinstance(receipt, Retry)
    ]
    if not retries:
        return before
    asked_for = max(
        (receipt.not_before.timestamp() for receipt in retries if receipt.not_before), default=0.0
    )
    backed_off = now + min(_LONGEST_RETRY_SECONDS, 2.0 ** min(before.attempts, 10)) * jitter()
    return OutputState(
        attempts=before.attempts + 1,
        due=int(max(asked_for, backed_off)) + 1,
        since=before.since or int(now),
        reason=retries[0].reason,
    )
