"""The spool in a folder: one uncompressed zip a batch, `tmp/` to `ready/` to nothing, or to `failed/`.

What a listing of `ready/` shows is durable: a batch is written to `tmp/`, fsynced, renamed, and the directory is
fsynced before `commit` returns (promise P1). The state is in the file and in its name; there is no index to lose. A
person can open a batch with any zip tool. It promises nothing on network file systems that lie about fsync or flock.

Names: `plan.json` comes first, `0001.eml` ... hold the raw bytes, `batch.json` is last. A file that was cut short has
lost its end, but not the plan, so the messages can be pulled again. What changes later is a new `batch.json` at the end,
with a directory behind it; the raw bytes are not written again, and a death while it is written leaves the one before.
`parked/OUTPUT/` holds what waits for an output that is away, `kept/DAY/` what KEEP keeps.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.errors import SpoolFull
from worker.spool import Batch, BatchDamaged, Chunk, Entry, OpenBatch, Ticket
from worker.spool.archive import Archive, append, read
from worker.spool.notes import FileNotes, day, listed, room, sync_directory

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_UNFINISHED_SECONDS = 60
_SMALL = 1 << 20
"""Octets that are not worth writing a file anew for."""
_MEASURED_SHARE = 50
"""The spool is measured no more often than that it takes one part in so many of the time."""
_UNREADABLE = (
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    EOFError,
    OSError,
    struct.error,
    # `zipfile` says these of a directory whose flags or methods were overwritten.
    RuntimeError,
    NotImplementedError,
)


class FileSpool(FileNotes):
    """A spool below `path`.

    Pulling stops, and delivering goes on, while less than `disk_free_min` octets of the disk are free or more than
    `spool_max` wait. What was delivered stays for `keep` seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        disk_free_min: int = 0,
        spool_max: int | None = None,
        keep: float = 0,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(path, clock=clock)
        self._disk_free_min = disk_free_min
        self._spool_max = spool_max
        self._keep = keep
        self._measured, self._measure_again_at = 0, 0.0
        for name in ("ready", "failed", "parked", "kept"):
            (path / name).mkdir(exist_ok=True, mode=0o700)

    def new(self, plan: Batch) -> FileBatchWriter:
        """Begin a batch in `tmp/`."""
        return FileBatchWriter(self.path, plan)

    def tickets(self) -> list[Ticket]:
        """Every batch in `ready/`, soonest due first; of several generations only the newest."""
        return sorted(self._newest().values(), key=str)

    def begin(self, ticket: Ticket) -> Ticket | None:
        """Count the attempt in the name. Of two processes that try, the rename lets exactly one succeed."""
        begun = replace(ticket, attempts=ticket.attempts + 1)
        try:
            self._ready(ticket).rename(self._ready(begun))
        except FileNotFoundError:
            return None
        return begun

    def postpone(self, ticket: Ticket, due: int) -> Ticket | None:
        """Rename the batch to no attempts and another time."""
        later = replace(ticket, attempts=0, due=due)
        try:
            self._ready(ticket).rename(self._ready(later))
        except FileNotFoundError:
            return None
        return later

    def open(self, ticket: Ticket, *, parked: str = "") -> AbstractContextManager[FileBatch]:
        """Map a batch into memory; the raw messages are slices of the map.

        Raises:
            BatchDamaged: it is cut short, is no zip, or its `batch.json` cannot be read.
        """
        return _opened(self.path / "parked" / parked / str(ticket) if parked else self._ready(ticket), ticket)

    def again(self, ticket: Ticket, opened: OpenBatch, batch: Batch, *, due: int) -> Ticket | None:
        """Write the new `batch.json` behind the old one, fsync, then give the file its new name.

        When less than half of the file is messages that are still owed, or that are to be kept, just these are written to a
        new file.

        Raises:
            SpoolFull: there is no room.
        """
        path, renewed = self._ready(ticket), batch.ticket(due=due)
        entries = batch.entries if self._keep else batch.owing
        try:
            if 2 * sum(entry.size for entry in entries) < path.stat().st_size - _SMALL:
                self._smaller(opened, replace(batch, entries=entries), due=due)
                self.remove(ticket)
            else:
                with room(self.path):
                    append(path, "batch.json", batch.dumps())
                    path.rename(self._ready(renewed))
        except FileNotFoundError:
            return None
        return renewed

    def _smaller(self, opened: OpenBatch, batch: Batch, *, due: int) -> None:
        with self.new(batch) as writer:
            written = tuple(
                replace(writer.add(entry, (opened.raw(entry),)), sha256=entry.sha256)
                for entry in batch.entries
            )
            writer.commit(replace(batch, entries=written), due=due)

    def park(self, ticket: Ticket, output: str, now: float) -> None:
        """Move the batch to `parked/OUTPUT/`, without its attempts. It may already have been moved by somebody else."""
        folder = self.path / "parked" / output
        folder.mkdir(exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            self._ready(ticket).rename(folder / str(replace(ticket, attempts=0, due=int(now))))

    def parked_for(self) -> list[str]:
        """The folders in `parked/`, empty ones too."""
        return listed(self.path / "parked")

    def parked(self, output: str) -> list[Ticket]:
        """What is in `parked/OUTPUT/`."""
        return [ticket for name in listed(self.path / "parked" / output) if (ticket := Ticket.parse(name))]

    def unpark(self, ticket: Ticket, output: str) -> Ticket | None:
        """Move a batch back to `ready/`."""
        waiting = replace(ticket, due=0)
        try:
            (self.path / "parked" / output / str(ticket)).rename(self._ready(waiting))
        except FileNotFoundError:
            return None
        return waiting

    def finish(self, ticket: Ticket, now: float) -> None:
        """Unlink the batch, or move it to `kept/DAY/`."""
        if not self._keep:
            self.remove(ticket)
            return
        folder = self.path / "kept" / day(int(now))
        folder.mkdir(exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            self._ready(ticket).rename(folder / str(replace(ticket, attempts=0, due=int(now))))

    def remove(self, ticket: Ticket, *, parked: str = "") -> None:
        """Unlink the batch. One that is gone already was removed by whoever took it over."""
        path = self.path / "parked" / parked / str(ticket) if parked else self._ready(ticket)
        path.unlink(missing_ok=True)

    def kept(self) -> list[Ticket]:
        """What is in the folders of `kept/`."""
        return [
            ticket
            for date in listed(self.path / "kept")
            for name in listed(self.path / "kept" / date)
            if (ticket := Ticket.parse(name))
        ]

    def open_kept(self, ticket: Ticket) -> AbstractContextManager[FileBatch]:
        """Map a kept batch into memory.

        Raises:
            BatchDamaged: as `open` does.
        """
        return _opened(self.path / "kept" / day(ticket.due) / str(ticket), ticket)

    def forget_kept(self, ticket: Ticket) -> None:
        """Unlink a kept batch."""
        (self.path / "kept" / day(ticket.due) / str(ticket)).unlink(missing_ok=True)

    def fail(self, ticket: Ticket, reason: str) -> None:
        """Write the reason, then move the batch beside it."""
        target = self.path / "failed" / str(ticket)
        self._write(target.with_suffix(".txt"), reason.encode())
        with suppress(FileNotFoundError):
            self._ready(ticket).rename(target)
            sync_directory(target.parent)

    def failed(self) -> list[tuple[Ticket, str]]:
        """The batches in `failed/` with their reasons."""
        found = []
        for path in sorted((self.path / "failed").glob("*.zip")):
            if ticket := Ticket.parse(path.name):
                reason = path.with_suffix(".txt")
                found.append((ticket, reason.read_text() if reason.exists() else "no reason was recorded"))
        return found

    def open_failed(self, ticket: Ticket) -> AbstractContextManager[FileBatch]:
        """Map a failed batch into memory.

        Raises:
            BatchDamaged: as `open` does.
        """
        return _opened(self.path / "failed" / str(ticket), ticket)

    def retry(self, ticket: Ticket) -> Ticket:
        """Give a failed batch a new beginning, and move it back to `ready/`; one that cannot be read as it is."""
        failed, now = self.path / "failed" / str(ticket), self._clock()
        waiting = replace(ticket, attempts=0, due=0)
        with suppress(BatchDamaged), self.open_failed(ticket) as opened, room(self.path):
            batch = replace(opened.batch, created=int(now), sequence=int(now * 1e6), outputs={})
            append(failed, "batch.json", batch.dumps())
            waiting = batch.ticket()
        failed.rename(self._ready(waiting))
        sync_directory(self.path / "ready")
        failed.with_suffix(".txt").unlink(missing_ok=True)
        return waiting

    def drop(self, ticket: Ticket) -> None:
        """Unlink a failed batch and its reason."""
        failed = self.path / "failed" / str(ticket)
        failed.unlink(missing_ok=True)
        failed.with_suffix(".txt").unlink(missing_ok=True)

    def clean(self) -> int:
        """Remove unfinished files of dead processes, generations that were replaced, and what was kept for long enough.

        A living writer holds a lock on its file; a file younger than a minute may not be locked yet.
        """
        gone = 0
        for path in (self.path / "tmp").iterdir():
            # It may be gone, or something that a person put there: that stays, and is in nobody's way.
            with suppress(OSError):
                if self._clock() - path.stat().st_mtime > _UNFINISHED_SECONDS and _unlocked(path):
                    path.unlink()
                    gone += 1
        newest = self._newest()
        for path in (self.path / "ready").iterdir():
            ticket = Ticket.parse(path.name)
            if ticket and ticket.generation < newest.get(ticket.batch, ticket).generation:
                path.unlink(missing_ok=True)
                gone += 1
        return gone + self._expire()

    def _expire(self) -> int:
        """Remove the days of `kept/` that are wholly older than `keep`."""
        gone = 0
        last = day(int(self._clock() - self._keep))
        for date in listed(self.path / "kept"):
            if date < last:
                for name in listed(self.path / "kept" / date):
                    with suppress(OSError):
                        (self.path / "kept" / date / name).unlink(missing_ok=True)
                        gone += 1
                with suppress(OSError):
                    (self.path / "kept" / date).rmdir()
        return gone

    def free(self) -> int | None:
        """What is free on the disk for a process without privileges."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def check_room(self) -> None:
        """Compare the free space of the disk with what has to stay free, and what waits with what may.

        Raises:
            SpoolFull: there is less, or more.
        """
        if (self.free() or 0) < self._disk_free_min:
            raise SpoolFull(
                f"the disk of the spool {self.path} has less free than DISK_FREE_MIN asks for. Mail waits on its "
                "server; free some space, pulling then goes on by itself."
            )
        if self._spool_max is not None and self._octets() >= self._spool_max:
            raise SpoolFull(
                f"as much mail waits in the spool {self.path} as SPOOL_MAX allows. Mail waits on its server; "
                "see why outputs do not take it, pulling then goes on by itself."
            )

    def _octets(self) -> int:
        """The octets of the messages that wait, as they were a moment ago: a hundred thousand names take a while."""
        begun = self._clock()
        if begun >= self._measure_again_at:
            waiting = [*self.tickets(), *(one for output in self.parked_for() for one in self.parked(output))]
            self._measured = sum(ticket.octets for ticket in waiting)
            now = self._clock()
            self._measure_again_at = now + max(1.0, _MEASURED_SHARE * (now - begun))
        return self._measured

    def _newest(self) -> dict[str, Ticket]:
        newest: dict[str, Ticket] = {}
        for name in os.listdir(self.path / "ready"):  # noqa: PTH208  (a hundred thousand Path objects cost a second)
            ticket = Ticket.parse(name)
            if ticket and ticket.generation >= newest.get(ticket.batch, ticket).generation:
                newest[ticket.batch] = ticket
        return newest

    def _ready(self, ticket: Ticket) -> Path:
        return self.path / "ready" / str(ticket)


class FileBatchWriter:
    """A zip being written in `tmp/`. It holds a lock on the file, so that `clean` knows that it lives."""

    def __init__(self, path: Path, plan: Batch) -> None:
        self._path = path
        self._plan = plan
        self._unfinished = path / "tmp" / uuid.uuid4().hex
        self._count = 0

    def __enter__(self) -> Self:
        """Open the file and write the plan."""
        with room(self._path):
            self._handle = self._unfinished.open("wb", buffering=1 << 20)
        try:
            with room(self._path):
                fcntl.flock(self._handle, fcntl.LOCK_EX)
                self._archive = Archive(self._handle)
                self._archive.add("plan.json", (self._plan.dumps(),))
        except BaseException:
            self._vanish()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; remove the file unless it was committed."""
        self._vanish()

    def _vanish(self) -> None:
        with suppress(OSError):
            self._handle.close()
        self._unfinished.unlink(missing_ok=True)

    def add(self, entry: Entry, chunks: Iterable[Chunk]) -> Entry:
        """Write one raw message as the next member.

        Raises:
            SpoolFull: there is no room.
        """
        self._count += 1
        member = f"{self._count:04d}.eml"
        with room(self._path):
            written = self._archive.add(member, chunks)
        return replace(entry, member=member, size=written.size, sha256=written.sha256)

    def commit(self, batch: Batch, *, due: int = 0) -> Ticket:
        """Write `batch.json`, fsync, rename into `ready/`, fsync the directory: then, and only then, it is spooled.

        Raises:
            SpoolFull: there is no room; nothing is visible.
        """
        ticket = batch.ticket(due=due)
        self._publish(batch, self._path / "ready" / str(ticket))
        return ticket

    def commit_failed(self, batch: Batch, reason: str) -> Ticket:
        """The same into `failed/`, with the reason beside it."""
        ticket = batch.ticket()
        target = self._path / "failed" / str(ticket)
        with room(self._path):
            target.with_suffix(".txt").write_text(reason)
        self._publish(batch, target)
        return ticket

    def _publish(self, batch: Batch, target: Path) -> None:
        with room(self._path):
            self._archive.add("batch.json", (batch.dumps(),))
            self._archive.close()
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._unfinished.rename(target)
            sync_directory(target.parent)


@contextmanager
def _opened(path: Path, ticket: Ticket) -> Iterator[FileBatch]:
    """Map the batch in `path` into memory."""
    with path.open("rb") as handle:
        try:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            # An empty file cannot be mapped.
            raise _damaged(path, ticket, b"") from None
        view = memoryview(mapped)
        try:
            with read(handle) as archive:
                batch = Batch.loads(archive.read("batch.json"))
                offsets = {info.filename: info.header_offset for info in archive.infolist()}
        except _UNREADABLE as error:
            raise _damaged(path, ticket, bytes(view[: 1 << 20])) from error
        try:
            yield FileBatch(batch, view, offsets)
        finally:
            # Slices that callers still hold keep the map alive; releasing it is then left to them.
            with suppress(BufferError):
                view.release()
                mapped.close()


def _damaged(path: Path, ticket: Ticket, head: bytes) -> BatchDamaged:
    return BatchDamaged(
        f"the batch {ticket} in {path.parent} cannot be read: it was cut short or overwritten after it "
        "had been written. Check the disk.",
        mailbox=ticket.mailbox,
        plan=plan_in(head),
    )


class FileBatch:
    """A batch mapped into memory."""

    def __init__(self, batch: Batch, view: memoryview, offsets: Mapping[str, int]) -> None:
        self.batch = batch
        self._view = view
        self._offsets = offsets

    def raw(self, entry: Entry) -> memoryview:
        """The bytes of one message as a slice of the map; the caller compares their digest with the entry's.

        Raises:
            BatchDamaged: they cannot be found.
        """
        try:
            offset = self._offsets[entry.member]
            *_, name, extra = LOCAL_HEADER.unpack_from(self._view, offset)
        except (KeyError, struct.error) as error:
            raise BatchDamaged(
                f"{entry.member} is not where the directory of batch {self.batch.id} says. Check the disk.",
                mailbox=self.batch.mailbox,
                plan=self.batch,
            ) from error
        start = offset + LOCAL_HEADER.size + name + extra
        return self._view[start : start + entry.size]


def plan_in(head: bytes) -> Batch | None:
    """The plan at the beginning of a batch, if it is whole."""
    try:
        signature, *_, checksum, _, size, name, extra = LOCAL_HEADER.unpack_from(head)
        start = LOCAL_HEADER.size + name + extra
        if signature != b"PK\x03\x04" or head[LOCAL_HEADER.size : start - extra] != b"plan.json":
            return None
        text = head[start : start + size]
        return Batch.loads(text) if zlib.crc32(text) == checksum else None
    except (struct.error, ValueError):
        return None


def _unlocked(path: Path) -> bool:
    """Whether no process holds the writer's lock on a file."""
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
