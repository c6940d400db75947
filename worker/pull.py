"""One mailbox, once: lease, token, source, then batch by batch into the spool, the checkpoint behind it.

It moves bytes from the socket to the spool and nothing else: nothing is parsed here. The checkpoint never passes a
message that is not durably in the spool (promise P1), so it may die at any line and be run again; what comes twice
comes with the same id. It reads top to bottom like section 3 of the architecture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from worker.checkpoint import Checkpoint, Place
from worker.errors import LoginRefused, MailquayError
from worker.identity import batch_id, imap_id, pop3_id
from worker.lease import Lease, held
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.sources import Fetched, Incomplete, Opened, Ref, Source, grouped
from worker.spool import Batch, Entry, Ticket
from worker.standing import parking
from worker.timetable import pull_entry

log = structlog.get_logger("pull")

Ring = Callable[[Ticket], None]
"""Says that a batch is ready. A bell that is lost costs latency, never mail."""


@dataclass(slots=True)
class Pulled:
    """What one pull did. `busy`: another process holds the mailbox. `more`: the deadline came before the end."""

    mailbox: str
    messages: int = 0
    octets: int = 0
    batches: int = 0
    busy: bool = False
    more: bool = False
    trouble: MailquayError | None = None


def pull(quay: Quay, mailbox: Mailbox, *, ring: Ring, deadline: float = float("inf")) -> Pulled:
    """Pull a mailbox, record how it stands, and park it when something is wrong; raises nothing of `worker.errors`.

    `deadline` is in monotonic seconds: a pull that reaches it stops behind a batch and says `more`.
    """
    begun = time.monotonic()
    pulled = Pulled(mailbox.name)
    try:
        with held(quay.client, f"mailbox:{mailbox.name}", ttl=quay.lease_seconds) as lease:
            if lease is None:
                pulled.busy = True
                return pulled
            _pull(quay, mailbox, lease, pulled, ring, deadline)
            quay.standings.well(mailbox.name, quay.clock())
    except MailquayError as error:
        pulled.trouble = error
        _park(quay, mailbox, error)
    quay.timetable.answered(pull_entry(mailbox.name))
    _report(pulled, time.monotonic() - begun)
    return pulled


def _pull(quay: Quay, mailbox: Mailbox, lease: Lease, pulled: Pulled, ring: Ring, deadline: float) -> None:
    _recall(quay, mailbox, lease)
    source = _signed_in(quay, mailbox)
    try:
        settled: list[Place] = []
        for folder in mailbox.folders:
            opened = source.open(folder, writable=mailbox.after.action != "keep")
            checkpoint = _checkpoint(quay, mailbox, lease, source, opened)
            _pull_again(quay, mailbox, lease, source, opened, pulled, ring)
            for window in source.new(opened, after=checkpoint.uid, seen=checkpoint.uidls):
                for ticket in _spooled(quay, mailbox, lease, source, opened, window, pulled):
                    ring(ticket)
                    if time.monotonic() > deadline:
                        pulled.more = True
                        return
            settled += _settle(quay, mailbox, source, opened)
            quay.checkpoints.forget_uidls(lease, mailbox.name, source.gone(opened, checkpoint.uidls))
        source.finish()
        quay.checkpoints.settled(mailbox.name, settled)
    finally:
        source.close()
        if pulled.batches:
            quay.spool.remember(mailbox.name, quay.checkpoints.export(mailbox.name))


def _recall(quay: Quay, mailbox: Mailbox, lease: Lease) -> None:
    """Bring checkpoints back that a flushed Redis has lost: else an old mailbox would look new and skip its mail."""
    if not quay.checkpoints.known(mailbox.name) and (note := quay.spool.recall(mailbox.name)):
        log.warning("checkpoint.restored", reason="Redis had lost it; repeats carry the same ids")
        quay.checkpoints.restore(lease, mailbox.name, note)


def _signed_in(quay: Quay, mailbox: Mailbox) -> Source:
    """A session. A token that the server refuses is renewed once, never in a loop."""
    try:
        return quay.source(mailbox)
    except LoginRefused:
        if mailbox.auth == "password":
            raise
        return quay.source(mailbox, renewed=True)


def _checkpoint(quay: Quay, mailbox: Mailbox, lease: Lease, source: Source, opened: Opened) -> Checkpoint:
    """How far this folder is; a new one begins where SINCE says, and that is recorded before anything else."""
    found = quay.checkpoints.load(mailbox.name, opened.folder)
    if found and found.uidvalidity == opened.uidvalidity:
        return found
    uid, uidls = 0, frozenset[str]()
    if found:
        # RFC 3501 section 2.3.1.1: the old uids mean nothing any more. All is pulled again, so that nothing is lost.
        log.warning("folder.renumbered", folder=opened.folder, reason="the server changed UIDVALIDITY")
    elif mailbox.since.kind != "all":
        start = mailbox.since.start(quay.now())
        uid, uidls = source.start(opened, start.date() if start and mailbox.since.kind != "now" else None)
    quay.checkpoints.move(
        lease, mailbox.name, opened.folder, uidvalidity=opened.uidvalidity, uid=uid, uidls=sorted(uidls)
    )
    quay.spool.remember(mailbox.name, quay.checkpoints.export(mailbox.name))
    return Checkpoint(opened.uidvalidity, uid, uidls)


def _spooled(
    quay: Quay,
    mailbox: Mailbox,
    lease: Lease,
    source: Source,
    opened: Opened,
    refs: Sequence[Ref],
    pulled: Pulled,
    *,
    again: bool = False,
) -> Iterator[Ticket]:
    """Fetch messages and spool them batch by batch; behind each batch the checkpoint moves, unless they come `again`."""
    limits = quay.settings
    for group, fetched in source.fetch(grouped(refs, messages=limits.batch_messages, octets=limits.batch_size)):
        batch, ticket, left_out = _spool(quay, mailbox, lease, opened, group, fetched)
        if ticket and not again:
            uids = [entry.uid for entry in batch.entries if entry.uid]
            uidls = [entry.uidl for entry in batch.entries if entry.uidl]
            quay.checkpoints.move(
                lease,
                mailbox.name,
                opened.folder,
                uidvalidity=opened.uidvalidity,
                uid=max(uids, default=0),
                uidls=uidls,
            )
        if ticket:
            pulled.messages += len(batch.entries)
            pulled.octets += sum(entry.size for entry in batch.entries)
            pulled.batches += 1
            quay.standings.count(mailbox.name, "pulled", len(batch.entries))
            yield ticket
        if left_out:
            raise left_out


def _spool(
    quay: Quay,
    mailbox: Mailbox,
    lease: Lease,
    opened: Opened,
    group: Sequence[Ref],
    fetched: Iterator[Fetched],
) -> tuple[Batch, Ticket | None, Incomplete | None]:
    """One durable batch of what the server gave. What it left out ends the batch: the checkpoint must not pass it."""
    planned = tuple(_entry(mailbox, opened, ref) for ref in group)
    quay.spool.check_room()
    plan = Batch(
        batch_id([entry.id for entry in planned]),
        mailbox.name,
        opened.folder,
        opened.uidvalidity,
        created=int(quay.clock()),
        entries=planned,
    )
    written: dict[Ref, Entry] = {}
    left_out: Incomplete | None = None
    with quay.spool.new(plan) as writer:
        try:
            for message in fetched:
                entry = _entry(mailbox, opened, message.ref)
                received = message.received.isoformat() if message.received else None
                written[message.ref] = writer.add(
                    replace(entry, flags=message.flags, received=received), message.chunks
                )
        except Incomplete as error:
            left_out = error
        whole = []
        for ref in group:
            if ref not in written:
                break
            whole.append(written[ref])
        if len(whole) < len(group) and left_out is None:
            # Whatever a source does, the checkpoint must not pass a message that it did not bring.
            left_out = Incomplete(f"{len(group) - len(whole)} of {len(group)} messages did not arrive")
        batch = replace(plan, entries=tuple(whole))
        if not whole:
            return batch, None, left_out
        lease.check()
        return batch, writer.commit(batch, due=batch.created), left_out


def _entry(mailbox: Mailbox, opened: Opened, ref: Ref) -> Entry:
    if ref.uidl is not None:
        message_id = pop3_id(mailbox.name, ref.uidl)
    else:
        message_id = imap_id(mailbox.name, opened.folder, opened.uidvalidity or 0, ref.uid or 0)
    return Entry(message_id, uid=ref.uid, uidl=ref.uidl, owed=tuple(mailbox.outputs))


def _pull_again(
    quay: Quay,
    mailbox: Mailbox,
    lease: Lease,
    source: Source,
    opened: Opened,
    pulled: Pulled,
    ring: Ring,
) -> None:
    """Fetch once more what a damaged batch had held, without moving the checkpoint."""
    places = [place for place in quay.checkpoints.to_pull_again(mailbox.name) if _lies_in(place, opened)]
    if not places:
        return
    refs = _found(source, opened, places)
    for ticket in _spooled(quay, mailbox, lease, source, opened, refs, pulled, again=True):
        ring(ticket)
    if len(refs) < len(places):
        log.error("again.gone", folder=opened.folder, messages=len(places) - len(refs))
    quay.checkpoints.pulled_again(mailbox.name, places)


def _settle(quay: Quay, mailbox: Mailbox, source: Source, opened: Opened) -> list[Place]:
    """Mark, move or delete what deliver has noted, in one command; the caller strikes it off after the session's end."""
    if mailbox.after.action == "keep":
        return []
    places = [place for place in quay.checkpoints.to_settle(mailbox.name) if _lies_in(place, opened)]
    if refs := _found(source, opened, places):
        action = mailbox.after.action
        source.settle(refs, f"move:{mailbox.after.folder}" if action == "move" else action)
    return places


def _found(source: Source, opened: Opened, places: Sequence[Place]) -> list[Ref]:
    uids = [place.uid for place in places if place.uid]
    return source.find(opened, uids, [place.uidl for place in places if place.uidl])


def _lies_in(place: Place, opened: Opened) -> bool:
    return place.folder == opened.folder and place.uidvalidity == opened.uidvalidity


def _park(quay: Quay, mailbox: Mailbox, error: MailquayError) -> None:
    now = quay.clock()
    failures = quay.standings.ill(mailbox.name, now, error)
    quay.timetable.park(pull_entry(mailbox.name), now + parking(error, failures) * quay.jitter())


def _report(pulled: Pulled, seconds: float) -> None:
    """The one canonical event of a pull."""
    event = {
        "messages": pulled.messages,
        "octets": pulled.octets,
        "batches": pulled.batches,
        "more": pulled.more,
        "seconds": round(seconds, 3),
    }
    if pulled.trouble is None:
        log.info("pull.finished", mailbox=pulled.mailbox, **event)
    else:
        log.warning(
            "pull.failed",
            mailbox=pulled.mailbox,
            state=pulled.trouble.state,
            who=pulled.trouble.who,
            reason=pulled.trouble.sentence,
            **event,
        )
