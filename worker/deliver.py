"""One batch, once: lease, attempt counted, parse, stages, outputs, receipts, then remove it or spool what is still owed.

A message leaves the spool only when every output it owes has accepted it, or when it waits in `failed` for a person
(promise P2). The attempt is counted before anything is parsed, so a message that kills its process is found out: after
three attempts its batch is cut into single messages, and the one that goes on killing waits in `failed`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog

from pipelines.errors import StageFailed
from pipelines.message import Message, Source
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.parse import parse
from worker.checkpoint import Place
from worker.errors import MailquayError, Misconfigured, SpoolFull
from worker.identity import batch_id
from worker.lease import Lease, held
from worker.owing import Owing, Receipts, outputs_due, owing
from worker.quay import Quay
from worker.settle import released
from worker.spool import Batch, BatchDamaged, Entry, OpenBatch, Ticket

log = structlog.get_logger("deliver")

ATTEMPTS = 3
"""How often a batch may be begun without being ended."""
_PAUSE_SECONDS = 30
"""How long a batch rests that could not be concluded, because the spool was full or Redis away."""


@dataclass(slots=True)
class Delivered:
    """What one delivery did: receipts accepted, messages done, dropped by a stage, still owing and failed."""

    mailbox: str
    batch: str
    accepted: int = 0
    done: int = 0
    dropped: int = 0
    again: int = 0
    failed: int = 0
    due: int = 0
    trouble: str = ""


def deliver(quay: Quay, ticket: Ticket) -> Delivered | None:
    """Deliver a batch; None when it is gone, not due yet, or another process has it; raises nothing of `worker.errors`."""
    if ticket.due > quay.clock():
        return None
    begun_at = time.monotonic()
    delivered = Delivered(ticket.mailbox, ticket.batch)
    try:
        with held(quay.client, f"batch:{ticket.batch}", ttl=quay.lease_seconds) as lease:
            begun = quay.spool.begin(ticket) if lease else None
            if begun is None or lease is None:
                return None
            try:
                _attempt(quay, lease, begun, delivered)
            except MailquayError:
                # It is not the batch's fault, so it does not count; the batch stays as it is, repeats carry the same ids.
                quay.spool.postpone(begun, int(quay.clock()) + _PAUSE_SECONDS)
                raise
    except MailquayError as error:
        delivered.again, delivered.trouble = ticket.messages, error.sentence
    _report(delivered, time.monotonic() - begun_at)
    return delivered


def _attempt(quay: Quay, lease: Lease, begun: Ticket, delivered: Delivered) -> None:
    """Deliver a batch whose attempt is counted.

    Raises:
        SpoolFull: what is still owed could not be written again.
        RedisUnavailable, LeaseLost: it cannot be known that nobody else delivers it.
    """
    try:
        with quay.spool.open(begun) as opened:
            if begun.attempts > ATTEMPTS:
                _set_apart(quay, begun, opened, delivered)
                return
            dropped: dict[str, str] = {}
            receipts = _receipts(quay, opened, dropped)
            lease.check()
            _conclude(quay, begun, opened, receipts, delivered, dropped=dropped)
    except BatchDamaged as damage:
        _pull_again(quay, begun, damage, delivered)


def _receipts(quay: Quay, opened: OpenBatch, dropped: dict[str, str]) -> Receipts:
    """Parse, run the stages, and ask every output that is due; `dropped` gets the ids that stages dropped, and which stage."""
    batch = opened.batch
    receipts: dict[tuple[str, str], Receipt] = {}
    messages: dict[str, Message] = {}
    due = outputs_due(batch, quay.clock())
    try:
        pipeline = quay.pipeline(batch.mailbox)
    except Misconfigured as error:
        return {(entry.id, output): Retry(error.sentence) for entry in batch.entries for output in entry.owed}
    for entry in batch.entries:
        try:
            message = pipeline.run(
                _parsed(batch, entry, opened), dropped=partial(dropped.__setitem__, entry.id)
            )
        except StageFailed as error:
            receipts |= {(entry.id, output): Retry(str(error)) for output in entry.owed}
            continue
        except BatchDamaged:
            raise
        except Exception as error:
            # The parser promises never to raise; mail is full of surprises.
            reason = f"it cannot be parsed ({type(error).__name__}). Its raw bytes are kept; please report it"
            receipts |= {(entry.id, output): Refused(reason) for output in entry.owed}
            continue
        if message is None:
            # A stage dropped it on purpose: it owes nothing any more.
            receipts |= {(entry.id, output): Accepted() for output in entry.owed}
        else:
            messages[entry.id] = message
    owed = {
        output: [
            messages[entry.id] for entry in batch.entries if output in entry.owed and entry.id in messages
        ]
        for output in due
    }
    for output, answers in _asked(quay, owed).items():
        receipts |= {
            (message.id, output): answer for message, answer in zip(owed[output], answers, strict=True)
        }
    return receipts


def _parsed(batch: Batch, entry: Entry, opened: OpenBatch) -> Message:
    message = parse(
        opened.raw(entry),
        id=entry.id,
        mailbox=batch.mailbox,
        source=Source(batch.folder, batch.uidvalidity, entry.uid, entry.uidl, entry.flags),
        received_at=datetime.fromisoformat(entry.received) if entry.received else None,
    )
    if message.digest != entry.sha256:
        raise BatchDamaged(
            f"the bytes of {entry.member} in batch {batch.id} are not those that were written. Check the disk.",
            mailbox=batch.mailbox,
            plan=batch,
        )
    return message


def _asked(quay: Quay, owed: Mapping[str, Sequence[Message]]) -> dict[str, Sequence[Receipt]]:
    """Every output's receipts. Outputs are asked side by side, so that a slow one does not hold up the others."""
    if len(owed) < 2:
        return {output: _answers(quay, output, messages) for output, messages in owed.items()}
    with ThreadPoolExecutor(len(owed), thread_name_prefix="output") as threads:
        asked = {
            output: threads.submit(_answers, quay, output, messages) for output, messages in owed.items()
        }
        return {output: answer.result() for output, answer in asked.items()}


def _answers(quay: Quay, name: str, messages: Sequence[Message]) -> list[Receipt]:
    """One output's receipts, in calls of its batch size. Whatever it raises means: all of this call, later."""
    receipts: list[Receipt] = []
    try:
        output = quay.output(name)
        while len(receipts) < len(messages):
            call = messages[len(receipts) : len(receipts) + output.batch_size]
            answers = output.deliver(call)
            if len(answers) != len(call):
                raise ValueError("it did not answer with one receipt for each message")  # noqa: TRY301
            receipts.extend(answers)
            if all(isinstance(answer, Retry) for answer in answers):
                # One that takes nothing now is not asked for the rest, so that it costs one call's patience.
                receipts.extend([answers[-1]] * (len(messages) - len(receipts)))
    except Misconfigured as error:
        receipts.extend([Retry(error.sentence)] * (len(messages) - len(receipts)))
    except Exception as error:
        quay.forget_output(name)
        reason = f"output {name} failed with {type(error).__name__}"
        if isinstance(error, OSError) and error.strerror:
            reason += f" ({error.strerror})"
        receipts.extend([Retry(reason)] * (len(messages) - len(receipts)))
    return receipts


def _conclude(
    quay: Quay,
    ticket: Ticket,
    opened: OpenBatch,
    receipts: Receipts,
    delivered: Delivered,
    *,
    dropped: Mapping[str, str],
) -> None:
    """Write what follows, in the order in which a crash between two lines only repeats and never loses."""
    batch = opened.batch
    follows = owing(batch, receipts, now=quay.clock(), jitter=quay.jitter)
    _fail(quay, opened, follows)
    _note_settled(quay, batch, follows.done)
    if follows.again:
        _spool_again(quay, opened, batch.again(follows.again, outputs=follows.outputs), due=follows.due)
    quay.spool.remove(ticket)
    if not follows.again:
        quay.checkpoints.forget_places(batch.mailbox, batch.id)
    # What a stage dropped counts as accepted, so that it owes nothing; to people it is told apart.
    delivered.dropped = len(dropped)
    delivered.done = len(follows.done) - delivered.dropped
    delivered.accepted = follows.accepted - sum(
        len(entry.owed) for entry in batch.entries if entry.id in dropped
    )
    delivered.again, delivered.due = len(follows.again), follows.due
    delivered.failed = len({failure.entry.id for failure in follows.failures})
    delivered.trouble = "; ".join(
        sorted({state.reason for state in follows.outputs.values() if state.reason})
        + sorted({failure.reason for failure in follows.failures})
    )
    quay.standings.count(batch.mailbox, "delivered", delivered.done)
    quay.standings.count(batch.mailbox, "failed", delivered.failed)
    if dropped:
        quay.standings.count(batch.mailbox, "dropped", delivered.dropped)
    for id_, stage in dropped.items():
        log.info("deliver.dropped", mailbox=batch.mailbox, batch=batch.id, message=id_, stage=stage)


def _fail(quay: Quay, opened: OpenBatch, follows: Owing) -> None:
    """Set refused messages aside, one batch an output, under an id that a repeat finds again."""
    for output in sorted({failure.output for failure in follows.failures}):
        refused = [failure for failure in follows.failures if failure.output == output]
        entries = tuple(replace(failure.entry, owed=(output,)) for failure in refused)
        batch = replace(
            opened.batch,
            id=batch_id(["failed", output, *(entry.id for entry in entries)]),
            generation=0,
            entries=entries,
            outputs={},
        )
        with quay.spool.new(batch) as writer:
            for entry in entries:
                writer.add(entry, (opened.raw(entry),))
            reasons = sorted({f"{output}: {failure.reason}" for failure in refused})
            writer.commit_failed(replace(batch, entries=_renumbered(entries)), "\n".join(reasons))


def _spool_again(quay: Quay, opened: OpenBatch, batch: Batch, *, due: int) -> None:
    with quay.spool.new(batch) as writer:
        for entry in batch.entries:
            writer.add(entry, (opened.raw(entry),))
        writer.commit(replace(batch, entries=_renumbered(batch.entries)), due=due)


def _renumbered(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The same entries under the member names that a new batch gives them."""
    return tuple(replace(entry, member=f"{number:04d}.eml") for number, entry in enumerate(entries, 1))


def _set_apart(quay: Quay, ticket: Ticket, opened: OpenBatch, delivered: Delivered) -> None:
    """Cut a batch that goes on killing its process into single messages; a single one waits for a person."""
    batch = opened.batch
    if len(batch.entries) == 1:
        delivered.failed = 1
        delivered.trouble = f"it killed its process {ATTEMPTS} times while it was delivered"
        quay.spool.fail(ticket, f"the message {batch.entries[0].id} was set aside: {delivered.trouble}")
        quay.standings.count(batch.mailbox, "failed", 1)
        return
    for entry in batch.entries:
        single = replace(batch, id=batch_id(["single", entry.id]), generation=0, entries=(entry,))
        _spool_again(quay, opened, single, due=int(quay.clock()))
        quay.checkpoints.note_places(batch.mailbox, single.id, [_place(single, entry)])
    quay.spool.remove(ticket)
    delivered.again = len(batch.entries)
    delivered.trouble = (
        f"its batch was begun {ATTEMPTS} times and never ended; it is tried message by message"
    )


def _note_settled(quay: Quay, batch: Batch, done: Sequence[Entry]) -> None:
    """Note that the server may now do what AFTER says. Where there is no room for that, delivering goes on (promise P9)."""
    mailbox = quay.settings.mailboxes.get(batch.mailbox)
    if mailbox and mailbox.after_when == "delivered":
        try:
            released(quay, mailbox, batch, done)
        except SpoolFull as error:
            log.warning("settle.not_noted", mailbox=batch.mailbox, messages=len(done), reason=error.sentence)


def _pull_again(quay: Quay, ticket: Ticket, damage: BatchDamaged, delivered: Delivered) -> None:
    """A damaged batch waits for a person; its messages are still on the server and are pulled once more."""
    reason, plan = damage.sentence, damage.plan
    if plan:
        places = [_place(plan, entry) for entry in plan.entries]
    else:
        places = quay.checkpoints.places(ticket.mailbox, ticket.batch)
    if places:
        quay.checkpoints.ask_again(ticket.mailbox, places)
        reason += f" Its {len(places)} messages are being pulled once more."
    else:
        reason += f" Which {ticket.messages} messages it held cannot be told any more"
        mailbox = quay.settings.mailboxes.get(ticket.mailbox)
        if mailbox is None or mailbox.after_when == "delivered":
            reason += "; nothing that was not delivered was removed from the mailbox, so they are still there"
        reason += "."
    quay.spool.fail(ticket, reason)
    delivered.failed, delivered.trouble = ticket.messages, reason


def _place(batch: Batch, entry: Entry) -> Place:
    return Place(batch.folder, entry.id, batch.uidvalidity, entry.uid, entry.uidl)


def _report(delivered: Delivered, seconds: float) -> None:
    """The one canonical event of a delivery."""
    event = {
        "mailbox": delivered.mailbox,
        "batch": delivered.batch,
        "accepted": delivered.accepted,
        "done": delivered.done,
        "dropped": delivered.dropped,
        "again": delivered.again,
        "failed": delivered.failed,
        "seconds": round(seconds, 3),
    }
    if delivered.trouble:
        log.warning("deliver.finished", reason=delivered.trouble, due=delivered.due, **event)
    else:
        log.info("deliver.finished", **event)
