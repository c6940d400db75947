"""Finds the messages that people mean by a name: a file, a folder, a Maildir, an mbox, a batch, or a pipe.

A file is one message, unless it begins as an mbox or as a batch of the spool does; one that ends in `.eml` always is.
Of a folder count files that end in `.eml`, the numbers of MH, mboxes and batches, in the folders below it as well, but
nothing hidden and no folder behind a symbolic link. In a Maildir (`cur` and `new`) every file is a message, and folders
of Maildir++ (`.Sent`) belong to it. Order is that of names, so it is the same each time.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipelines.message import Source
from worker.reading import batch_file
from worker.reading.mbox import begins_mbox, cut
from worker.reading.place import Place, Trouble, unreadable

STANDARD_INPUT = "-"
_HEAD_BYTES = 500
# What maildir(5) writes behind the name, as IMAP writes it. A colon is no character of a name on Windows.
_INFO = re.compile(r"[:;!]2,([A-Za-z]*)$")
_FLAGS = {
    "D": "\\Draft",
    "F": "\\Flagged",
    "P": "$Forwarded",
    "R": "\\Answered",
    "S": "\\Seen",
    "T": "\\Deleted",
}


def find(names: Iterable[str], *, stdin: BinaryIO) -> Iterator[Place | Trouble]:
    """Yield each message, and where there is none the reason, in the order in which they are asked for."""
    for name in names:
        try:
            if name == STANDARD_INPUT:
                yield from _stream(name, stdin)
            elif (mode := os.stat(name).st_mode) and stat.S_ISDIR(mode):  # noqa: PTH116  (as `open` sees it)
                yield from _folder_asked_for(name)
            elif stat.S_ISREG(mode):
                yield from _file(name)
            else:
                with open(name, "rb") as pipe:  # noqa: PTH123  (a path may be any bytes)
                    yield from _stream(name, pipe)
        except OSError as error:
            yield unreadable(name, error)


def weigh(names: Iterable[str]) -> int | None:
    """How many bytes there are to read, for a progress bar; None when a pipe is among them."""
    total = 0
    for name in names:
        path = Path(name)
        if path.is_dir():
            for folder, _, files in os.walk(path):
                total += sum(_size(Path(folder, file)) for file in files)
        elif path.is_file():
            total += _size(path)
        elif name == STANDARD_INPUT or path.exists():
            return None
    return total


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _file(path: str, *, source: Source | None = None) -> Iterator[Place | Trouble]:
    """The messages of a file; `source` is what is known of it when it is just one."""
    if not path.lower().endswith(".eml"):
        head = _head(path)
        if begins_mbox(head):
            yield from _mbox(path)
            return
        if batch_file.begins_batch(head):
            yield from batch_file.messages(path)
            return
    yield Place(path, path, source=source or Source())


def _head(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a path may be any bytes)
        return file.read(_HEAD_BYTES)


def _mbox(path: str) -> Iterator[Place]:
    with (
        open(path, "rb") as file,  # noqa: PTH123  (a path may be any bytes)
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        for number, (start, size) in enumerate(cut(mapped), 1):
            source = Source(folder=path, uidl=str(number))
            yield Place(f"{path} #{number}", path, start, size, is_quoted=True, source=source)


def _stream(name: str, stream: BinaryIO) -> Iterator[Place]:
    """What comes through a pipe is mapped too, from a file without a name: nothing of it is left behind."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        file.flush()
        if not file.tell():
            yield Place(name, raw=b"", size=0)
            return
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    whole = memoryview(mapped)
    if not begins_mbox(mapped[:_HEAD_BYTES]):
        yield Place(name, raw=whole, size=len(whole))
        return
    for number, (start, size) in enumerate(cut(mapped), 1):
        source = Source(uidl=str(number))
        raw = whole[start : start + size]
        yield Place(f"{name} #{number}", raw=raw, size=size, is_quoted=True, source=source)


def _folder_asked_for(path: str) -> Iterator[Place | Trouble]:
    is_empty = True
    for found in _folder(path):
        is_empty = False
        yield found
    if is_empty:
        yield Trouble(path, "holds no message: no Maildir, no .eml file, no mbox, no batch")


def _folder(path: str) -> Iterator[Place | Trouble]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: _by_number(entry.name))
    except OSError as error:
        yield unreadable(path, error)
        return
    folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    inside = os.path.basename(os.path.abspath(path))  # noqa: PTH100, PTH119  (a path may be any bytes)
    if {"cur", "new"} <= set(folders):
        yield from _maildir_files(os.path.join(path, "cur"), folder=path)  # noqa: PTH118
        yield from _maildir_files(os.path.join(path, "new"), folder=path)  # noqa: PTH118
        below = [name for name in folders if name.startswith(".")]
    elif inside in {"cur", "new"} and os.path.isdir(os.path.join(path, os.pardir, "tmp")):  # noqa: PTH112, PTH118
        yield from _maildir_files(path, folder=path)
        return
    else:
        for entry in entries:
            yield from _plain_file(entry, folder=path)
        below = [name for name in folders if not name.startswith(".")]
    for name in below:
        yield from _folder(os.path.join(path, name))  # noqa: PTH118


def _by_number(name: str) -> tuple[int, str]:
    """MH numbers its messages, and 10 follows 9."""
    return (int(name) if name.isdecimal() and len(name) < 20 else -1, name)


def _maildir_files(path: str, *, folder: str) -> Iterator[Place | Trouble]:
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    except OSError as error:
        yield unreadable(path, error)
        return
    for name in names:
        if not name.startswith("."):
            info = _INFO.search(name)
            flags = (
                tuple(_FLAGS[letter] for letter in sorted(set(info[1])) if letter in _FLAGS) if info else ()
            )
            uidl = name[: info.start()] if info else name
            file = os.path.join(path, name)  # noqa: PTH118
            yield Place(file, file, source=Source(folder=folder, uidl=uidl, flags=flags))


def _plain_file(entry: os.DirEntry[str], *, folder: str) -> Iterator[Place | Trouble]:
    """A file of a folder that is no Maildir, when it looks like mail."""
    try:
        if entry.name.startswith(".") or not entry.is_file():
            return
        is_message = entry.name.lower().endswith(".eml") or entry.name.isdecimal()
        if is_message or begins_mbox(head := _head(entry.path)) or batch_file.begins_batch(head):
            yield from _file(entry.path, source=Source(folder=folder, uidl=entry.name))
    except OSError as error:
        yield unreadable(entry.path, error)
