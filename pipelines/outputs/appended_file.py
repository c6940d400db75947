"""Appends each message once to a file, durably, whoever else does the same and whatever dies meanwhile.

Under a lock: what others wrote since is read into the index of ids, what a dead writer left unfinished is mended, and
what is missing is appended in one go and synced. How a message stands in the file is the business of a `Form`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Retry
from pipelines.outputs.id_index import IdIndex, is_damage
from pipelines.outputs.rotation import Rotation, move_away, rotated

_WRITE_BYTES = 1 << 20

Piece = bytes | memoryview


class Form(Protocol):
    """How messages stand in a file, each a record of its own that tells its id."""

    def record(self, message: Message) -> Iterable[Piece]:
        """Return the record of a message in pieces."""

    def read(self, file: int, *, start: int) -> Iterator[tuple[bytes | None, int]]:
        """Walk over whole records, as `pipelines.outputs.id_index.Reader` says."""

    def mend(self, file: int, *, end: int, is_known: Callable[[str], bool]) -> bytes:
        """Cut off what a dead writer left behind `end`, where whole records end; return what has to stand before the next.

        Raises:
            OSError: what is there is somebody else's, and nothing can be put behind it.
        """


class AppendedFile:
    """The file `path`, its ids in `path.ids`; `opened` gives a descriptor of it, under a lock that all writers take."""

    def __init__(
        self,
        path: Path,
        form: Form,
        *,
        opened: Callable[[], AbstractContextManager[int]],
        rotation: Rotation | None = None,
    ) -> None:
        self._path = path
        self._form = form
        self._opened = opened
        self._rotation = rotation
        self._index = IdIndex(beside(path, ".ids"), form.read)

    def open(self) -> None:
        """Make the folder of the file.

        Raises:
            OSError: the folder cannot be made.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Append the messages that the file does not hold yet, and sync it once."""
        if not messages:
            return []
        try:
            with self._opened() as file:
                return self._deliver(file, messages)
        except sqlite3.Error as error:
            failure = Retry(
                f"{self._index.path} cannot be used ({error}); it may be deleted, it is built again"
            )
        except OSError as error:
            failure = Retry(f"{self._path} cannot be written: {error.strerror or error}")
        return [failure] * len(messages)

    def _deliver(self, file: int, messages: Sequence[Message]) -> Sequence[Receipt]:
        try:
            return self._append(file, messages)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        # Nothing is lost with the index: the records themselves tell what was appended, even a moment ago.
        self._index.discard()
        return self._append(file, messages)

    def _append(self, file: int, messages: Sequence[Message]) -> Sequence[Receipt]:
        if self._index.is_new():
            self._read_rotated()
        changed_at = os.fstat(file).st_mtime
        end = self._index.catch_up(file)
        before = self._form.mend(file, end=end, is_known=lambda id_: not self._index.unknown([id_]))
        new = self._index.unknown(message.id for message in messages)
        # A dict, because one call may hold the same message twice.
        missing = {message.id: message for message in messages if message.id in new}
        if missing and self._rotation is not None:
            self._rotate(file, missing.values(), changed_at)
        failure = self._write(file, before, missing)
        if failure is None:
            return [Accepted()] * len(messages)
        late = Retry(f"{self._path} cannot be written: {failure.strerror}")
        return [late if message.id in new else Accepted() for message in messages]

    def _read_rotated(self) -> None:
        """Begin a new index with the ids of former files."""
        for path in rotated(self._path):
            with path.open("rb") as file:
                self._index.learn(file.fileno())

    def _rotate(self, file: int, messages: Iterable[Message], changed_at: float) -> None:
        """Make `file` a new one if the one that it is should make room."""
        assert self._rotation is not None
        more = sum(len(piece) for message in messages for piece in self._form.record(message))
        if self._rotation.is_due(size=os.fstat(file).st_size, changed_at=changed_at, more=more):
            # From now on the index alone knows what the old file holds, and it is as durable as that file was.
            self._index.settle()
            sync(self._path.parent)
            move_away(self._path, changed_at=changed_at)
            renewed = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(renewed, file, inheritable=False)
            os.close(renewed)
            self._index.catch_up(file)

    def _write(self, file: int, before: bytes, messages: dict[str, Message]) -> OSError | None:
        """Put whole records durably behind the last one, or leave the file as it was and return what prevented it."""
        if not messages:
            return None
        size = os.fstat(file).st_size
        pieces = (piece for message in messages.values() for piece in self._form.record(message))
        try:
            written = _write_all(file, before, pieces)
            os.fsync(file)
        except OSError as error:
            os.ftruncate(file, size)
            return error
        if not size:
            sync(self._path.parent)
        self._index.note(file, messages, end=size + written)
        return None


def beside(path: Path, suffix: str) -> Path:
    """Return the name of a file that belongs to another."""
    return path.with_name(path.name + suffix)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: int, before: bytes, pieces: Iterable[Piece]) -> int:
    """Write all pieces, about a megabyte at a time, and count the bytes."""
    waiting, written = bytearray(before), 0
    for piece in pieces:
        if len(waiting) + len(piece) > _WRITE_BYTES:
            written += _write_whole(file, waiting)
            waiting.clear()
        if len(piece) > _WRITE_BYTES:
            written += _write_whole(file, piece)
        else:
            waiting += piece
    return written + _write_whole(file, waiting)


def _write_whole(file: int, octets: bytearray | Piece) -> int:
    with memoryview(octets) as view:
        at = 0
        while at < len(view):
            at += os.write(file, view[at:])
    return at
