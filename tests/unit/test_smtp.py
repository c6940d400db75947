"""The smtp output sends what it says, to everybody or nobody, never in circles, and makes the right receipt of every answer."""

from __future__ import annotations

import email
import email.policy
import re
import secrets
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from pipelines.account import CannotSignIn, NoToken
from pipelines.message import Message, Source
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.smtp import SmtpOptions, SmtpOutput
from pipelines.outputs.smtp_letter import Route, forward
from pipelines.outputs.smtp_session import stuffed
from pipelines.parse import parse
from tests.bed.postbox import Postbox, Posted, attached
from tests.bed.scripted import Answers, Scripted
from worker.demo.certificates import Certificates, write_certificates

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
RAW = b"From: ann@example.org\r\nTo: support@example.com\r\nMessage-ID: <one@example.org>\r\nSubject: Crates\r\n\r\nHello.\r\n"


@pytest.fixture
def postbox(certificates: Certificates) -> Iterator[Postbox]:
    with Postbox(certificates) as postbox:
        yield postbox


@dataclass
class RawServer:
    port: int


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[RawServer]:
    """A server in clear that does to its first connection whatever a test wants."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=once, name="raw server")
        thread.start()
        try:
            yield RawServer(listener.getsockname()[1])
        finally:
            thread.join()


def message(raw: bytes = RAW, *, id_: str = "0" * 31 + "1", mailbox: str = "support") -> Message:
    return parse(raw, id=id_, mailbox=mailbox, source=Source(folder="INBOX"), received_at=NOW)


def output(server: Any, name: str = "copy", **said: Any) -> SmtpOutput:
    usual = {
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "from": "robot@example.com",
        "to": "archive@example.com",
        "timeout": "5s",
    }
    options = SmtpOptions.model_validate({**usual, **said})
    return SmtpOutput(name, options, clock=NOW.timestamp)


def deliver(server: Any, *messages: Message, **said: Any) -> list[Receipt]:
    return list(output(server, **said).deliver(messages or [message()]))


def deliver_one(server: Any, raw: bytes = RAW, **said: Any) -> Posted | Receipt:
    """What the server took of one message, or the receipt when it took nothing."""
    (receipt,) = deliver(server, message(raw), **said)
    if receipt != Accepted():
        return receipt
    taken: Posted = server.taken[-1]
    return taken


def taken(server: Any, raw: bytes = RAW, **said: Any) -> Posted:
    found = deliver_one(server, raw, **said)
    assert isinstance(found, Posted), found
    return found


# -- forwards ----------------------------------------------------------------------------------------------------------


def test_a_forward_has_the_original_attached_byte_for_byte(postbox: Postbox) -> None:
    """As message/rfc822, which mail programs open; read by the standard library."""
    posted = taken(postbox)
    found = email.message_from_bytes(posted.content, policy=email.policy.SMTP)

    assert (posted.sender, posted.recipients) == ("robot@example.com", ("archive@example.com",))
    assert found["From"] == "robot@example.com"
    assert found["To"] == "archive@example.com"
    assert found["Subject"] == "Fwd: Crates"
    assert found["References"] == "<one@example.org>"
    assert found["Message-ID"] == f"<{'0' * 31}1.copy@example.com>"
    (original,) = [part for part in found.walk() if part.get_content_type() == "message/rfc822"]
    assert original.get_payload()[0]["Subject"] == "Crates"  # type: ignore[index,union-attr]
    assert attached(posted.content) == RAW
    assert [defect for part in found.walk() for defect in part.defects] == []


def test_a_forward_says_that_a_program_made_it(postbox: Postbox) -> None:
    """RFC 3834: so that no holiday notice answers; Exchange wants another field for the same."""
    head = taken(postbox).content.partition(b"\r\n\r\n")[0]

    assert b"\r\nAuto-Submitted: auto-generated\r\n" in head
    assert b"\r\nX-Auto-Response-Suppress: OOF, AutoReply\r\n" in head


@pytest.mark.parametrize(
    "subject",
    [
        b"=?utf-8?q?one=0D=0ABcc:_spy@example.org?=",
        b"=?utf-8?q?one=0ABcc:_spy@example.org?=",
        b"=?utf-8?b?" + b"8J+YgA==" * 400 + b"?=",
        b"long " * 400,
        b"=?utf-16?b?2AA=?=",
        b"",
    ],
)
def test_no_subject_begins_another_field(postbox: Postbox, subject: bytes) -> None:
    """Whatever an original's subject decodes to, the forward has exactly its own fields, on lines that servers take."""
    head = taken(postbox, b"Subject: " + subject + b"\r\n\r\nx\r\n").content.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in b" \t"]

    assert names == [
        b"X-Mailquay-Loop", b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Auto-Submitted",
        b"X-Auto-Response-Suppress", b"MIME-Version", b"Content-Type",
    ]  # fmt: skip
    assert max(map(len, head.split(b"\r\n"))) <= 998
    assert head.isascii()


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: a NUL\r\n\r\n\0\r\n",
        b"Subject: bare line feeds\n\nx\n.\nMAIL FROM:<spy@example.org>\n",
        b"Subject: a lone carriage return\r\n\r\nx\ry\r\n",
        b"Subject: a long line\r\n\r\n" + b"x" * 999 + b"\r\n",
        "Subject: Grüße in the head\r\n\r\nx\r\n".encode(),
        b"",
    ],
)
def test_what_smtp_would_change_is_attached_in_base64(postbox: Postbox, raw: bytes) -> None:
    """Bytes are sacred, and a lone line feed is how a second mail is smuggled past a server."""
    posted = taken(postbox, raw)

    assert attached(posted.content) == raw
    if raw:
        assert b"Content-Type: application/octet-stream" in posted.content
        assert f'filename="{"0" * 31}1.eml"'.encode() in posted.content
        assert posted.content.isascii()
    assert len(postbox.taken) == 1


def test_the_size_that_is_announced_is_the_size_that_is_sent(postbox: Postbox) -> None:
    """For parts that are sent as they are, and in base64 of every length."""
    for extra in range(60):
        for raw in (b"Subject: x\r\n\r\n" + b"y" * extra, b"\0" * extra):
            posted = taken(postbox, raw)
            assert f"SIZE={len(posted.content)}" in posted.options


def test_a_server_without_8bitmime_gets_seven_bits(certificates: Certificates) -> None:
    """RFC 6152: what it did not offer must not be used."""
    raw = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGrüße\r\n".encode()
    with Postbox(certificates) as able, Postbox(certificates, extensions=()) as unable:
        whole, encoded = taken(able, raw), taken(unable, raw)

    assert "BODY=8BITMIME" in whole.options
    assert b"message/rfc822" in whole.content
    assert not any(option.startswith("BODY") for option in encoded.options)
    assert encoded.content.isascii()
    assert attached(whole.content) == attached(encoded.content) == raw


def test_addresses_beyond_ascii_need_smtputf8(certificates: Certificates) -> None:
    """RFC 6531: offered, it is used; not offered, a person has to choose another server or address."""
    with Postbox(certificates) as able, Postbox(certificates, extensions=("8BITMIME",)) as unable:
        posted = taken(able, to="grüße@example.com")
        (receipt,) = deliver(unable, to="grüße@example.com")

    assert "SMTPUTF8" in posted.options
    assert posted.recipients == ("grüße@example.com",)
    assert isinstance(receipt, Retry)
    assert "SMTPUTF8" in receipt.reason
    assert unable.taken == []


@pytest.mark.parametrize("filler", [b"x" * 70 + b"\r\n", b"\0" * 72])
def test_a_large_message_is_never_in_memory_twice(filler: bytes) -> None:
    """It is sent in pieces from where it lies, also when it is attached in base64."""
    large = message(b"Subject: x\r\n\r\n" + filler * 300_000)
    route = Route("copy", "robot@example.com", ["archive@example.com"], "127.0.0.1")
    tracemalloc.start()
    try:
        letter = forward(large, route, now=NOW, eight_bit=True)
        sent = sum(len(piece) for piece in stuffed(letter.pieces()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert sent >= large.size > 20_000_000
    assert peak < 1_000_000


# -- redirects ---------------------------------------------------------------------------------------------------------


def test_a_redirect_is_the_original_behind_resent_fields(postbox: Postbox) -> None:
    """RFC 5322 section 3.6.6: nothing of the original is touched, not even its dots."""
    raw = RAW + b".\r\n..\r\n.x\r\n"
    posted = taken(postbox, raw, mode="redirect", to="one@example.com,two@example.com")
    resent = posted.content.removesuffix(raw)

    assert posted.content.endswith(raw)
    assert [line.partition(b":")[0] for line in resent.split(b"\r\n")] == [
        b"X-Mailquay-Loop", b"Resent-From", b"Resent-To", b" two@example.com", b"Resent-Date", b"Resent-Message-ID", b"",
    ]  # fmt: skip
    assert f"Resent-Message-ID: <{'0' * 31}1.copy@example.com>\r\n".encode() in resent
    assert posted.sender == "robot@example.com"


@pytest.mark.parametrize(
    "raw", [b"Subject: x\n\nbare\n", b"Subject: x\r\n\r\n\0\r\n", b" folded\r\n\r\nx\r\n"]
)
def test_a_redirect_that_would_not_be_byte_for_byte_is_refused(postbox: Postbox, raw: bytes) -> None:
    """And the sentence says that a forward would do."""
    receipt = deliver_one(postbox, raw, mode="redirect")

    assert isinstance(receipt, Refused)
    assert "MODE=forward" in receipt.reason
    assert postbox.taken == []


def test_a_redirect_of_eight_bits_asks_for_what_it_needs(certificates: Certificates) -> None:
    """8BITMIME for a body, SMTPUTF8 for a head in UTF-8; an old head in another charset claims to be none."""
    modern = "From: Ännchen <ä@example.org>\r\nSubject: Grüße\r\n\r\nGrüße\r\n".encode()
    old = "Subject: Grüße\r\n\r\nGrüße\r\n".encode("latin-1")
    with Postbox(certificates) as able, Postbox(certificates, extensions=()) as unable:
        first, second = taken(able, modern, mode="redirect"), taken(able, old, mode="redirect")
        receipt = deliver_one(unable, modern, mode="redirect")

    assert {"BODY=8BITMIME", "SMTPUTF8"} < set(first.options)
    assert "SMTPUTF8" not in second.options
    assert first.content.endswith(modern)
    assert second.content.endswith(old)
    assert isinstance(receipt, Refused)


@given(
    st.lists(st.sampled_from([b"\r\n", b".", b"x", b"\r\n.", b"..", b"x" * 70_000]), max_size=12), st.data()
)
def test_dots_are_doubled_however_the_pieces_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    """What a server makes of it, undoing RFC 5321 section 4.5.2, is the message."""
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))

    sent = b"".join(stuffed([whole[:cut], memoryview(whole)[cut:]]))

    assert sent.endswith(b"\r\n.\r\n") or sent == b".\r\n"
    lines = sent.removesuffix(b".\r\n").split(b"\r\n")
    assert b"." not in lines
    received = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    assert received.removesuffix(b"\r\n") == whole.removesuffix(b"\r\n") or received == whole


# -- envelopes and loops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["forward", "redirect"])
@pytest.mark.parametrize(
    "head",
    [
        b"Return-Path: <>\r\n",
        b"Auto-Submitted: auto-replied (vacation)\r\n",
        b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n',
    ],
)
def test_nobody_gets_a_bounce_of_a_bounce(postbox: Postbox, head: bytes, mode: str) -> None:
    """An empty sender: else a bounce that is sent to where it bounces from would go to and fro for ever."""
    assert taken(postbox, head + RAW, mode=mode).sender == ""
    assert (
        taken(postbox, b"Auto-Submitted: auto-generated\r\n" + RAW, mode=mode).sender == "robot@example.com"
    )


@pytest.mark.parametrize("mode", ["forward", "redirect"])
def test_what_has_been_through_here_is_refused(postbox: Postbox, mode: str) -> None:
    """Mail to TO that ends in the mailbox again goes round once and no more."""
    back = taken(postbox, mode=mode).content

    receipt = deliver_one(postbox, back, mode=mode)

    assert isinstance(receipt, Refused)
    assert "it came back" in receipt.reason
    assert len(postbox.taken) == 1


def test_two_that_forward_to_each_other_end_it(postbox: Postbox) -> None:
    """Each keeps the traces of the other, although a forward is a new message every time."""
    here = {"name": "here", "to": "there@example.net"}
    there = {"name": "there", "to": "here@example.com"}

    once = taken(postbox, **here).content
    twice = taken(postbox, once, **there).content

    assert isinstance(deliver_one(postbox, twice, **here), Refused)


def test_another_mailbox_output_or_recipient_is_no_loop(postbox: Postbox) -> None:
    """A message may well pass two outputs, or two installations that happen to use the same names."""
    back = taken(postbox).content
    other_mailbox = output(postbox).deliver([message(back, mailbox="orders")])
    other_output = output(postbox, "other").deliver([message(back)])
    elsewhere = output(postbox, to="elsewhere@example.net").deliver([message(back)])

    assert [*other_mailbox, *other_output, *elsewhere] == [Accepted()] * 3


@pytest.mark.parametrize(
    "field", [b"Received: from a by b\r\n" * 101, b"X-Mailquay-Loop: other/one 0\r\n" * 21]
)
def test_a_message_that_passed_too_many_servers_is_refused(postbox: Postbox, field: bytes) -> None:
    """RFC 5321 section 6.3; loops through servers that write no trace of ours."""
    receipt = deliver_one(postbox, field + RAW)

    assert isinstance(receipt, Refused)
    assert "circles" in receipt.reason


def test_a_trace_from_elsewhere_begins_no_other_field(postbox: Postbox) -> None:
    """It came with the mail, so it may hold anything."""
    posted = taken(postbox, b"X-Mailquay-Loop: =?utf-8?q?a=0D=0ABcc:_spy@example.org=C3=A4?=\r\n" + RAW)

    assert b"\r\nBcc:" not in posted.content.partition(b"\r\n\r\n")[0]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_message_goes_to_all_recipients_or_to_none(postbox: Postbox) -> None:
    """Otherwise a retry would give it twice to those who have it."""
    postbox.answer_recipient = lambda address: "550 5.1.1 unknown" if address.startswith("two") else None

    (receipt,) = deliver(postbox, to="one@example.com,two@example.com,three@example.com")

    assert isinstance(receipt, Retry)
    assert "550 5.1.1" in receipt.reason
    assert "check TO" in receipt.reason
    assert postbox.taken == []


def test_each_message_has_its_own_receipt_over_one_connection(postbox: Postbox) -> None:
    """One that is refused hurts no other, and nobody signs in again for it."""
    postbox.answer_data = lambda envelope: (
        "554 5.7.1 spam" if b"unwanted" in (envelope.original_content or b"") else None
    )
    raws = [RAW, RAW + b"unwanted\r\n", RAW]

    receipts = deliver(postbox, *(message(raw, id_=f"{number:032}") for number, raw in enumerate(raws)))

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Accepted]
    assert postbox.sessions == 1
    assert len({posted.session for posted in postbox.taken}) == 1


def test_a_message_beyond_the_announced_size_is_refused_unsent(certificates: Certificates) -> None:
    """RFC 1870: nobody sends 100 MB to hear that 50 are the limit."""
    with Postbox(certificates, size=10_000) as small:
        receipt = deliver_one(small, RAW + b"x\r\n" * 5000)

    assert isinstance(receipt, Refused)
    assert "10000 bytes at most" in receipt.reason
    assert small.taken == []


EXCHANGE_HELLO = (
    b"250-ZR2P278CA0019.outlook.office365.com Hello [203.0.113.7]\r\n250-SIZE 157286400\r\n250-PIPELINING\r\n250-DSN\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250-AUTH LOGIN XOAUTH2\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n"
)
EXCHANGE: dict[bytes, bytes] = {
    b"EHLO": EXCHANGE_HELLO,
    b"AUTH XOAUTH2": b"334 \r\n",
    b"dXNlcj1": b"235 2.7.0 Authentication successful\r\n",
    b"MAIL FROM": b"250 2.1.0 Sender OK\r\n",
    b"RCPT TO": b"250 2.1.5 Recipient OK\r\n",
    b"DATA": b"354 Start mail input; end with <CRLF>.<CRLF>\r\n",
    b"RSET": b"250 2.0.0 Resetting\r\n",
    b"QUIT": b"221 2.0.0 Service closing transmission channel\r\n",
    b".": b"250 2.0.0 OK <x@ZR2P278MB0001.CHEP278.PROD.OUTLOOK.COM> [Hostname=ZR2P278MB0001.CHEP278.PROD.OUTLOOK.COM]\r\n",
}
GREETING = b"220 ZR2P278CA0019.outlook.office365.com Microsoft ESMTP MAIL Service ready at Tue, 24 Nov 2026 16:23:28 +0000\r\n"


class Purse:
    """Tokens that a test lends."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens) or [secrets.token_urlsafe(24)]
        self.refused: list[str] = []

    def access(self) -> str:
        return self._tokens[0]

    def another(self, refused: str) -> str | None:
        self.refused.append(refused)
        later = self._tokens[self._tokens.index(refused) + 1 :]
        return later[0] if later else None


def at_exchange(
    certificates: Certificates, changed: dict[bytes, bytes | list[bytes]], *messages: Message, **said: Any
) -> tuple[list[Receipt], Scripted]:
    """Receipts of a server that speaks Exchange Online's very words, but for what is changed."""
    script: Answers = {**EXCHANGE, **changed, b"": b"<silence>"}
    with Scripted(certificates, GREETING, script, tagged=False) as server:
        sender = output(
            server,
            **{
                "host": "localhost",
                "tls": "implicit",
                "ca_file": server.ca_file,
                "account": "robot@contoso.com",
                "timeout": "2s",
                **said,
            },
        )
        sender.tokens = Purse()
        return list(sender.deliver(messages or [message()])), server


def test_exchange_onlines_words_are_understood(certificates: Certificates) -> None:
    """The whole way, byte for byte, with a token on a line of its own."""
    receipts, server = at_exchange(certificates, {})

    assert receipts == [Accepted()]
    assert server.said[1] == b"AUTH XOAUTH2"
    assert re.match(rb"EHLO \[127\.0\.0\.1\]$", server.said[0])


SWITCHED_OFF = (
    b"535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit "
    b"https://aka.ms/smtp_auth_disabled for more information. [MN2PR05CA0004.namprd05.prod.outlook.com]\r\n"
)
DENIED = (
    b"554 5.2.252 SendAsDenied; robot@contoso.com not allowed to send as support@contoso.com; "
    b"STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message due to a "
    b"permanent exception with message [BeginDiagnosticData]Cannot submit message. 0.35250:1F009983\r\n"
)


@pytest.mark.parametrize(
    ("when", "answer", "kind", "words"),
    [
        (b"dXNlcj1", b"535 5.7.3 Authentication unsuccessful [ZR2P278CA0094.CHEP278.PROD.OUTLOOK.COM]\r\n", Retry, "535 5.7.3"),
        (
            b"dXNlcj1",
            SWITCHED_OFF,
            Retry,
            "SmtpClientAuthenticationDisabled $false",
        ),
        (b"dXNlcj1", b"535 5.7.139 Authentication unsuccessful, basic authentication is disabled.\r\n", Retry, "mailquay login"),
        (b"dXNlcj1", b"432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending\r\n", Retry, "PARALLEL"),
        (b"MAIL FROM", b"530 5.7.57 Client not authenticated to send mail.\r\n", Retry, "set ACCOUNT"),
        (b"MAIL FROM", b"501 5.1.7 Invalid address\r\n", Retry, "check FROM"),
        (b"MAIL FROM", b"552 5.3.4 Message size exceeds fixed maximum message size\r\n", Refused, "too large"),
        (b"RCPT TO", b"550 5.4.1 Recipient address rejected: Access denied.\r\n", Retry, "check TO"),
        (b".", b"432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded [Hostname=X]\r\n", Retry, "three connections"),
        (b".", b"550 5.7.60 SMTP; Client does not have permissions to send as this sender\r\n", Retry, "Add-RecipientPermission"),
        (b".", DENIED, Retry, "MODE=forward"),
        (b".", b"554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; x\r\n", Retry, "too much"),
        (b".", b"550 5.1.8 Access denied, bad outbound sender\r\n", Retry, "blocked"),
        (b".", b"552 5.2.2 The recipient's mailbox is full\r\n", Retry, "full"),
        (b".", b"552-5.7.0 This message was blocked because its content presents a\r\n552 5.7.0 security issue.\r\n", Refused, "552 5.7.0"),
        (b".", b"554 5.6.0 Corrupt message content\r\n", Refused, "does not want"),
        (b".", b"550 5.4.5 Daily user sending limit exceeded.\r\n", Retry, "too much"),
        (b".", b"451 4.7.0 Temporary server error. Please try again later. PRX2\r\n", Retry, "451 4.7.0"),
        (b"DATA", b"503 5.5.1 Bad sequence\r\n", Refused, "503"),
        (b"EHLO", b"554 5.7.1 go away\r\n", Retry, "554 5.7.1"),
    ],
)  # fmt: skip
def test_every_known_answer_gets_its_receipt_and_its_sentence(
    certificates: Certificates, when: bytes, answer: bytes, kind: type[Receipt], words: str
) -> None:
    """What a person can mend waits, what is the message's own fault is refused; the server's words are not repeated."""
    receipts, server = at_exchange(certificates, {when: answer})

    (receipt,) = receipts
    assert isinstance(receipt, kind)
    assert isinstance(receipt, Retry | Refused)
    assert words in receipt.reason
    assert f"localhost port {server.port}" in receipt.reason
    assert "aka.ms" not in receipt.reason
    assert "PROD.OUTLOOK.COM" not in receipt.reason.upper()


def test_a_used_up_quota_is_asked_about_in_an_hour(certificates: Certificates) -> None:
    """10,000 recipients a day are over for today."""
    quota = b"554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; x\r\n"
    receipts, _ = at_exchange(certificates, {b".": quota})

    assert isinstance(receipts[0], Retry)
    assert receipts[0].not_before == datetime(2026, 3, 4, 6, 6, 7, tzinfo=UTC)


def test_a_server_that_says_farewell_is_called_again_for_the_next_message(certificates: Certificates) -> None:
    """421 ends the session after any command (RFC 5321 section 3.8), and is a retry for its message alone."""
    receipts, server = at_exchange(
        certificates,
        {b".": [b"421 4.4.2 Connection dropped\r\n<end>", EXCHANGE[b"."]]},
        message(), message(id_="2" * 32),
    )  # fmt: skip

    assert [type(receipt) for receipt in receipts] == [Retry, Accepted]
    assert len(server.commands(b"EHLO")) == 2


def test_a_lost_answer_to_a_message_is_a_retry(certificates: Certificates) -> None:
    """It was taken or not; the repetition has the same Message-ID."""
    receipts, _ = at_exchange(certificates, {b".": b""})

    assert isinstance(receipts[0], Retry)
    assert "closed the connection" in receipts[0].reason


def test_a_server_that_hangs_costs_two_time_outs_a_call(certificates: Certificates) -> None:
    """And not one a message: the rest of the call waits for the next."""
    messages = [message(id_=f"{number:032}") for number in range(8)]
    receipts, server = at_exchange(certificates, {b".": b"<silence>"}, *messages, timeout="200ms")

    assert all(isinstance(receipt, Retry) and "in time" in receipt.reason for receipt in receipts)
    assert len(receipts) == 8
    assert len(server.commands(b"DATA")) == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"250-endless\r\n" * 2000 + b"250 end\r\n", "without an end"),
        (b"250 " + b"x" * 100_000, "a line without an end"),
        (b"what?\r\n", "does not speak SMTP"),
        (b"999 x\r\n", "does not speak SMTP"),
    ],
)
def test_an_answer_that_is_none_breaks_the_connection_and_nothing_else(
    certificates: Certificates, answer: bytes, words: str
) -> None:
    """A server cannot hold a process with lines without end, nor with lines without sense."""
    receipts, _ = at_exchange(certificates, {b"MAIL FROM": answer})

    assert isinstance(receipts[0], Retry)
    assert words in receipts[0].reason


def test_a_server_that_drips_is_a_server_that_hangs() -> None:
    """A byte now and then is never late enough for a time-out of the socket; the answer has a deadline all the same."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"220-")
        with suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(b"x")

    began = time.monotonic()
    with raw_server(drip) as server:
        (receipt,) = deliver(server, timeout="300ms")
        over.set()

    assert isinstance(receipt, Retry)
    assert "in time" in receipt.reason
    assert time.monotonic() - began < 5


def test_a_server_that_is_down_is_a_retry_for_all() -> None:
    """Nobody listens: one attempt a call."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        nobody = RawServer(listener.getsockname()[1])
        receipts = deliver(nobody, *(message(id_=f"{number:032}") for number in range(3)))

    assert len({receipt.reason for receipt in receipts if isinstance(receipt, Retry)}) == 1
    assert len(receipts) == 3


# -- signing in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["starttls", "implicit", "none"])
def test_a_password_signs_in(certificates: Certificates, tls: Any) -> None:
    """By PLAIN, over each kind of connection; in clear on this machine only."""
    password = secrets.token_urlsafe(12)
    with Postbox(certificates, tls=tls, passwords={"robot": password}) as server:
        host = "127.0.0.1" if tls == "none" else "localhost"
        said = {
            "tls": tls,
            "host": host,
            "ca_file": server.ca_file,
            "username": "robot",
            "password": password,
        }
        assert taken(server, **said).user == "robot"
        (receipt,) = deliver(server, **{**said, "password": "wrong"})

    assert isinstance(receipt, Retry)
    assert "to the sign-in" in receipt.reason


def test_a_server_that_has_nothing_but_login_gets_login(certificates: Certificates) -> None:
    """Exchange's way of passwords."""
    answers = {
        b"AUTH LOGIN": b"334 VXNlcm5hbWU6\r\n",
        b"cm9ib3Q=": b"334 UGFzc3dvcmQ6\r\n",
        b"c2VjcmV0": b"235 2.7.0 ok\r\n",
    }
    receipts, _ = at_exchange(certificates, dict(answers), account="", username="robot", password="secret")

    assert receipts == [Accepted()]


def test_a_refused_token_is_replaced_once(certificates: Certificates) -> None:
    """It may have been revoked a minute ago; a second refusal is told, without the token."""
    first, second = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    refusal = b"535 5.7.3 Authentication unsuccessful\r\n"
    script: Answers = {**EXCHANGE, b"dXNlcj1": [refusal, EXCHANGE[b"dXNlcj1"], refusal], b"": b"<silence>"}
    with Scripted(certificates, GREETING, script, tagged=False) as server:
        sender = output(
            server, host="localhost", tls="implicit", ca_file=server.ca_file, account="robot@contoso.com"
        )
        sender.tokens = purse = Purse(first, second)
        accepted = sender.deliver([message()])
        refused = sender.deliver([message()])

    assert list(accepted) == [Accepted()]
    assert isinstance(refused[0], Retry)
    assert purse.refused == [first, first]
    assert first not in refused[0].reason
    assert second not in refused[0].reason


def test_without_a_token_nothing_is_sent_and_the_sentence_is_told(postbox: Postbox) -> None:
    """Whoever lends tokens knows who must act."""

    class Empty(Purse):
        def access(self) -> str:
            raise NoToken("nobody has signed in as robot@contoso.com yet")

    sender = output(postbox, account="robot@contoso.com")
    nobody = sender.deliver([message()])
    sender.tokens = Empty()
    told = sender.deliver([message()])

    assert isinstance(nobody[0], Retry)
    assert "lends" in nobody[0].reason
    assert told == [Retry("nobody has signed in as robot@contoso.com yet")]
    assert postbox.taken == []
    with pytest.raises(CannotSignIn, match="nobody has signed in"):
        sender.try_sign_in()


def test_a_server_that_takes_no_tokens_gets_none(certificates: Certificates) -> None:
    """Nor does one that was stripped of its offers on the way."""
    hello = EXCHANGE_HELLO.replace(b" XOAUTH2", b"")
    receipts, server = at_exchange(certificates, {b"EHLO": hello})

    assert isinstance(receipts[0], Retry)
    assert "takes no access tokens" in receipts[0].reason
    assert server.commands(b"AUTH") == []


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_a_server_without_starttls_hears_no_secret(certificates: Certificates) -> None:
    """Whoever strips the offer off the answer gets nothing for it."""
    with Postbox(certificates, passwords={"robot": "x"}) as server:
        (receipt,) = deliver(server, tls="starttls", host="localhost", username="robot", password="x")

    assert isinstance(receipt, Retry)
    assert "offers no STARTTLS" in receipt.reason
    assert server.taken == []


def test_a_server_that_cannot_be_proven_hears_no_secret(certificates: Certificates, tmp_path: Path) -> None:
    """The wrong authority; and the right one for another name."""
    stranger = write_certificates(tmp_path)
    other = trustme.CA()
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with Postbox(stranger, tls="implicit", passwords={"robot": "x"}) as server:
        said = {"tls": "implicit", "host": "localhost", "username": "robot", "password": "x"}
        receipts = [*deliver(server, **said, ca_file=tmp_path / "other.pem"), *deliver(server, **said)]

    assert all(isinstance(one, Retry) and "not to be trusted" in one.reason for one in receipts)


def test_data_ahead_of_the_handshake_is_an_attack() -> None:
    """What was injected before STARTTLS would be taken for the server's word afterwards (CVE-2011-0411's kind)."""

    def inject(connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            connection.sendall(b"220 x\r\n")
            lines.readline()
            connection.sendall(b"250-x\r\n250 STARTTLS\r\n")
            lines.readline()
            connection.sendall(b"220 go\r\n250 injected\r\n")
            lines.read()

    with raw_server(inject) as server:
        (receipt,) = deliver(server, host="localhost", tls="starttls")

    assert isinstance(receipt, Retry)
    assert "ahead of the TLS handshake" in receipt.reason


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"to": ""}, "at least 1"),
        ({"to": "archive@example.com> NOTIFY=NEVER"}, "mail address alone"),
        ({"from": "robot@example.com>\r\nRCPT TO:<spy@example.org"}, "mail address alone"),
        ({"from": "Robot <robot@example.com>"}, "mail address alone"),
        ({"host": ""}, "no server of its own"),
        ({"host": "mail.example.com:25"}, "goes into PORT"),
        ({"host": "mail.example.com"}, "in clear"),
        ({"account": "a", "password": "b"}, "say which one"),
        ({"auth": "password"}, "needs PASSWORD"),
        ({"auth": "delegated"}, "needs ACCOUNT"),
        ({"provider": "microsoft365", "tls": None}, "lets nobody in"),
        ({"username": "a\x01b"}, "control characters"),
        ({"timeout": "0s"}, "greater than"),
    ],
)
def test_what_cannot_be_true_is_found_by_check(said: dict[str, Any], words: str) -> None:
    """Not at the first message."""
    usual = {"host": "127.0.0.1", "tls": "none", "from": "robot@example.com", "to": "archive@example.com"}
    with pytest.raises(pydantic.ValidationError, match=words):
        SmtpOptions.model_validate({**usual, **said})


def test_a_provider_presets_its_server() -> None:
    """PROVIDER=microsoft365 is smtp.office365.com, port 587, STARTTLS, as ACCOUNT."""
    said = {"from": "support@contoso.com", "to": "archive@example.com", "account": "robot@contoso.com"}
    found = SmtpOptions.model_validate({**said, "provider": "microsoft365"})

    assert found.server == ("smtp.office365.com", 587, "starttls")
    assert (found.auth, found.login_name) == ("delegated", "robot@contoso.com")
    assert SmtpOptions.model_validate({**said, "provider": "gmail"}).server == (
        "smtp.gmail.com",
        465,
        "implicit",
    )
