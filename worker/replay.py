"""Sends again what was delivered: new batches from the kept ones, with the same message ids, owing just the outputs asked for.

What is chosen is decided without touching anything; then batch after batch is written, in the order in which they were
pulled, each durable before the next. So a replay that was interrupted is begun again: what still waits of it is left as it is,
what was handed over comes once more under the ids it always had.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from worker.backlog import waiting
from worker.errors import Misconfigured, SpoolFull
from worker.identity import batch_id
from worker.quay import Quay
from worker.spool import Batch, BatchDamaged, Event, OpenBatch, OutputState, Ticket, check_digest

REPLAYED = "replayed"
"""What the history of a replayed batch begins with."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person wants to be sent again: the messages of these mailboxes that were done between two Unix seconds.

    With `messages` only those ids. A message was done when the last of its outputs had taken it.
    """

    mailboxes: frozenset[str]
    outputs: tuple[str, ...]
    since: float
    until: float
    messages: frozenset[str] = frozenset()


@dataclass(slots=True)
class Replayed:
    """What was done: batches and messages spooled, what waits already from an earlier replay, and what could not be read.

    `left` are other messages of the mailboxes that are still on their way, and so not among what is kept; `missing` are ids
    that were asked for and not found. `stopped` says why it ended early.
    """

    batches: int = 0
    messages: int = 0
    octets: int = 0
    waiting: int = 0
    left: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: frozenset[str] = frozenset()
    stopped: str = ""


Show = Callable[[int, int], None]
"""Called with how many kept batches were gone through, of how many."""


def chosen(kept: Iterable[Ticket], wish: Wish) -> list[Ticket]:
    """The kept batches of that time and of those mailboxes, in the order in which they were pulled."""
    found = [
        ticket
        for ticket in kept
        if ticket.mailbox in wish.mailboxes and wish.since <= ticket.due <= wish.until
    ]
    return sorted(found, key=lambda ticket: (ticket.sequence, ticket.batch))


def again(batch: Batch, wish: Wish, seen: Collection[str]) -> Batch | None:
    """A new batch of those messages of a kept one that are wished for and were not `seen`; None when there are none.

    Its id follows from what it holds, so that the same replay makes the same batch.
    """
    entries = tuple(
        replace(entry, owed=wish.outputs)
        for entry in batch.entries
        if entry.id not in seen and (not wish.messages or entry.id in wish.messages)
    )
    if not entries:
        return None
    name = batch_id([REPLAYED, *sorted(wish.outputs), *(entry.id for entry in entries)])
    return replace(
        batch,
        id=name,
        generation=0,
        entries=entries,
        outputs={output: OutputState() for output in wish.outputs},
        history=(),
        replayed=True,
    )


def check(quay: Quay, wish: Wish) -> None:
    """Refuse what cannot be meant.

    Raises:
        Misconfigured: a mailbox or an output is not configured, an output is none of a mailbox's, or nothing is kept at all.
    """
    said = quay.settings
    for name in sorted(wish.mailboxes):
        if name not in said.mailboxes:
            raise Misconfigured(f"there is no mailbox {name}; configured are: {_names(said.mailboxes)}")
    for output in wish.outputs:
        if output not in said.outputs:
            raise Misconfigured(f"there is no output {output}; configured are: {_names(said.outputs)}")
        for name in sorted(wish.mailboxes):
            mailbox = said.mailboxes[name]
            if output not in (*mailbox.outputs, mailbox.fallback):
                raise Misconfigured(
                    f"output {output} gets nothing of mailbox {name}: its OUTPUTS are {_names(mailbox.outputs)}. "
                    f"Name it in MAILBOX__{name.upper()}__OUTPUTS first"
                )
    if not said.keep and not quay.spool.kept():
        raise Misconfigured(
            "KEEP is not set, so nothing that was delivered is kept, and nothing can be sent again. "
            "Set KEEP=7d for what is delivered from then on"
        )


def replay(quay: Quay, wish: Wish, *, dry_run: bool = False, show: Show = lambda *_: None) -> Replayed:
    """Spool again what is wished for; with `dry_run` only find out what that is.

    When there is no room for more it stops; what was spooled until then is on its way.

    Raises:
        Misconfigured: as `check` does.
    """
    check(quay, wish)
    now = waiting(quay)
    on_their_way = {ticket.batch for ticket in now.tickets}
    done = Replayed(left=sum(ticket.messages for ticket in now.tickets if ticket.mailbox in wish.mailboxes))
    tickets = chosen(quay.spool.kept(), wish)
    seen: set[str] = set()
    for number, ticket in enumerate(tickets):
        try:
            with quay.spool.open_kept(ticket) as opened:
                batch = again(opened.batch, wish, seen)
                if batch is None:
                    continue
                if batch.id in on_their_way:
                    done.waiting += len(batch.entries)
                elif not dry_run:
                    _spool(quay, opened, batch)
        except SpoolFull as error:
            done.stopped = error.sentence
            break
        except BatchDamaged as damage:
            done.damaged.append(damage.sentence)
            continue
        except FileNotFoundError:
            # Its time was over a moment ago.
            continue
        seen.update(entry.id for entry in batch.entries)
        if batch.id not in on_their_way:
            done.batches += 1
            done.messages += len(batch.entries)
            done.octets += sum(entry.size for entry in batch.entries)
        show(number + 1, len(tickets))
    done.left -= done.waiting
    done.missing = wish.messages - seen
    return done


def _spool(quay: Quay, opened: OpenBatch, batch: Batch) -> None:
    """Write a batch, durably, behind all that waits: it is as if it had just been pulled."""
    quay.spool.check_room()
    now = int(quay.clock())
    events = tuple(Event(output, REPLAYED, len(batch.entries), now, now) for output in batch.outputs)
    batch = replace(batch, created=now, sequence=quay.sequence(), history=events)
    with quay.spool.new(batch) as writer:
        entries = tuple(writer.add(entry, (opened.raw(entry),)) for entry in batch.entries)
        for written, entry in zip(entries, batch.entries, strict=True):
            check_digest(opened.batch, entry, written.sha256)
        writer.commit(replace(batch, entries=entries), due=now)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def oldest(kept: Sequence[Ticket], mailboxes: Collection[str]) -> float | None:
    """When the first that is kept of these mailboxes was done, in Unix seconds."""
    return min((ticket.due for ticket in kept if ticket.mailbox in mailboxes), default=None)
