"""Moves everything that waits, has failed or is kept, and every note, from one spool to another.

Each batch is written, read back, compared with its digests and only then removed, so a death in between leaves it in one
spool or in both, and running it again goes on. Nobody may pull or deliver meanwhile. What is not moved along: attempts that
were begun and not ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from worker.errors import LeaseLost, MailquayError, Misconfigured, SpoolFull
from worker.lease import held_now
from worker.quay import Quay
from worker.spool import Batch, BatchDamaged, Entry, OpenBatch, Spool, Ticket, check_digest

Show = Callable[[int, int], None]
"""Called with how many batches are done, of how many."""


@dataclass(slots=True)
class Migrated:
    """What was moved, and the sentence on each batch that could not be read and stayed."""

    batches: int = 0
    messages: int = 0
    notes: int = 0
    stayed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Move:
    """One batch that is to be moved: how it is read, where it goes, how it is taken out."""

    ticket: Ticket
    opened: Callable[[], AbstractContextManager[OpenBatch]]
    place: Callable[[Spool, OpenBatch], None]
    take_out: Callable[[], object]


def refuse_while_working(quay: Quay) -> None:
    """Return when nobody works.

    Raises:
        Misconfigured: somebody holds a lease.
        RedisUnavailable: it cannot be known.
    """
    if leases := held_now(quay.client):
        raise Misconfigured(
            f"workers are at work ({', '.join(leases[:3])}{' and others' * (len(leases) > 3)}): stop them first. "
            "What a process that died has held is free when LEASE_TTL is over."
        )


def migrate(quay: Quay, target: Spool, *, show: Show = lambda *_: None) -> Migrated:
    """Move everything from the configured spool to `target`.

    Raises:
        Misconfigured: workers are at work.
        SpoolFull: the target has no room, or one of the two does not answer; running it again goes on.
    """
    refuse_while_working(quay)
    source, migrated = quay.spool, Migrated()
    # Generations that were replaced are not to be moved.
    source.clean()
    while _moved_on(source, target, migrated, keeps=bool(quay.settings.keep), show=show):
        migrated.stayed.clear()
    for mailbox in source.noted():
        migrated.notes += _move_notes(source, target, mailbox)
    refuse_while_working(quay)
    return migrated


def _moved_on(source: Spool, target: Spool, migrated: Migrated, *, keeps: bool, show: Show) -> bool:
    """Move every batch that a listing shows; whether one was elsewhere than it said, where a process that died left it."""
    moves = list(_moves(source, target, keeps=keeps))
    elsewhere = False
    for number, move in enumerate(moves, 1):
        try:
            with move.opened() as opened:
                move.place(target, opened)
        except BatchDamaged as damage:
            migrated.stayed.append(damage.sentence)
        except LeaseLost:
            # To have looked for it there has put the listing right.
            elsewhere = True
        else:
            move.take_out()
            migrated.batches += 1
            migrated.messages += move.ticket.messages
        show(number, len(moves))
    return elsewhere


def _moves(source: Spool, target: Spool, *, keeps: bool) -> Iterator[_Move]:
    place: Callable[[Spool, OpenBatch], None]
    ready = set(target.tickets())
    for ticket in source.tickets():
        place = partial(_to_ready, due=ticket.due, there=ready)
        yield _Move(ticket, partial(source.open, ticket), place, partial(source.remove, ticket))
    for output in source.parked_for():
        there = set(target.parked(output))
        for ticket in source.parked(output):
            place = partial(_to_parked, ticket=ticket, output=output, ready=ready, parked=there)
            opened = partial(source.open, ticket, parked=output)
            yield _Move(ticket, opened, place, partial(source.remove, ticket, parked=output))
    failed = {ticket for ticket, _ in target.failed()}
    for ticket, reason in source.failed():
        place = partial(_to_failed, reason=reason, there=failed)
        yield _Move(ticket, partial(source.open_failed, ticket), place, partial(source.drop, ticket))
    done = set(target.kept())
    for ticket in source.kept():
        # With KEEP=0 they would go with the next sweep.
        place = partial(_to_kept, ticket=ticket, ready=ready, kept=done) if keeps else _nowhere
        yield _Move(ticket, partial(source.open_kept, ticket), place, partial(source.forget_kept, ticket))


def _to_ready(target: Spool, opened: OpenBatch, *, due: int, there: set[Ticket]) -> None:
    """Write a batch, unless an earlier run has done so, and compare what can be read with its digests."""
    ticket = opened.batch.ticket(due=due)
    if ticket not in there:
        with target.new(opened.batch) as writer:
            written = tuple(writer.add(entry, (_raw(opened, entry),)) for entry in opened.batch.entries)
            writer.commit(replace(opened.batch, entries=written), due=due)
    with target.open(ticket) as copy:
        _compare(opened.batch, copy)


def _to_parked(
    target: Spool, opened: OpenBatch, *, ticket: Ticket, output: str, ready: set[Ticket], parked: set[Ticket]
) -> None:
    waiting = opened.batch.ticket(due=ticket.due)
    if waiting not in parked:
        _to_ready(target, opened, due=ticket.due, there=ready)
        target.park(waiting, output, ticket.due)


def _to_failed(target: Spool, opened: OpenBatch, *, reason: str, there: set[Ticket]) -> None:
    ticket = opened.batch.ticket()
    if ticket not in there:
        with target.new(opened.batch) as writer:
            written = tuple(writer.add(entry, (_raw(opened, entry),)) for entry in opened.batch.entries)
            writer.commit_failed(replace(opened.batch, entries=written), reason)
    with target.open_failed(ticket) as copy:
        _compare(opened.batch, copy)


def _to_kept(
    target: Spool, opened: OpenBatch, *, ticket: Ticket, ready: set[Ticket], kept: set[Ticket]
) -> None:
    waiting = opened.batch.ticket(due=ticket.due)
    if waiting not in kept:
        _to_ready(target, opened, due=ticket.due, there=ready)
        target.finish(waiting, ticket.due)


def _nowhere(target: Spool, opened: OpenBatch) -> None:
    """Leave a batch behind."""


def _raw(opened: OpenBatch, entry: Entry) -> memoryview:
    """The bytes of a message that are as they came.

    Raises:
        BatchDamaged: they are not.
    """
    raw = opened.raw(entry)
    check_digest(opened.batch, entry, hashlib.sha256(raw).hexdigest())
    return raw


def _compare(batch: Batch, copy: OpenBatch) -> None:
    """Return when a copy holds every message of a batch.

    Raises:
        SpoolFull: it does not, and the batch stays where it is.
    """
    found = {entry.id: entry for entry in copy.batch.entries}
    try:
        whole = found.keys() == {entry.id for entry in batch.entries} and all(
            _raw(copy, found[entry.id]) is not None and found[entry.id].sha256 == entry.sha256
            for entry in batch.entries
        )
    except MailquayError:
        whole = False
    if not whole:
        raise SpoolFull(f"the other spool does not give back what was written to it (batch {batch.id})")


def _move_notes(source: Spool, target: Spool, mailbox: str) -> int:
    """Move the notes on a mailbox; a newer one of the same name in the target is replaced."""
    count = 0
    if (note := source.recall(mailbox)) is not None:
        target.remember(mailbox, note)
        source.forget(mailbox)
        count += 1
    for note in source.noted_messages(mailbox):
        id_ = note["place"]["id"]
        target.note_message(mailbox, id_, note)
        source.forget_message(mailbox, id_)
        count += 1
    for name in list(source.releases(mailbox)):
        # A name begins with its time.
        at = int(name.partition("-")[0])
        if release := source.release(mailbox, at, name):
            target.note_release(mailbox, at, name, release)
            count += 1
        source.forget_release(mailbox, at, name)
    return count
