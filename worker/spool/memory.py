"""The spool in memory: for tests that need no disk. It keeps the contract but not across processes, nor a crash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import orjson

from worker.spool import Batch, Chunk, Entry, OpenBatch, Ticket


@dataclass(slots=True)
class _Content:
    text: bytes = b""
    members: dict[str, bytes] = field(default_factory=dict)


class MemorySpool:
    """Batches in dictionaries."""

    def __init__(self, *, clock: Callable[[], float], keep: float = 0) -> None:
        self._clock = clock
        self._keep = keep
        self.ready: dict[Ticket, _Content] = {}
        self.aside: dict[str, dict[Ticket, _Content]] = {}
        self.done: dict[Ticket, _Content] = {}
        self.set_aside: dict[Ticket, tuple[str, _Content]] = {}
        self._notes: dict[str, bytes] = {}
        self._noted: dict[tuple[str, str], bytes] = {}
        self._releases: dict[tuple[str, int, str], bytes] = {}

    def new(self, plan: Batch) -> MemoryBatchWriter:  # noqa: ARG002  (nothing cuts a dictionary short)
        """Begin a batch."""
        return MemoryBatchWriter(self)

    def tickets(self) -> list[Ticket]:
        """Every batch, soonest due first; of several generations only the newest."""
        newest: dict[str, Ticket] = {}
        for ticket in self.ready:
            if ticket.generation >= newest.get(ticket.batch, ticket).generation:
                newest[ticket.batch] = ticket
        return sorted(newest.values(), key=str)

    def begin(self, ticket: Ticket) -> Ticket | None:
        """Count the attempt."""
        return self._renamed(ticket, replace(ticket, attempts=ticket.attempts + 1))

    def postpone(self, ticket: Ticket, due: int) -> Ticket | None:
        """Set the attempts back and move the due time."""
        return self._renamed(ticket, replace(ticket, attempts=0, due=due))

    def open(self, ticket: Ticket, *, parked: str = "") -> AbstractContextManager[MemoryBatch]:
        """Read a batch."""
        return nullcontext(MemoryBatch((self.aside[parked] if parked else self.ready)[ticket]))

    def again(self, ticket: Ticket, opened: OpenBatch, batch: Batch, *, due: int) -> Ticket | None:  # noqa: ARG002
        """Replace what is known of a batch."""
        renewed = batch.ticket(due=due)
        content = self.ready.pop(ticket, None)
        if content is None:
            return None
        self.ready[renewed] = _Content(batch.dumps(), content.members)
        return renewed

    def park(self, ticket: Ticket, output: str, now: float) -> None:
        """Put a batch aside."""
        if content := self.ready.pop(ticket, None):
            self.aside.setdefault(output, {})[replace(ticket, attempts=0, due=int(now))] = content

    def parked_for(self) -> list[str]:
        """The outputs that anything was ever parked for."""
        return sorted(self.aside)

    def parked(self, output: str) -> list[Ticket]:
        """What is parked for an output."""
        return sorted(self.aside.get(output, {}), key=str)

    def unpark(self, ticket: Ticket, output: str) -> Ticket | None:
        """Put a batch back."""
        content = self.aside.get(output, {}).pop(ticket, None)
        if content is None:
            return None
        waiting = replace(ticket, due=0)
        self.ready[waiting] = content
        return waiting

    def finish(self, ticket: Ticket, now: float) -> None:
        """Forget a batch, or keep it."""
        content = self.ready.pop(ticket, None)
        if content and self._keep:
            self.done[replace(ticket, attempts=0, due=int(now))] = content

    def remove(self, ticket: Ticket, *, parked: str = "") -> None:
        """Forget a batch."""
        (self.aside.get(parked, {}) if parked else self.ready).pop(ticket, None)

    def kept(self) -> list[Ticket]:
        """What is kept."""
        return sorted(self.done, key=str)

    def open_kept(self, ticket: Ticket) -> AbstractContextManager[MemoryBatch]:
        """Read a kept batch."""
        return nullcontext(MemoryBatch(self.done[ticket]))

    def forget_kept(self, ticket: Ticket) -> None:
        """Forget a kept batch."""
        self.done.pop(ticket, None)

    def fail(self, ticket: Ticket, reason: str) -> None:
        """Set a batch aside."""
        if content := self.ready.pop(ticket, None):
            self.set_aside[ticket] = (reason, content)

    def failed(self) -> list[tuple[Ticket, str]]:
        """The batches set aside."""
        return [(ticket, self.set_aside[ticket][0]) for ticket in sorted(self.set_aside, key=str)]

    def open_failed(self, ticket: Ticket) -> AbstractContextManager[MemoryBatch]:
        """Read a failed batch."""
        return nullcontext(MemoryBatch(self.set_aside[ticket][1]))

    def retry(self, ticket: Ticket) -> Ticket:
        """Put a failed batch back."""
        content = self.set_aside.pop(ticket)[1]
        now = self._clock()
        batch = replace(Batch.loads(content.text), created=int(now), sequence=int(now * 1e6), outputs={})
        waiting = batch.ticket()
        self.ready[waiting] = _Content(batch.dumps(), content.members)
        return waiting

    def drop(self, ticket: Ticket) -> None:
        """Forget a failed batch."""
        self.set_aside.pop(ticket, None)

    def remember(self, mailbox: str, note: Mapping[str, Any]) -> None:
        """Keep a note."""
        self._notes[mailbox] = orjson.dumps(note)

    def recall(self, mailbox: str) -> Mapping[str, Any] | None:
        """The note, or None."""
        return orjson.loads(self._notes[mailbox]) if mailbox in self._notes else None

    def forget(self, mailbox: str) -> None:
        """Forget the note of a mailbox."""
        self._notes.pop(mailbox, None)

    def noted(self) -> list[str]:
        """The mailboxes that there are notes on."""
        return sorted({*self._notes, *(key[0] for key in self._noted), *(key[0] for key in self._releases)})

    def note_message(self, mailbox: str, id: str, note: Mapping[str, Any]) -> None:  # noqa: A002
        """Keep a note on a message."""
        self._noted[mailbox, id] = orjson.dumps(note)

    def noted_messages(self, mailbox: str) -> list[Mapping[str, Any]]:
        """The notes on messages of a mailbox."""
        return [orjson.loads(text) for (name, _), text in self._noted.items() if name == mailbox]

    def forget_message(self, mailbox: str, id: str) -> None:  # noqa: A002
        """Forget a note on a message."""
        self._noted.pop((mailbox, id), None)

    def note_release(self, mailbox: str, at: int, name: str, note: Mapping[str, Any]) -> None:
        """Keep a note."""
        self._releases[mailbox, at, name] = orjson.dumps(note)

    def releases(self, mailbox: str, until: int | None = None) -> Iterator[str]:
        """The names, oldest first."""
        for owner, at, name in sorted(self._releases):
            if owner == mailbox and (until is None or at <= until):
                yield name

    def release(self, mailbox: str, at: int, name: str) -> Mapping[str, Any] | None:
        """The note, or None."""
        text = self._releases.get((mailbox, at, name))
        return orjson.loads(text) if text else None

    def forget_release(self, mailbox: str, at: int, name: str) -> None:
        """Forget a note."""
        self._releases.pop((mailbox, at, name), None)

    def clean(self) -> int:
        """Forget generations that were replaced."""
        newest = set(self.tickets())
        replaced = [ticket for ticket in self.ready if ticket not in newest]
        for ticket in replaced:
            del self.ready[ticket]
        expired = [ticket for ticket in self.done if ticket.due < self._clock() - self._keep]
        for ticket in expired:
            del self.done[ticket]
        return len(replaced) + len(expired)

    def free(self) -> int | None:
        """Nobody can tell."""
        return None

    def check_room(self) -> None:
        """There is always room."""

    def _renamed(self, old: Ticket, new: Ticket) -> Ticket | None:
        content = self.ready.pop(old, None)
        if content is None:
            return None
        self.ready[new] = content
        return new


class MemoryBatchWriter:
    """A batch being filled."""

    def __init__(self, spool: MemorySpool) -> None:
        self._spool = spool
        self._content = _Content()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def add(self, entry: Entry, chunks: Iterable[Chunk]) -> Entry:
        """Keep one raw message."""
        member = f"{len(self._content.members) + 1:04d}.eml"
        raw = self._content.members[member] = b"".join(chunks)
        return replace(entry, member=member, size=len(raw), sha256=hashlib.sha256(raw).hexdigest())

    def commit(self, batch: Batch, *, due: int = 0) -> Ticket:
        """Make the batch visible."""
        ticket = batch.ticket(due=due)
        self._content.text = batch.dumps()
        self._spool.ready[ticket] = self._content
        return ticket

    def commit_failed(self, batch: Batch, reason: str) -> Ticket:
        """Set the batch aside at once."""
        ticket = batch.ticket()
        self._content.text = batch.dumps()
        self._spool.set_aside[ticket] = (reason, self._content)
        return ticket


class MemoryBatch:
    """A batch being read."""

    def __init__(self, content: _Content) -> None:
        self.batch = Batch.loads(content.text)
        self._members = content.members

    def raw(self, entry: Entry) -> memoryview:
        """The bytes of one message."""
        return memoryview(self._members[entry.member])
