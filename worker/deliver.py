"""One batch, once: lease, attempt counted, parse, stages, outputs, receipts, then remove it or spool what is still owed.

A message leaves the spool only when every output it owes has accepted it, or when it waits in `failed` for a person
(promise P2). The attempt is counted before anything is parsed, so a message that kills its process is found out: after
three attempts its batch is cut into single messages, and the one that goes on killing waits in `failed`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from worker.ask import ask
from worker.choose import Chosen, choose, due_again
from worker.circuit import OpenCircuit
from worker.errors import MailquayError, RedisUnavailable, SpoolFull, SpoolUnavailable
from worker.lease import Lease, held
from worker.ordering import its_turn_came, next_in_line, ordered
from worker.owing import is_due, owing
from worker.parking import park
from worker.prepare import Prepared, prepare
from worker.quay import Quay
from worker.set_aside import ATTEMPTS, pull_again, set_apart, set_failed_aside
from worker.settle import released
from worker.spool import Batch, BatchDamaged, Entry, OpenBatch, Ticket

log = structlog.get_logger("deliver")

_PAUSE_SECONDS = 30
"""How long a batch rests that could not be concluded, because the spool was full or Redis away."""


@dataclass(slots=True)
class Delivered:
    """What one delivery did: receipts accepted, messages done, dropped by a stage, still owing and failed.

    `next` is a batch whose turn it is now, where an output wants its messages in order: its bell is to be rung.
    """

    mailbox: str
    batch: str
    accepted: int = 0
    done: int = 0
    dropped: int = 0
    again: int = 0
    failed: int = 0
    due: int = 0
    trouble: str = ""
    next: Ticket | None = None


def deliver(quay: Quay, ticket: Ticket) -> Delivered | None:
    """Deliver a batch; None when it is gone, not due yet, or another process has it; raises nothing of `worker.errors`."""
    if not is_due(ticket.due, quay.clock()):
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
            except OSError as error:
                # What outputs and parsing raise never comes as far as here: it is the disk's fault.
                quay.spool.postpone(begun, int(quay.clock()) + _PAUSE_SECONDS)
                raise SpoolUnavailable(
                    f"the spool cannot be worked with ({error.strerror or type(error).__name__}); it is tried again"
                ) from error
    except MailquayError as error:
        delivered.again, delivered.trouble = ticket.messages, error.sentence
    _report(delivered, time.monotonic() - begun_at)
    return delivered


def _attempt(quay: Quay, lease: Lease, begun: Ticket, delivered: Delivered) -> None:
    """Deliver a batch whose attempt is counted.

    Raises:
        SpoolFull: what is still owed could not be written down.
        RedisUnavailable, LeaseLost: it cannot be known that nobody else delivers it.
    """
    try:
        with quay.spool.open(begun) as opened:
            if begun.attempts > ATTEMPTS:
                _set_apart(quay, begun, opened, delivered)
                return
            chosen = choose(quay, opened.batch)
            if not chosen.due and not chosen.receipts:
                delivered.next = _wait(quay, begun, chosen)
                return
            prepared = prepare(quay, opened, chosen)
            owed = prepared.owed
            for output in chosen.probes:
                if not owed[output]:
                    quay.circuits.unused(output)
            receipts = {**prepared.receipts, **ask(quay, prepared.batch, owed)}
            lease.check()
            _conclude(quay, begun, opened, replace(prepared, receipts=receipts), delivered)
    except BatchDamaged as damage:
        delivered.failed = begun.messages
        delivered.trouble = pull_again(quay, begun, damage)


def _wait(quay: Quay, begun: Ticket, chosen: Chosen) -> Ticket | None:
    """Let a batch rest of which no output can be asked now; nothing of it was tried. Returns it if its turn has come."""
    batch, now = chosen.batch, quay.clock()
    if batch.owed - chosen.away.keys():
        later = [batch.outputs[output].due for output in batch.owed & batch.outputs.keys()]
        probes = [int(circuit.probe_at) + 1 for circuit in chosen.away.values()]
        times = [due for due in [*chosen.held.values(), *later, *probes] if due > now]
        # While it was looked at, the last of these may have come.
        return _called(quay, quay.spool.postpone(begun, min(times, default=int(now) + 1)), chosen)
    if batch.owed:
        park(quay, begun, batch.owed)
    else:
        _finish(quay, begun, batch)
    return None


def _called(quay: Quay, resting: Ticket | None, chosen: Chosen) -> Ticket | None:
    """A batch that rests because earlier ones have to be handed over first, due at once when they are by now."""
    if resting and its_turn_came(quay, chosen.batch, chosen.held):
        return quay.spool.postpone(resting, int(quay.clock()))
    return None


def _away(quay: Quay, outputs: Collection[str]) -> Mapping[str, OpenCircuit]:
    """The outputs that are away. When Redis is, too, that is found out later: what was answered is written down first."""
    try:
        return quay.circuits.opened(outputs)
    except RedisUnavailable:
        return {}


def _conclude(
    quay: Quay, ticket: Ticket, opened: OpenBatch, prepared: Prepared, delivered: Delivered
) -> None:
    """Write what follows, in the order in which a crash between two lines only repeats and never loses."""
    batch, chosen = opened.batch, prepared.chosen
    terms = quay.terms(batch.mailbox)
    if batch.replayed:
        # A person said who is to have it, and nobody else.
        terms = replace(terms, fallback=None)
    follows = owing(prepared.batch, prepared.receipts, now=quay.clock(), chance=quay.chance, terms=terms)
    following = follows.batch
    away = _away(quay, following.outputs)
    failed = {failure.entry.id for failure in follows.failures}
    done = [
        after
        for before, after in zip(batch.entries, following.entries, strict=True)
        if before.owed and not after.owed and before.id not in failed
    ]
    set_failed_aside(quay, opened, follows)
    _note_settled(quay, batch, done)
    if following.owing:
        delivered.again = len(following.owing)
        delivered.due = due_again(following, away, chosen.held)
        renewed = quay.spool.again(ticket, opened, following, due=delivered.due)
        if renewed and away.keys() == following.outputs.keys():
            park(quay, renewed, away)
        else:
            delivered.next = _called(quay, renewed, chosen)
    else:
        _finish(quay, ticket, batch)
        quay.checkpoints.forget_places(batch.mailbox, batch.id)
    if ordered(quay, chosen.due):
        delivered.next = delivered.next or next_in_line(quay, batch)
    # What a stage dropped owes nothing; to people it is told apart.
    delivered.dropped = len(prepared.dropped)
    delivered.done = len(done) - delivered.dropped
    delivered.accepted = follows.accepted
    delivered.failed = len(failed)
    delivered.trouble = "; ".join(
        sorted(
            {state.reason for state in following.outputs.values() if state.reason}
            | {circuit.reason for circuit in away.values()}
        )
        + sorted({failure.reason for failure in follows.failures})
    )
    _tell(quay, batch, delivered, prepared.dropped)


def _finish(quay: Quay, ticket: Ticket, batch: Batch) -> None:
    """Take out a batch that owes nothing any more. What it replayed is kept already, where it was taken from."""
    if batch.replayed:
        quay.spool.remove(ticket)
    else:
        quay.spool.finish(ticket, quay.clock())


def _tell(quay: Quay, batch: Batch, delivered: Delivered, dropped: Mapping[str, str]) -> None:
    quay.standings.count(batch.mailbox, "delivered", delivered.done)
    quay.standings.count(batch.mailbox, "failed", delivered.failed)
    if dropped:
        quay.standings.count(batch.mailbox, "dropped", delivered.dropped)
    for id_, stage in dropped.items():
        log.info("deliver.dropped", mailbox=batch.mailbox, batch=batch.id, message=id_, stage=stage)


def _set_apart(quay: Quay, begun: Ticket, opened: OpenBatch, delivered: Delivered) -> None:
    """A batch that goes on killing its process: its messages go on one by one, and a single one waits for a person."""
    messages = len(opened.batch.owing)
    delivered.trouble = set_apart(quay, begun, opened)
    if messages == 1:
        delivered.failed = 1
        quay.standings.count(opened.batch.mailbox, "failed", 1)
    else:
        delivered.again = messages


def _note_settled(quay: Quay, batch: Batch, done: Sequence[Entry]) -> None:
    """Note that the server may now do what AFTER says. Where there is no room for that, delivering goes on (promise P9).

    What was refused by one output, and is in several batches since, is settled when nothing of its mailbox waits any more.
    """
    mailbox = quay.settings.mailboxes.get(batch.mailbox)
    # A replay changes nothing on a server: its messages were handed over, and AFTER may have been another then.
    if mailbox and mailbox.after_when == "delivered" and not batch.replayed:
        try:
            released(quay, mailbox, batch, [entry for entry in done if not entry.elsewhere])
            in_parts = [entry for entry in done if entry.elsewhere]
            released(quay, mailbox, batch, in_parts, recognised=True)
        except SpoolFull as error:
            log.warning("settle.not_noted", mailbox=batch.mailbox, messages=len(done), reason=error.sentence)


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
