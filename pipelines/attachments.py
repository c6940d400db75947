"""Writes the attachments of a message into a folder, under safe names, each into a file that did not exist before.

The folder is opened once, and every file is made in what was opened then: no name, no symbolic link and nobody who swaps
folders meanwhile leads outside of it. A file is for its owner alone. What could not be written whole is taken away again.
It is not made durable: that is for whoever needs it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.file_name import key, numbered, safe_name
from pipelines.message import Message
from pipelines.part import Part

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Written:
    """An attachment in its file: `file` is the name in the folder, `name` the one that the sender gave it."""

    file: str
    part_id: str | None
    name: str | None
    type: str
    size: int
    sha256: str


def attachments(message: Message) -> Iterator[Part]:
    """Yield what a person takes for an attachment: RFC 8621's list, and pictures and sounds that stand in the text."""
    shown = (part for part in (*message.text_body, *message.html_body) if not part.type.startswith("text/"))
    # A part may stand in several lists.
    yield from {id(part): part for part in (*message.attachments, *shown)}.values()


class Folder:
    """A folder that attachments are written into, made when it is missing; a `with` block closes it.

    Raises:
        OSError: it can be neither made nor opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._taken = {key(os.fsdecode(name)) for name in os.listdir(self._handle)}  # noqa: PTH208  (the open one)
        self._last: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Go on with the open folder."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the folder."""
        os.close(self._handle)

    def write(self, part: Part) -> Written:
        """Write one attachment with its transfer encoding undone, a megabyte at a time.

        Raises:
            OSError: there is no room, or the folder is gone.
        """
        file, handle = self._new(safe_name(part.name, type=part.type, part_id=part.part_id))
        try:
            with os.fdopen(handle, "wb") as target:
                size, digest = _copy(part.chunks(), target.write)
        except BaseException:
            with suppress(OSError):
                os.unlink(file, dir_fd=self._handle)
            raise
        return Written(file, part.part_id, part.name, part.type, size, digest)

    def _new(self, name: str) -> tuple[str, int]:
        """Make a file under this name or the next free number, and never under one that exists in any spelling."""
        number = self._last.get(key(name), 0)
        while True:
            number += 1
            file = name if number == 1 else numbered(name, number)
            if key(file) in self._taken:
                continue
            try:
                handle = os.open(file, _NEW, 0o600, dir_fd=self._handle)
            except FileExistsError:
                # Somebody else has made it since.
                self._taken.add(key(file))
                continue
            self._taken.add(key(file))
            self._last[key(name)] = number
            return file, handle


def _copy(chunks: Iterable[bytes], write: Callable[[bytes], object]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()
