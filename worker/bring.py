"""Messages from the wire into the spool, batch by batch, the checkpoint behind each.

One batch is hashed, written and fsynced in a thread while the next one is on the wire. The checkpoint never passes a
message that is not durably in the spool (promise P1), so this may die at any line; what comes twice has the same id.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile

import structlog

from worker.checkpoint import Place
from worker.errand import Errand
from worker.errors import MailquayError, Unreachable
from worker.identity import batch_id, imap_id, pop3_id
from worker.mailbox import Mailbox
from worker.settle import find, lies_in
from worker.sources import Fetched, Incomplete, Opened, Ref, Source, grouped
from worker.spool import Batch, Entry, Ticket

log = structlog.get_logger("pull")


@dataclass(frozen=True, slots=True)
class Spooled:
    """A batch as it was spooled; no ticket when nothing came. `left_out`: the server kept messages back."""

    batch: Batch
    ticket: Ticket | None
    left_out: MailquayError | None


def bring(
    errand: Errand, source: Source, opened: Opened, refs: Sequence[Ref], *, again: bool = False
) -> None:
    """Fetch messages and spool them batch by batch: one batch is written while the next one is on the wire."""
    limits = errand.quay.settings
    groups = grouped(refs, messages=limits.batch_messages, octets=limits.batch_size)
    with ThreadPoolExecutor(1, thread_name_prefix="spool") as hand:
        writing: Future[Spooled] | None = None
        try:
            for group, fetched in source.fetch(groups):
                huge = group[0].size > limits.batch_size
                messages, broken = (fetched, None) if huge else _in_memory(fetched, 2 * limits.batch_size)
                written, writing = writing, None
                _hand_over(errand, opened, written, again=again)
                writing = hand.submit(_spool, errand, opened, group, messages, broken=broken, again=again)
                if huge:
                    # It goes straight from the wire to the file, so the wire belongs to the writing thread.
                    wait([writing])
                if time.monotonic() > errand.deadline:
                    errand.pulled.more = True
                    return
        finally:
            # Whatever happened on the wire: what was written counts.
            _hand_over(errand, opened, writing, again=again)


def _in_memory(fetched: Iterable[Fetched], limit: int) -> tuple[list[Fetched], MailquayError | None]:
    """Read a group off the wire; what came before the wire broke counts, else a shaky one would never get anywhere.

    A group was put together by the sizes that the server announced: one that sends more than `limit` octets instead is
    cut short, so that it cannot fill the memory.
    """
    messages: list[Fetched] = []
    octets = 0
    try:
        for message in fetched:
            chunks = tuple(message.chunks)
            messages.append(replace(message, chunks=chunks))
            octets += sum(map(len, chunks))
            if octets > limit:
                raise Unreachable(
                    f"the server announced a batch of messages and sent {octets} octets, more than twice BATCH_SIZE. "
                    "What came is kept, the rest is asked for again"
                )
    except MailquayError as error:
        return messages, error
    return messages, None


def _spool(
    errand: Errand,
    opened: Opened,
    group: Sequence[Ref],
    messages: Iterable[Fetched],
    *,
    broken: MailquayError | None,
    again: bool,
) -> Spooled:
    """One durable batch of what the server gave. What it left out ends the batch: the checkpoint must not pass it."""
    quay, mailbox = errand.quay, errand.mailbox
    planned = {ref: _entry(mailbox, opened, ref) for ref in group}
    plan = Batch(
        batch_id([entry.id for entry in planned.values()]),
        mailbox.name,
        opened.folder,
        opened.uidvalidity,
        created=int(quay.clock()),
        entries=tuple(planned.values()),
    )
    quay.spool.check_room()
    with quay.spool.new(plan) as writer:
        written: dict[Ref, Entry] = {}
        with suppress(Incomplete):
            for message in messages:
                received = message.received.isoformat() if message.received else None
                entry = replace(planned[message.ref], flags=message.flags, received=received)
                written[message.ref] = writer.add(entry, message.chunks)
        whole = list(takewhile(lambda ref: ref in written, group))
        left_out = broken
        if len(whole) < len(group) and not broken:
            left_out = Incomplete(f"the server left out {len(group) - len(whole)} of {len(group)} messages")
        # A part of what was planned is another batch: under the plan's id it could pass for an older generation of it.
        entries = tuple(written[ref] for ref in whole)
        # What comes again must not pass for an older generation of the damaged batch, should that be retried by hand.
        ids = [*(["again"] if again else []), *(entry.id for entry in entries)]
        batch = replace(plan, id=batch_id(ids), entries=entries)
        errand.lease.check()
        return Spooled(batch, writer.commit(batch, due=batch.created) if whole else None, left_out)


def _entry(mailbox: Mailbox, opened: Opened, ref: Ref) -> Entry:
    if ref.uidl is not None:
        message_id = pop3_id(mailbox.name, ref.uidl)
    else:
        message_id = imap_id(mailbox.name, opened.folder, opened.uidvalidity or 0, ref.uid or 0)
    return Entry(message_id, uid=ref.uid, uidl=ref.uidl, owed=tuple(mailbox.outputs))


def _hand_over(errand: Errand, opened: Opened, writing: Future[Spooled] | None, *, again: bool) -> None:
    """Behind a durable batch the checkpoint moves, unless it came `again`; then the bell is rung."""
    if writing is None:
        return
    spooled = writing.result()
    batch, entries, name = spooled.batch, spooled.batch.entries, errand.mailbox.name
    if spooled.ticket:
        places = [
            Place(batch.folder, entry.id, batch.uidvalidity, entry.uid, entry.uidl) for entry in entries
        ]
        errand.quay.checkpoints.note_places(name, batch.id, places)
    if spooled.ticket and not again:
        errand.quay.checkpoints.move(
            errand.lease.fence,
            name,
            opened.folder,
            uidvalidity=opened.uidvalidity,
            uid=max((entry.uid for entry in entries if entry.uid), default=0),
            uidls=[entry.uidl for entry in entries if entry.uidl],
        )
    if spooled.ticket:
        errand.pulled.messages += len(entries)
        errand.pulled.octets += sum(entry.size for entry in entries)
        errand.pulled.batches += 1
        errand.quay.standings.count(name, "pulled", len(entries))
        errand.ring(spooled.ticket)
    if spooled.left_out:
        raise spooled.left_out


def bring_again(errand: Errand, source: Source, opened: Opened) -> None:
    """Fetch once more what a damaged batch had held, without moving the checkpoint."""
    checkpoints, name = errand.quay.checkpoints, errand.mailbox.name
    places = [place for place in checkpoints.to_pull_again(name) if lies_in(place, opened)]
    if not places:
        return
    refs = find(source, opened, places)
    bring(errand, source, opened, refs, again=True)
    if len(refs) < len(places):
        log.error("again.gone", mailbox=name, folder=opened.folder, messages=len(places) - len(refs))
    checkpoints.pulled_again(name, places)
