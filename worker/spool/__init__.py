"""The spool's contract: batches that are not yet accepted by every output they owe.

A batch is 1..N messages of one folder in one durable file; its *ticket* says what a listing tells without opening it.
`commit` returns only when the batch would survive a power cut; whatever the process does after that, the batch is
found again. A spool promises nothing about order. Callers import only this module; `worker.spool.file`,
`worker.spool.object` and `worker.spool.memory` implement it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import orjson

from worker.errors import MailquayError


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the name of a batch tells: enough to decide, for a hundred thousand batches, which one to open.

    `messages` and `octets` are those that still owe something. `due` is in Unix seconds, or, of a batch that is parked
    or kept, when that happened. `generation` rises each time a batch is spooled again with what it still owes; of two
    generations only the higher one counts. `attempts` are those begun and not ended: a process that dies with the
    batch in hand leaves its attempt here. `sequence` is that of the batch.
    """

    batch: str
    mailbox: str
    messages: int
    due: int = 0
    generation: int = 0
    attempts: int = 0
    octets: int = 0
    sequence: int = 0

    def __str__(self) -> str:
        """The file name of the batch: fields joined by dots, the due time first so that names sort by it."""
        return (
            f"{self.due:011d}.{self.mailbox}.{self.batch}.g{self.generation}.a{self.attempts}"
            f".m{self.messages}.o{self.octets}.s{self.sequence}.zip"
        )

    @classmethod
    def parse(cls, name: str) -> Ticket | None:
        """The ticket that a file name spells, or None for a file that is not ours."""
        if not (found := _TICKET.fullmatch(name)):
            return None
        due, mailbox, batch, *numbers = found.groups()
        generation, attempts, messages, octets, sequence = map(int, numbers)
        return cls(batch, mailbox, messages, int(due), generation, attempts, octets, sequence)


Chunk = bytes | bytearray | memoryview
"""A piece of a raw message."""

_TICKET = re.compile(r"(\d{11})\.([a-z0-9_-]+)\.([0-9a-f]{32})\.g(\d+)\.a(\d+)\.m(\d+)\.o(\d+)\.s(\d+)\.zip")


def place_of(outputs: Iterable[str]) -> str:
    """Where a batch is parked that waits for these outputs and no others: a name, without anything of a path."""
    return ".".join(sorted(outputs))


def outputs_of(place: str) -> frozenset[str]:
    """The outputs that `place_of` made the name of."""
    return frozenset(place.split("."))


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a batch. `received` is ISO 8601; `sha256` and `size` are of the raw bytes in `member`.

    `owed` are the outputs that have not answered for good; without any the message is done. `accepted` are those that did
    accept it. `elsewhere` are those that it is, or was, owed to in another batch, because some output refused it.
    """

    id: str
    member: str = ""
    uid: int | None = None
    uidl: str | None = None
    flags: tuple[str, ...] = ()
    received: str | None = None
    size: int = 0
    sha256: str = ""
    owed: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


_SEVERAL = ("flags", "owed", "accepted", "elsewhere")


@dataclass(frozen=True, slots=True)
class OutputState:
    """What happened so far between one batch and one output. `due` and `since` are in Unix seconds."""

    attempts: int = 0
    due: int = 0
    since: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to `messages` of a batch at one output, `times` in a row, from `first` to `last` (Unix seconds)."""

    output: str
    what: str
    messages: int
    first: int
    last: int
    times: int = 1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything known of a batch but the raw messages: the content of its `batch.json`.

    `created` is in Unix seconds. `sequence` is in microseconds: of two batches of a mailbox, that with the lower one was
    pulled first. `replayed`: a person had it sent again, from a batch that is kept.
    """

    id: str
    mailbox: str
    folder: str
    uidvalidity: int | None = None
    created: int = 0
    generation: int = 0
    entries: tuple[Entry, ...] = ()
    outputs: Mapping[str, OutputState] = field(default_factory=dict)
    history: tuple[Event, ...] = ()
    sequence: int = 0
    replayed: bool = False

    @property
    def owing(self) -> tuple[Entry, ...]:
        """The messages that still owe something."""
        return tuple(entry for entry in self.entries if entry.owed)

    @property
    def owed(self) -> frozenset[str]:
        """The outputs that something is owed to."""
        return frozenset(output for entry in self.entries for output in entry.owed)

    def ticket(self, *, due: int = 0) -> Ticket:
        """The ticket under which this batch is spooled."""
        owing = self.owing
        octets = sum(entry.size for entry in owing)
        return Ticket(
            self.id, self.mailbox, len(owing), due, self.generation, octets=octets, sequence=self.sequence
        )

    def dumps(self) -> bytes:
        """The batch as JSON."""
        return orjson.dumps({"version": 1, "batch": self}, option=orjson.OPT_INDENT_2)

    @classmethod
    def loads(cls, text: bytes) -> Batch:
        """The batch that `dumps` wrote.

        Raises:
            ValueError: it was written by a newer version, or is no batch at all.
        """
        document = orjson.loads(text)
        if document.get("version") != 1:
            raise ValueError(
                f"batch.json has version {document.get('version')}, this program reads version 1"
            )
        fields = document["batch"]
        fields["entries"] = tuple(
            Entry(**entry | {name: tuple(entry.get(name, ())) for name in _SEVERAL})
            for entry in fields["entries"]
        )
        fields["outputs"] = {name: OutputState(**found) for name, found in fields["outputs"].items()}
        fields["history"] = tuple(Event(**event) for event in fields["history"])
        return cls(**fields)


class BatchDamaged(MailquayError):
    """A batch cannot be read. `plan` holds what it was going to contain, if that much is left of it."""

    state = "failed"

    def __init__(self, sentence: str, *, mailbox: str, plan: Batch | None) -> None:
        super().__init__(sentence, mailbox=mailbox)
        self.plan = plan


def check_digest(batch: Batch, entry: Entry, sha256: str) -> None:
    """Compare what was read of a message with what was written.

    Raises:
        BatchDamaged: the bytes are others by now.
    """
    if sha256 != entry.sha256:
        raise BatchDamaged(
            f"the bytes of {entry.member} in batch {batch.id} are not those that were written. Check the disk.",
            mailbox=batch.mailbox,
            plan=batch,
        )


class BatchWriter(Protocol):
    """A batch being written. Used as a context manager: what was not committed at the end is gone."""

    def add(self, entry: Entry, chunks: Iterable[Chunk]) -> Entry:
        """Write one raw message, as many chunks as there are; the entry comes back with member, size and digest.

        Raises:
            SpoolFull: there is no room.
        """
        ...

    def commit(self, batch: Batch, *, due: int = 0) -> Ticket:
        """Make the batch durable and visible, with `batch` as its `batch.json`, and return its ticket.

        Raises:
            SpoolFull: there is no room; nothing is visible.
        """
        ...

    def commit_failed(self, batch: Batch, reason: str) -> Ticket:
        """Make the batch durable in `failed`, where it waits for a person, with the reason beside it.

        Raises:
            SpoolFull: there is no room.
        """
        ...

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an uncommitted batch vanishes."""
        ...


class OpenBatch(Protocol):
    """A batch being read."""

    batch: Batch

    def raw(self, entry: Entry) -> memoryview:
        """The bytes of one message, without a copy; valid until the batch is closed."""
        ...


class Spool(Protocol):
    """Where batches wait."""

    def new(self, plan: Batch) -> BatchWriter:
        """Begin a batch. `plan` says what it is going to contain; it comes first, so that it survives a cut."""
        ...

    def tickets(self) -> list[Ticket]:
        """Every batch that waits and is not parked, soonest due first; of several generations only the newest."""
        ...

    def begin(self, ticket: Ticket) -> Ticket | None:
        """Count an attempt before anything is tried; None when another process was faster or the batch is gone."""
        ...

    def postpone(self, ticket: Ticket, due: int) -> Ticket | None:
        """Take back a counted attempt that was not the batch's fault, and make it due at `due`; None when it is gone."""
        ...

    def open(self, ticket: Ticket, *, parked: str = "") -> AbstractContextManager[OpenBatch]:
        """Read a batch, which may be `parked` in a place.

        Raises:
            BatchDamaged: on entering, when it cannot be read; it should then be moved to `failed`.
        """
        ...

    def again(self, ticket: Ticket, opened: OpenBatch, batch: Batch, *, due: int) -> Ticket | None:
        """Replace what is known of an open batch by `batch`, its next generation, durably; the messages stay.

        None when another process has taken the batch over: what that one finds out counts.

        Raises:
            SpoolFull: there is no room; the batch is as it was.
        """
        ...

    def park(self, ticket: Ticket, output: str, now: float) -> None:
        """Put a batch aside that only waits for an output which is known to be away: no listing shows it.

        For several outputs `output` is the name that `place_of` gives them, here and in what follows.
        """
        ...

    def parked_for(self) -> list[str]:
        """The outputs that batches are parked for."""
        ...

    def parked(self, output: str) -> list[Ticket]:
        """The batches that are parked for an output, the one parked first at the front."""
        ...

    def unpark(self, ticket: Ticket, output: str) -> Ticket | None:
        """Let a parked batch wait among the others again, due at once; None when somebody else has done so."""
        ...

    def finish(self, ticket: Ticket, now: float) -> None:
        """Take a batch out that owes nothing any more; for as long as KEEP says it stays among the `kept`."""
        ...

    def remove(self, ticket: Ticket, *, parked: str = "") -> None:
        """Take a batch out, which may be `parked` in a place, whose messages are in other batches now."""
        ...

    def kept(self) -> list[Ticket]:
        """The batches that `finish` took out and that are kept, the one finished first at the front."""
        ...

    def open_kept(self, ticket: Ticket) -> AbstractContextManager[OpenBatch]:
        """Read a kept batch; raises as `open` does."""
        ...

    def forget_kept(self, ticket: Ticket) -> None:
        """Throw a kept batch away."""
        ...

    def fail(self, ticket: Ticket, reason: str) -> None:
        """Move a batch as it is to `failed`, where it waits for a person, with the reason beside it."""
        ...

    def failed(self) -> list[tuple[Ticket, str]]:
        """The batches that wait for a person, each with its reason."""
        ...

    def open_failed(self, ticket: Ticket) -> AbstractContextManager[OpenBatch]:
        """Read a failed batch; raises as `open` does."""
        ...

    def retry(self, ticket: Ticket) -> Ticket:
        """Put a failed batch back as if it had just come: without its attempts, due at once, its time beginning anew."""
        ...

    def drop(self, ticket: Ticket) -> None:
        """Throw a failed batch away: a person decided so."""
        ...

    def remember(self, mailbox: str, note: Mapping[str, Any]) -> None:
        """Keep a durable note on a mailbox: the copy of its checkpoints."""
        ...

    def recall(self, mailbox: str) -> Mapping[str, Any] | None:
        """The note that `remember` kept."""
        ...

    def forget(self, mailbox: str) -> None:
        """Throw the note that `remember` kept away."""
        ...

    def noted(self) -> list[str]:
        """The mailboxes that there are notes of any kind on."""
        ...

    def note_message(self, mailbox: str, id: str, note: Mapping[str, Any]) -> None:  # noqa: A002
        """Keep a durable note on one message that is not in the spool; it replaces an older one of the same id.

        Raises:
            SpoolFull: there is no room.
        """
        ...

    def noted_messages(self, mailbox: str) -> list[Mapping[str, Any]]:
        """The notes that `note_message` kept, in no order."""
        ...

    def forget_message(self, mailbox: str, id: str) -> None:  # noqa: A002
        """Throw the note on a message away."""
        ...

    def note_release(self, mailbox: str, at: int, name: str, note: Mapping[str, Any]) -> None:
        """Keep a durable note on messages that were handed over `at` a Unix second, with which `name` begins.

        Raises:
            SpoolFull: there is no room.
        """
        ...

    def releases(self, mailbox: str, until: int | None = None) -> Iterator[str]:
        """The names that `note_release` was given, until a Unix second or all, oldest first; none of them is read."""
        ...

    def release(self, mailbox: str, at: int, name: str) -> Mapping[str, Any] | None:
        """The note of this name; None when there is none (any more) or it cannot be read."""
        ...

    def forget_release(self, mailbox: str, at: int, name: str) -> None:
        """Throw it away."""
        ...

    def clean(self) -> int:
        """Remove what dead processes left unfinished and generations that were replaced; how many files went."""
        ...

    def free(self) -> int | None:
        """How many octets are free where the batches lie; None where nobody can tell."""
        ...

    def check_room(self) -> None:
        """Return when there is room for another batch.

        Raises:
            SpoolFull: there is none; mail waits on the mail server.
        """
        ...
