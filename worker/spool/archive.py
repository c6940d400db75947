"""Writes an uncompressed zip from front to back, without ever seeking (APPNOTE 6.3.10, sections 4.3 and 4.4).

Our own, because `zipfile` goes back to each member's header after its data: a fifth of a pull was spent on that. It
writes what every zip tool reads; it does not compress, encrypt, or pass four gibibytes. Reading is left to `zipfile`.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from worker.spool import Chunk

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION = 20
_FOLLOWS = 1 << 3
"""Flag: checksum and size stand behind the data."""
_DATE = (2026 - 1980) << 9 | 1 << 5 | 1
"""The dates of members mean nothing; this one is valid."""
_LARGEST = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Written:
    """A member as it was written: octets, and their SHA-256 in hex."""

    size: int
    sha256: str


class Archive:
    """A zip being written to `target`, a file that stands at `offset`, behind the members in `directory`."""

    def __init__(self, target: BinaryIO, *, offset: int = 0, directory: Iterable[bytes] = ()) -> None:
        self._target = target
        self._offset = offset
        self._directory = list(directory)

    def add(self, name: str, chunks: Iterable[Chunk]) -> Written:
        """Write one member. A member in one piece has its size in front, a streamed one behind.

        Raises:
            ValueError: the zip would pass four gibibytes.
            OSError: the disk.
        """
        start, encoded = self._offset, name.encode()
        flags, crc, size, digest = 0, 0, 0, hashlib.sha256()
        if isinstance(chunks, tuple) and len(chunks) == 1:
            crc, size = zlib.crc32(chunks[0]), len(chunks[0])
        else:
            flags = _FOLLOWS
        self._write(_header(encoded, flags, crc, size))
        for chunk in chunks:
            digest.update(chunk)
            self._write(chunk)
            if flags:
                crc = zlib.crc32(chunk, crc)
                size += len(chunk)
        if flags:
            self._write(struct.pack("<4s3L", b"PK\x07\x08", crc, size, size))
        self._directory.append(_record(encoded, flags, crc, size, start))
        return Written(size, digest.hexdigest())

    def close(self) -> None:
        """Write the directory; without it the file is no zip."""
        start = self._offset
        for record in self._directory:
            self._write(record)
        count = len(self._directory)
        self._write(_END.pack(b"PK\x05\x06", 0, 0, count, count, self._offset - start, start, 0))

    def _write(self, data: Chunk) -> None:
        self._offset += len(data)
        if self._offset > _LARGEST:
            raise ValueError("a batch cannot pass four gibibytes; lower MESSAGE_MAX or BATCH_SIZE")
        self._target.write(data)


def _header(name: bytes, flags: int, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\x03\x04", _VERSION, flags, 0, 0, _DATE, crc, size, size, len(name), 0) + name


def _record(name: bytes, flags: int, crc: int, size: int, start: int) -> bytes:
    """The line of the directory for a member."""
    return (
        _CENTRAL.pack(
            b"PK\x01\x02", _VERSION, _VERSION, flags, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0, 0, start
        )
        + name
    )  # fmt: skip


def read(handle: BinaryIO) -> zipfile.ZipFile:
    """Open a zip for reading, also one behind whose end somebody died while appending.

    Raises:
        zipfile.BadZipFile: it is none; and whatever else `zipfile` says of damage.
    """
    try:
        return zipfile.ZipFile(handle)
    except zipfile.BadZipFile:
        # `zipfile` looks for the end in the last 64 KiB only, and takes one that was cut short for the end.
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            found = whole.rfind(b"PK\x05\x06", 0, max(len(whole) - _END.size, 0) + 4)
        if found < 0:
            raise
        return zipfile.ZipFile(cast("BinaryIO", _Front(handle, found + _END.size)))


class _Front(io.RawIOBase):
    """The first octets of a file, for reading."""

    def __init__(self, handle: BinaryIO, octets: int) -> None:
        super().__init__()
        self._handle = handle
        self._octets = octets
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._octets}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._octets - self._at, 0)
        self._handle.seek(self._at)
        found = self._handle.read(left if size < 0 else min(size, left))
        self._at += len(found)
        return found


def append(path: Path, name: str, data: bytes) -> None:
    """Put a member behind the end of a zip, in the place of one of the same name, and a new directory behind it; durably.

    What was there stays: a death in between leaves a zip with the old directory, and something behind it that readers pass over.

    Raises:
        OSError: the disk; the file has its old length again.
        zipfile.BadZipFile: it is no zip.
    """
    with path.open("r+b") as target:
        # Two that append at once would each write a directory without the other's member.
        fcntl.flock(target, fcntl.LOCK_EX)
        with read(target) as archive:
            directory = [
                _record(info.filename.encode(), info.flag_bits, info.CRC, info.file_size, info.header_offset)
                for info in archive.infolist()
                if info.filename != name
            ]
        end = target.seek(0, os.SEEK_END)
        appended = Archive(target, offset=end, directory=directory)
        try:
            appended.add(name, (data,))
            appended.close()
            target.flush()
            os.fsync(target.fileno())
        except OSError:
            target.truncate(end)
            raise
