"""What becomes of messages that cannot go on their way: they wait in `failed`, go on one by one, or are pulled once more."""

from __future__ import annotations

from dataclasses import replace

from worker.checkpoint import Place
from worker.identity import batch_id
from worker.owing import Owing
from worker.quay import Quay
from worker.spool import Batch, BatchDamaged, BatchWriter, Entry, OpenBatch, Ticket

ATTEMPTS = 3
"""How often a batch may be begun without being ended."""


def set_failed_aside(quay: Quay, opened: OpenBatch, follows: Owing) -> None:
    """Set refused messages aside, one batch an output, under an id that a repeat finds again."""
    for output in sorted({failure.output for failure in follows.failures}):
        refused = [failure for failure in follows.failures if failure.output == output]
        entries = tuple(_owed_alone(failure.entry, output) for failure in refused)
        batch = replace(
            follows.batch,
            id=batch_id(["failed", output, *(entry.id for entry in entries)]),
            generation=0,
            entries=entries,
            outputs={output: follows.states[output]},
        )
        with quay.spool.new(batch) as writer:
            reasons = sorted({f"{output}: {failure.reason}" for failure in refused})
            writer.commit_failed(_copied(writer, opened, batch), "\n".join(reasons))


def _owed_alone(entry: Entry, output: str) -> Entry:
    """A message as it is owed to one output, in a batch of its own; who else does not have it stays known."""
    others = dict.fromkeys((*entry.elsewhere, *entry.owed))
    return replace(entry, owed=(output,), elsewhere=tuple(name for name in others if name != output))


def _copied(writer: BatchWriter, opened: OpenBatch, batch: Batch) -> Batch:
    """Write the messages of a batch that are in another one; the digest stays that of the day they came."""
    written = [
        replace(writer.add(entry, (opened.raw(entry),)), sha256=entry.sha256) for entry in batch.entries
    ]
    return replace(batch, entries=tuple(written))


def set_apart(quay: Quay, ticket: Ticket, opened: OpenBatch) -> str:
    """Cut a batch that goes on killing its process into single messages; a single one waits for a person. Returns why."""
    batch = opened.batch
    if len(batch.owing) == 1:
        trouble = f"it killed its process {ATTEMPTS} times while it was delivered"
        quay.spool.fail(ticket, f"the message {batch.owing[0].id} was set aside: {trouble}")
        return trouble
    for number, entry in enumerate(batch.owing):
        single = replace(
            batch,
            # The same message may be in two batches, which owe it to different outputs.
            id=batch_id(["single", batch.id, entry.id]),
            generation=0,
            entries=(entry,),
            sequence=batch.sequence + number,
        )
        with quay.spool.new(single) as writer:
            writer.commit(_copied(writer, opened, single), due=int(quay.clock()))
        quay.checkpoints.note_places(batch.mailbox, single.id, [place(single, entry)])
    quay.spool.remove(ticket)
    return f"its batch was begun {ATTEMPTS} times and never ended; it is tried message by message"


def pull_again(quay: Quay, ticket: Ticket, damage: BatchDamaged) -> str:
    """A damaged batch waits for a person; its messages are still on the server and are pulled once more. Returns why."""
    reason, plan = damage.sentence, damage.plan
    if plan:
        # Of an old one it may be known which of its messages every output has.
        places = [place(plan, entry) for entry in plan.owing or plan.entries]
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
    return reason


def place(batch: Batch, entry: Entry) -> Place:
    """Where a message of a batch lies on its server."""
    return Place(batch.folder, entry.id, batch.uidvalidity, entry.uid, entry.uidl)
