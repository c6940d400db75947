"""Makes of the raw messages of a batch what outputs get: parsed, through the stages, and routed. It asks no output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from pipelines.errors import StageFailed
from pipelines.message import Message, Source
from pipelines.output import Receipt, Refused, Retry
from pipelines.parse import parse
from worker.choose import Chosen, since_noted
from worker.errors import Misconfigured
from worker.ordering import ordered
from worker.quay import Quay
from worker.spool import Batch, BatchDamaged, Entry, OpenBatch, check_digest


@dataclass(frozen=True, slots=True)
class Prepared:
    """The batch with what each message owes after routing, the messages by id, and what was dropped by which stage.

    `receipts` are those that are known without an output having been asked. `fresh` are outputs that routing has just
    found, and that may be asked at once; `in_order` those that get no message before the one in front of it.
    """

    batch: Batch
    chosen: Chosen
    messages: Mapping[str, Message]
    receipts: Mapping[tuple[str, str], Receipt]
    dropped: Mapping[str, str]
    fresh: frozenset[str] = frozenset()
    in_order: frozenset[str] = frozenset()

    @property
    def owed(self) -> dict[str, list[Message]]:
        """The messages for each of the outputs that are asked now."""
        return {output: list(self._for(output)) for output in sorted(self.chosen.due | self.fresh)}

    def _for(self, output: str) -> Iterator[Message]:
        for entry in self.batch.entries:
            if output not in entry.owed:
                continue
            if entry.id in self.messages:
                yield self.messages[entry.id]
            elif output in self.in_order and isinstance(self.receipts.get((entry.id, output)), Retry):
                return


def prepare(quay: Quay, opened: OpenBatch, chosen: Chosen) -> Prepared:
    """Parse each message that owes something, run the stages over it, and find out who is to have it."""
    batch = since_noted(opened.batch, chosen)
    receipts: dict[tuple[str, str], Receipt] = dict(chosen.receipts)
    messages: dict[str, Message] = {}
    dropped: dict[str, str] = {}
    entries: list[Entry] = []
    try:
        pipeline = quay.pipeline(batch.mailbox)
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
            owed = _routed(quay, batch, entry, message) if message else ()
            entries[-1] = replace(entry, owed=owed)
            if message:
                messages[entry.id] = message
    routed = replace(batch, entries=tuple(entries))
    return Prepared(
        routed,
        chosen,
        messages,
        receipts,
        dropped,
        fresh=_fresh(quay, batch, routed),
        in_order=ordered(quay, chosen.due),
    )


def _fresh(quay: Quay, batch: Batch, routed: Batch) -> frozenset[str]:
    """The outputs that are owed something only since routing, but for those that are away or that have an order to keep."""
    new = routed.owed - batch.owed
    return frozenset(new - quay.circuits.opened(new).keys() - ordered(quay, new))


def _routed(quay: Quay, batch: Batch, entry: Entry, message: Message) -> tuple[str, ...]:
    """The outputs that are to have a message. A replay goes to those it was meant for that would have it if it came today."""
    routing = quay.routing(batch.mailbox)
    if not batch.replayed:
        return routing.outputs(message, entry.owed, entry.accepted)
    mailbox = quay.settings.mailboxes[batch.mailbox]
    meant = tuple(output for output in entry.owed if output != mailbox.fallback)
    today = routing.outputs(message, tuple(dict.fromkeys((*mailbox.outputs, *meant))), ())
    return tuple(output for output in entry.owed if output in today)


def _parsed(batch: Batch, entry: Entry, opened: OpenBatch) -> Message:
    message = parse(
        opened.raw(entry),
        id=entry.id,
        mailbox=batch.mailbox,
        source=Source(batch.folder, batch.uidvalidity, entry.uid, entry.uidl, entry.flags),
        received_at=datetime.fromisoformat(entry.received) if entry.received else None,
    )
    check_digest(batch, entry, message.digest)
    return message
