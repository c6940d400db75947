"""Connections to SQLite, PostgreSQL and MySQL (or MariaDB), every wait with a deadline, and what their errors mean.

A transaction that was committed is on the disk as far as the server's own settings let it. Nothing here quotes a server:
its sentences repeat the values that it complains about, and sometimes the user.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal

import psycopg
import pymysql
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}
"""What people write, and the drivers that come with the extra."""

Blame = Literal["message", "database", "unclear"]

# PostgreSQL: data exceptions, integrity, and what is larger than it can hold.
_MESSAGE_STATES = {"21", "22", "23", "54"}
# MySQL and MariaDB: a packet, a row or a nesting too large, wrong characters, and checks that fail.
_MESSAGE_NUMBERS = {1118, 1153, 1300, 1366, 3140, 3157, 3819, 4025}
# A trigger that somebody wrote says no: MySQL's `signal`, SQLite's `raise`; PostgreSQL's has a state that begins with P0.
_TRIGGERS = {1644, "SQLITE_CONSTRAINT_TRIGGER"}
# What MySQL's driver writes with a backslash before it, and what a statement holds beside its values.
_ESCAPED = "\0\n\r\x1a\"'\\"
_STATEMENT_BYTES = 4096

_SENTENCES: Mapping[str, AbstractSet[str | int]] = {
    "refuses the sign-in: check URL and PASSWORD": {"28000", "28P01", 1045, 1698},
    "has no such database: check URL": {"3D000", 1049},
    "does not give this user the rights that it needs": {"42501", 1044, 1142, 1143, 1227, "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"},
    "has no room left on its disk": {"53100", 1021, 1114, "SQLITE_FULL"},
    "lacks tables or columns that Mailquay made; a restart makes them again": {"42P01", "42703", 1054, 1146},
    "has no connection left": {"53300", 1040, 1203, 1226},
    "was held up by others for too long": {"55P03", "57014", "40P01", "40001", 1205, 1213, 1969, 3024, "SQLITE_BUSY", "SQLITE_LOCKED"},
    "cannot be opened or written there": {"SQLITE_CANTOPEN", "SQLITE_IOERR"},
    "is no database, or a damaged one": {"SQLITE_NOTADB", "SQLITE_CORRUPT"},
    "did not answer in time, or ended the connection": {2006, 2013, "57P01", "57P02", "57P03", "25P03"},
    "cannot be reached": {2002, 2003, 2005},
}  # fmt: skip


class TooLarge(Exception):
    """One message needs a larger statement than the server takes; the sentence follows the name of the database."""


def read_url(text: str) -> URL:
    """Read a URL as SQLAlchemy spells it, with the driver that is used.

    Raises:
        ValueError: It is none, or one of another database; the sentence does not show it.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("write DATABASE://USER@HOST/NAME, or sqlite:////PATH") from None
    if url.drivername not in DRIVERS:
        raise ValueError("write sqlite, postgresql+psycopg or mysql+pymysql in front of ://")
    if url.drivername == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise ValueError("write the path of a file: sqlite:////data/mail.db")
    if url.drivername != "sqlite" and not url.database:
        raise ValueError("name the database behind the host: /mail")
    return url.set(drivername=DRIVERS[url.drivername])


def place(url: URL) -> str:
    """Name the database as reasons show it: without user, password and options."""
    if url.drivername == "sqlite":
        return f"the SQLite database {url.database}"
    kind = "PostgreSQL" if url.drivername.startswith("postgresql") else "MySQL"
    return f"{kind} at {url.host or 'its socket'}{f':{url.port}' if url.port else ''}"


def make_engine(
    url: URL, *, timeout: float, longest: float | None = None, ca_file: Path | None = None
) -> Engine:
    """Return an engine that keeps one connection, tested before each use; nothing is connected yet.

    `timeout` limits in seconds the wait for a connection and for locks, `longest` (by default as much) the wait for an
    answer.
    """
    make = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql}[url.get_backend_name()]
    return make(url, timeout, longest or timeout, ca_file)


def _pooled(url: URL, timeout: float, **more: Any) -> Engine:
    return create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=timeout,
        pool_pre_ping=True,
        # Errors would otherwise repeat the mail that they are about.
        hide_parameters=True,
        **more,
    )


def _sqlite(url: URL, timeout: float, _longest: float, _ca_file: Path | None) -> Engine:
    engine = _pooled(url, timeout, connect_args={"timeout": timeout})
    path = Path(url.database or "")

    @event.listens_for(engine, "do_connect")
    def _make_file(*_: object) -> None:
        # Nobody else's to read, and its name as durable as what will be in it.
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # The driver is not to begin transactions by itself: tables are changed in one.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode = wal", "synchronous = full", "foreign_keys = on"):
            cursor.execute(f"pragma {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Whoever reads first and writes then may find that another was faster; whoever begins so, waits.
        connection.exec_driver_sql("begin immediate")

    return engine


class _Watched(psycopg.Connection[Any]):
    """A connection that ends when the server has been silent for too long; libpq itself would wait for ever."""

    patience = math.inf
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
        """Wait as ever; each piece of sending and of the answer has its own deadline."""
        return super().wait(self._watch(gen), *arguments, **named)

    def _watch(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        ready, deadline = None, self.clock() + self.patience
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as end:
                return end.value
            ready = yield wanted
            now = self.clock()
            if ready:
                deadline = now + self.patience
            elif now > deadline:
                self.pgconn.finish()
                raise psycopg.OperationalError("the server is silent")


def _postgresql(url: URL, timeout: float, longest: float, ca_file: Path | None) -> Engine:
    tls = {} if ca_file is None else {"sslmode": "verify-full", "sslrootcert": str(ca_file)}
    engine = _pooled(
        url,
        timeout,
        # JSON comes as text already.
        json_serializer=str,
        # Statements that a server prepared are lost behind a pooler.
        connect_args={"connect_timeout": max(2, math.ceil(timeout)), "prepare_threshold": None, "client_encoding": "utf8", "application_name": "mailquay", **tls},
    )  # fmt: skip

    # Many rows in one statement. The driver's own way, a pipeline, writes to the log when one of them is refused.
    engine.dialect.use_insertmanyvalues_wo_returning = True

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> psycopg.Connection[Any]:
        connection = _Watched.connect(*arguments, **named)
        # The server gives up first, and says so.
        connection.patience = longest + 5
        return connection

    @event.listens_for(engine, "begin")
    def _set_up(connection: Connection) -> None:
        # For this transaction only: behind a pooler the next one of this session may be somebody else's.
        settings = {
            "statement_timeout": f"{longest * 1000:.0f}",
            "lock_timeout": f"{timeout * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{longest * 1000:.0f}",
            "timezone": "UTC",
        }
        wanted = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
        # A commit that the server only promises is not one; stricter ways than `on` are left alone.
        durable = (
            "set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'"
        )
        connection.exec_driver_sql(f"select {wanted}")
        connection.exec_driver_sql(f"select {durable}")

    return engine


def _mysql(url: URL, timeout: float, longest: float, ca_file: Path | None) -> Engine:
    tls = (
        {}
        if ca_file is None
        else {"ssl_ca": str(ca_file), "ssl_verify_cert": True, "ssl_verify_identity": True}
    )
    engine = _pooled(
        url,
        timeout,
        connect_args={"charset": "utf8mb4", "connect_timeout": timeout, "read_timeout": longest + 5, "write_timeout": longest + 5, **tls},
    )  # fmt: skip

    @event.listens_for(engine, "connect")
    def _set_up(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        seconds = max(1, int(timeout))
        # Without the strict mode a value that does not fit is cut in silence.
        cursor.execute(
            "set session sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', "
            f"innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
        )
        cursor.execute("select @@max_allowed_packet")
        (record.info["packet"],) = cursor.fetchone() or (None,)
        cursor.close()

    return engine


def refuse_too_large(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Look whether each row fits into one statement; MySQL hangs up on what does not, and would do so for ever.

    Raises:
        TooLarge: A row does not fit.
    """
    packet = connection.info.get("packet", math.inf)
    for row in rows:
        size = _STATEMENT_BYTES + sum(map(_written_bytes, row.values())) if packet < math.inf else 0
        if size > packet:
            raise TooLarge(
                f"takes no statement of more than {packet} bytes, and this message needs one: raise max_allowed_packet there, "
                "or leave out RAW and ATTACHMENTS"
            )


def _written_bytes(value: object) -> int:
    """Count what MySQL's driver makes of a value: bytes become hex, some characters of texts get a backslash."""
    if isinstance(value, bytes):
        return 2 * len(value)
    if isinstance(value, str):
        return len(value.encode()) + sum(map(value.count, _ESCAPED))
    return 0


def blame(error: Exception) -> Blame:
    """Tell whether one message is the reason for an error, or the database is, whatever the message."""
    if isinstance(error, TooLarge):
        return "message"
    if not isinstance(error, SQLAlchemyError) or isinstance(error.__cause__, TypeError | ValueError):
        # Python cannot write it; a person may have to mend a stage.
        return "unclear"
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return "database"
    state = _state(error)
    if state in _TRIGGERS or str(state).startswith("P0"):
        return "unclear"
    known = isinstance(error, DataError | IntegrityError)
    return (
        "message" if known or state in _MESSAGE_NUMBERS or str(state)[:2] in _MESSAGE_STATES else "database"
    )


def explain(error: Exception) -> str:
    """Say what is wrong in words that follow the name of the database; never what the server said."""
    if isinstance(error, TooLarge):
        return str(error)
    if not isinstance(error, DBAPIError):
        return f"cannot be given this ({error.__class__.__name__})"
    state = _state(error)
    # SQLite refines its words: SQLITE_BUSY_SNAPSHOT is a kind of SQLITE_BUSY.
    whole = "_".join(state.split("_")[:2]) if isinstance(state, str) else state
    for sentence, states in _SENTENCES.items():
        if state in states or whole in states:
            return f"{sentence} ({_coded(state)})"
    if state is None:
        silent = error.connection_invalidated
        return (
            "did not answer in time, or ended the connection"
            if silent
            else "cannot be reached, or refuses the sign-in"
        )
    return f"says {_coded(state)}"


def _coded(state: str | int | None) -> str:
    if isinstance(state, int):
        return f"error {state}"
    return f"{state}" if state is None or state.startswith("SQLITE") else f"SQLSTATE {state}"


def _state(error: DBAPIError) -> str | int | None:
    """Return PostgreSQL's SQLSTATE, MySQL's number or the name of SQLite's code, or None when there was no answer."""
    original: Any = error.orig
    if isinstance(original, pymysql.MySQLError):
        number = original.args[0] if original.args else None
        return number if isinstance(number, int) and number else None
    return getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
