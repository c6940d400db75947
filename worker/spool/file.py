"""The spool in a folder: one uncompressed zip a batch, `tmp/` to `ready/` to nothing, or to `failed/`.

What a listing of `ready/` shows is durable: a batch is written to `tmp/`, fsynced, renamed, and the directory is
fsynced before `commit` returns (promise P1). The state is in the file and in its name; there is no index to lose. A
person can open a batch with any zip tool. It promises nothing on network file systems that lie about fsync or flock.

Names: `plan.json` comes first, `0001.eml` ... hold the raw bytes, `batch.json` is last. A file that was cut short has
lost its end, but not the plan, so the messages can be pulled again.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from worker.errors import SpoolFull
from worker.spool import Batch, BatchDamaged, Chunk, Entry, Ticket
from worker.spool.archive import Archive

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_UNFINISHED_SECONDS = 60
_DAY_SECONDS = 86400
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


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a rename is on disk only when its directory is."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _room(path: Path) -> Iterator[None]:
    """Turn a full disk into the error that says what it means."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise SpoolFull(
            f"no room in the spool {path} ({os.strerror(error.errno or 0)}). Mail waits on its server; "
            "free some space, pulling then goes on by itself."
        ) from error


class FileSpool:
    """A spool below `path`. `disk_free_min` (bytes) is kept free: below it, pulling stops and delivering goes on."""

    def __init__(self, path: Path, *, disk_free_min: int = 0, clock: Callable[[], float]) -> None:
        self.path = path
        self._disk_free_min = disk_free_min
        self._clock = clock
        for name in ("tmp", "ready", "failed", "notes", "withheld", "released"):
            (path / name).mkdir(parents=True, exist_ok=True, mode=0o700)

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

    def postpone(self, ticket: Ticket, due: int) -> None:
        """Rename the batch to no attempts and a later time."""
        with suppress(FileNotFoundError):
            self._ready(ticket).rename(self._ready(replace(ticket, attempts=0, due=due)))

    @contextmanager
    def open(self, ticket: Ticket) -> Iterator[FileBatch]:
        """Map a batch into memory; the raw messages are slices of the map.

        Raises:
            BatchDamaged: it is cut short, is no zip, or its `batch.json` cannot be read.
        """
        with self._ready(ticket).open("rb") as handle:
            try:
                mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                # An empty file cannot be mapped.
                raise self._damaged(ticket, b"") from None
            view = memoryview(mapped)
            try:
                with zipfile.ZipFile(handle) as archive:
                    batch = Batch.loads(archive.read("batch.json"))
                    offsets = {info.filename: info.header_offset for info in archive.infolist()}
            except _UNREADABLE as error:
                raise self._damaged(ticket, bytes(view[: 1 << 20])) from error
            opened = FileBatch(batch, view, offsets)
            try:
                yield opened
            finally:
                # Slices that callers still hold keep the map alive; releasing it is then left to them.
                with suppress(BufferError):
                    view.release()
                    mapped.close()

    def remove(self, ticket: Ticket) -> None:
        """Unlink the batch. One that is gone already was removed by whoever took it over."""
        self._ready(ticket).unlink(missing_ok=True)

    def fail(self, ticket: Ticket, reason: str) -> None:
        """Write the reason, then move the batch beside it."""
        target = self.path / "failed" / str(ticket)
        self._write(target.with_suffix(".txt"), reason.encode())
        with suppress(FileNotFoundError):
            self._ready(ticket).rename(target)
            _sync_directory(target.parent)

    def failed(self) -> list[tuple[Ticket, str]]:
        """The batches in `failed/` with their reasons."""
        found = []
        for path in sorted((self.path / "failed").glob("*.zip")):
            if ticket := Ticket.parse(path.name):
                reason = path.with_suffix(".txt")
                found.append((ticket, reason.read_text() if reason.exists() else "no reason was recorded"))
        return found

    def retry(self, ticket: Ticket) -> None:
        """Move a failed batch back to `ready/`."""
        failed = self.path / "failed" / str(ticket)
        failed.rename(self._ready(replace(ticket, attempts=0, due=0)))
        _sync_directory(self.path / "ready")
        failed.with_suffix(".txt").unlink(missing_ok=True)

    def drop(self, ticket: Ticket) -> None:
        """Unlink a failed batch and its reason."""
        failed = self.path / "failed" / str(ticket)
        failed.unlink(missing_ok=True)
        failed.with_suffix(".txt").unlink(missing_ok=True)

    def remember(self, mailbox: str, note: Mapping[str, Any]) -> None:
        """Replace the note of a mailbox, durably."""
        self._write(self.path / "notes" / f"{mailbox}.json", orjson.dumps(note))

    def recall(self, mailbox: str) -> Mapping[str, Any] | None:
        """The note of a mailbox, or None."""
        path = self.path / "notes" / f"{mailbox}.json"
        try:
            note: Mapping[str, Any] = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        return note

    def note_message(self, mailbox: str, id: str, note: Mapping[str, Any]) -> None:  # noqa: A002
        """Write or replace `withheld/MAILBOX/ID.json`, durably.

        Raises:
            SpoolFull: there is no room.
        """
        folder = self.path / "withheld" / mailbox
        if not folder.exists():
            with _room(self.path):
                folder.mkdir(mode=0o700, exist_ok=True)
                _sync_directory(folder.parent)
        self._write(folder / f"{id}.json", orjson.dumps(note))

    def noted_messages(self, mailbox: str) -> list[Mapping[str, Any]]:
        """Read every note in `withheld/MAILBOX/`; one that is taken away meanwhile is none."""
        found: list[Mapping[str, Any]] = []
        with suppress(FileNotFoundError):
            for name in os.listdir(self.path / "withheld" / mailbox):  # noqa: PTH208  (asked at every pull)
                with suppress(FileNotFoundError):
                    found.append(orjson.loads((self.path / "withheld" / mailbox / name).read_bytes()))
        return found

    def forget_message(self, mailbox: str, id: str) -> None:  # noqa: A002
        """Unlink a note."""
        (self.path / "withheld" / mailbox / f"{id}.json").unlink(missing_ok=True)

    def note_release(self, mailbox: str, at: int, name: str, note: Mapping[str, Any]) -> None:
        """Write `released/MAILBOX/DAY/NAME.json`, durably.

        Raises:
            SpoolFull: there is no room.
        """
        target = self._release(mailbox, at, name)
        for folder in (target.parent.parent, target.parent):
            if not folder.exists():
                with _room(self.path):
                    folder.mkdir(mode=0o700, exist_ok=True)
                    _sync_directory(folder.parent)
        self._write(target, orjson.dumps(note))

    def releases(self, mailbox: str, until: int | None = None) -> Iterator[str]:
        """List the days of `released/MAILBOX/` one after the other, as far as they are asked for."""
        last = "~" if until is None else f"{until:011d}~"
        for day in _listed(self.path / "released" / mailbox):
            if until is None or day <= _day(until):
                names = _listed(self.path / "released" / mailbox / day)
                yield from (name[:-5] for name in names if name.endswith(".json") and name < last)

    def release(self, mailbox: str, at: int, name: str) -> Mapping[str, Any] | None:
        """Read a note."""
        try:
            note: Mapping[str, Any] = orjson.loads(self._release(mailbox, at, name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return note

    def forget_release(self, mailbox: str, at: int, name: str) -> None:
        """Unlink a note, and its day when nothing more can come to it."""
        path = self._release(mailbox, at, name)
        path.unlink(missing_ok=True)
        if self._clock() - at > 2 * _DAY_SECONDS:
            with suppress(OSError):
                path.parent.rmdir()

    def _release(self, mailbox: str, at: int, name: str) -> Path:
        return self.path / "released" / mailbox / _day(at) / f"{name}.json"

    def clean(self) -> int:
        """Remove unfinished files of dead processes and generations that were replaced.

        A living writer holds a lock on its file; a file younger than a minute may not be locked yet.
        """
        gone = 0
        for path in (self.path / "tmp").iterdir():
            with suppress(FileNotFoundError):
                if self._clock() - path.stat().st_mtime > _UNFINISHED_SECONDS and _unlocked(path):
                    path.unlink()
                    gone += 1
        newest = self._newest()
        for path in (self.path / "ready").iterdir():
            ticket = Ticket.parse(path.name)
            if ticket and ticket.generation < newest.get(ticket.batch, ticket).generation:
                path.unlink(missing_ok=True)
                gone += 1
        return gone

    def check_room(self) -> None:
        """Compare the free space of the disk with what has to stay free.

        Raises:
            SpoolFull: there is less.
        """
        disk = os.statvfs(self.path)
        if disk.f_bavail * disk.f_frsize < self._disk_free_min:
            raise SpoolFull(
                f"the disk of the spool {self.path} has less free than DISK_FREE_MIN asks for. Mail waits on its "
                "server; free some space, pulling then goes on by itself."
            )

    def _newest(self) -> dict[str, Ticket]:
        newest: dict[str, Ticket] = {}
        for name in os.listdir(self.path / "ready"):  # noqa: PTH208  (a hundred thousand Path objects cost a second)
            ticket = Ticket.parse(name)
            if ticket and ticket.generation >= newest.get(ticket.batch, ticket).generation:
                newest[ticket.batch] = ticket
        return newest

    def _ready(self, ticket: Ticket) -> Path:
        return self.path / "ready" / str(ticket)

    def _write(self, target: Path, content: bytes) -> None:
        """Replace a small file durably."""
        unfinished = self.path / "tmp" / uuid.uuid4().hex
        try:
            with _room(self.path):
                with unfinished.open("wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
                unfinished.rename(target)
                _sync_directory(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)

    def _damaged(self, ticket: Ticket, head: bytes) -> BatchDamaged:
        return BatchDamaged(
            f"the batch {ticket} in {self.path / 'ready'} cannot be read: it was cut short or overwritten after it "
            "had been written. Check the disk.",
            mailbox=ticket.mailbox,
            plan=_plan(head),
        )


class FileBatchWriter:
    """A zip being written in `tmp/`. It holds a lock on the file, so that `clean` knows that it lives."""

    def __init__(self, path: Path, plan: Batch) -> None:
        self._path = path
        self._plan = plan
        self._unfinished = path / "tmp" / uuid.uuid4().hex
        self._count = 0

    def __enter__(self) -> Self:
        """Open the file and write the plan."""
        with _room(self._path):
            self._handle = self._unfinished.open("wb", buffering=1 << 20)
        try:
            with _room(self._path):
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
        with _room(self._path):
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
        with _room(self._path):
            target.with_suffix(".txt").write_text(reason)
        self._publish(batch, target)
        return ticket

    def _publish(self, batch: Batch, target: Path) -> None:
        with _room(self._path):
            self._archive.add("batch.json", (batch.dumps(),))
            self._archive.close()
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._unfinished.rename(target)
            _sync_directory(target.parent)


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
            *_, name, extra = _LOCAL_HEADER.unpack_from(self._view, offset)
        except (KeyError, struct.error) as error:
            raise BatchDamaged(
                f"{entry.member} is not where the directory of batch {self.batch.id} says. Check the disk.",
                mailbox=self.batch.mailbox,
                plan=self.batch,
            ) from error
        start = offset + _LOCAL_HEADER.size + name + extra
        return self._view[start : start + entry.size]


def _plan(head: bytes) -> Batch | None:
    """The plan at the beginning of a batch, if it is whole."""
    try:
        signature, *_, checksum, _, size, name, extra = _LOCAL_HEADER.unpack_from(head)
        start = _LOCAL_HEADER.size + name + extra
        if signature != b"PK\x03\x04" or head[_LOCAL_HEADER.size : start - extra] != b"plan.json":
            return None
        text = head[start : start + size]
        return Batch.loads(text) if zlib.crc32(text) == checksum else None
    except (struct.error, ValueError):
        return None


def _day(at: int) -> str:
    """The day of a Unix second, by number, so that names sort by time."""
    return f"{at // _DAY_SECONDS:06d}"


def _listed(path: Path) -> list[str]:
    """The names in a folder, sorted; none when there is no folder (any more)."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208  (asked at every pull)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unlocked(path: Path) -> bool:
    """Whether no process holds the writer's lock on a file."""
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
