"""Notes beside the batches: small durable files on checkpoints, on messages that were withheld, and on what may be settled.

Each is written whole in `tmp/`, fsynced, renamed, and its folder fsynced: a note is there as it was given, or not at all.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from worker.errors import SpoolFull

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DAY_SECONDS = 86400


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a rename is on disk only when its directory is."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def room(path: Path) -> Iterator[None]:
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


class FileNotes:
    """The notes below `path`."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self.path = path
        self._clock = clock
        for name in ("tmp", "notes", "withheld", "released"):
            (path / name).mkdir(parents=True, exist_ok=True, mode=0o700)

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

    def forget(self, mailbox: str) -> None:
        """Unlink the note of a mailbox."""
        (self.path / "notes" / f"{mailbox}.json").unlink(missing_ok=True)

    def noted(self) -> list[str]:
        """The names in `notes/`, `withheld/` and `released/`."""
        notes = [name.removesuffix(".json") for name in listed(self.path / "notes")]
        return sorted({*notes, *listed(self.path / "withheld"), *listed(self.path / "released")})

    def note_message(self, mailbox: str, id: str, note: Mapping[str, Any]) -> None:  # noqa: A002
        """Write or replace `withheld/MAILBOX/ID.json`, durably.

        Raises:
            SpoolFull: there is no room.
        """
        folder = self.path / "withheld" / mailbox
        if not folder.exists():
            with room(self.path):
                folder.mkdir(mode=0o700, exist_ok=True)
                sync_directory(folder.parent)
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
                with room(self.path):
                    folder.mkdir(mode=0o700, exist_ok=True)
                    sync_directory(folder.parent)
        self._write(target, orjson.dumps(note))

    def releases(self, mailbox: str, until: int | None = None) -> Iterator[str]:
        """List the days of `released/MAILBOX/` one after the other, as far as they are asked for."""
        last = "~" if until is None else f"{until:011d}~"
        for date in listed(self.path / "released" / mailbox):
            if until is None or date <= day(until):
                names = listed(self.path / "released" / mailbox / date)
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
        return self.path / "released" / mailbox / day(at) / f"{name}.json"

    def _write(self, target: Path, content: bytes) -> None:
        """Replace a small file durably."""
        unfinished = self.path / "tmp" / uuid.uuid4().hex
        try:
            with room(self.path):
                with unfinished.open("wb") as handle:
                    handle.write(content)
                    handle.flush()
                    os.fsync(handle.fileno())
                unfinished.rename(target)
                sync_directory(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)


def day(at: int) -> str:
    """The day of a Unix second, by number, so that names sort by time."""
    return f"{at // _DAY_SECONDS:06d}"


def listed(path: Path) -> list[str]:
    """The names in a folder, sorted; none when there is no folder (any more)."""
    try:
        return sorted(os.listdir(path))  # noqa: PTH208  (asked at every pull)
    except (FileNotFoundError, NotADirectoryError):
        return []
