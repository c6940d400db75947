"""The imap output adds messages as they are, once as far as they can be told apart, and makes the right receipt of every answer."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pydantic
import pytest

from pipelines.account import CannotSignIn
from pipelines.message import Message, Source
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.imap import ImapOptions, ImapOutput
from pipelines.parse import parse
from tests.bed.dovecot import Dovecot
from tests.bed.imap_folder import ImapFolder
from tests.bed.scripted import Answers, Scripted
from worker.demo.certificates import Certificates
from worker.demo.harbour import ORDERS

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
RAW = (
    b"Received: from a by b; Wed, 4 Mar 2026 05:06:07 +0000\r\nFrom: ann@example.org\r\nMessage-ID: <one@example.org>\r\n"
    b"Date: Wed, 4 Mar 2026 05:06:00 +0000\r\nSubject: Crates\r\n\r\nHello.\r\n"
)


@pytest.fixture
def folder(dovecot: Dovecot) -> Iterator[ImapFolder]:
    with ImapFolder(dovecot, ORDERS) as folder:
        yield folder


def message(raw: bytes = RAW, *, number: int = 1, received_at: datetime | None = NOW) -> Message:
    source = Source(folder="INBOX", flags=("\\Seen", "\\Recent", "$Forwarded"))
    return parse(raw, id=f"{number:032}", mailbox="support", source=source, received_at=received_at)


def output(options: dict[str, Any], **said: Any) -> ImapOutput:
    made = ImapOptions.model_validate({**options, "timeout": "5s", **said})
    return ImapOutput("copy", made, clock=NOW.timestamp)


# -- a real Dovecot ----------------------------------------------------------------------------------------------------


def test_a_message_is_added_with_bytes_flags_and_time(folder: ImapFolder) -> None:
    """Into a folder that was missing, two levels deep, and that mail programs show afterwards."""
    receipts = output(folder.options, flags="same,\\Flagged").deliver([message()])

    (filed,) = folder.messages()
    assert list(receipts) == [Accepted()]
    assert filed.raw == RAW
    assert filed.flags == {"\\Seen", "\\Flagged", "$Forwarded"}
    assert filed.internal_date.strip() == "04-Mar-2026 05:06:07 +0000"
    assert folder.subscribed()


def test_without_flags_a_message_is_new(folder: ImapFolder) -> None:
    """Whoever looks into the folder sees that it has come."""
    output(folder.options).deliver([message()])

    assert folder.messages()[0].flags == frozenset()


def test_a_folder_may_have_any_name(dovecot: Dovecot) -> None:
    """Letters beyond ASCII, quotes and ampersands are spelled as IMAP wants it."""
    named = f'Ärger & "Lob" {secrets.token_hex(4)}'
    options = ImapFolder(dovecot, ORDERS).options
    try:
        for name in (named, named, f"{named}/zwei"):
            assert list(output(options, folder=name).deliver([message()])) == [Accepted()]
            assert len(dovecot.listing(ORDERS, name)) == 1
    finally:
        dovecot._run("mailbox", "delete", "-r", "-u", ORDERS, named)


@pytest.mark.parametrize("size", [10, 4096, 4097, 3_000_000])
def test_small_and_large_messages_arrive_whole(folder: ImapFolder, size: int) -> None:
    """With a literal that waits for the server, and with one that does not."""
    raw = b"Subject: x\r\n\r\n" + b"y" * (size - 16) + b"\r\n"
    output(folder.options).deliver([message(raw)])

    assert folder.messages()[0].raw == raw


def test_a_repeated_message_is_in_the_folder_once(folder: ImapFolder) -> None:
    """After a lost answer or a crash; within a call, in another call, and in another zone's words."""
    first = message()
    there = replace(first, received_at=NOW.astimezone(timezone(timedelta(hours=5, minutes=30))))

    receipts = [*output(folder.options).deliver([first, first]), *output(folder.options).deliver([there])]

    assert receipts == [Accepted()] * 3
    assert len(folder.messages()) == 1


def test_a_repeated_message_without_a_message_id_is_in_the_folder_once(folder: ImapFolder) -> None:
    """Told by its size, its time and its way."""
    raw = RAW.replace(b"Message-ID", b"X-Other")

    output(folder.options).deliver([message(raw)])
    output(folder.options).deliver([message(raw)])

    assert len(folder.messages()) == 1


@pytest.mark.parametrize(
    "other",
    [
        message(RAW.replace(b"from a by b", b"from list by b"), number=2),
        message(number=2, received_at=NOW + timedelta(seconds=1)),
        message(RAW.replace(b"one@", b"two@"), number=2),
        message(b"Received: from b by c\r\n" + RAW, number=2),
    ],
    ids=["another way", "another time", "another id", "one server more"],
)
def test_another_copy_of_the_same_letter_is_not_mistaken_for_it(folder: ImapFolder, other: Message) -> None:
    """Rather twice than lost: what came by a list and directly has one Message-ID, and is two messages."""
    output(folder.options).deliver([message()])
    output(folder.options).deliver([other])

    assert len(folder.messages()) == 2


def test_marked_messages_are_told_apart_by_their_ids_alone(folder: ImapFolder) -> None:
    """MARK=yes: the same bytes under two ids are two messages, and each is there once."""
    marked = output(folder.options, mark="yes")
    for _ in range(2):
        marked.deliver([message(number=1), message(number=2)])

    assert [filed.raw for filed in folder.messages()] == [
        f"X-Mailquay-Id: {number:032}\r\n".encode() + RAW for number in (1, 2)
    ]


def test_an_empty_message_is_an_empty_line(folder: ImapFolder) -> None:
    """IMAP has no message of nothing."""
    assert list(output(folder.options).deliver([message(b"")])) == [Accepted()]
    assert [filed.raw for filed in folder.messages()] == [b"\r\n"]


def test_a_wrong_password_is_a_retry_that_does_not_show_it(folder: ImapFolder) -> None:
    """A person can mend it; one attempt a call."""
    wrong = secrets.token_urlsafe(12)
    made = output({**folder.options, "password": wrong})

    receipts = made.deliver([message(), message(number=2)])

    assert receipts[0] == receipts[1]
    assert isinstance(receipts[0], Retry)
    assert "to the sign-in" in receipts[0].reason
    assert wrong not in receipts[0].reason
    with pytest.raises(CannotSignIn):
        made.try_sign_in()
    output(folder.options).try_sign_in()


def test_starttls_is_begun_before_anything_is_said(folder: ImapFolder, dovecot: Dovecot) -> None:
    """On the port that begins in clear."""
    said = {**folder.options, "port": dovecot.imap_port, "tls": "starttls"}

    assert list(output(said).deliver([message()])) == [Accepted()]


# -- scripted servers --------------------------------------------------------------------------------------------------

EXCHANGE: dict[bytes, bytes] = {
    b"CAPABILITY": b"* CAPABILITY IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE "
    b"NAMESPACE LITERAL+\r\n<tag> OK CAPABILITY completed.\r\n",
    b"AUTHENTICATE XOAUTH2": b"+ \r\n",
    b"AUTHENTICATE PLAIN": b"+ \r\n",
    b"LIST": b'* LIST (\\Noselect) "/" ""\r\n<tag> OK LIST completed.\r\n',
    b"EXAMINE": b"* 3 EXISTS\r\n* OK [PERMANENTFLAGS ()] x\r\n<tag> OK [READ-ONLY] EXAMINE completed.\r\n",
    b"UID SEARCH": b"* SEARCH\r\n<tag> OK SEARCH completed.\r\n",
    b"LOGOUT": b"* BYE Microsoft Exchange Server IMAP4 server signing off.\r\n<tag> OK LOGOUT completed.\r\n",
}
GREETING = b"* OK The Microsoft Exchange IMAP4 service is ready. [WgBSADIA]\r\n"
LONG = b"X-Long: y\r\n" * 1000 + RAW


def at_exchange(
    certificates: Certificates,
    answer: bytes,
    changed: dict[bytes, bytes | list[bytes]] | None = None,
    *raws: bytes,
    **said: Any,
) -> tuple[Receipt, Scripted]:
    """The last receipt of a server that speaks Exchange Online's words and answers so to the last line of a message."""
    # Lines that are no commands have no tags: what signs in, in base64, and what a message consists of.
    script: Answers = {
        b"AHJvYm90": b"q2 OK AUTHENTICATE completed.\r\n",
        b"Hello.": answer.replace(b"<tag>", b"q7"),
        b"APPEND": b"<silence>",
        **EXCHANGE,
        **(changed or {}),
        b"": b"<silence>",
    }
    with Scripted(certificates, GREETING, script, tagged=True) as server:
        made = output(
            {
                "host": "localhost",
                "port": server.port,
                "ca_file": server.ca_file,
                "username": "robot",
                "password": secrets.token_urlsafe(8),
            },
            **{"timeout": "500ms", **said},
        )
        *_, receipt = made.deliver([message(raw) for raw in raws or (RAW,)])
        return receipt, server


def test_exchange_onlines_words_are_understood(certificates: Certificates) -> None:
    """The whole way; a short message goes without waiting, as LITERAL+ allows."""
    receipt, server = at_exchange(certificates, b"<tag> OK [APPENDUID 14 3955] APPEND completed.\r\n")

    assert receipt == Accepted()
    assert server.commands(b"APPEND") == [
        b'APPEND "INBOX" () " 4-Mar-2026 05:06:07 +0000" {%d+}' % len(RAW),
    ]


def test_a_long_message_waits_for_the_servers_word(certificates: Certificates) -> None:
    """Exchange breaks on long literals that do not wait, and a server that wants none should not get 30 MB."""
    wanted, server = at_exchange(
        certificates,
        b"<tag> OK APPEND completed.\r\n",
        {b"APPEND": b"+ Ready for additional command text.\r\n"},
        LONG,
    )
    unwanted, refusing = at_exchange(
        certificates, b"", {b"APPEND": b"<tag> NO [TOOBIG] Message too large.\r\n"}, LONG
    )

    assert wanted == Accepted()
    assert server.commands(b"APPEND")[0].endswith(b"{%d}" % len(LONG))
    assert isinstance(unwanted, Refused)
    assert refusing.commands(b"X-Long") == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"<tag> NO [TOOBIG] Message too large. https://support.google.com/mail/answer/6584#limit\r\n", Refused, "too large"),
        (b"<tag> BAD [TOOBIG] Message too large. https://support.google.com/mail/answer/6584#limit\r\n", Refused, "too large"),
        (b"<tag> NO maximum message size exceeded\r\n", Refused, "too large"),
        (b"<tag> BAD Command Argument Error. 11\r\n", Refused, "cannot take"),
        (b"<tag> BAD Command Error. 10\r\n", Refused, "cannot take"),
        (b"<tag> BAD invalid argument: unable to parse message\r\n", Refused, "cannot take"),
        (b"<tag> NO [OVERQUOTA] Quota exceeded (mailbox for user is full)\r\n", Retry, "is full"),
        (b"<tag> NO APPEND The 1500 MB storage limit has been exceeded.\r\n", Retry, "is full"),
        (b"<tag> NO [TRYCREATE] Mailbox doesn't exist: INBOX\r\n", Retry, "made anew"),
        (b"<tag> NO [NOPERM] Permission denied\r\n", Retry, "may not write"),
        (b"<tag> NO [UNAVAILABLE] try later\r\n", Retry, "tried again"),
        (b"<tag> NO Server Unavailable. 15\r\n", Retry, "tried again"),
        (b"<tag> NO APPEND failed.\r\n", Retry, "tried again"),
    ],
)  # fmt: skip
def test_every_known_answer_gets_its_receipt_and_its_sentence(
    certificates: Certificates, answer: bytes, kind: type[Receipt], words: str
) -> None:
    """What a person can mend waits, what is the message's own fault is refused; the server's words are not repeated."""
    receipt, server = at_exchange(certificates, answer)

    assert isinstance(receipt, kind)
    assert isinstance(receipt, Retry | Refused)
    assert words in receipt.reason
    assert f"localhost port {server.port}" in receipt.reason
    assert "support.google.com" not in receipt.reason


@pytest.mark.parametrize("when", ["sign-in", "message"])
def test_a_throttling_server_is_asked_again_when_it_said(certificates: Certificates, when: str) -> None:
    """Exchange Online's own words; at most an hour."""
    words = b"NO Request is throttled. Suggested Backoff Time: 299609 milliseconds\r\n"
    changed: dict[bytes, bytes | list[bytes]] = {b"AHJvYm90": b"q2 " + words} if when == "sign-in" else {}
    receipt, _ = at_exchange(certificates, b"<tag> " + words, changed)

    assert isinstance(receipt, Retry)
    assert receipt.not_before == NOW + timedelta(milliseconds=299_609)


def test_a_message_beyond_the_announced_limit_is_refused_unsent(certificates: Certificates) -> None:
    """APPENDLIMIT (RFC 7889), which Gmail announces."""
    capable = EXCHANGE[b"CAPABILITY"].replace(b"LITERAL+", b"APPENDLIMIT=100")
    receipt, server = at_exchange(certificates, b"", {b"CAPABILITY": capable})

    assert isinstance(receipt, Refused)
    assert "100 bytes at most" in receipt.reason
    assert server.commands(b"APPEND") == []


def test_a_server_that_takes_leave_costs_no_message(certificates: Certificates) -> None:
    """Exchange says BYE in the middle of its work; what comes next goes through a new session, and is not a retry."""
    leaving = b"* BYE Connection is closed. 13\r\n<tag> OK APPEND completed.\r\n<end>"

    receipt, server = at_exchange(certificates, leaving, None, RAW, RAW, RAW)

    assert receipt == Accepted()
    assert len(server.commands(b"APPEND")) == len(server.commands(b"AUTHENTICATE")) == 3
    assert server.commands(b"LOGOUT") == []


def test_a_lost_answer_is_a_retry_and_the_repetition_is_looked_for(certificates: Certificates) -> None:
    """Whether it is there is not known; what is found is not added again."""
    receipt, _ = at_exchange(certificates, b"")
    told = (
        RAW.partition(b"From:")[0]
        + b"Message-ID: <one@example.org>\r\nDate:  Wed, 4 Mar 2026\r\n 05:06:00 +0000\r\n\r\n"
    )
    again, server = at_exchange(
        certificates,
        b"",
        {
            b"UID SEARCH": b"* SEARCH 7\r\n<tag> OK SEARCH completed.\r\n",
            b"UID FETCH": b'* 3 FETCH (UID 7 INTERNALDATE "04-Mar-2026 06:06:07 +0100" BODY[HEADER.FIELDS (MESSAGE-ID '
            b"RECEIVED DATE)] {%d}\r\n%s)\r\n<tag> OK FETCH completed.\r\n" % (len(told), told),
        },
    )

    assert isinstance(receipt, Retry)
    assert again == Accepted()
    assert server.commands(b"UID SEARCH") == [b'UID SEARCH HEADER Message-ID "<one@example.org>"']
    assert server.commands(b"APPEND") == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({b"EXAMINE": b"<silence>"}, "in time"),
        ({b"EXAMINE": b"* x\r\n" * 10 + b"<end>"}, "closed the connection"),
        (
            {b"EXAMINE": b"* OK " + b"x" * 1000 + b"\r\n" + (b"* OK " + b"x" * 1000 + b"\r\n") * 5000},
            "without an end",
        ),
        ({b"UID SEARCH": b"* SEARCH {99999999}\r\n"}, "more than was asked for"),
        ({b"UID SEARCH": b"+ more\r\n"}, "does not speak IMAP"),
        ({b"EXAMINE": b"x" * 100_000}, "a line without an end"),
        (
            {b"EXAMINE": b"<tag> NO x\r\n", b"CREATE": b"<tag> NO [CANNOT] Invalid mailbox name\r\n"},
            "NO [CANNOT]",
        ),
        ({b"CAPABILITY": b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n<tag> OK x\r\n"}, "takes no passwords"),
    ],
)
def test_a_server_out_of_its_mind_is_a_retry(
    certificates: Certificates, changed: dict[bytes, bytes | list[bytes]], words: str
) -> None:
    """One that hangs, floods, asks on and on or refuses the folder holds nobody up and costs no message."""
    receipt, server = at_exchange(certificates, b"", changed, timeout="2s")

    assert isinstance(receipt, Retry)
    assert words in receipt.reason
    assert server.commands(b"APPEND") == []


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"tls": "none"}, "implicit"),
        ({"host": "127.0.0.1", "tls": "none"}, "implicit"),
        ({"host": ""}, "no server of its own"),
        ({"username": ""}, "without a name"),
        ({"password": None}, "without signing in"),
        ({"flags": "\\Recent"}, "must be flags"),
        ({"flags": "a b"}, "must be flags"),
        ({"flags": "\\Seen) {9}"}, "must be flags"),
        ({"folder": "a\r\nb"}, "control characters"),
        ({"folder": ""}, "at least 1"),
    ],
)
def test_what_cannot_be_true_is_found_by_check(said: dict[str, Any], words: str) -> None:
    """Not at the first message."""
    usual = {"host": "imap.example.com", "username": "robot", "password": secrets.token_urlsafe(8)}
    with pytest.raises(pydantic.ValidationError, match=words):
        ImapOptions.model_validate({**usual, **said})


def test_a_provider_presets_its_server() -> None:
    """And a shared mailbox is named by USERNAME."""
    found = ImapOptions.model_validate(
        {"provider": "microsoft365", "account": "robot@contoso.com", "username": "archive@contoso.com"}
    )

    assert found.server == ("outlook.office365.com", 993, "implicit")
    assert (found.auth, found.login_name) == ("delegated", "archive@contoso.com")
