"""Appends one line of JSON a message to a file, and never shows a message twice.

A receipt says accepted only when the line is on the disk. Any number of processes may append to one file, and each may
die at any instruction: a line without its newline was never accepted and is cut off, a whole one is recognised by its
id. Lines are never changed or removed, and reading the file needs no lock. The file has to lie on a local disk, or on
a network one that knows flock(2). It is rotated by size or by day when that is asked for; somebody else may do so too.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.options import ByteSize, FilePath, Flag
from pipelines.output import Output, OutputOptions, Receipt
from pipelines.outputs.appended_file import AppendedFile, beside
from pipelines.outputs.locks import LOCK_SECONDS, Patience, opened_alone
from pipelines.outputs.rotation import Rotation

LINE_START = b'{"id":"'
_ID = re.compile(rb'\{"id":"([0-9a-f]{32})"')
_HEAD_BYTES = len(LINE_START) + 33
_CHUNK_BYTES = 1 << 20


class JsonlOptions(OutputOptions):
    """Where the lines go."""

    path: FilePath = Field(
        description="File that gets one line of JSON a message; its folder is made when it is missing.",
        examples=["/data/mail.jsonl"],
    )
    rotate_size: ByteSize | None = Field(
        default=None,
        gt=0,
        description="Begin a new file before this one would grow beyond that size.",
        examples=["100MB"],
    )
    rotate_daily: Flag = Field(
        default=False, description="Begin a new file with the first message of each day (UTC)."
    )


class JsonlOutput(Output):
    """Appends messages to the file PATH, under the lock `PATH.lock`, with the ids so far in `PATH.ids`."""

    type_name: ClassVar[str] = "jsonl"
    Options: ClassVar[type[OutputOptions]] = JsonlOptions
    dedupes: ClassVar[bool] = True

    options: JsonlOptions

    def __init__(
        self,
        name: str,
        options: JsonlOptions,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remember the options; `now`, in Unix seconds, tells days apart, `clock` and `sleep` serve the wait for the lock."""
        super().__init__(name, options)
        rotates = options.rotate_daily or options.rotate_size is not None
        self._file = AppendedFile(
            options.path,
            _JsonLines(),
            opened=partial(
                opened_alone,
                options.path,
                lock=beside(options.path, ".lock"),
                patience=Patience(LOCK_SECONDS, clock, sleep),
            ),
            rotation=Rotation(options.rotate_size, options.rotate_daily, now) if rotates else None,
        )

    def open(self) -> None:
        """Make the folder of the file.

        Raises:
            OSError: the folder cannot be made.
        """
        self._file.open()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Append the messages that the file does not hold yet, and sync it once."""
        return self._file.deliver(messages)

    def close(self) -> None:
        """Close the index."""
        self._file.close()


class _JsonLines:
    """A message is a line, which begins with its id."""

    def record(self, message: Message) -> tuple[bytes, bytes]:
        return message.to_json(), b"\n"

    def read(self, file: int, *, start: int) -> Iterator[tuple[bytes | None, int]]:
        return read_lines(file, start=start)

    def mend(self, file: int, *, end: int, is_known: Callable[[str], bool]) -> bytes:  # noqa: ARG002
        """Cut off what follows the last newline; its message was not accepted and comes again."""
        tail = os.pread(file, len(LINE_START), end)
        # A file system that lost power may have kept the length of a write and not its bytes.
        if not LINE_START.startswith(tail) and not tail.startswith(b"\0"):
            raise OSError(
                "its last line is unfinished and not Mailquay's; end it with a newline or choose another PATH"
            )
        if tail:
            os.ftruncate(file, end)
        return b""


def read_lines(file: int, *, start: int) -> Iterator[tuple[bytes | None, int]]:
    """Walk over the whole lines from offset `start`: the id in 16 bytes, and the offset behind the newline.

    The id is None for a line that Mailquay did not write, and for one with a NUL in it: JSON has none, a file system
    that lost power in the middle of a write leaves them. What follows the last newline is not a line.
    """
    head, damaged, offset = b"", False, start
    while chunk := os.pread(file, _CHUNK_BYTES, offset):
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            head += chunk[begin : min(end, begin + _HEAD_BYTES)]
            damaged = damaged or chunk.find(b"\0", begin, end) >= 0
            found = None if damaged else _ID.match(head)
            yield bytes.fromhex(found[1].decode()) if found else None, offset + end + 1
            head, damaged, begin = b"", False, end + 1
        head = (head + chunk[begin : begin + _HEAD_BYTES])[:_HEAD_BYTES]
        damaged = damaged or chunk.find(b"\0", begin) >= 0
        offset += len(chunk)
