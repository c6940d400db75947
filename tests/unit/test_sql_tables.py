"""The tables of the sql output: made once, brought up to date under a lock, and never by a program that is too old."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, String, create_engine, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from pipelines.output import Accepted
from pipelines.outputs import sql_tables
from pipelines.outputs.sql import DatabaseTrouble, SqlOptions, SqlOutput
from pipelines.outputs.sql_tables import VERSIONS, Layout, NewerTables, Version, layout, lock_name
from pipelines.testing import sample_messages
from tests.bed.database import MariaDb, Postgres, fresh, rows, run

HERE = Path(__file__).parent
# What version 1 made of an empty SQLite, with a message in it. It was released, so it never changes.
VERSION_1 = (HERE / "sql_version_1.sql").read_text()

# Ten processes, forked by one that has imported everything, so that they start at the same moment.
PROCESSES = """
import os, sys
from pipelines.outputs.sql import SqlOptions, SqlOutput
from pipelines.testing import sample_messages

url = sys.stdin.readline().strip()
wait, start = os.pipe()
for number in range(10):
    if not os.fork():
        os.close(start)
        os.read(wait, 1)
        output = SqlOutput("archive", SqlOptions(url=url))
        output.open()
        messages = sample_messages(4, mailbox="shared") + sample_messages(4, mailbox=f"own{number}")
        receipts = output.deliver(messages)
        output.close()
        said = sorted({type(receipt).__name__ for receipt in receipts})
        os.write(1, f"{said}\\n".encode())
        os._exit(0)
os.close(start)
sys.exit(sum(os.wait()[1] != 0 for _ in range(10)))
"""


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mail.db"
    return fresh(request.getfixturevalue(request.param))


@contextmanager
def opened(url: str, **options: Any) -> Iterator[SqlOutput]:
    output = SqlOutput("archive", SqlOptions.model_validate({"url": url, **options}))
    try:
        output.open()
        yield output
    finally:
        output.close()


def version_of(url: str) -> int:
    ((row),) = rows(url, "mailquay_version")
    return int(row["version"])


def shape(url: str) -> dict[str, tuple[list[str], list[str | None]]]:
    """The columns and indexes of each table."""
    engine = create_engine(url)
    try:
        found = inspect(engine)
        return {
            table: (
                sorted(column["name"] for column in found.get_columns(table)),
                sorted(str(index["name"]) for index in found.get_indexes(table)),
            )
            for table in found.get_table_names()
        }
    finally:
        engine.dispose()


def test_ten_processes_that_start_together_make_the_tables_once(url: str) -> None:
    """One makes them, nine wait; then all store, even the same messages, and each is there once."""
    command = [sys.executable, "-c", PROCESSES]
    done = subprocess.run(command, input=f"{url}\n", capture_output=True, text=True, check=False, timeout=100)

    assert (done.returncode, done.stdout, done.stderr) == (0, "['Accepted']\n" * 10, "")
    assert len(rows(url, "mailquay_messages")) == 4 + 10 * 4
    assert version_of(url) == len(VERSIONS)


def test_a_database_of_version_1_with_mail_becomes_the_newest(tmp_path: Path) -> None:
    """What was stored stays, is recognised, and new mail goes beside it; the tables are those of a new database."""
    path = tmp_path / "mail.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_1)
    old, new = f"sqlite:///{path}", f"sqlite:///{tmp_path}/new.db"
    first, second = sample_messages(2)

    with opened(old) as output:
        assert output.deliver([first, second]) == [Accepted()] * 2
    with opened(new):
        pass

    assert {row["id"]: row["subject"] for row in rows(old, "mailquay_messages")} == {
        first.id: "stored by version 1",
        second.id: second.subject,
    }
    assert len(rows(old, "mailquay_addresses")) == 2
    assert version_of(old) == len(VERSIONS)
    assert shape(old) == shape(new)


def test_version_1_is_as_it_was_released() -> None:
    """Databases out there have it: a change belongs into a new version."""
    tables = layout("mailquay_", None, version=1).metadata.sorted_tables
    made = [CreateTable(table) for table in tables]
    indexed = [CreateIndex(index) for table in tables for index in sorted(table.indexes, key=str)]
    statements = [str(each.compile(dialect=sqlite.dialect())) for each in (*made, *indexed)]

    for statement in statements:
        assert squeezed(statement) in squeezed(VERSION_1)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _more(tables: Layout) -> None:
    """What a next version may add: a column, an index over it, a table."""
    column = Column("bare_subject", String(100))
    tables["messages"].append_column(column)
    sql_tables.Index(f"{tables.prefix}messages_bare_subject", column)
    tables.add("notes", tables.owner(), Column("words", String(20)))


def _fill(connection: Connection, tables: Layout) -> None:
    messages = tables["messages"]
    connection.execute(
        messages.update().values(bare_subject=messages.c.subject).where(messages.c.subject.is_not(None))
    )


NEXT = (*VERSIONS, Version(_more, _fill))


def test_a_next_version_adds_and_fills_and_an_older_program_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that was opened before goes on storing; one that is opened later says that it is too old."""
    messages = sample_messages(8)
    with opened(url) as older:
        older.deliver(messages[:2])
        with monkeypatch.context() as patched:
            patched.setattr(sql_tables, "VERSIONS", NEXT)
            with opened(url) as newer:
                assert newer.deliver(messages[:4]) == [Accepted()] * 4
        assert older.deliver(messages[:6]) == [Accepted()] * 6

    filled = {row["id"]: row["bare_subject"] for row in rows(url, "mailquay_messages")}
    assert filled == {
        **{message.id: None for message in messages[:6]},
        **{message.id: message.subject for message in messages[:2]},
    }
    assert version_of(url) == len(NEXT)
    assert "mailquay_messages_bare_subject" in shape(url)["mailquay_messages"][1]
    assert shape(url)["mailquay_notes"][0] == ["message", "words"]
    with (
        pytest.raises(NewerTables, match=rf"version {len(NEXT)}.*up to {len(VERSIONS)}.*update it"),
        opened(url),
    ):
        pass


def test_a_new_database_and_one_that_was_brought_up_to_date_are_alike(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one way to the newest version: through all of them."""
    with opened(url):
        pass
    monkeypatch.setattr(sql_tables, "VERSIONS", NEXT)
    with opened(url):
        pass
    upgraded = shape(url)
    drop = "drop table mailquay_{}".format
    run(url, *(drop(name) for name in ("notes", "addresses", "attachments", "messages", "version")))
    with opened(url):
        pass

    assert shape(url) == upgraded


def test_a_migration_that_died_in_its_middle_is_gone_on_with(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL keeps what was done until then, the others nothing; the next process does the rest."""

    def die(_connection: Connection, _tables: Layout) -> None:
        raise KeyboardInterrupt

    with opened(url) as output:
        output.deliver(sample_messages(2))
    with monkeypatch.context() as patched:
        patched.setattr(sql_tables, "VERSIONS", (*VERSIONS, Version(_more, die)))
        with pytest.raises(KeyboardInterrupt), opened(url):
            pass
    assert version_of(url) == len(VERSIONS)

    monkeypatch.setattr(sql_tables, "VERSIONS", NEXT)
    with opened(url) as output:
        assert output.deliver(sample_messages(3)) == [Accepted()] * 3
    assert version_of(url) == len(NEXT)
    assert len([row for row in rows(url, "mailquay_messages") if row["bare_subject"] is not None]) > 0


def take_lock(connection: Connection) -> None:
    """Begin as a process that migrates does, and go no further."""
    name = lock_name(connection, layout("mailquay_", None))
    statements = {
        "sqlite": "begin immediate",
        "postgresql": f"select pg_advisory_lock({int.from_bytes(bytes.fromhex(name[-16:]), signed=True)})",
        "mysql": f"select get_lock('{name}', 0)",
    }
    connection.exec_driver_sql(statements[connection.dialect.name]).close()


def test_another_process_that_takes_too_long_is_not_waited_for_for_ever(url: str) -> None:
    """Its lock has a deadline; the messages wait, and the next time it may be done."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as other:
        take_lock(other)
        said = "changing the tables|by others"
        with pytest.raises((TimeoutError, DatabaseTrouble), match=said), opened(url, timeout="1s"):
            pass
        other.invalidate()
    engine.dispose()
    with opened(url) as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]


def test_a_migration_holds_up_no_other_database(mariadb: MariaDb) -> None:
    """MySQL's locks are the whole server's, so the name of the database is in theirs."""
    one, two = fresh(mariadb), fresh(mariadb)
    engine = create_engine(one, isolation_level="AUTOCOMMIT")
    with engine.connect() as other:
        take_lock(other)
        with opened(two, timeout="1s") as output:
            assert output.deliver(sample_messages(1)) == [Accepted()]
    engine.dispose()


# -- the page --------------------------------------------------------------------------------------------------------

PAGE = (HERE.parents[1] / "docs" / "outputs.md").read_text()
SECTION = PAGE.split("\n## sql\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", ["messages", "addresses", "attachments"])
def test_the_page_tells_every_column_of_every_table(name: str) -> None:
    """In the order in which they are declared, with the same type as they have in PostgreSQL."""
    table = layout("mailquay_", None)[name]
    expected = [
        (column.name, str(column.type.compile(dialect=postgresql.dialect())).lower())
        for column in table.columns
    ]
    table_told = SECTION.split(f"`mailquay_{name}`")[1].split("\n\n")[1]
    told = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table_told, re.MULTILINE)

    assert told == expected


def test_the_examples_of_the_page_run(postgres: Postgres) -> None:
    """Each query that docs/outputs.md shows is one that PostgreSQL understands."""
    url = fresh(postgres)
    with opened(url) as output:
        output.deliver(sample_messages(12))
    blocks = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL)
    queries = [query for block in blocks for query in block.split(";") if query.strip()]

    assert len(queries) >= 4
    run(url, *queries)
