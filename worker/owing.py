"""What a batch still owes after its outputs have answered: receipts in, the next step out.

Pure: the time and the jitter come in, nothing is written. Due times live in the batch, never in a Celery ETA. What a
person reads of a message's way, its history, is made here too, and stays short however often an output was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from pipelines.options import write_duration
from pipelines.output import Accepted, Receipt, Refused, Retry
from worker.spool import Batch, Entry, Event, OutputState

RETRY_FOR = timedelta(days=3)
"""How long an output is asked that is not configured any more, and so has no RETRY_FOR of its own."""
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 2.0, 600.0
LONGEST_WAIT = timedelta(days=1)
"""How long an output may ask to be let alone; a date beyond that is one that nobody meant, and it is asked again then."""
_EVENTS = 50
"""What is kept of the history of a batch: its newest events."""

Receipts = Mapping[tuple[str, str], Receipt]
"""(message id, output) -> what that output said of that message. A pair without a receipt was not tried."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long outputs are asked, each by its own RETRY_FOR, and who gets what they do not take, the mailbox's FALLBACK."""

    retry_for: Mapping[str, timedelta] = field(default_factory=dict)
    fallback: str | None = None

    def seconds(self, output: str) -> float:
        """RETRY_FOR of an output."""
        return self.retry_for.get(output, RETRY_FOR).total_seconds()


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that one output refused, or never accepted in all the time it had, after so many attempts."""

    entry: Entry
    output: str
    reason: str


@dataclass(frozen=True, slots=True)
class Owing:
    """What follows: the batch as it is now, which of its messages failed, and how many receipts said accepted.

    `states` are those of all its outputs, also of those that nothing is owed to any more.
    """

    batch: Batch
    states: Mapping[str, OutputState] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    accepted: int = 0


def is_due(due: float, now: float) -> bool:
    """Whether a time has come. One that is further away than anybody waits was written when a clock was wrong."""
    return not now < due <= now + 2 * LONGEST_WAIT.total_seconds()


def outputs_due(batch: Batch, now: float) -> list[str]:
    """The outputs that something is owed to and that may be asked now."""
    return sorted(
        output for output in batch.owed if is_due(batch.outputs.get(output, OutputState()).due, now)
    )


def owing(
    batch: Batch, receipts: Receipts, *, now: float, chance: Callable[[], float], terms: Terms
) -> Owing:
    """What the batch owes after these receipts. `chance` gives a number from 0 to 1."""
    outputs = sorted(batch.owed)
    states = {output: _state(batch, output, receipts, now=now, chance=chance) for output in outputs}
    entries: list[Entry] = []
    failures: list[Failure] = []
    accepted = 0
    for entry in batch.entries:
        still: list[str] = []
        took: list[str] = []
        failed: list[Failure] = []
        for output in entry.owed:
            receipt = receipts.get((entry.id, output))
            if isinstance(receipt, Accepted):
                took.append(output)
            elif (reason := _given_up(receipt, states[output], output, now=now, terms=terms)) is not None:
                failed.append(Failure(entry, output, reason))
            else:
                still.append(output)
        accepted += len(took)
        # An output that has it again, because a person replayed it, is named once.
        after = replace(entry, owed=tuple(still), accepted=tuple(dict.fromkeys((*entry.accepted, *took))))
        caught = _caught(after, failed, terms.fallback)
        if failed and not caught:
            elsewhere = dict.fromkeys((*entry.elsewhere, *(failure.output for failure in failed)))
            after = replace(after, elsewhere=tuple(elsewhere))
        # Who accepted it at the same time is to be seen where it waits.
        failures += [] if caught else [replace(failure, entry=after) for failure in failed]
        entries.append(caught or after)
    left = {output for entry in entries for output in entry.owed}
    following = replace(
        batch,
        generation=batch.generation + 1,
        entries=tuple(entries),
        outputs={output: states.get(output, OutputState()) for output in sorted(left)},
        history=_history(batch.history, outputs, receipts, now=int(now)),
    )
    return Owing(following, states, tuple(failures), accepted)


def _given_up(
    receipt: Receipt | None, state: OutputState, output: str, *, now: float, terms: Terms
) -> str | None:
    """Why an output is not asked for a message again; None when it is, or has not answered."""
    if isinstance(receipt, Refused):
        return receipt.reason
    if isinstance(receipt, Retry) and now - state.since > terms.seconds(output):
        waited = write_duration(timedelta(seconds=terms.seconds(output)))
        return f"not accepted in {waited}: {receipt.reason}"
    return None


def _caught(entry: Entry, failed: list[Failure], fallback: str | None) -> Entry | None:
    """The entry as it owes itself to the fallback, when something failed and the fallback has not failed itself."""
    if not failed or fallback is None or any(failure.output == fallback for failure in failed):
        return None
    if fallback in (*entry.owed, *entry.accepted):
        return entry
    return replace(entry, owed=(*entry.owed, fallback))


def _state(
    batch: Batch, output: str, receipts: Receipts, *, now: float, chance: Callable[[], float]
) -> OutputState:
    """When to ask an output next: what it asked for itself, or else after a while that doubles up to ten minutes.

    The while is anything from nothing to all of it (full jitter), so that what failed together does not come back together.
    """
    before = batch.outputs.get(output, OutputState())
    retries = [
        receipt for (_, name), receipt in receipts.items() if name == output and isinstance(receipt, Retry)
    ]
    if not retries:
        return before
    asked_for = max(
        (receipt.not_before.timestamp() for receipt in retries if receipt.not_before), default=0.0
    )
    asked_for = min(asked_for, now + LONGEST_WAIT.total_seconds())
    longest = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(before.attempts, 10))
    return OutputState(
        attempts=before.attempts + 1,
        due=int(max(asked_for, now + longest * chance())) + 1,
        since=before.since or int(now),
        reason=retries[0].reason,
    )


def _history(
    history: tuple[Event, ...], outputs: Iterable[str], receipts: Receipts, *, now: int
) -> tuple[Event, ...]:
    """The history with what just happened: one event for each thing that an output said, joined to an equal one before."""
    found: dict[tuple[str, str, str], int] = {}
    for output in outputs:
        for (_, name), receipt in receipts.items():
            if name == output:
                reason = "" if isinstance(receipt, Accepted) else receipt.reason
                said = (output, type(receipt).__name__.lower(), reason)
                found[said] = found.get(said, 0) + 1
    events = list(history)
    for (output, what, reason), messages in found.items():
        last = next((event for event in reversed(events) if event.output == output), None)
        if last and (last.what, last.reason, last.messages) == (what, reason, messages):
            events[events.index(last)] = replace(last, last=now, times=last.times + 1)
        else:
            events.append(Event(output, what, messages, now, now, reason=reason))
    return tuple(events[-_EVENTS:])
