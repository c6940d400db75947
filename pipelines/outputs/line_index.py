"""Knows which message ids a file of JSON lines holds, without reading it again from its start.

The file is the truth and the index only remembers how far it was read, so the index may be deleted, damaged or behind at
any time. It can never be ahead: lines are on the disk before they are read into it, and SQLite in WAL mode with
synchronous=NORMAL forgets the newest transactions when the power fails but never keeps a torn one. Callers hold a lock
around every call; memory stays flat however long the file is.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

LINE_START = b'{"id":"'
_ID = re.compile(rb'\{"id":"([0-9a-f]{32})"')
_HEAD_BYTES = len(LINE_START) + 33
_CHUNK_BYTES = 1 << 20
_ROWS_A_TRANSACTION = 10_000

_SCHEMA = """
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists ids (id blob primary key) without rowid;
    create table if not exists place (one integer primary key check (one = 1), inode text, upto integer);
"""


class LineIndex:
    """The ids in one file of JSON lines, kept in the SQLite database `path`."""

    def __init__(self, path: Path) -> None:
        """Remember where the database is; it is opened when it is first needed."""
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def catch_up(self, file: int) -> int:
        """Read the whole lines that were added since the last call; return the offset where the last of them ends.

        `file` is a descriptor of the lines. Another file (rotated, replaced) or a shortened one is read from its start,
        and the ids of the former one stay known.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
            OSError: the file cannot be read.
        """
        database = self._database()
        status = os.fstat(file)
        # As text, because an inode number may use all 64 bits and SQLite's integers are signed.
        inode = str(status.st_ino)
        find = "select upto from place where inode = ? and upto <= ?"
        row = database.execute(find, (inode, status.st_size)).fetchone()
        if row is None:
            # Noted at once: by the next call a shortened file may have outgrown the place that was noted for it.
            database.execute("insert or replace into place values (1, ?, 0)", (inode,))
        end: int = row[0] if row else 0
        if end < status.st_size:
            # A writer may have died between its write and its fsync; what is indexed counts as accepted.
            os.fsync(file)
        lines = read_lines(file, start=end)
        while some := list(islice(lines, _ROWS_A_TRANSACTION)):
            end = some[-1][1]
            with database:
                database.execute("begin immediate")
                database.executemany(
                    "insert or ignore into ids values (?)", [(id_,) for id_, _ in some if id_]
                )
                database.execute("insert or replace into place values (1, ?, ?)", (inode, end))
        return end

    def unknown(self, ids: Iterable[str]) -> set[str]:
        """Return those ids (32 hex digits) that the file does not hold.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
        """
        database = self._database()
        find = "select 1 from ids where id = ?"
        return {id_ for id_ in ids if not database.execute(find, (bytes.fromhex(id_),)).fetchone()}

    def discard(self) -> None:
        """Delete the database, so that the next call builds it again from the lines.

        Raises:
            OSError: a file of the database cannot be deleted.
        """
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the database. Harmless when it is closed already."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def _database(self) -> sqlite3.Connection:
        """Open the database, also when another process deleted the one that is open."""
        if self._connection is not None and self._inode != _inode(self.path):
            self.close()
        if self._connection is None:
            # The lock of the caller keeps threads apart, so SQLite need not insist on the one that opened it.
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._connection.executescript(_SCHEMA)
            self._inode = _inode(self.path)
        return self._connection


def is_damage(error: sqlite3.Error) -> bool:
    """Tell a damaged database, which is to be discarded, from one that merely cannot be used now."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


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


def _inode(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0
