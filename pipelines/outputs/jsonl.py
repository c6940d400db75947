"""Appends one line of JSON a message to a file, and never shows a message twice.

A receipt says accepted only when the line is on the disk. Any number of processes may append to one file, and each may
die at any instruction: a line without its newline was never accepted and is cut off, a whole one is recognised by its
id. Lines are never changed or removed, and reading the file needs no lock. The file has to lie on a local disk, or on
a network one that knows flock(2). It does not rotate the file, but somebody else may.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.options import FilePath
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Retry
from pipelines.outputs.line_index import LINE_START, LineIndex, is_damage

LOCK_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.005


class JsonlOptions(OutputOptions):
    """Where the lines go."""

    path: FilePath = Field(
        description="File that gets one line of JSON a message; its folder is made when it is missing.",
        examples=["/data/mail.jsonl"],
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
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remember the options; `clock` and `sleep`, in seconds, serve the wait for the lock."""
        super().__init__(name, options)
        self._clock = clock
        self._sleep = sleep
        self._index = LineIndex(_beside(options.path, ".ids"))

    def open(self) -> None:
        """Make the folder of the file.

        Raises:
            OSError: the folder cannot be made.
        """
        self.options.path.parent.mkdir(parents=True, exist_ok=True)

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Append the messages that the file does not hold yet, in one write and one fsync."""
        path = self.options.path
        try:
            with self._locked():
                return self._deliver(messages)
        except sqlite3.Error as error:
            failure = Retry(
                f"{self._index.path} cannot be used ({error}); it may be deleted, it is built again"
            )
        except OSError as error:
            failure = Retry(f"{path} cannot be written: {error.strerror or error}")
        return [failure] * len(messages)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        try:
            return self._append(messages)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        # Nothing is lost with the index: the lines themselves tell what was appended, even a moment ago.
        self._index.discard()
        return self._append(messages)

    def _append(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        # Opened anew each time, because somebody may have rotated the file away.
        file = os.open(self.options.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            end = self._index.catch_up(file)
            _cut_torn_line(file, end)
            new = self._index.unknown(message.id for message in messages)
            # A dict, because one call may hold the same message twice.
            lines = {message.id: message.to_json() for message in messages if message.id in new}
            failure = _write(file, list(lines.values()), end=end)
            if lines and failure is None:
                if end == 0:
                    _sync_folder(self.options.path.parent)
                self._index.catch_up(file)
        finally:
            os.close(file)
        if failure is None:
            return [Accepted()] * len(messages)
        late = Retry(f"{self.options.path} cannot be written: {failure.strerror}")
        return [late if message.id in new else Accepted() for message in messages]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes away from the file and its index."""
        path = _beside(self.options.path, ".lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = self._clock() + LOCK_SECONDS
            while not _try_lock(lock):
                if self._clock() >= deadline:
                    raise TimeoutError(
                        f"another process holds {path.name} for {LOCK_SECONDS:.0f} s; does it hang?"
                    )
                self._sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(lock)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _try_lock(file: int) -> bool:
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _cut_torn_line(file: int, end: int) -> None:
    """Cut off what a dead writer left behind the last newline; its message was not accepted and comes again."""
    tail = os.pread(file, len(LINE_START), end)
    if not tail:
        return
    # A file system that lost power may have kept the length of a write and not its bytes.
    if not LINE_START.startswith(tail) and not tail.startswith(b"\0"):
        raise OSError(
            "its last line is unfinished and not Mailquay's; end it with a newline or choose another PATH"
        )
    os.ftruncate(file, end)


def _write(file: int, lines: Sequence[bytes], *, end: int) -> OSError | None:
    """Put whole lines durably behind `end`, or leave the file as it was and return what prevented it."""
    rest = memoryview(b"".join(part for line in lines for part in (line, b"\n")))
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
        if lines:
            os.fsync(file)
    except OSError as error:
        os.ftruncate(file, end)
        return error
    return None


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file as durable as its bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
