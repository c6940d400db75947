"""A message is immutable, gives one JSON in a fixed order, and shows nothing of its content in a log."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest

from pipelines import Message, Source, parse
from pipelines.errors import MessageError, StageFailed

RAW = b"From: Ann <ann@example.org>\r\nSubject: A secret\r\nDate: Mon, 23 Nov 2026 10:00:00 +0100\r\n\r\nbody\r\n"
KEYS = [
    "id", "version", "mailbox", "source", "digest", "size", "receivedAt", "defects", "findings",
    "messageId", "inReplyTo", "references", "sender", "from", "to", "cc", "bcc", "replyTo", "subject", "sentAt",
    "keywords", "hasAttachment", "preview", "bodyStructure", "bodyValues", "textBody", "htmlBody", "attachments",
]  # fmt: skip


def test_the_json_has_its_keys_in_a_fixed_order() -> None:
    """The id comes first, then Mailquay's own fields, then the properties of RFC 8621's Email object."""
    message = parse(RAW)
    assert list(message.to_dict()) == KEYS
    assert message.to_json().startswith(b'{"id":"' + message.id.encode())
    assert orjson.loads(message.to_json()) == message.to_dict()


def test_the_json_is_made_once() -> None:
    """Asking again gives the same bytes object, and a changed copy makes its own."""
    message = parse(RAW)
    assert message.to_json() is message.to_json()
    assert message.with_findings("automatic", {"automatic": True}).to_json() != message.to_json()


def test_an_id_mailbox_source_and_time_are_passed_on() -> None:
    """What the caller knows of a message stands in its JSON; receivedAt is in UTC."""
    received_at = datetime(2026, 11, 23, 11, 0, 5, 999_999, tzinfo=timezone(timedelta(hours=2)))
    source = Source(
        folder="INBOX", uidvalidity=7, uid=42, flags=("\\Seen", "$Forwarded", "\\Recent", "\\Deleted")
    )
    values = parse(RAW, id="ab" * 16, mailbox="support", source=source, received_at=received_at).to_dict()
    assert values["id"] == "ab" * 16
    assert values["mailbox"] == "support"
    assert values["source"] == {"folder": "INBOX", "uidvalidity": 7, "uid": 42, "uidl": None,
                                "flags": ["\\Seen", "$Forwarded", "\\Recent", "\\Deleted"]}  # fmt: skip
    assert values["keywords"] == {"$seen": True, "$forwarded": True}
    assert values["receivedAt"] == "2026-11-23T09:00:05Z"
    assert values["sentAt"] == "2026-11-23T10:00:00+01:00"


def test_a_time_without_a_zone_is_taken_for_utc() -> None:
    """A naive received_at does not depend on the zone of the machine."""
    message = parse(RAW, received_at=datetime(2026, 11, 23, 9, 0))  # noqa: DTZ001
    assert message.received_at == datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def test_names_from_a_server_are_made_encodable() -> None:
    """A mailbox, folder, UIDL or flag with lone surrogates or NUL does not break the JSON."""
    source = Source(folder="a\udcffb", uidl="c\0d", flags=("\udc80",))
    values = orjson.loads(parse(RAW, mailbox="\ud800", source=source).to_json())
    assert values["source"] == {
        "folder": "a\ufffdb",
        "uidvalidity": None,
        "uid": None,
        "uidl": "cd",
        "flags": ["\ufffd"],
    }


@pytest.mark.parametrize(
    "moment",
    [
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_a_time_of_receipt_beyond_the_calendar_is_unknown(moment: datetime) -> None:
    """A server may claim any date; one that UTC has no year for does not break the JSON."""
    assert orjson.loads(parse(RAW, received_at=moment).to_json())["receivedAt"] is None


def test_findings_make_a_changed_copy() -> None:
    """What a stage found is in the copy and not in the original, beside what others found; neither can be changed."""
    message = parse(RAW)
    first = message.with_findings("automatic", {"automatic": False})
    second = first.with_findings("thread", "key")
    assert message.findings == {}
    assert second.to_dict()["findings"] == {"automatic": {"automatic": False}, "thread": "key"}
    assert (second.raw, second.id, second.subject) == (message.raw, message.id, message.subject)
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.subject = "changed"  # type: ignore[misc]
    with pytest.raises(TypeError):
        second.findings["more"] = 1  # type: ignore[index]


def test_changing_the_dict_changes_nothing_else() -> None:
    """Each call gives new objects, also for parts that stand in several lists."""
    message = parse(RAW)
    values = message.to_dict()
    values["textBody"][0]["size"] = -1  # type: ignore[index]
    assert values["bodyStructure"]["size"] == 6  # type: ignore[index]
    assert message.to_dict()["textBody"][0]["size"] == 6  # type: ignore[index]


def test_any_header_is_read_by_name() -> None:
    """A header is found in any case, decoded, the last one of several; a missing one is None."""
    message = parse(
        b"X-A: one\r\nx-a: =?utf-8?q?zw=C3=B6lf?=\r\nList-Post: <mailto:l@x> (no), < https://x/ >\r\n\r\n"
    )
    assert message.header("X-a") == "zwölf"
    assert message.header("X-B") is None
    assert message.headers.texts("x-A") == ["one", "zwölf"]
    assert message.headers.urls("List-Post") == ("mailto:l@x", "https://x/")
    assert [name for name, _ in message.headers] == ["X-A", "x-a", "List-Post"]
    assert "x-A" in message.headers


def test_groups_of_addresses_are_kept_on_request() -> None:
    """The GroupedAddresses form of RFC 8621 keeps names of groups and the order of what stands between them."""
    headers = parse(b"To: a@x, Team: B <b@x>, c@x;, d@x; None:;\r\n\r\n").headers
    groups = headers.grouped_addresses("To")
    assert groups is not None
    assert [(group.name, [address.email for address in group.addresses]) for group in groups] == [
        (None, ["a@x"]),
        ("Team", ["b@x", "c@x"]),
        (None, ["d@x"]),
        ("None", []),
    ]


def test_the_repr_shows_no_content() -> None:
    """A message in a log or a traceback is its id, mailbox and size, and no word of what it says."""
    message = parse(RAW, mailbox="support")
    assert repr(message) == f"<Message {message.id} of mailbox 'support', {len(RAW)} bytes>"
    for part in message.structure.walk():
        assert "secret" not in repr(part)


def test_a_failed_stage_names_stage_message_and_mailbox_and_not_the_cause_words() -> None:
    """The error says what to do, and keeps the words of the cause, which may quote the message, out of it."""
    error = StageFailed(stage="thread", message_id="ab" * 16, mailbox="support", cause=ValueError("A secret"))
    assert isinstance(error, MessageError)
    for word in ("thread", "ab" * 16, "support", "ValueError", "STAGES"):
        assert word in str(error)
    assert "secret" not in str(error)


def test_a_message_can_be_made_without_parsing() -> None:
    """A message that could not be read at all still has a complete JSON."""
    message = Message(id="0" * 32, mailbox="m", source=Source(), raw=b"x", digest="d", size=1)
    assert list(message.to_dict()) == KEYS
    assert message.to_dict()["bodyValues"] == {}


class Unreadable(bytes):
    """Bytes on which every search fails, as no bytes do: what the parser does not foresee."""

    def find(self, *arguments: object) -> int:
        raise RecursionError


def test_a_failure_that_nobody_foresaw_still_gives_the_raw_message() -> None:
    """When the parser itself fails, the message is delivered with its raw bytes, id and digest, and a defect."""
    raw = Unreadable(RAW)
    message = parse(raw, id="1" * 32)
    assert message.raw is raw
    assert message.digest == parse(RAW).digest
    assert [defect.code for defect in message.defects] == ["parser-failed"]
    assert list(message.to_dict()) == KEYS
