"""The sql output stores what a message says in SQLite, PostgreSQL and MariaDB, and knows whom an error blames."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import re
import secrets
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import orjson
import pydantic
import pytest
from sqlalchemy import create_engine, make_url

from pipelines.message import Address, Message, Source
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.sql import DatabaseTrouble, SqlOptions, SqlOutput
from pipelines.outputs.sql_engine import place, read_url
from pipelines.outputs.sql_rows import message_row
from pipelines.parse import parse
from tests.bed.database import MariaDb, Postgres, fresh, rows, run
from tests.bed.processes import wait_until
from worker.demo.certificates import write_certificates

RECEIVED = datetime(2026, 11, 23, 9, 0, 5, tzinfo=UTC)
STORED = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
RAW = b"""From: =?utf-8?Q?Ann_M=C3=BCller?= <Ann@Example.org>
To: b@example.com, "Carl, Jr." <carl@example.com>
Cc: dora@example.com
Subject: =?utf-8?Q?Gr=C3=B6=C3=9Fen_=F0=9F=93=AC?=
Date: Mon, 23 Nov 2026 10:00:00 +0100
Message-ID: <3@example.org>
In-Reply-To: <2@example.com>
References: <1@example.org> <2@example.com>
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8

two \xf0\x9f\x93\xac
--inner
Content-Type: text/html; charset=utf-8

<p>two</p>
--inner--
--outer
Content-Type: application/octet-stream
Content-Disposition: attachment; filename="a.bin"
Content-ID: <bin@example.org>
Content-Transfer-Encoding: base64

AAECAwQ=
--outer--
"""


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mail.db"
    return fresh(request.getfixturevalue(request.param))


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres | MariaDb]:
    """A server that runs again afterwards, whatever the test does to it."""
    server: Postgres | MariaDb = request.getfixturevalue(request.param)
    yield server
    if not server.running:
        server.start()


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[SqlOutput]:
    output = SqlOutput("archive", SqlOptions.model_validate({"url": url, **options}), clock=STORED.timestamp)
    try:
        output.open()
        yield output
    finally:
        output.close()


def deliver(url: str, *messages: Message, **options: Any) -> list[Receipt]:
    with opened(url, **options) as output:
        return list(output.deliver(messages))


def message(raw: bytes = RAW, *, id_: str = "", **changes: Any) -> Message:
    read = parse(
        raw,
        id=id_ or hashlib.sha256(raw).hexdigest()[:32],
        mailbox="support",
        source=Source(folder="INBOX", uidvalidity=1, uid=1),
        received_at=RECEIVED,
    )
    return dataclasses.replace(read, **changes)


def numbered(count: int) -> list[Message]:
    return [message(b"Subject: secret subject %d\n\nbody %d\n" % (number, number)) for number in range(count)]


def held(url: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows(url, "mailquay_messages")}


def json_of(row: dict[str, Any]) -> Any:
    return orjson.loads(row["json"]) if isinstance(row["json"], str) else row["json"]


def moment(value: object) -> datetime | None:
    """What the driver gives for a moment, in UTC."""
    if value is None:
        return None
    read = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(read, datetime)
    return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)


# -- what is stored --------------------------------------------------------------------------------------------------


def test_a_message_is_one_row_with_its_addresses_and_attachments(url: str) -> None:
    """Each column says what the JSON says, also in letters of four bytes and on a server in another time zone."""
    sent = message()

    assert deliver(url, sent, raw="yes", attachments="yes") == [Accepted()]

    (row,) = rows(url, "mailquay_messages")
    assert json_of(row) == sent.to_dict()
    moments = {name: moment(row.pop(name)) for name in ("sent_at", "received_at", "stored_at")}
    assert moments == {
        "sent_at": datetime(2026, 11, 23, 9, tzinfo=UTC),
        "received_at": RECEIVED,
        "stored_at": STORED,
    }
    del row["json"]
    assert {**row, "raw": bytes(row["raw"])} == {
        "id": sent.id,
        "mailbox": "support",
        "folder": "INBOX",
        "message_id": "3@example.org",
        "in_reply_to": "2@example.com",
        "thread_id": "1@example.org",
        "subject": "Größen 📬",
        "from_name": "Ann Müller",
        "from_email": "ann@example.org",
        "size": len(RAW),
        "digest": hashlib.sha256(RAW).hexdigest(),
        "has_attachment": True,
        "preview": sent.preview,
        "text": "two 📬",
        "html": "<p>two</p>",
        "raw": RAW,
    }
    addresses = [
        (row["field"], row["position"], row["name"], row["email"])
        for row in rows(url, "mailquay_addresses")
        if row["message"] == sent.id
    ]
    assert sorted(addresses) == [
        ("cc", 1, None, "dora@example.com"),
        ("from", 1, "Ann Müller", "ann@example.org"),
        ("to", 1, None, "b@example.com"),
        ("to", 2, "Carl, Jr.", "carl@example.com"),
    ]
    (attachment,) = rows(url, "mailquay_attachments")
    assert {**attachment, "content": bytes(attachment["content"])} == {
        "message": sent.id,
        "position": 1,
        "part_id": "2",
        "name": "a.bin",
        "type": "application/octet-stream",
        "disposition": "attachment",
        "cid": "bin@example.org",
        "size": 5,
        "sha256": hashlib.sha256(bytes(range(5))).hexdigest(),
        "content": bytes(range(5)),
    }


def test_bytes_are_stored_only_when_they_are_asked_for(url: str) -> None:
    """Neither the message nor its attachments, by default; what they are is known all the same."""
    deliver(url, message())

    (row,), (attachment,) = rows(url, "mailquay_messages"), rows(url, "mailquay_attachments")
    assert row["raw"] is None
    assert attachment["content"] is None
    assert attachment["sha256"] == hashlib.sha256(bytes(range(5))).hexdigest()


def test_a_large_message_and_its_attachment_are_stored_byte_for_byte(
    postgres: Postgres, tmp_path: Path
) -> None:
    """20 MB of every octet there is, whole and decoded."""
    content = bytes(range(256)) * 80_000
    raw = b"Content-Type: application/octet-stream\nContent-Transfer-Encoding: binary\nContent-Disposition: attachment\n\n"
    sent = message(raw + content)

    for url in (fresh(postgres), f"sqlite:///{tmp_path}/large.db"):
        assert deliver(url, sent, raw="yes", attachments="yes") == [Accepted()]
        assert bytes(held(url)[sent.id]["raw"]) == raw + content
        assert bytes(rows(url, "mailquay_attachments")[0]["content"]) == content


def test_what_is_stored_stays_as_it_is(url: str) -> None:
    """A repetition that brings more findings, and a row that somebody changed: the first delivery stays."""
    first = message()
    deliver(url, first)
    run(url, "update mailquay_messages set subject = 'seen to'")

    assert deliver(url, first.with_findings("later", {"found": 1})) == [Accepted()]

    (row,) = rows(url, "mailquay_messages")
    assert row["subject"] == "seen to"
    assert json_of(row)["findings"] == {}


def test_a_row_that_was_deleted_takes_its_own_along_and_can_come_again(url: str) -> None:
    """The way to have a message written anew; SQLite looks after it only for who asks for that."""
    deliver(url, message())
    ask = ["pragma foreign_keys = on"] if url.startswith("sqlite") else []
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in [*ask, "delete from mailquay_messages"]:
            connection.exec_driver_sql(statement)
    engine.dispose()
    assert rows(url, "mailquay_addresses") == rows(url, "mailquay_attachments") == []

    assert deliver(url, message().with_findings("later", {"found": 1})) == [Accepted()]
    assert json_of(rows(url, "mailquay_messages")[0])["findings"] == {"later": {"found": 1}}


# -- what databases do not take --------------------------------------------------------------------------------------


def test_nuls_and_lone_surrogates_do_not_stop_a_message(url: str) -> None:
    """No database takes both; a NUL is left out, or U+FFFD in findings, and a surrogate is U+FFFD."""
    sent = message(
        subject="a\0b\udcff",
        from_=(Address("n\0\ud800", "a\0@example.com"),),
        preview="\0p",
        body_values={"1.1": message().body_values["1.1"]._replace(value="t\0\ud83d")},
    )
    object.__setattr__(
        sent, "_json", message(id_=sent.id).with_findings("x", {"k\0": "\\\0 \\u0000"}).to_json()
    )

    assert deliver(url, sent) == [Accepted()]

    (row,) = rows(url, "mailquay_messages")
    assert (row["subject"], row["from_name"], row["from_email"]) == ("ab\ufffd", "n\ufffd", "a@example.com")
    assert (row["preview"], row["text"]) == ("p", "t\ufffd")
    assert json_of(row)["findings"] == {"x": {"k\ufffd": "\\\ufffd \\u0000"}}


def test_a_message_whose_findings_are_no_json_holds_up_no_other(url: str) -> None:
    """A stage of one's own went wrong; a person mends it, so it is tried again."""
    one, broken, two = numbered(3)
    receipts = deliver(url, one, broken.with_findings("own", {"found": "\ud800"}), two)

    assert receipts[0] == receipts[2] == Accepted()
    assert isinstance(receipts[1], Retry)
    assert held(url).keys() == {one.id, two.id}


@pytest.mark.parametrize(
    "sent_at",
    [
        datetime(1, 1, 1, tzinfo=UTC) + timedelta(hours=1),
        datetime.fromisoformat("0001-01-01T00:00:00+14:00"),
        datetime.fromisoformat("9999-12-31T23:59:59-12:00"),
        datetime.fromisoformat("9999-12-31T23:59:59+00:00"),
        datetime.fromisoformat("9998-12-31T23:59:59-12:00"),
        datetime.fromisoformat("1001-01-01T00:00:00+14:00"),
        datetime.fromisoformat("1900-02-28T12:00:00+00:00"),
    ],
)
def test_dates_at_the_ends_of_the_calendar_do_not_stop_a_message(url: str, sent_at: datetime) -> None:
    """A date that some database or some reader's zone does not have is left out of its column; the JSON has it."""
    expected = sent_at if 1000 < sent_at.year < 9999 else None

    assert deliver(url, message(sent_at=sent_at)) == [Accepted()]

    (row,) = rows(url, "mailquay_messages")
    assert moment(row["sent_at"]) == expected
    assert json_of(row)["sentAt"].startswith(sent_at.isoformat()[:19])


def test_what_is_longer_than_its_column_is_cut_and_says_so(url: str) -> None:
    """An id, an address and the name of a mailbox as no index takes them, in letters of four bytes."""
    long = "📬" * 5000
    sent = message(
        mailbox=long,
        message_id=(long,),
        from_=(Address(long, f"{long}@example.com"),),
        subject=long * 10,
    )
    assert deliver(url, sent) == [Accepted()]

    (row,) = rows(url, "mailquay_messages")
    (address,) = [each for each in rows(url, "mailquay_addresses") if each["field"] == "from"]
    assert row["message_id"] == "📬" * 511 + "…"
    assert row["mailbox"] == "📬" * 254 + "…"
    assert row["from_email"] == address["email"] == "📬" * 319 + "…"
    assert address["name"] == long
    assert row["subject"] == long * 10
    assert json_of(row)["from"][0]["email"] == f"{long}@example.com"


def test_a_message_nested_as_deep_as_it_goes_is_stored(url: str) -> None:
    """MariaDB's and MySQL's own JSON would refuse it."""
    raw = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (level, level) for level in range(49)
    )
    sent = message(raw + b"\nin the middle\n")

    assert deliver(url, sent) == [Accepted()]
    assert json_of(held(url)[sent.id]) == sent.to_dict()


def test_what_the_database_refuses_of_one_message_holds_up_no_other(url: str) -> None:
    """Somebody wants each digest once. One message breaks that and is refused with the code, and without its words."""
    with opened(url) as output:
        run(url, "create unique index once on mailquay_messages (digest)")
        first, *others = numbered(9)
        again = dataclasses.replace(first, id="f" * 32)
        receipts = output.deliver([first, *others[:4], again, *others[4:]])

    assert [receipt for receipt in receipts if receipt != Accepted()] == [receipts[5]]
    assert isinstance(receipts[5], Refused)
    assert re.search(r"SQLSTATE 23505|error 1062|SQLITE_CONSTRAINT_UNIQUE", receipts[5].reason)
    assert "secret" not in receipts[5].reason
    assert held(url).keys() == {first.id, *(other.id for other in others)}


SAY_NO = """
create function no() returns trigger language plpgsql as $$
begin
  if new.subject like '%4' then raise 'no %', new.subject; end if;
  return new;
end $$
"""
EACH = "create trigger no before insert on mailquay_messages for each row"
TRIGGERS = {
    "sqlite": [f"{EACH} when new.subject like '%4' begin select raise(abort, 'no'); end"],
    "postgresql": [SAY_NO, f"{EACH} execute function no()"],
    "mysql": [f"{EACH} begin if new.subject like '%4' then signal sqlstate '45000'; end if; end"],
}


def test_a_trigger_that_says_no_holds_up_one_message(url: str) -> None:
    """Who wrote it may mean for good or for now, so that message is tried again; the others are stored."""
    kind = make_url(url).get_backend_name()
    with opened(url) as output:
        run(url, *TRIGGERS[kind])
        sent = numbered(8)
        receipts = output.deliver(sent)

    assert [type(receipt) for receipt in receipts] == [
        Retry if number == 4 else Accepted for number in range(8)
    ]
    assert "secret" not in repr(receipts)
    assert len(held(url)) == 7


def test_what_mysql_takes_in_no_statement_is_refused_before_it_hangs_up(mariadb: MariaDb) -> None:
    """Counted as its driver writes it: bytes in hex, quotes with a backslash. Otherwise it would be tried for ever."""
    url = fresh(mariadb)
    largest = mariadb.packet // 2 - 10_000
    fits = message(b"Subject: fits\n\n" + b"x" * largest)
    too_large = message(b"Subject: too large\n\n" + b"x" * (largest + 10_000))
    text = fits.body_values["1"]
    quotes = message(
        b"Subject: quotes\n\n", body_values={"1": text._replace(value="'" * (mariadb.packet * 4 // 10))}
    )
    small = message(b"Subject: small\n\n")
    # Without their text, which is in a column of its own and in the JSON.
    sent = [
        dataclasses.replace(fits, body_values={}),
        dataclasses.replace(too_large, body_values={}),
        quotes,
        small,
    ]

    receipts = deliver(url, *sent, raw="yes")

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Refused, Accepted]
    assert f"no statement of more than {mariadb.packet} bytes" in repr(receipts[1])
    assert held(url).keys() == {fits.id, small.id}


def test_letters_that_the_database_has_no_code_for_are_refused(postgres: Postgres) -> None:
    """A PostgreSQL in Latin-1 cannot hold an emoji; what it can hold it gets."""
    url = fresh(postgres, "encoding 'LATIN1' template template0 locale 'C'")
    plain = message("Subject: grüße\n\n".encode())

    receipts = deliver(url, plain, message())

    assert receipts[0] == Accepted()
    assert isinstance(receipts[1], Refused)
    assert "SQLSTATE 22P05" in receipts[1].reason


def test_a_mysql_database_in_another_charset_holds_all_letters(mariadb: MariaDb) -> None:
    """The tables and the connection bring their own: utf8mb4."""
    url = fresh(mariadb, "character set latin1")

    assert deliver(url, message()) == [Accepted()]
    assert rows(f"{url}?charset=utf8mb4", "mailquay_messages")[0]["subject"] == "Größen 📬"


# -- a database in trouble -------------------------------------------------------------------------------------------


def test_a_server_that_died_is_a_retry_and_accepts_when_it_is_back(server: Postgres | MariaDb) -> None:
    """All wait with a sentence that names the server and no secret; the same output goes on afterwards."""
    url, sent = fresh(server), numbered(4)
    with opened(url) as output:
        output.deliver(sent[:2])
        server.kill9()
        receipts = output.deliver(sent)
        server.start()
        again = output.deliver(sent)

    assert all(isinstance(receipt, Retry) and str(server.port) in receipt.reason for receipt in receipts)
    assert server.password not in repr(receipts)
    assert server.user not in repr(receipts)
    assert again == [Accepted()] * 4
    assert len(held(url)) == 4


def test_a_connection_that_broke_while_nobody_used_it_is_not_noticed(server: Postgres | MariaDb) -> None:
    """It is tested before each use, and made anew."""
    url, sent = fresh(server), numbered(2)
    with opened(url) as output:
        output.deliver(sent[:1])
        server.kill9()
        server.start()
        assert output.deliver(sent) == [Accepted()] * 2


def test_a_server_that_hangs_costs_a_deadline(server: Postgres | MariaDb) -> None:
    """It holds its connections and says nothing more; without a deadline a delivery would wait for ever."""
    url, sent = fresh(server), numbered(2)
    with opened(url, timeout="1s") as output:
        output.deliver(sent[:1])
        server.pause()
        try:
            begun = time.monotonic()
            receipts = output.deliver(sent)
            took = time.monotonic() - begun
        finally:
            server.resume()
        # A connection that psycopg gave up while it was made stays open until then.
        gc.collect()
        assert all(isinstance(receipt, Retry) for receipt in receipts)
        assert took < 20
        assert output.deliver(sent) == [Accepted()] * 2


def test_a_lost_answer_to_a_commit_is_a_retry_and_the_repetition_is_recognised(
    server: Postgres | MariaDb,
) -> None:
    """The rows are there and nobody knows; the next delivery finds them, and stores none twice."""
    url, sent = fresh(server), numbered(3)
    with Eavesdropper(server.port) as proxy, opened(_through(url, proxy.port)) as output:
        proxy.cut_after = b"COMMIT"
        receipts = output.deliver(sent)
        proxy.cut_after = None
        stored = held(url)
        again = output.deliver(sent)

    assert all(isinstance(receipt, Retry) for receipt in receipts), receipts
    assert stored.keys() == {each.id for each in sent}
    assert again == [Accepted()] * 3
    assert held(url).keys() == stored.keys()


def test_another_process_that_is_faster_with_the_same_message_does_not_make_it_refused(
    server: Postgres | MariaDb,
) -> None:
    """Both look, neither finds it, and one has to wait for the other's commit: then it is there."""
    url, sent = fresh(server), numbered(1)
    with opened(url) as output, opened(url) as faster, ThreadPoolExecutor(1) as threads:
        assert faster._engine is not None
        row = message_row(sent[0], stored_at=STORED, raw=False)
        with faster._engine.begin() as connection:
            connection.execute(faster._tables["messages"].insert(), [row])
            delivering = threads.submit(output.deliver, sent)
            wait_until(lambda: waiting(url), timeout=20, what="the wait for the other's commit")
        receipts = delivering.result(timeout=20)

    assert receipts == [Accepted()]
    assert held(url).keys() == {sent[0].id}


def waiting(url: str) -> bool:
    """Whether somebody waits for somebody else's lock."""
    ask = {
        "postgresql": "select count(*) from pg_locks where not granted",
        "mysql": "select count(*) from information_schema.innodb_lock_waits",
    }
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return bool(connection.exec_driver_sql(ask[engine.dialect.name]).scalar())
    finally:
        engine.dispose()


LOCKS = {
    "sqlite": ["begin exclusive"],
    "postgresql": ["begin", "lock table mailquay_messages"],
    "mysql": ["lock tables mailquay_messages write"],
}


def test_somebody_elses_lock_is_waited_for_up_to_the_deadline(url: str) -> None:
    """Then the messages wait, and go when the lock is gone."""
    sent = numbered(2)
    with opened(url, timeout="1s") as output:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as other:
            for statement in LOCKS[engine.dialect.name]:
                other.exec_driver_sql(statement)
            begun = time.monotonic()
            receipts = output.deliver(sent)
            took = time.monotonic() - begun
            other.invalidate()
        engine.dispose()
        assert all(isinstance(receipt, Retry) and "others" in receipt.reason for receipt in receipts)
        assert 0.5 < took < 10
        assert output.deliver(sent) == [Accepted()] * 2


def test_what_is_left_of_a_call_does_not_wait_for_a_database_that_is_gone() -> None:
    """A dead server costs one attempt a call, and not one a message."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    output = SqlOutput("archive", SqlOptions.model_validate({"url": f"postgresql://u@127.0.0.1:{port}/mail"}))
    with pytest.raises(DatabaseTrouble, match=rf"PostgreSQL at 127\.0\.0\.1:{port} cannot be reached"):
        output.open()
    receipts = output.deliver(numbered(20))
    output.close()

    assert {type(receipt) for receipt in receipts} == {Retry}


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_a_wrong_password_is_said_and_not_shown(kind: str, request: pytest.FixtureRequest) -> None:
    """Neither it nor the user is in the sentence, nor in what led to it."""
    server = request.getfixturevalue(kind)
    wrong = secrets.token_urlsafe(16)
    with (
        pytest.raises(DatabaseTrouble, match="refuses the sign-in") as caught,
        opened(fresh(server), password=wrong),
    ):
        pass

    assert wrong not in str(caught.value)
    assert server.user not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_password_may_stand_beside_the_url(server: Postgres | MariaDb) -> None:
    """In a file of its own, say; then nothing in it has to be encoded."""
    url = make_url(fresh(server))
    bare = url.set(password=None).render_as_string()

    assert deliver(bare, *numbered(1), password=server.password) == [Accepted()]


def test_a_user_without_rights_is_told_so(postgres: Postgres) -> None:
    """Who may not make tables gets a sentence; when they are there, reading and inserting is enough."""
    url, user, password = fresh(postgres), f"u{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    run(url, f"create role {user} login password '{password}'")
    theirs = make_url(url).set(username=user, password=password).render_as_string(hide_password=False)
    with pytest.raises(DatabaseTrouble, match="rights"), opened(theirs):
        pass
    with opened(url):
        pass
    run(url, f"grant select, insert on all tables in schema public to {user}")

    assert deliver(theirs, *numbered(2)) == [Accepted()] * 2
    run(url, f"revoke insert on mailquay_messages from {user}")
    (receipt,) = deliver(theirs, message())
    assert isinstance(receipt, Retry)
    assert "rights" in receipt.reason


def test_a_disk_that_is_full_is_a_retry(tmp_path: Path) -> None:
    """As SQLite says it when the file may not grow; afterwards the same messages go."""
    url = f"sqlite:///{tmp_path}/mail.db"
    with opened(url) as output:
        assert output._engine is not None
        with output._engine.connect() as connection:
            pages = connection.exec_driver_sql("pragma page_count").scalar()
            connection.exec_driver_sql(f"pragma max_page_count = {pages}")
        receipts = output.deliver([message(b"\n\n" + b"x" * 100_000)])
        with output._engine.connect() as connection:
            connection.exec_driver_sql("pragma max_page_count = 1000000")
        again = output.deliver([message(b"\n\n" + b"x" * 100_000)])

    assert isinstance(receipts[0], Retry)
    assert "no room left" in receipts[0].reason
    assert again == [Accepted()]


def test_a_damaged_file_is_a_retry(tmp_path: Path) -> None:
    """Whatever lies there is left as it is, for a person to look at."""
    path = tmp_path / "mail.db"
    path.write_bytes(b"no database at all\n" * 1000)

    with pytest.raises(DatabaseTrouble, match="no database, or a damaged one"), opened(f"sqlite:///{path}"):
        pass
    assert path.read_bytes() == b"no database at all\n" * 1000


# -- how it is stored ------------------------------------------------------------------------------------------------


def test_sqlite_is_as_durable_as_it_can_be_and_nobody_elses_to_read(tmp_path: Path) -> None:
    """A write-ahead log that is synced at each commit; readers and writers do not stop each other."""
    path = tmp_path / "folder" / "mail.db"
    with opened(f"sqlite:///{path}") as output:
        output.deliver(numbered(1))
        assert output._engine is not None
        with output._engine.connect() as connection:
            pragmas = [
                connection.exec_driver_sql(f"pragma {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        reader = sqlite3.connect(path)
        assert reader.execute("select count(*) from mailquay_messages").fetchone() == (1,)
        assert output.deliver(numbered(2)) == [Accepted()] * 2
        reader.close()
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert pragmas == ["wal", 2, 1, 30_000]
    assert modes == {0o600}


def test_postgres_commits_to_the_disk_also_where_it_is_set_to_be_quick(postgres: Postgres) -> None:
    """With `synchronous_commit = off` an accepted message could be lost with the power; stricter ways are left alone."""
    url = fresh(postgres)
    with opened(url):
        pass
    name = make_url(url).database
    run(
        url,
        "create table seen (setting text)",
        "create function see() returns trigger language plpgsql as $$ begin "
        "insert into seen values (current_setting('synchronous_commit')); return new; end $$",
        "create trigger see before insert on mailquay_messages for each row execute function see()",
    )
    for setting, expected in (("off", "on"), ("local", "local"), ("on", "on")):
        run(
            url,
            f"alter database {name} set synchronous_commit = {setting}",
            "delete from seen",
            "delete from mailquay_messages",
        )
        deliver(url, message())
        assert rows(url, "seen") == [{"setting": expected}]


def test_a_schema_of_its_own_is_made_and_used(postgres: Postgres) -> None:
    """Nothing lands in the schema that everybody uses."""
    url = fresh(postgres)

    assert deliver(url, *numbered(2), db_schema="Mail", prefix="") == [Accepted()] * 2
    assert deliver(url, *numbered(2), db_schema="Mail", prefix="") == [Accepted()] * 2

    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql('select count(*) from "Mail".messages').scalar() == 2
        assert (
            connection.exec_driver_sql("select count(*) from pg_tables where schemaname = 'public'").scalar()
            == 0
        )
    engine.dispose()


def test_two_outputs_with_different_prefixes_share_a_database(url: str) -> None:
    """Each has tables, versions and indexes of its own."""
    assert deliver(url, *numbered(1), prefix="one_") == [Accepted()]
    assert deliver(url, *numbered(2), prefix="two_") == [Accepted()] * 2

    assert [len(rows(url, f"{prefix}_messages")) for prefix in ("one", "two")] == [1, 2]


def test_tls_is_verified_against_the_authorities_that_were_named(
    mariadb: MariaDb, postgres: Postgres, certificates: Any, tmp_path: Path
) -> None:
    """A server with another certificate, or one that would talk in clear, gets nothing."""
    other = write_certificates(tmp_path).ca_file
    url = fresh(mariadb).replace("127.0.0.1", "localhost")

    with opened(url, ca_file=certificates.ca_file) as output:
        assert output.deliver(numbered(1)) == [Accepted()]
        assert output._engine is not None
        with output._engine.connect() as connection:
            cipher = connection.exec_driver_sql("show status like 'Ssl_cipher'").one()
    assert cipher[1]
    for refused, authority in ((url, other), (fresh(postgres), certificates.ca_file)):
        with pytest.raises(DatabaseTrouble, match="cannot be reached"), opened(refused, ca_file=authority):
            pass


# -- what can be configured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("hunter2-hunter2-hunter2", "DATABASE://"),
        ("oracle://u:hunter2-hunter2@db/mail", "in front of"),
        ("postgresql+asyncpg://u:hunter2-hunter2@db/mail", "in front of"),
        ("postgresql://u:hunter2-hunter2@db:port/mail", "DATABASE://"),
        ("mysql://u:hunter2-hunter2@db", "name the database"),
        ("sqlite://", "path of a file"),
        ("sqlite:///:memory:", "path of a file"),
    ],
)
def test_a_url_of_no_use_is_refused_and_not_shown(wrong: str, said: str) -> None:
    """It may hold a password, or be one."""
    with pytest.raises(pydantic.ValidationError, match=said) as caught:
        SqlOptions.model_validate({"url": wrong})

    assert "hunter2" not in str(caught.value)


def test_a_schema_is_for_postgres_only() -> None:
    """Elsewhere it would be ignored in silence."""
    with pytest.raises(pydantic.ValidationError, match="DB_SCHEMA is for PostgreSQL"):
        SqlOptions.model_validate({"url": "sqlite:////data/mail.db", "db_schema": "mail"})


@pytest.mark.parametrize("prefix", ["Mail_", "mail-", "1mail", 'm"; drop', "m" * 31])
def test_a_prefix_is_a_plain_word(prefix: str) -> None:
    """It becomes part of names in SQL."""
    with pytest.raises(pydantic.ValidationError):
        SqlOptions.model_validate({"url": "sqlite:////data/mail.db", "prefix": prefix})


def test_reasons_name_the_server_and_no_more() -> None:
    """Host and port, or the file."""
    assert (
        place(read_url("postgresql://u:p@db.example:5433/mail?sslmode=require"))
        == "PostgreSQL at db.example:5433"
    )
    assert place(read_url("mariadb://u:p@db.example/mail")) == "MySQL at db.example"
    assert place(read_url("sqlite:////data/mail.db")) == "the SQLite database /data/mail.db"


def _through(url: str, port: int) -> str:
    """The same database behind a proxy, in clear so that it understands what is said."""
    through = make_url(url).set(port=port, host="127.0.0.1")
    if through.get_backend_name() == "mysql":
        through = through.update_query_dict({"ssl_disabled": "true"})
    return through.render_as_string(hide_password=False)


class Eavesdropper:
    """Passes a conversation on, and hangs up on both when one side has said `cut_after` and the other has answered."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.cut_after: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            heard = threading.Event()
            for pair in ((client, server, heard, True), (server, client, heard, False)):
                thread = threading.Thread(target=self._pass_on, args=pair)
                thread.start()
                self._threads.append(thread)

    def _pass_on(
        self, source: socket.socket, target: socket.socket, heard: threading.Event, asking: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asking and self.cut_after and self.cut_after in data:
                    heard.set()
                elif not asking and heard.is_set():
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            if asking:
                each.close()
