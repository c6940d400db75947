"""Messages from the wire into the spool, batch by batch, the checkpoint behind each.

One batch is hashed, written and fsynced in a thread while the next one is on the wire. The checkpoint never passes a
message that is not durably in the spool, or in the repair queue because its server withholds it (promise P1), so this
may die at any line; what comes twice has the same id.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import takewhile

import structlog

from worker.checkpoint import Place
from worker.errand import Errand
from worker.errors import MailquayError, Unreachable
from worker.hurdles import BLAMED, LONELY, SUSPECTED
from worker.identity import batch_id, imap_id, pop3_id
from worker.mailbox import Mailbox
from worker.repair import MOST, TRIES, Repair
from worker.settle import find, lies_in, released
from worker.sources import Fetched, Opened, Ref, Source, TooLarge, Withheld, grouped
from worker.spool import Batch, BatchWriter, Entry, Ticket

log = structlog.get_logger("pull")

_AT_ONCE = 50
"""Withheld messages that are tried in a row: new mail does not wait for more."""

Came = Iterable[Fetched | Withheld]


@dataclass(frozen=True, slots=True)
class Manner:
    """How messages are brought. `again`: the checkpoint stays where it is; `alone`: each by every way there is.

    `recognise`: what was handed over already, by its content, is passed over.
    """

    again: bool = False
    alone: bool = False
    recognise: bool = False


@dataclass(frozen=True, slots=True)
class Spooled:
    """What was made of a group. `batch` is what was spooled under `ticket`; no ticket when there was nothing to spool.

    `passed` are the messages that are dealt with, `withheld` those of them that did not come, `recognised` those
    that were handed over before. `broken` is what kept the rest from coming, and `hurdle` the id of its first message.
    """

    batch: Batch
    ticket: Ticket | None
    passed: Sequence[Ref]
    withheld: Sequence[Repair]
    recognised: Sequence[Entry]
    broken: MailquayError | None
    hurdle: str | None


def bring(
    errand: Errand,
    source: Source,
    opened: Opened,
    refs: Sequence[Ref],
    *,
    again: bool = False,
    alone: bool = False,
    recognise: bool = False,
) -> None:
    """Fetch messages and spool them; those at which sessions have kept ending do not stop what lies behind them.

    `again`: the checkpoint stays where it is. `alone`: each by itself and by every way there is. `recognise`: what was
    handed over already, by its content, is passed over.
    """
    manner = Manner(again, alone, recognise)
    times = {} if alone else errand.quay.hurdles.times(errand.mailbox.name)
    if not times:
        _bring(errand, source, opened, refs, manner)
        return
    ended = {ref: times.get(_entry(errand.mailbox, opened, ref).id, 0) for ref in refs}
    blamed = [ref for ref in refs if ended[ref] >= BLAMED]
    if len(blamed) == len(refs):
        # Nothing else could show that the connection works without them.
        blamed = [ref for ref in blamed if ended[ref] >= LONELY]
    blamed = _set_aside(errand, opened, blamed, ended, manner)
    rest = [ref for ref in refs if ref not in blamed]
    for part in _apart(rest, [ref for ref in rest if ended[ref] >= SUSPECTED]):
        _bring(errand, source, opened, part, manner)
        if errand.pulled.more:
            return
    if blamed and not again:
        _pass(errand, opened, blamed, rest)


def _apart(refs: Sequence[Ref], suspects: Sequence[Ref]) -> Iterator[Sequence[Ref]]:
    """The messages in their order; each suspect is asked for when nothing else is under way, that could be blamed for it."""
    part: list[Ref] = []
    for ref in refs:
        if ref not in suspects:
            part.append(ref)
            continue
        if part:
            yield part
        yield [ref]
        part = []
    if part:
        yield part


def _set_aside(
    errand: Errand, opened: Opened, refs: list[Ref], ended: Mapping[Ref, int], manner: Manner
) -> list[Ref]:
    """Note hurdles in the repair queue, durably: what comes behind them is going to move the checkpoint past them."""
    quay, name, now = errand.quay, errand.mailbox.name, int(errand.quay.clock())
    entries = {ref: _entry(errand.mailbox, opened, ref) for ref in refs}
    if not quay.repairs.room(name, [entry.id for entry in entries.values()]):
        return []
    repairs = [
        Repair(
            Place(opened.folder, entry.id, opened.uidvalidity, entry.uid, entry.uidl),
            f"{errand.mailbox.endpoint.host} ended the session, or hung, each time that it was asked for: "
            f"{ended[ref]} times in a row",
            # More would say that it is too large, and it would not be asked for again.
            min(ref.size, quay.settings.message_max),
            since=now,
            recognise=manner.recognise,
        ).tried(now)
        for ref, entry in entries.items()
    ]
    quay.repairs.note(name, repairs)
    errand.pulled.withheld += len(repairs)
    for repair in repairs:
        log.warning(
            "message.set_aside",
            mailbox=name,
            folder=opened.folder,
            message=repair.id,
            reason=repair.reason,
        )
    return refs


def _pass(errand: Errand, opened: Opened, noted: Sequence[Ref], brought: Sequence[Ref]) -> None:
    """Move the checkpoint past what was set aside, where nothing behind it has done so."""
    last = max((ref.uid for ref in noted if ref.uid), default=0)
    uidls = [ref.uidl for ref in noted if ref.uidl]
    if uidls or last > max((ref.uid for ref in brought if ref.uid), default=0):
        errand.quay.checkpoints.move(
            errand.lease.fence,
            errand.mailbox.name,
            opened.folder,
            uidvalidity=opened.uidvalidity,
            uid=last,
            uidls=uidls,
        )


def _bring(errand: Errand, source: Source, opened: Opened, refs: Sequence[Ref], manner: Manner) -> None:
    """Fetch messages and spool them batch by batch: one batch is written while the next one is on the wire."""
    limits = errand.quay.settings
    # A message that may be too large is asked for by itself, because then the server can be asked about it first.
    octets = min(limits.batch_size, limits.message_max)
    groups = grouped(refs, messages=limits.batch_messages, octets=octets)
    with ThreadPoolExecutor(1, thread_name_prefix="spool") as hand:
        writing: Future[Spooled] | None = None
        try:
            for group, came in source.rescue(refs) if manner.alone else source.fetch(groups):
                huge = group[0].size > limits.batch_size
                messages, broken = (came, None) if huge else _in_memory(came, 2 * limits.batch_size)
                written, writing = writing, None
                _hand_over(errand, opened, written, manner)
                writing = hand.submit(_spool, errand, opened, group, messages, manner, broken=broken)
                if huge:
                    # It goes straight from the wire to the file, so the wire belongs to the writing thread.
                    wait([writing])
                if broken:
                    # The rest of the group would be taken for answers to what is asked next.
                    return
                if time.monotonic() > errand.deadline:
                    errand.pulled.more = True
                    return
        finally:
            # Whatever happened on the wire: what was written counts.
            _hand_over(errand, opened, writing, manner)


def _in_memory(came: Came, limit: int) -> tuple[Came, MailquayError | None]:
    """Read a group off the wire; what came before the wire broke counts, else a shaky one would never get anywhere.

    A group was put together by the sizes that the server announced: one that sends more than `limit` octets instead is
    cut short, so that it cannot fill the memory.
    """
    messages: list[Fetched | Withheld] = []
    octets = 0
    try:
        for message in came:
            if isinstance(message, Withheld):
                messages.append(message)
                continue
            try:
                chunks = tuple(message.chunks)
            except TooLarge as error:
                messages.append(Withheld(message.ref, error.sentence, error.size))
                raise
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
    messages: Came,
    manner: Manner,
    *,
    broken: MailquayError | None,
) -> Spooled:
    """One durable batch of what the server gave. What broke off ends the batch: the checkpoint must not pass it."""
    quay, mailbox = errand.quay, errand.mailbox
    planned = {ref: _entry(mailbox, opened, ref) for ref in group}
    plan = Batch(
        batch_id([entry.id for entry in planned.values()]),
        mailbox.name,
        opened.folder,
        opened.uidvalidity,
        created=int(quay.clock()),
        entries=tuple(planned.values()),
        sequence=quay.sequence(),
    )
    quay.spool.check_room()
    with quay.spool.new(plan) as writer:
        written, withheld, trouble = _written(writer, planned, messages)
        broken = broken or trouble
        if withheld and not quay.repairs.room(mailbox.name, [planned[ref].id for ref in withheld]):
            withheld, broken = {}, broken or _too_many(mailbox)
        passed = list(takewhile(lambda ref: ref in written or ref in withheld, group))
        came = [written[ref] for ref in passed if ref in written]
        known = quay.handed.known(mailbox.name, [one.sha256 for one in came] if manner.recognise else ())
        left = group[len(passed) :]
        stumbled = isinstance(broken, Unreachable) and not isinstance(broken, TooLarge)
        # A part of what was planned is another batch: under the plan's id it could pass for an older generation of it.
        # What is in the file and not in the batch, because it was recognised, goes with the file.
        entries = tuple(entry for entry in came if entry.sha256 not in known)
        # What comes again must not pass for an older generation of the damaged batch, should that be retried by hand.
        ids = [*(["again"] if manner.again or manner.alone else []), *(entry.id for entry in entries)]
        batch = replace(plan, id=batch_id(ids), entries=entries)
        errand.lease.check()
        return Spooled(
            batch,
            writer.commit(batch, due=batch.created) if entries else None,
            passed,
            [
                _repair(batch, planned[ref], withheld[ref], manner)
                for ref in passed
                if ref in withheld and ref not in written
            ],
            [entry for entry in came if entry.sha256 in known],
            broken,
            planned[left[0]].id if left and stumbled else None,
        )


def _written(
    writer: BatchWriter, planned: Mapping[Ref, Entry], messages: Came
) -> tuple[dict[Ref, Entry], dict[Ref, Withheld], MailquayError | None]:
    """Write what comes, and keep what does not; what is wrong with the server ends it, what is wrong with the spool raises."""
    written: dict[Ref, Entry] = {}
    withheld: dict[Ref, Withheld] = {}
    coming = iter(messages)
    while True:
        try:
            message = next(coming, None)
        except MailquayError as error:
            return written, withheld, error
        if message is None:
            return written, withheld, None
        if isinstance(message, Withheld):
            withheld[message.ref] = message
            continue
        received = message.received.isoformat() if message.received else None
        entry = replace(planned[message.ref], flags=message.flags, received=received)
        try:
            written[message.ref] = writer.add(entry, message.chunks)
        except TooLarge as error:
            withheld[message.ref] = Withheld(message.ref, error.sentence, error.size)
            return written, withheld, error
        except Unreachable as error:
            # It was huge and broke off; what is in the file of it goes with the file.
            return written, withheld, error


def _too_many(mailbox: Mailbox) -> Unreachable:
    return Unreachable(
        f"{mailbox.endpoint.host} withholds more than {MOST} messages of this mailbox, so its folders wait for them. "
        f"`mailquay repair list` shows them and why"
    )


def _repair(batch: Batch, entry: Entry, withheld: Withheld, manner: Manner) -> Repair:
    return Repair(
        Place(batch.folder, entry.id, batch.uidvalidity, entry.uid, entry.uidl),
        withheld.reason,
        withheld.size,
        since=batch.created,
        due=batch.created,
        recognise=manner.recognise,
    )


def _entry(mailbox: Mailbox, opened: Opened, ref: Ref) -> Entry:
    if ref.uidl is not None:
        message_id = pop3_id(mailbox.name, ref.uidl)
    else:
        message_id = imap_id(mailbox.name, opened.folder, opened.uidvalidity or 0, ref.uid or 0)
    return Entry(message_id, uid=ref.uid, uidl=ref.uidl, owed=tuple(mailbox.outputs))


def _hand_over(errand: Errand, opened: Opened, writing: Future[Spooled] | None, manner: Manner) -> None:
    """Behind a durable batch the checkpoint moves, unless it came `again`; then the bell is rung."""
    if writing is None:
        return
    spooled = writing.result()
    quay, pulled, name = errand.quay, errand.pulled, errand.mailbox.name
    batch, entries = spooled.batch, spooled.batch.entries
    if spooled.withheld:
        # The checkpoint is about to pass what only these notes know of.
        quay.repairs.note(name, spooled.withheld)
        limit = quay.settings.message_max
        _tell(errand, opened, [repair for repair in spooled.withheld if repair.size > limit])
    if spooled.ticket:
        places = [
            Place(batch.folder, entry.id, batch.uidvalidity, entry.uid, entry.uidl) for entry in entries
        ]
        quay.checkpoints.note_places(name, batch.id, places)
        if errand.mailbox.recognize:
            quay.handed.note(name, [entry.sha256 for entry in entries], quay.clock())
    # Behind the checkpoint nobody would note them any more.
    released(quay, errand.mailbox, batch, spooled.recognised, recognised=True)
    if errand.mailbox.after_when == "spooled":
        released(quay, errand.mailbox, batch, entries)
    if spooled.passed and not (manner.again or manner.alone):
        quay.checkpoints.move(
            errand.lease.fence,
            name,
            opened.folder,
            uidvalidity=opened.uidvalidity,
            uid=max((ref.uid for ref in spooled.passed if ref.uid), default=0),
            uidls=[ref.uidl for ref in spooled.passed if ref.uidl],
        )
    if waiting := {repair.id for repair in quay.repairs.of(name)}:
        came = {_entry(errand.mailbox, opened, ref).id for ref in spooled.passed}
        quay.repairs.strike(name, (came & waiting) - {repair.id for repair in spooled.withheld})
    pulled.recognised += len(spooled.recognised)
    pulled.withheld += len(spooled.withheld)
    if spooled.ticket:
        pulled.messages += len(entries)
        pulled.octets += sum(entry.size for entry in entries)
        pulled.batches += 1
        quay.standings.count(name, "pulled", len(entries))
        errand.ring(spooled.ticket)
    if spooled.broken:
        if spooled.hurdle and not manner.alone:
            quay.hurdles.stumbled(name, spooled.hurdle)
        raise spooled.broken


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


def bring_withheld(errand: Errand, source: Source, opened: Opened) -> None:
    """Try once more what the server withheld and what is due, each message alone, without moving the checkpoint."""
    quay, name, now = errand.quay, errand.mailbox.name, int(errand.quay.clock())
    quay.repairs.forget_others(name, opened.folder, opened.uidvalidity)
    due = [
        repair
        for repair in quay.repairs.of(name)
        if repair.due <= now and repair.size <= quay.settings.message_max and lies_in(repair.place, opened)
    ][:_AT_ONCE]
    if not due:
        return
    found = {(ref.uid, ref.uidl): ref for ref in find(source, opened, [repair.place for repair in due])}
    gone = [repair for repair in due if (repair.place.uid, repair.place.uidl) not in found]
    if gone:
        log.warning("withheld.gone", mailbox=name, folder=opened.folder, messages=len(gone))
        quay.repairs.strike(name, [repair.id for repair in gone])
    tried = quay.repairs.tried(name, [repair for repair in due if repair not in gone], now)
    try:
        for recognise in (False, True):
            # POP3 lists no sizes where it looks for messages.
            refs = [
                replace(ref, size=ref.size or repair.size)
                for repair in tried
                if repair.recognise == recognise
                for ref in [found[repair.place.uid, repair.place.uidl]]
            ]
            bring(errand, source, opened, refs, alone=True, recognise=recognise)
    finally:
        last = {repair.id for repair in tried if repair.tries == TRIES}
        left = [repair for repair in quay.repairs.of(name) if repair.id in last]
        # What is too large was told of when it was found to be.
        _tell(errand, opened, [repair for repair in left if repair.size <= quay.settings.message_max])


def _tell(errand: Errand, opened: Opened, repairs: Iterable[Repair]) -> None:
    """Say of each message that it is going to stand in the repair queue, and why."""
    for repair in repairs:
        log.warning(
            "message.withheld",
            mailbox=errand.mailbox.name,
            folder=opened.folder,
            message=repair.id,
            reason=repair.reason,
        )
