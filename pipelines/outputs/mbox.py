r"""Appends each message to a mailbox file in the form mboxrd, under the locks of mail programs, and never twice.

The bytes are those of the mail server, line ends included; a line that begins with `From `, behind any number of `>`, gets
one `>` more, and a message whose last line has no end gets one. The From line tells id, size and CRC-32 of what follows:
`From ID.SIZE.CRC@mailquay.invalid Thu Jan  1 12:00:00 2026`. So a message that a dead writer left unfinished is told from
one that a mail program changed: the first is cut off, the second stays, and its id stays known. A receipt says accepted
only when the message is on the disk. The file has to lie on a disk that knows hard links and locks.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.options import Duration, FilePath
from pipelines.output import Output, OutputOptions, Receipt
from pipelines.outputs.appended_file import AppendedFile, Piece, beside
from pipelines.outputs.locks import Patience, opened_as_mailbox

_FROM = re.compile(
    rb"From ([0-9a-f]{32})\.([0-9]{1,15})\.([0-9a-f]{8})@mailquay\.invalid [ :0-9A-Za-z]{24}\n"
)
# What there may be of such a line when its writer died in it.
_TORN = re.compile(rb"F?|Fr|Fro|From|From [0-9a-f]{0,32}|From [0-9a-f]{32}\.[^\n]*")
_HEAD_BYTES = 128
_FROM_LINE = re.compile(rb"^(?=>*From )", re.MULTILINE)
_FROM_WORD = re.compile(rb"From ")
_LINE_END = re.compile(rb"\n")
_CHUNK_BYTES = 1 << 20


class MboxOptions(OutputOptions):
    """Where the mailbox is."""

    path: FilePath = Field(
        description="Mailbox file that messages are appended to; its folder is made when it is missing.",
        examples=["/data/mail.mbox"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long to wait for each lock that another program holds.",
    )


class MboxOutput(Output):
    """Appends messages to the mailbox PATH, locked by `PATH.lock` and fcntl, with the ids so far in `PATH.ids`."""

    type_name: ClassVar[str] = "mbox"
    Options: ClassVar[type[OutputOptions]] = MboxOptions
    dedupes: ClassVar[bool] = True

    options: MboxOptions

    def __init__(
        self,
        name: str,
        options: MboxOptions,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remember the options; `now`, in Unix seconds, dates what has no date, `clock` and `sleep` serve waits for locks."""
        super().__init__(name, options)
        self._file = AppendedFile(
            options.path,
            _Mboxrd(now),
            opened=partial(
                opened_as_mailbox,
                options.path,
                lock=beside(options.path, ".mailquay"),
                patience=Patience(options.timeout.total_seconds(), clock, sleep),
            ),
        )

    def open(self) -> None:
        """Make the folder of the mailbox.

        Raises:
            OSError: the folder cannot be made.
        """
        self._file.open()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Append the messages that were not appended yet, and sync the mailbox once."""
        return self._file.deliver(messages)

    def close(self) -> None:
        """Close the index."""
        self._file.close()


class _Mboxrd:
    """A message is a From line, its bytes with `>` where it needs them, and an empty line."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def record(self, message: Message) -> Iterator[Piece]:
        """Yield the pieces of a message; it is read twice, because the From line tells its size and checksum."""
        size, checksum = 0, 0
        for piece in quoted(message.raw):
            size += len(piece)
            checksum = zlib.crc32(piece, checksum)
        date = self._date(message.received_at)
        yield f"From {message.id}.{size}.{checksum:08x}@mailquay.invalid {date}\n".encode()
        yield from quoted(message.raw)
        yield b"\n"

    def read(self, file: int, *, start: int) -> Iterator[tuple[bytes | None, int]]:
        return read_messages(file, start=start)

    def mend(self, file: int, *, end: int, is_known: Callable[[str], bool]) -> bytes:
        """Cut off a message that its writer did not finish; any other mailbox gets the empty line that it lacks.

        A message that was whole once is no unfinished one, whatever a person made of it since.
        """
        head = os.pread(file, _HEAD_BYTES, end)
        found = _FROM.match(head)
        if head and not (found and is_known(found[1].decode())):
            os.ftruncate(file, end)
        size = os.fstat(file).st_size
        tail = b"\n\n" if not size else os.pread(file, 2, max(0, size - 2))
        return b"" if tail == b"\n\n" else b"\n" if tail.endswith(b"\n") else b"\n\n"

    def _date(self, received_at: datetime | None) -> str:
        try:
            moment = (received_at or datetime.fromtimestamp(self._now(), UTC)).astimezone(UTC)
        except OverflowError:
            # A server may claim a date at the end of the calendar.
            moment = datetime.fromtimestamp(self._now(), UTC)
        return moment.ctime()


def quoted(raw: bytes | memoryview) -> Iterator[Piece]:
    """Yield a message in the form mboxrd, about a megabyte at a time, with a line end at its end."""
    view, begin = memoryview(raw), 0
    while begin < len(view):
        line_end = _LINE_END.search(view, min(begin + _CHUNK_BYTES, len(view)))
        end = line_end.end() if line_end else len(view)
        piece = view[begin:end]
        # The plain word is found many times faster than the beginnings of lines.
        yield _FROM_LINE.sub(b">", piece) if _FROM_WORD.search(piece) else piece
        begin = end
    if view and view[-1] != 0x0A:
        yield b"\n"


def read_messages(file: int, *, start: int) -> Iterator[tuple[bytes | None, int]]:
    """Walk over the messages from offset `start`: the id in 16 bytes, and the offset where the next one begins.

    The id is None for a message that Mailquay did not write, and for one that is neither as it was written nor surely
    whole. What is yielded last may be followed by a message that its writer did not finish. Where mail programs rewrote
    the file so that no message begins at `start`, it is read from its beginning.
    """
    size, at = os.fstat(file).st_size, start
    if not _is_start(file, start):
        at = 0
        yield None, at
    while at < size:
        head = os.pread(file, _HEAD_BYTES, at)
        found = _FROM.match(head)
        if found and (end := _end_if_unchanged(file, at, found)):
            yield bytes.fromhex(found[1].decode()), end
            at = end
            continue
        end, has_nul = _next_message(file, at)
        if end == -1:
            if not _is_torn(file, head, found, size):
                yield None, size
            return
        # A mail program has changed its headers. NULs are what a power failure leaves of a write.
        yield bytes.fromhex(found[1].decode()) if found and not has_nul else None, end
        at = end


def _is_start(file: int, at: int) -> bool:
    if not at:
        return True
    around = os.pread(file, 6, at - 1)
    return around[:1] == b"\n" and (b"From ".startswith(around[1:]) or around[1:2] == b"\0")


def _end_if_unchanged(file: int, at: int, found: re.Match[bytes]) -> int | None:
    """Return the offset behind a message of ours if it and its empty line are as they were written."""
    at, left, checksum = at + found.end(), int(found[2]), 0
    while left:
        chunk = os.pread(file, min(left, _CHUNK_BYTES), at)
        if not chunk:
            return None
        checksum = zlib.crc32(chunk, checksum)
        at, left = at + len(chunk), left - len(chunk)
    return at + 1 if checksum == int(found[3], 16) and os.pread(file, 1, at) == b"\n" else None


def _next_message(file: int, at: int) -> tuple[int, bool]:
    """Return where the next From line begins, or -1, and whether a NUL stands before it."""
    has_nul = False
    while chunk := os.pread(file, _CHUNK_BYTES, at):
        found = chunk.find(b"\nFrom ")
        has_nul = has_nul or chunk.find(b"\0", 0, len(chunk) if found == -1 else found) >= 0
        if found != -1:
            return at + found + 1, has_nul
        # The next chunk begins with what may be the beginning of what is looked for.
        at += max(len(chunk) - 5, 1)
    return -1, has_nul


def _is_torn(file: int, head: bytes, found: re.Match[bytes] | None, size: int) -> bool:
    """Whether the last message was not finished: mail programs leave an empty line at the end of whatever they wrote."""
    if found:
        return os.pread(file, 2, size - 2) != b"\n\n"
    return head.startswith(b"\0") or _TORN.fullmatch(head) is not None
