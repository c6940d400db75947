"""Makes of the raw messages of a batch what outputs get: parsed, through the stages, and routed. It asks no output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from pipelines.errors import StageFailed
from pipelines.message import Message, Source
from pipelines.output import Receipt, Refused, Retry
from pipelines.parse import parse
from worker.choose import Chosen, since_noted
from worker.errors import Misconfigured
from worker.quay import Quay
from worker.spool import Batch, BatchDamaged, Entry, OpenBatch


@dataclass(frozen=True, slots=True)
class Prepared:
    """The batch with what each message owes after routing, the messages by id, and what was dropped by which stage.

    `receipts` are those that are known without an output having been asked.
    """

    batch: Batch
    chosen: Chosen
    messages: Mapping[str, Message]
    receipts: Mapping[tuple[str, str], Receipt]
    dropped: Mapping[str, str]

    @property
    def asked(self) -> frozenset[str]:
        """The outputs that are due, and the fallback of messages that none of them is to have."""
        known = {output for entry in self.chosen.batch.entries for output in entry.owed}
        owed = {output for entry in self.batch.entries for output in entry.owed}
        return self.chosen.due | (owed - known)

    @property
    def owed(self) -> dict[str, list[Message]]:
        """The messages for each of the outputs that are asked now."""
        return {
            output: [
                self.messages[entry.id]
                for entry in self.batch.entries
                if output in entry.owed and entry.id in self.messages
            ]
            for output in sorted(self.asked)
        }


def prepare(quay: Quay, opened: OpenBatch, chosen: Chosen) -> Prepared:
    """Parse each message that owes something, run the stages over it, and find out who is to have it."""
    batch = since_noted(opened.batch, chosen)
    receipts: dict[tuple[str, str], Receipt] = dict(chosen.receipts)
    messages: dict[str, Message] = {}
    dropped: dict[str, str] = {}
    entries: list[Entry] = []
    try:
        pipeline, routing = quay.pipeline(batch.mailbox), quay.routing(batch.mailbox)
    except Misconfigured as error:
        retry = Retry(error.sentence)
        receipts = {(entry.id, output): retry for entry in batch.entries for output in entry.owed}
        return Prepared(batch, chosen, {}, receipts, {})
    for entry in batch.entries:
        entries.append(entry)
        if not entry.owed:
            continue
        try:
            message = pipeline.run(
                _parsed(batch, entry, opened), dropped=partial(dropped.__setitem__, entry.id)
            )
        except StageFailed as error:
            receipts |= {(entry.id, output): Retry(str(error)) for output in entry.owed}
        except BatchDamaged:
            raise
        except Exception as error:
            # The parser promises never to raise; mail is full of surprises.
            reason = f"it cannot be parsed ({type(error).__name__}). Its raw bytes are kept; please report it"
            receipts |= {(entry.id, output): Refused(reason) for output in entry.owed}
        else:
            # What a stage dropped on purpose owes nothing any more.
            owed = routing.outputs(message, entry.owed, entry.accepted) if message else ()
            entries[-1] = replace(entry, owed=owed)
            if message:
                messages[entry.id] = message
    return Prepared(replace(batch, entries=tuple(entries)), chosen, messages, receipts, dropped)


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
