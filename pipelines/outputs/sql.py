"""Stores messages in tables of its own in SQLite, PostgreSQL, MySQL or MariaDB: one row a message, and never two.

A call is one transaction, and a receipt says accepted when it was committed. The id is the primary key. A message that is
stored already is left as it is: a repetition brings the same bytes, and whoever added to the row, or looked at it, is not
surprised. To have a message written anew, delete its row and replay it. What the database refuses of one message is found
by halving the call, so it does not hold up the others; whatever concerns the database is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import URL, Connection, Engine, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pipelines.message import Message
from pipelines.options import Duration, FilePath, Flag
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.sql_engine import (
    TooLarge,
    blame,
    explain,
    make_engine,
    place,
    read_url,
    refuse_too_large,
)
from pipelines.outputs.sql_rows import Row, address_rows, attachment_rows, message_row
from pipelines.outputs.sql_tables import is_newest, layout, migrate

# How long one statement may take that changes tables which are full already.
CHANGE_SECONDS = 3600.0


class SqlOptions(OutputOptions):
    """Which database, and what of a message goes there."""

    url: SecretStr = Field(
        description="The database, as SQLAlchemy spells it: `sqlite:////PATH`, `postgresql+psycopg://USER@HOST/NAME` or "
        "`mysql+pymysql://USER@HOST/NAME`. What is special in a URL stands in it percent-encoded.",
        examples=["sqlite:////data/mail.db"],
    )
    password: SecretStr | None = Field(
        default=None,
        description="Password of the user in URL, when it is not in there; nothing is encoded in it.",
    )
    db_schema: str | None = Field(
        default=None,
        pattern="^[A-Za-z_][A-Za-z0-9_]{0,62}$",
        description="PostgreSQL's schema for the tables; it is made when it is missing. Without one, the first in the user's "
        "search_path.",
        examples=["mail"],
    )
    prefix: str = Field(
        default="mailquay_",
        pattern="^([a-z_][a-z0-9_]{0,29})?$",
        description="What the names of all tables begin with.",
    )
    raw: Flag = Field(
        default=False,
        description="Whether the message itself is stored too, byte for byte.",
        examples=["yes"],
    )
    attachments: Flag = Field(
        default=False,
        description="Whether the bytes of attachments are stored, and not only what they are.",
        examples=["yes"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long to wait for the connection, for others' locks, and for the answer to each statement.",
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="Certificates (PEM) that the server is verified against. Without it TLS is as URL asks for.",
        examples=["/etc/mailquay/ca.pem"],
    )

    @field_validator("url")
    @classmethod
    def _is_known(cls, url: SecretStr) -> SecretStr:
        try:
            read_url(url.get_secret_value())
        except ValueError as error:
            raise PydanticCustomError("database_url", str(error)) from None
        return url

    @model_validator(mode="after")
    def _has_schemas(self) -> Self:
        if self.db_schema and self.address().get_backend_name() != "postgresql":
            raise PydanticCustomError(
                "schema", "DB_SCHEMA is for PostgreSQL; elsewhere the URL names the database"
            )
        return self

    def address(self) -> URL:
        """Return the URL with the password."""
        url = read_url(self.url.get_secret_value())
        return url if self.password is None else url.set(password=self.password.get_secret_value())


class DatabaseTrouble(Exception):
    """The database cannot be used now; the sentence says what it says in a code, and never in its own words."""


class SqlOutput(Output):
    """Inserts messages into the tables PREFIX…."""

    type_name: ClassVar[str] = "sql"
    Options: ClassVar[type[OutputOptions]] = SqlOptions
    dedupes: ClassVar[bool] = True

    options: SqlOptions

    def __init__(self, name: str, options: SqlOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, tells when a message was stored."""
        super().__init__(name, options)
        self._clock = clock
        self._engine: Engine | None = None
        self._tables = layout(options.prefix, options.db_schema)
        self._place = place(options.address())

    def open(self) -> None:
        """Connect, and see to it that the tables are the newest.

        Raises:
            DatabaseTrouble: The database cannot be reached, or does not let tables be made.
            NewerTables: The tables are those of a newer Mailquay.
            TimeoutError: Another process is changing them for longer than TIMEOUT.
        """
        self._engine = self._make_engine()
        try:
            with self._engine.connect() as connection:
                newest = is_newest(connection, self._tables)
            if not newest:
                self._migrate()
        except SQLAlchemyError as error:
            raise DatabaseTrouble(f"{self._place} {explain(error)}") from None

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Store the messages that are not there yet, in one transaction unless some of them are refused."""
        receipts: dict[str, Receipt] = {}
        looked_again: set[str] = set()
        # In one order everywhere, so that two processes with the same messages wait for each other at most once.
        groups = [
            sorted({message.id: message for message in messages}.values(), key=lambda message: message.id)
        ]
        while groups:
            group = groups.pop()
            try:
                self._store(group)
                receipt: Receipt = Accepted()
            except (SQLAlchemyError, TooLarge, ValueError, TypeError) as error:
                reason = f"{self._place} {explain(error)}"
                to_blame = blame(error)
                if to_blame == "database":
                    # What is left would wait for the same.
                    groups, group = [], [message for each in (group, *groups) for message in each]
                elif len(group) > 1:
                    half = len(group) // 2
                    groups += [group[half:], group[:half]]
                    continue
                elif isinstance(error, IntegrityError) and group[0].id not in looked_again:
                    # Another process may have been faster with it; then it is found now.
                    looked_again.add(group[0].id)
                    groups.append(group)
                    continue
                receipt = Refused(reason) if to_blame == "message" else Retry(reason)
            receipts.update((message.id, receipt) for message in group)
        return [receipts[message.id] for message in messages]

    def close(self) -> None:
        """Close the connection."""
        if self._engine is not None:
            self._engine.dispose()

    def _store(self, messages: Sequence[Message]) -> None:
        """Store those messages that are not there yet, all or none.

        That another process stores the same ones at the same time is an error that blames the messages: each is looked at
        again then, and found.
        """
        if not messages:
            return
        assert self._engine is not None
        options, now = self.options, datetime.fromtimestamp(self._clock(), UTC)
        id_ = self._tables["messages"].c.id
        with self._engine.begin() as connection:
            known = set(connection.scalars(select(id_).where(id_.in_([message.id for message in messages]))))
            new = [message for message in messages if message.id not in known]
            rows = [message_row(message, stored_at=now, raw=options.raw) for message in new]
            self._insert(connection, "messages", rows)
            self._insert(connection, "addresses", [row for message in new for row in address_rows(message)])
            for message in new:
                described = attachment_rows(message, content=options.attachments)
                # Their bytes one by one, so that the largest alone is in memory.
                for some in ([row] for row in described) if options.attachments else [list(described)]:
                    self._insert(connection, "attachments", some)

    def _insert(self, connection: Connection, table: str, rows: Sequence[Row]) -> None:
        refuse_too_large(connection, rows)
        if rows:
            connection.execute(self._tables[table].insert(), rows)

    def _make_engine(self, *, longest: float | None = None) -> Engine:
        options = self.options
        timeout = options.timeout.total_seconds()
        return make_engine(options.address(), timeout=timeout, longest=longest, ca_file=options.ca_file)

    def _migrate(self) -> None:
        engine = self._make_engine(longest=CHANGE_SECONDS)
        try:
            migrate(engine, self._tables, timeout=self.options.timeout.total_seconds())
        finally:
            engine.dispose()
