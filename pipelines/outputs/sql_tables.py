"""The tables of the sql output, and how a database that holds an older form of them gets the newest.

The layout is a sequence of versions, each of which adds tables, columns and indexes to those before it, and may fill
them in. What a version adds is nullable or has a default, so a Mailquay that knows only the version before goes on
storing beside a newer one. Nothing is taken away or renamed. The database says which version it has; `migrate` adds what
is missing under a lock, so of processes that start together one does the work. It may die at any statement: MySQL has no
transactions for tables, so a version adds only what is not there yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateColumn, CreateSchema

# The longest that is kept of what is looked up: an address has at most 320 characters (RFC 5321 section 4.5.3.1), and
# 512 of four bytes fit into an index of PostgreSQL and of MySQL.
EMAIL_LENGTH, ID_LENGTH, NAME_LENGTH = 320, 512, 255


class Moment(TypeDecorator[datetime]):
    """An aware datetime: with its zone in PostgreSQL; in the others, which know none, in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Write what the database takes."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read what the database holds as UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name == "postgresql" else value.replace(tzinfo=UTC)


LONG_TEXT = Text().with_variant(LONGTEXT(), "mysql")
# MariaDB's own JSON is a LONGTEXT that refuses what is nested more than 32 deep, and MySQL's JSON more than 100: mail may be.
JSON_TEXT = LONG_TEXT.with_variant(JSONB(), "postgresql")
BYTES = LargeBinary().with_variant(LONGBLOB(), "mysql")


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables in one version, under the names that PREFIX and SCHEMA give them."""

    prefix: str
    metadata: MetaData

    def __getitem__(self, name: str) -> Table:
        """Return the table of that name, without its prefix."""
        schema = f"{self.metadata.schema}." if self.metadata.schema else ""
        return self.metadata.tables[f"{schema}{self.prefix}{name}"]

    def add(self, name: str, *columns: Column[Any], indexes: Iterable[Sequence[str]] = ()) -> None:
        """Add a table; each index is named after its first column."""
        table = Table(
            f"{self.prefix}{name}",
            self.metadata,
            *columns,
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
            mysql_collate="utf8mb4_bin",
        )
        for names in indexes:
            Index(f"{table.name}_{names[0]}", *(table.c[column] for column in names))

    def owner(self) -> Column[Any]:
        """Return the column of a table that belongs to a message, and goes with it."""
        return Column(
            "message", ForeignKey(self["messages"].c.id, ondelete="CASCADE"), primary_key=True, nullable=False
        )


@dataclass(frozen=True, slots=True)
class Version:
    """What one version adds to the layout, and how rows that are there already are filled in, more than once if need be."""

    extend: Callable[[Layout], None]
    fill: Callable[[Connection, Layout], None] | None = None


def _version_1(layout: Layout) -> None:
    layout.add(
        "messages",
        Column("id", String(32), primary_key=True),
        Column("mailbox", String(NAME_LENGTH), nullable=False),
        Column("folder", LONG_TEXT),
        Column("message_id", String(ID_LENGTH)),
        Column("in_reply_to", String(ID_LENGTH)),
        Column("thread_id", String(ID_LENGTH)),
        Column("subject", LONG_TEXT),
        Column("from_name", LONG_TEXT),
        Column("from_email", String(EMAIL_LENGTH)),
        Column("sent_at", Moment),
        Column("received_at", Moment),
        Column("stored_at", Moment, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("digest", String(64), nullable=False),
        Column("has_attachment", Boolean, nullable=False),
        Column("preview", LONG_TEXT, nullable=False),
        Column("text", LONG_TEXT),
        Column("html", LONG_TEXT),
        Column("json", JSON_TEXT, nullable=False),
        Column("raw", BYTES),
        indexes=[
            ("mailbox", "received_at"),
            ("message_id",),
            ("thread_id",),
            ("from_email",),
            ("stored_at",),
        ],
    )
    layout.add(
        "addresses",
        layout.owner(),
        Column("field", String(8), primary_key=True),
        Column("position", Integer, primary_key=True, autoincrement=False),
        Column("name", LONG_TEXT),
        Column("email", String(EMAIL_LENGTH), nullable=False),
        indexes=[("email", "field")],
    )
    layout.add(
        "attachments",
        layout.owner(),
        Column("position", Integer, primary_key=True, autoincrement=False),
        Column("part_id", String(NAME_LENGTH)),
        Column("name", LONG_TEXT),
        Column("type", LONG_TEXT, nullable=False),
        Column("disposition", LONG_TEXT),
        Column("cid", LONG_TEXT),
        Column("size", BigInteger, nullable=False),
        Column("sha256", String(64), nullable=False),
        Column("content", BYTES),
        indexes=[("sha256",)],
    )


# A new version goes to the end; what was released is never changed.
VERSIONS: tuple[Version, ...] = (Version(_version_1),)


class NewerTables(Exception):
    """A newer Mailquay has changed the tables in a way that this one does not know."""


def layout(prefix: str, schema: str | None, *, version: int | None = None) -> Layout:
    """Return the tables as `version` has them, by default the newest."""
    made = Layout(prefix, MetaData(schema=schema))
    Table(
        f"{prefix}version",
        made.metadata,
        Column("one", Integer, primary_key=True, autoincrement=False),
        Column("version", Integer, nullable=False),
        mysql_engine="InnoDB",
    )
    for each in VERSIONS[:version]:
        each.extend(made)
    return made


def is_newest(connection: Connection, tables: Layout) -> bool:
    """Tell whether the database holds the newest version.

    Raises:
        NewerTables: It holds one that nobody here knows.
    """
    return _version(connection, tables) == len(VERSIONS)


def migrate(engine: Engine, tables: Layout, *, timeout: float) -> None:
    """Bring the tables to the newest version; another process that does so now is waited for, up to `timeout` seconds.

    Raises:
        NewerTables: The database holds a version that nobody here knows.
        TimeoutError: The other process takes longer.
        sqlalchemy.exc.DBAPIError: The database does not let itself be changed.
    """
    with engine.connect() as connection, connection.begin():
        _lock(connection, tables, timeout=timeout)
        try:
            schema = tables.metadata.schema
            if schema and not inspect(connection).has_schema(schema):
                connection.execute(CreateSchema(schema))
            for number in range(_version(connection, tables) + 1, len(VERSIONS) + 1):
                step = layout(tables.prefix, schema, version=number)
                _add_missing(connection, step)
                fill = VERSIONS[number - 1].fill
                if fill is not None:
                    fill(connection, step)
                _note(connection, step["version"], number)
        finally:
            if connection.dialect.name == "mysql" and not connection.invalidated:
                connection.execute(
                    text("select release_lock(:name)"), {"name": lock_name(connection, tables)}
                )


def _version(connection: Connection, tables: Layout) -> int:
    table = tables["version"]
    found = None
    if inspect(connection).has_table(table.name, schema=table.schema):
        found = connection.scalar(select(table.c.version).where(table.c.one == 1))
    if found is not None and found > len(VERSIONS):
        raise NewerTables(
            f"the tables {tables.prefix}… are of version {found}, made by a newer Mailquay, and this one knows versions "
            f"up to {len(VERSIONS)}: update it, or choose another PREFIX"
        )
    return found or 0


def _lock(connection: Connection, tables: Layout, *, timeout: float) -> None:
    """Keep other processes from migrating: SQLite's transaction does so by itself."""
    name = lock_name(connection, tables)
    if connection.dialect.name == "postgresql":
        # Given back with the transaction; `lock_timeout` limits the wait.
        key = int.from_bytes(bytes.fromhex(name[-16:]), signed=True)
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": key})
    elif connection.dialect.name == "mysql":
        got = connection.scalar(
            text("select get_lock(:name, :seconds)"), {"name": name, "seconds": int(timeout)}
        )
        if got != 1:
            raise TimeoutError("another process is changing the tables")


def lock_name(connection: Connection, tables: Layout) -> str:
    """Name the lock of these tables: MySQL's are known to the whole server, and have at most 64 characters."""
    owner = f"{connection.engine.url.database}/{tables.metadata.schema or ''}/{tables.prefix}"
    return f"mailquay {hashlib.sha256(owner.encode()).hexdigest()[:32]}"


def _add_missing(connection: Connection, step: Layout) -> None:
    """Add the tables, columns and indexes that are not there."""
    found = inspect(connection)
    prepare = connection.dialect.identifier_preparer
    for table in step.metadata.sorted_tables:
        if not found.has_table(table.name, schema=table.schema):
            table.create(connection)
            continue
        columns = {column["name"] for column in found.get_columns(table.name, schema=table.schema)}
        for column in table.columns:
            if column.name not in columns:
                kind = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"alter table {prepare.format_table(table)} add column {kind}"))
        indexes = {index["name"] for index in found.get_indexes(table.name, schema=table.schema)}
        for index in table.indexes:
            if index.name not in indexes:
                index.create(connection)


def _note(connection: Connection, table: Table, number: int) -> None:
    """Write down which version the tables have now."""
    if not connection.execute(table.update().values(version=number).where(table.c.one == 1)).rowcount:
        connection.execute(table.insert().values(one=1, version=number))
