"""One mailbox, once: lease, token, source, then batch by batch into the spool, the checkpoint behind it.

It moves bytes from the socket to the spool and nothing else: nothing is parsed here. The checkpoint never passes a
message that is not durably in the spool (promise P1), so it may die at any line and be run again; what comes twice
comes with the same id. It reads top to bottom like section 3 of the architecture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile

import structlog

from worker import state
from worker.checkpoint import Checkpoint, Place
from worker.errors import MailquayError, RedisUnavailable, SessionExpired, Unreachable
from worker.identity import batch_id, imap_id, pop3_id
from worker.lease import Lease, held
from worker.login import Session, logged_in
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.sources import Fetched, Incomplete, Opened, Ref, Source, grouped
from worker.spool import Batch, Entry, Ticket
from worker.standing import parking
from worker.timetable import pull_entry
from worker.tokens import AccessToken

log = structlog.get_logger("pull")

_SESSION_MARGIN_SECONDS = 30.0
"""A session yields so long before its token ends: what is on the wire by then still comes."""

Ring = Callable[[Ticket], None]
"""Says that a batch is ready. A bell that is lost costs latency, never mail."""


@dataclass(slots=True)
class Pulled:
    """What one pull did. `busy`: another process holds the mailbox. `more`: the deadline came before the end.

    `failures` are those in a row, this one counted; `again`: the one before failed in the same way.
    """

    mailbox: str
    messages: int = 0
    octets: int = 0
    batches: int = 0
    busy: bool = False
    more: bool = False
    trouble: MailquayError | None = None
    failures: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Errand:
    """What belongs to one pull from its beginning to its end."""

    quay: Quay
    mailbox: Mailbox
    lease: Lease
    ring: Ring
    deadline: float
    pulled: Pulled


@dataclass(frozen=True, slots=True)
class Spooled:
    """A batch as it was spooled; no ticket when nothing came. `left_out`: the server kept messages back."""

    batch: Batch
    ticket: Ticket | None
    left_out: MailquayError | None


def pull(quay: Quay, mailbox: Mailbox, *, ring: Ring, deadline: float = float("inf")) -> Pulled:
    """Pull a mailbox, record how it stands, and park it when something is wrong; raises nothing of `worker.errors`.

    `deadline` is in monotonic seconds: a pull that reaches it stops behind a batch and says `more`.
    """
    begun = time.monotonic()
    pulled = Pulled(mailbox.name)
    try:
        with held(quay.client, state.mailbox_lease(mailbox.name), ttl=quay.lease_seconds) as lease:
            if lease is None:
                pulled.busy = True
                return pulled
            _pull_over_sessions(Errand(quay, mailbox, lease, ring, deadline, pulled))
            quay.standings.well(mailbox.name, quay.clock())
    except MailquayError as error:
        pulled.trouble = error
    if not isinstance(pulled.trouble, RedisUnavailable):
        # Without Redis there is nothing to be parked in, and the timetable calls again by itself.
        with suppress(RedisUnavailable):
            if pulled.trouble:
                pulled.again = quay.standings.of(mailbox.name).state == pulled.trouble.state
                pulled.failures = _park(quay, mailbox, pulled.trouble)
            quay.timetable.answered(pull_entry(mailbox.name))
    _report(pulled, time.monotonic() - begun)
    return pulled


def _pull_over_sessions(errand: Errand) -> None:
    """A session that ends with its token is followed by another one, as long as each gets somewhere."""
    ended: AccessToken | None = None
    before = -1
    while True:
        try:
            with logged_in(errand.quay, errand.mailbox, ended=ended) as session:
                ended = session.token
                _pull(_within(errand, session), session.source)
        except SessionExpired:
            if errand.pulled.batches == before:
                raise
            before = errand.pulled.batches
        else:
            return


def _within(errand: Errand, session: Session) -> Errand:
    """The errand, at the end of its token at the latest: behind a batch it yields, and the next pull has a new one."""
    if session.token is None:
        return errand
    left = session.token.expires_at - errand.quay.clock() - _SESSION_MARGIN_SECONDS
    return replace(errand, deadline=min(errand.deadline, time.monotonic() + left))


def _pull(errand: Errand, source: Source) -> None:
    quay, mailbox = errand.quay, errand.mailbox
    try:
        _recall(errand)
        settled: list[Place] = []
        for folder in mailbox.folders:
            opened = source.open(folder, writable=mailbox.after.action != "keep")
            checkpoint = _checkpoint(errand, source, opened)
            _pull_again(errand, source, opened)
            for window in source.new(opened, after=checkpoint.uid, seen=checkpoint.uidls):
                _bring(errand, source, opened, window)
                if errand.pulled.more:
                    return
            settled += _settle(errand, source, opened)
            quay.checkpoints.forget_uidls(
                errand.lease.fence, mailbox.name, source.gone(opened, checkpoint.uidls)
            )
        source.finish()
        quay.checkpoints.settled(mailbox.name, settled)
    finally:
        if errand.pulled.batches:
            _remember(errand)


def _recall(errand: Errand) -> None:
    """Bring checkpoints back that a flushed Redis has lost: else an old mailbox would look new and skip its mail."""
    quay, name = errand.quay, errand.mailbox.name
    unknown = set(errand.mailbox.folders) - quay.checkpoints.known(name)
    note = quay.spool.recall(name) if unknown else None
    if note and (lost := {folder: at for folder, at in note["folders"].items() if folder in unknown}):
        log.warning(
            "checkpoint.restored", mailbox=name, reason="Redis had lost it; repeats carry the same ids"
        )
        quay.checkpoints.restore(errand.lease.fence, name, {**note, "folders": lost})


def _remember(errand: Errand) -> None:
    """Keep a copy of the checkpoints beside the spool, unless Redis was flushed meanwhile: then the old copy counts."""
    exported = errand.quay.checkpoints.export(errand.mailbox.name)
    if exported["folders"]:
        errand.quay.spool.remember(errand.mailbox.name, exported)


def _checkpoint(errand: Errand, source: Source, opened: Opened) -> Checkpoint:
    """How far this folder is; a new one begins where SINCE says, and that is recorded before anything else."""
    quay, mailbox = errand.quay, errand.mailbox
    found = quay.checkpoints.load(mailbox.name, opened.folder)
    if found and found.uidvalidity == opened.uidvalidity:
        return found
    uid, uidls = 0, frozenset[str]()
    if found:
        # RFC 3501 section 2.3.1.1: the old uids mean nothing any more. All is pulled again, so that nothing is lost.
        log.warning("folder.renumbered", mailbox=mailbox.name, folder=opened.folder, reason="new UIDVALIDITY")
    elif mailbox.since.kind != "all":
        start = mailbox.since.start(quay.now())
        uid, uidls = source.start(opened, start.date() if start and mailbox.since.kind != "now" else None)
    # The note comes first: were Redis flushed between the two, SINCE=now would begin later and skip mail.
    note = quay.checkpoints.export(mailbox.name)
    note["folders"][opened.folder] = [opened.uidvalidity, uid]
    quay.spool.remember(mailbox.name, {**note, "uidls": sorted({*note["uidls"], *uidls})})
    quay.checkpoints.move(
        errand.lease.fence,
        mailbox.name,
        opened.folder,
        uidvalidity=opened.uidvalidity,
        uid=uid,
        uidls=sorted(uidls),
    )
    return Checkpoint(opened.uidvalidity, uid, uidls)


def _bring(
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


def _pull_again(errand: Errand, source: Source, opened: Opened) -> None:
    """Fetch once more what a damaged batch had held, without moving the checkpoint."""
    checkpoints, name = errand.quay.checkpoints, errand.mailbox.name
    places = [place for place in checkpoints.to_pull_again(name) if _lies_in(place, opened)]
    if not places:
        return
    refs = _found(source, opened, places)
    _bring(errand, source, opened, refs, again=True)
    if len(refs) < len(places):
        log.error("again.gone", mailbox=name, folder=opened.folder, messages=len(places) - len(refs))
    checkpoints.pulled_again(name, places)


def _settle(errand: Errand, source: Source, opened: Opened) -> list[Place]:
    """Mark, move or delete what deliver has noted, in one command; the caller strikes it off after the session's end."""
    after = errand.mailbox.after
    if after.action == "keep":
        return []
    noted = errand.quay.checkpoints.to_settle(errand.mailbox.name)
    places = [place for place in noted if _lies_in(place, opened)]
    if refs := _found(source, opened, places):
        source.settle(refs, f"move:{after.folder}" if after.action == "move" else after.action)
    return places


def _found(source: Source, opened: Opened, places: Sequence[Place]) -> list[Ref]:
    uids = [place.uid for place in places if place.uid]
    return source.find(opened, uids, [place.uidl for place in places if place.uidl])


def _lies_in(place: Place, opened: Opened) -> bool:
    return place.folder == opened.folder and place.uidvalidity == opened.uidvalidity


def _park(quay: Quay, mailbox: Mailbox, error: MailquayError) -> int:
    """Note the failure and put the next poll off; returns how many there were in a row."""
    now = quay.clock()
    failures = quay.standings.ill(mailbox.name, now, error)
    if wait := parking(error, failures):
        quay.timetable.park(pull_entry(mailbox.name), now + wait * quay.jitter())
    return failures


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
        # A mailbox that waits for its owner is polled as ever, and nobody is alarmed every minute.
        say = log.info if pulled.again else log.warning
        say(
            "pull.failed",
            mailbox=pulled.mailbox,
            state=pulled.trouble.state,
            who=pulled.trouble.who,
            reason=pulled.trouble.sentence,
            failures=pulled.failures,
            **event,
        )
