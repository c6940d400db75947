"""Knows which message ids a file holds that only grows, without reading it again from its start.

The file is the truth and the index only remembers how far it was read, so the index may be deleted, damaged or behind at
any time. It can never be ahead: records are on the disk before they are noted, and SQLite in WAL mode with
synchronous=NORMAL forgets the newest transactions when the power fails but never keeps a torn one. Callers hold a lock
around every call; memory stays flat however long the file is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

_ROWS_A_TRANSACTION = 10_000

_SCHEMA = """
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists ids (id blob primary key) without rowid;
    create table if not exists place (one integer primary key check (one = 1), inode text, upto integer);
"""


class Reader(Protocol):
    """Walks over the whole records of a file."""

    def __call__(self, file: int, *, start: int) -> Iterator[tuple[bytes | None, int]]:
        """Yield the id of each record in 16 bytes, or None if it has none, and the offset behind the record.

        `file` is a descriptor, `start` an offset that was yielded before, or 0.
        """


class IdIndex:
    """The ids in one file, whose records `read` finds, kept in the SQLite database `path`."""

    def __init__(self, path: Path, read: Reader) -> None:
        """Remember where the database is; it is opened when it is first needed."""
        self.path = path
        self._read = read
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def is_new(self) -> bool:
        """Whether nothing was ever read into it.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
        """
        return self._database().execute("select 1 from place").fetchone() is None

    def catch_up(self, file: int) -> int:
        """Read the whole records that were added since the last call; return the offset where the last of them ends.

        Another file (rotated, replaced) or a shortened one is read from its start, and the ids of the former one stay
        known.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
            OSError: the file cannot be read.
        """
        database = self._database()
        status = os.fstat(file)
        inode = _text(status)
        find = "select upto from place where inode = ? and upto <= ?"
        row = database.execute(find, (inode, status.st_size)).fetchone()
        if row is None:
            # Noted at once: by the next call a shortened file may have outgrown the place that was noted for it.
            database.execute("insert or replace into place values (1, ?, 0)", (inode,))
        end: int = row[0] if row else 0
        if end < status.st_size:
            # A writer may have died between its write and its fsync; what is indexed counts as accepted.
            os.fsync(file)
        records = self._read(file, start=end)
        while some := list(islice(records, _ROWS_A_TRANSACTION)):
            end = some[-1][1]
            self._insert((id_ for id_, _ in some if id_), inode, end)
        return end

    def learn(self, file: int) -> None:
        """Read the ids of another file, which is complete and on the disk.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
            OSError: the file cannot be read.
        """
        records = self._read(file, start=0)
        while some := list(islice(records, _ROWS_A_TRANSACTION)):
            self._insert(id_ for id_, _ in some if id_)

    def note(self, file: int, ids: Iterable[str], *, end: int) -> None:
        """Remember records that were just written to the disk, the last of them up to `end`.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
        """
        self._insert(map(bytes.fromhex, ids), _text(os.fstat(file)), end)

    def unknown(self, ids: Iterable[str]) -> set[str]:
        """Return those ids (32 hex digits) that the file does not hold.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
        """
        database = self._database()
        find = "select 1 from ids where id = ?"
        return {id_ for id_ in ids if not database.execute(find, (bytes.fromhex(id_),)).fetchone()}

    def settle(self) -> None:
        """Put everything on the disk, because the file that it could be read from again is about to go away.

        Raises:
            sqlite3.Error: the database cannot be used; see `is_damage`.
            OSError: somebody else reads the database.
        """
        is_busy, _, _ = self._database().execute("pragma wal_checkpoint(truncate)").fetchone()
        if is_busy:
            raise OSError(f"another program reads {self.path.name}")

    def discard(self) -> None:
        """Delete the database, so that the next call builds it again from the records.

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

    def _insert(self, ids: Iterable[bytes], inode: str = "", end: int = 0) -> None:
        database = self._database()
        with database:
            database.execute("begin immediate")
            database.executemany("insert or ignore into ids values (?)", ((id_,) for id_ in ids))
            if inode:
                database.execute("insert or replace into place values (1, ?, ?)", (inode, end))

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


def _text(status: os.stat_result) -> str:
    """Write the number of a file as text, because it may use all 64 bits and SQLite's integers are signed."""
    return str(status.st_ino)


def _inode(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0
