"""Mail as rows: typed, by day, readable by others; a repeated call replaces its file, and no reader sees half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipelines.message import Message
from pipelines.output import Accepted, Retry
from pipelines.outputs import parquet
from pipelines.outputs.mail_table import SCHEMA
from pipelines.outputs.parquet import ParquetOptions, ParquetOutput
from pipelines.parse import parse
from pipelines.testing import sample_messages
from tests.bed.object_store import object_server
from tests.bed.scripted_http import said, scripted_http

DAY = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
LETTER = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.com>\r\nTo: a@example.com, B <b@example.com>\r\n"
    b"Message-ID: <1@example.com>\r\nReferences: <0@example.com> <-1@example.com>\r\nSubject: offer\r\n"
    b"Date: Tue, 24 Nov 2026 23:00:00 +0100\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>Three <b>boats</b></p>\r\n"
    b"--b\r\nContent-Type: application/pdf; name=o.pdf\r\nContent-Disposition: attachment\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--b--\r\n"
)


def letter(number: int = 0, received_at: datetime | None = DAY) -> Message:
    return parse(LETTER, id=f"{number:032x}", mailbox="support", received_at=received_at)


@contextmanager
def opened(url: str | Path, **options: Any) -> Iterator[ParquetOutput]:
    place = f"file://{url}" if isinstance(url, Path) else url
    output = ParquetOutput("lake", ParquetOptions.model_validate({"url": place, **options}))
    output.open()
    try:
        yield output
    finally:
        output.close()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(folder: Path) -> list[dict[str, Any]]:
    found = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
    return sorted(found.to_pylist(), key=lambda row: str(row["id"]))


def test_the_columns_are_what_the_json_says(tmp_path: Path) -> None:
    """Typed for who counts and searches, and whole in `json`."""
    message = letter()
    with opened(tmp_path) as output:
        assert output.deliver([message]) == [Accepted()]

    (row,) = rows(tmp_path)
    assert orjson.loads(row.pop("json")) == orjson.loads(message.to_json())
    assert row == {
        "id": message.id,
        "mailbox": "support",
        "folder": None,
        "message_id": ["1@example.com"],
        "in_reply_to": None,
        "references": ["0@example.com", "-1@example.com"],
        "subject": "offer",
        "from_name": "Jürgen",
        "from_email": "j@example.com",
        "to": ["a@example.com", "b@example.com"],
        "cc": None,
        "bcc": None,
        "reply_to": None,
        "sent_at": datetime(2026, 11, 24, 22, tzinfo=UTC),
        "received_at": DAY,
        "size": len(LETTER),
        "digest": f"sha256:{message.digest}",
        "has_attachment": True,
        "preview": message.preview,
        "text": "Three boats",
        "attachments": [
            {"part_id": "2", "name": "o.pdf", "type": "application/pdf", "size": 4, "content": None}
        ],
        "raw": None,
        "received_date": "2026-11-24",
    }


def test_message_and_contents_are_there_when_they_are_wanted(tmp_path: Path) -> None:
    """RAW=yes and ATTACHMENTS=yes; the columns stay the same, so files can be read together."""
    with opened(tmp_path) as output:
        output.deliver([letter(1)])
    with opened(tmp_path, raw="yes", attachments="yes") as output:
        output.deliver([letter(2)])

    without, whole = rows(tmp_path)
    assert (without["raw"], whole["raw"]) == (None, LETTER)
    assert whole["attachments"][0]["content"] == b"%PDF"
    schemas = [pq.read_schema(tmp_path / file) for file in files(tmp_path)]
    assert schemas[0] == schemas[1]
    assert schemas[0].names == SCHEMA.names


def test_a_call_is_a_file_for_each_day_of_receipt_in_utc(tmp_path: Path) -> None:
    """Also a message without a date has its place, in the name that readers take for none."""
    late = datetime(2026, 11, 25, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    messages = [letter(1), letter(2, late), letter(3, DAY + timedelta(days=1)), letter(4, None)]
    with opened(tmp_path) as output:
        assert output.deliver(messages) == [Accepted()] * 4

    folders = [file.partition("/")[0] for file in files(tmp_path)]
    assert folders == [
        "received_date=2026-11-24",
        "received_date=2026-11-25",
        "received_date=__HIVE_DEFAULT_PARTITION__",
    ]
    assert [row["received_date"] for row in rows(tmp_path)] == [
        "2026-11-24",
        "2026-11-24",
        "2026-11-25",
        None,
    ]


def test_a_repeated_call_replaces_its_own_file(tmp_path: Path) -> None:
    """In any order, and with what a stage found since."""
    messages = [letter(number) for number in range(5)]
    with opened(tmp_path) as output:
        output.deliver(messages)
    with opened(tmp_path) as output:
        output.deliver([messages[0].with_findings("thread", "x"), *reversed(messages[1:]), messages[3]])

    assert len(files(tmp_path)) == 1
    assert [row["id"] for row in rows(tmp_path)] == [message.id for message in messages]
    assert orjson.loads(rows(tmp_path)[0]["json"])["findings"] == {"thread": "x"}


def test_a_repetition_in_other_company_is_a_second_row_with_the_same_id(tmp_path: Path) -> None:
    """As the page says: whoever reads counts ids."""
    with opened(tmp_path) as output:
        output.deliver([letter(1), letter(2)])
        output.deliver([letter(2)])

    assert [row["id"][-1] for row in rows(tmp_path)] == ["1", "2", "2"]


def test_dates_that_no_calendar_has_are_null(tmp_path: Path) -> None:
    """A sender may write any year and zone; the row can be read all the same."""
    first = replace(letter(1), sent_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))))
    last = replace(letter(2), sent_at=datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=5))))
    with opened(tmp_path) as output:
        assert output.deliver([first, last]) == [Accepted()] * 2

    assert [row["sent_at"] for row in rows(tmp_path)] == [None, None]


def test_any_text_of_a_stranger_can_be_written(tmp_path: Path) -> None:
    """NULs, lone surrogates and bytes that are no text; one message must not spoil a file for the others."""
    odd = parse(
        b"Subject: \xff\0\xed\xa0\x80\r\nContent-Type: application/x; name*=utf-8''%ED%A0%80%00\r\n"
        b"Content-Disposition: attachment\r\n\r\n\0",
        id="f" * 32,
        mailbox="s\udc80",
    )
    with opened(tmp_path) as output:
        assert output.deliver([*sample_messages(12), odd]) == [Accepted()] * 13

    assert len(rows(tmp_path)) == 13


def test_large_messages_are_in_row_groups_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that neither writer nor reader has a whole file in memory."""
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2 * len(LETTER))
    with opened(tmp_path) as output:
        output.deliver([letter(number) for number in range(5)])

    assert pq.ParquetFile(tmp_path / files(tmp_path)[0]).num_row_groups == 3


# -- durable, and faults -----------------------------------------------------------------------------------------------


def test_a_file_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its folders after."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def noted(descriptor: int) -> None:
        done.append("folder" if Path(f"/dev/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", lambda one, to: (done.append("name"), rename(one, to))[1])
    with opened(tmp_path) as output:
        output.deliver([letter()])

    assert done == ["file", "name", "folder", "folder"]


def test_a_full_disk_is_a_retry_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted before stays as it was."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as output:
        output.deliver([letter(1)])
        monkeypatch.setattr(os, "fsync", full)
        receipts = output.deliver([letter(2), letter(3, DAY + timedelta(days=1))])

    assert receipts == [Retry(f"{tmp_path} cannot be written: No space left on device")] * 2
    assert len(files(tmp_path)) == 1
    assert len(rows(tmp_path)) == 1


def test_files_go_to_an_object_store_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones in parts; a repeated call replaces its own there too."""
    messages = [
        parse(b"\r\n" + os.urandom(5 << 20), id=f"{number:032x}", received_at=DAY) for number in range(2)
    ]
    with object_server() as server:
        bucket = server.bucket()
        with opened(**bucket.options("lake"), raw="yes") as output:
            assert output.deliver(messages) == [Accepted()] * 2
            assert output.deliver(messages) == [Accepted()] * 2
            assert output.deliver([letter(7)]) == [Accepted()]
        found = bucket.objects()

    large, small = sorted(found, key=lambda key: -len(found[key]))
    assert large.startswith("lake/received_date=2026-11-24/")
    assert len(found[large]) > 8 << 20
    assert [row["raw"] for row in pq.read_table(pa.BufferReader(found[large])).to_pylist()] == [
        bytes(message.raw) for message in messages
    ]
    assert pq.read_table(pa.BufferReader(found[small])).num_rows == 1


def test_a_store_in_trouble_is_a_retry_for_all_that_are_not_written(tmp_path: Path) -> None:
    """The first day is written; at the second the store asks for less, and the third is not tried."""
    with scripted_http() as server:
        answers = iter([said("200 OK", b"", 'etag: "x"'), said("503 Slow Down")])
        server.answer = lambda request: next(answers)
        days = [letter(number, DAY + timedelta(days=number)) for number in range(3)]
        options = {"url": "s3://lake", "endpoint": server.url, "access_key": "AKID", "secret_key": "x"}
        with opened(**options) as output:
            receipts = output.deliver(days)

    assert [type(receipt) for receipt in receipts] == [Accepted, Retry, Retry]
    assert len(server.requests) == 2
