"""Drops a copy of a message that came before, by another folder or another mailbox.

A copy has the same Message-ID, From, Subject and Date and the same parts, octet for octet; or, without a Message-ID, is
the same octet for octet as a whole. The way it came (Received, Delivered-To) makes no difference. The message that comes
first claims its key, under its own message id: when that message comes again, after a crash or a retry, it passes, in
any process and at any time. Claims are rows of an SQLite file, one transaction each, so of two copies in two processes
exactly one passes.

It does not look behind it: a copy is dropped as soon as the first one has claimed the key, also when a later stage drops
that one or an output refuses it. A claim that is lost, with the file or in a power failure, costs a copy and no message.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pipelines.message import Message
from pipelines.options import Duration, FilePath
from pipelines.stage import Stage, StageOptions

LOCK_SECONDS = 30.0
# Outdated claims that go with each new one: more than one, so that they come to an end.
PRUNED_AT_ONCE = 20

_SCHEMA = """
    pragma journal_mode = wal;
    pragma synchronous = normal;
    create table if not exists claims (key blob primary key, id text not null, at integer not null) without rowid;
    create index if not exists claims_at on claims (at);
"""


class DedupeOptions(StageOptions):
    """What counts as a copy, and where the claims are kept."""

    path: FilePath = Field(
        description="File that remembers what came, by hashes only; an SQLite database on a local disk, made when it is "
        "missing, that any number of processes share.",
        examples=["/data/dedupe.sqlite"],
    )
    window: Duration = Field(
        default=timedelta(days=7),
        gt=timedelta(0),
        description="How long after the first one a copy is recognised.",
        examples=["7d"],
    )
    scope: Literal["mailbox", "all"] = Field(
        default="mailbox",
        description="Whether copies are looked for within each mailbox, over all its folders, or among all mailboxes "
        "whose stages use this file.",
        examples=["all"],
    )


class DedupeStage(Stage):
    """Answers with the message as it came, or drops it as a copy."""

    type_name: ClassVar[str] = "dedupe"
    Options: ClassVar[type[StageOptions]] = DedupeOptions

    options: DedupeOptions

    def __init__(self, name: str, options: DedupeOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, dates the claims."""
        super().__init__(name, options)
        self._clock = clock
        self._claims = Claims(options.path)

    def apply(self, message: Message) -> Message | None:
        """Return the message, or None for a copy of one that came within the window.

        Raises:
            sqlite3.Error: the file cannot be used now.
            OSError: its folder cannot be made.
        """
        scope = message.mailbox if self.options.scope == "mailbox" else None
        now = self._clock()
        since = int(now - self.options.window.total_seconds())
        claimed = self._claims.claim(copy_key(message, scope), message.id, now=int(now), since=since)
        return message if claimed == message.id else None


def copy_key(message: Message, scope: str | None) -> bytes:
    """Return what all copies of a message have in common, as 32 bytes; `scope` is the mailbox to stay within, if any."""
    digest = hashlib.sha256()

    def add(piece: str | bytes | memoryview | None) -> None:
        octets = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        # With its length in front, so that no two sequences of pieces look alike.
        digest.update(b"-" if octets is None else b"%d:" % len(octets))
        digest.update(octets or b"")

    add(scope)
    if message.message_id is None:
        add(message.digest)
        return digest.digest()
    add("\n".join(message.message_id))
    for name in ("From", "Subject", "Date"):
        add(message.header(name))
    for part in message.structure.walk():
        if part.sub_parts is None:
            add(part.type)
            add(part.encoding)
            add(part.content)
    return digest.digest()


class Claims:
    """Which message id claimed which key and when, in the SQLite database `path`, opened when it is first needed."""

    def __init__(self, path: Path) -> None:
        """Remember where the database is."""
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = -1

    def claim(self, key: bytes, id_: str, *, now: int, since: int) -> str:
        """Return the id that holds the key: `id_` itself, unless another one claimed it at `since` or later.

        Raises:
            sqlite3.Error: the database cannot be used now. A damaged one is begun anew.
            OSError: its folder cannot be made.
        """
        try:
            return self._claim(key, id_, now=now, since=since)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {
                sqlite3.SQLITE_CORRUPT,
                sqlite3.SQLITE_NOTADB,
            }:
                raise
        self._discard()
        return self._claim(key, id_, now=now, since=since)

    def close(self) -> None:
        """Close the database. Harmless when it is closed already."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def __del__(self) -> None:
        """Close it: nobody closes a stage, it goes with its process."""
        self.close()

    def _claim(self, key: bytes, id_: str, *, now: int, since: int) -> str:
        database = self._database()
        with database:
            database.execute("begin immediate")
            find = "select id from claims where key = ? and at >= ?"
            row = database.execute(find, (key, since)).fetchone()
            if row is not None:
                return str(row[0])
            database.execute("insert or replace into claims values (?, ?, ?)", (key, id_, now))
            prune = (
                "delete from claims where key in (select key from claims where at < ? order by at limit ?)"
            )
            database.execute(prune, (since, PRUNED_AT_ONCE))
        return id_

    def _database(self) -> sqlite3.Connection:
        """Open the database, also when somebody deleted the one that is open, or when opening it failed halfway."""
        if self._connection is not None and self._inode != _inode(self.path):
            self.close()
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A delivery runs its stages one after the other, though perhaps in another thread than the last one.
            self._inode = -1
            self._connection = sqlite3.connect(
                self.path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            # SQLite waits for nobody who changes the journal's mode, so one process at a time opens the file.
            with self.path.with_name(f"{self.path.name}-lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._connection.executescript(_SCHEMA)
            self._inode = _inode(self.path)
        return self._connection

    def _discard(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _inode(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0
