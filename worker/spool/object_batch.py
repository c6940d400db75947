"""A batch on its way into an object store and out of it: one zip, as in the file spool, whole or in pieces.

Up to 16 MiB it is one object, written at once and read at once; beyond, it goes in pieces of that size while it comes, and
is read through a file without a name, so no message needs memory for more than two pieces. Pieces are objects of their own and
not parts of a multipart upload, because what a dead process left of such an upload no listing of objects shows.
"""

from __future__ import annotations

import mmap
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from worker.errors import SpoolUnavailable
from worker.spool import Batch, BatchDamaged, Chunk, Entry, Ticket
from worker.spool.archive import Archive
from worker.spool.bucket import Bucket
from worker.spool.chains import Chain, Chains
from worker.spool.file import LOCAL_HEADER, plan_in
from worker.spool.notes import room
from worker.spool.record import FAILED, READY, Raw, Record, raw_key, raw_keys, record_key

PIECE = 16 << 20
"""Octets of an object; a batch is no larger, but for its last messages and one that is huge."""


class ObjectBatchWriter:
    """A zip being written. Nothing of it shows before `commit`; what a process that dies leaves, `clean` removes."""

    def __init__(
        self, bucket: Bucket, chains: Chains, plan: Batch, *, name: Callable[[], uuid.UUID] = uuid.uuid4
    ) -> None:
        self._bucket = bucket
        self._chains = chains
        self._plan = plan
        self._chain = name().hex
        self._members: dict[str, int] = {}
        self._buffer = bytearray()
        self._size = 0
        self._written: list[str] = []
        self._committed = False

    def __enter__(self) -> Self:
        """Begin with the plan."""
        self._archive = Archive(cast("BinaryIO", self))
        self._archive.add("plan.json", (self._plan.dumps(),))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was written, unless it was committed."""
        if not self._committed and self._written:
            # When the store is away, this waits for `clean`.
            with suppress(SpoolUnavailable):
                self._bucket.delete(self._written)

    def write(self, data: Chunk) -> None:
        """Take the next bytes of the zip; a piece that is full goes to the store.

        Raises:
            SpoolUnavailable: it does not take it.
        """
        view = memoryview(data)
        self._size += len(view)
        while len(self._buffer) + len(view) > PIECE:
            fits = PIECE - len(self._buffer)
            self._buffer += view[:fits]
            view = view[fits:]
            self._put(raw_key(self._chain, len(self._written)))
        self._buffer += view

    def _put(self, key: str) -> None:
        # Noted before: an answer may be lost.
        self._written.append(key)
        self._bucket.put(key, self._buffer)
        self._buffer = bytearray()

    def add(self, entry: Entry, chunks: Iterable[Chunk]) -> Entry:
        """Write one raw message as the next member.

        Raises:
            SpoolUnavailable: the store does not take a piece.
        """
        member = f"{len(self._members) + 1:04d}.eml"
        self._members[member] = self._size + LOCAL_HEADER.size + len(member)
        written = self._archive.add(member, chunks)
        return replace(entry, member=member, size=written.size, sha256=written.sha256)

    def commit(self, batch: Batch, *, due: int = 0) -> Ticket:
        """Write the rest of the zip, then the record, then the pointer: then, and only then, it is spooled.

        Raises:
            SpoolUnavailable: the store does not take it; nothing is visible, or what is visible goes again.
        """
        return self._publish(batch, batch.ticket(due=due), READY)

    def commit_failed(self, batch: Batch, reason: str) -> Ticket:
        """The same into `failed`, with the reason. A batch that waits there under this very ticket is the same one."""
        ticket = batch.ticket()
        if self._chains.find(FAILED, ticket) is not None:
            return ticket
        return self._publish(batch, ticket, FAILED, reason)

    def _publish(self, batch: Batch, ticket: Ticket, place: str, reason: str = "") -> Ticket:
        self._archive.add("batch.json", (batch.dumps(),))
        self._archive.close()
        pieces = len(self._written)
        self._put(raw_key(self._chain, pieces or None))
        raw = Raw(self._size, len(self._written) if pieces else 0, self._members)
        self._written.append(record_key(self._chain))
        self._chains.start(self._chain, Record(place, ticket, batch, raw, reason=reason))
        self._committed = True
        return ticket


class ObjectBatch:
    """A batch being read; its raw messages are fetched when the first of them is asked for."""

    def __init__(self, batch: Batch, raw: Raw, fetch: Callable[[], memoryview]) -> None:
        self.batch = batch
        self._raw = raw
        self._fetch = fetch
        self._view: memoryview | None = None

    def raw(self, entry: Entry) -> memoryview:
        """The bytes of one message as a slice; the caller compares their digest with the entry's.

        Raises:
            BatchDamaged: they are not there.
            SpoolUnavailable: the store does not give them.
        """
        if self._view is None:
            self._view = self._fetch()
        if entry.member not in self._raw.members:
            raise _damaged(self.batch, f"{entry.member} of batch {self.batch.id} is not in its record")
        start = self._raw.members[entry.member]
        return self._view[start : start + entry.size]


@contextmanager
def opened(bucket: Bucket, chain: Chain, *, scratch: Path) -> Iterator[ObjectBatch]:
    """Read a batch. A large one goes through a file without a name in `scratch`.

    Raises:
        BatchDamaged: its record was overwritten.
    """
    record = chain.record
    keys = raw_keys(chain.id, record.raw.pieces)
    if record.batch is None:
        first = bucket.get(keys[0])
        raise BatchDamaged(
            f"the record of batch {record.ticket.batch} cannot be read. See who else writes to the bucket.",
            mailbox=record.ticket.mailbox,
            plan=plan_in(first.data) if first else None,
        )
    batch = record.batch
    yield ObjectBatch(batch, record.raw, lambda: _fetched(bucket, batch, keys, scratch))


def _fetched(bucket: Bucket, batch: Batch, keys: list[str], scratch: Path) -> memoryview:
    if len(keys) == 1:
        return memoryview(_piece(bucket, batch, keys[0]))
    with room(scratch):
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=scratch) as file:
            for key in keys:
                file.write(_piece(bucket, batch, key))
            file.flush()
            # The map outlives the file, and goes with the last slice.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _piece(bucket: Bucket, batch: Batch, key: str) -> bytes:
    found = bucket.get(key)
    if found is None:
        raise _damaged(batch, f"raw messages of batch {batch.id} are not in the store")
    return found.data


def _damaged(batch: Batch, what: str) -> BatchDamaged:
    return BatchDamaged(f"{what}. See who else writes to the bucket.", mailbox=batch.mailbox, plan=batch)
