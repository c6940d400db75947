"""What the `smtp` output sends: a new message with the original attached, or the original once more. And what it must not send.

A forward is a new message, an automatic one (`Auto-Submitted: auto-generated`, RFC 3834 section 5: made by a program, and no
answer to anything; there is no registered word for forwards), so that nobody's holiday notice answers it. A redirect is the
original, byte for byte, behind `Resent-` fields (RFC 5322 section 3.6.6), and keeps whatever it says of itself.
Both carry a trace of the mailbox and the output that sent them, by which a loop is found out.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.utils import format_datetime
from urllib.parse import quote

from pipelines.message import Message
from pipelines.outputs.smtp_session import Letter

TRACE = "X-Mailquay-Loop"
# RFC 5321 section 6.3: a message with so many goes round in circles.
_MOST_RECEIVED = 100
_MOST_TRACES = 20
_SUBJECT_LETTERS = 500

# Lines of at most 998 octets that end in CRLF, without NUL (RFC 5321 section 4.5.3.1.6, RFC 5322 section 2.3): what SMTP
# carries unchanged. A lone line feed is more than ugly: servers read it differently, and a second mail can hide behind it.
_LINES = re.compile(rb"(?:[^\0\r\n]*+\r\n)*+[^\0\r\n]*+")
_SHORT_LINES = re.compile(rb"(?:[^\0\r\n]{0,998}+\r\n)*+[^\0\r\n]{0,998}+")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_BASE64_OCTETS = 57 * 1024


class Unsendable(Exception):
    """This message must not or cannot be sent this way; its text is a sentence without a word of the message."""


@dataclass(frozen=True, slots=True)
class Route:
    """From whom and to whom an output sends; `name` is the output's."""

    name: str
    sender: str
    recipients: Sequence[str]
    host: str

    @property
    def all_recipients(self) -> str:
        """The recipients as a header field has them, one a line."""
        return ",\r\n ".join(self.recipients)

    @property
    def utf8(self) -> bool:
        """Whether an address has letters that only SMTPUTF8 carries (RFC 6531)."""
        return not "".join((self.sender, *self.recipients)).isascii()

    def trace(self, message: Message) -> str:
        """What this output writes into a message of that mailbox, told apart from other installations' of the same names."""
        where = "\n".join((self.sender, self.host, *sorted(self.recipients)))
        digest = hashlib.sha256(where.casefold().encode()).hexdigest()[:12]
        return f"{quote(message.mailbox)}/{quote(self.name)} {digest}"

    def message_id(self, message: Message) -> str:
        """The Message-ID of what is sent, the same whenever this message is sent again."""
        return f"<{message.id}.{quote(self.name)}@{self.sender.rpartition('@')[2]}>"


def check_loop(message: Message, route: Route) -> None:
    """Let a message pass that has not been through here.

    Raises:
        Unsendable: this output has sent it before, or it has passed too many servers.
    """
    traces = message.headers.texts(TRACE)
    if route.trace(message) in traces:
        raise Unsendable(
            "this output has sent it before, and it came back: mail to TO ends in a mailbox that is pulled for this output"
        )
    if len(traces) > _MOST_TRACES or len(message.headers.texts("Received")) > _MOST_RECEIVED:
        raise Unsendable("it has passed so many servers that it goes round in circles")


def forward(message: Message, route: Route, *, now: datetime, eight_bit: bool) -> Letter:
    """A new message with the original attached. `now` is aware; `eight_bit` says whether the server takes 8-bit lines.

    What SMTP would not carry unchanged, and what a later server might not, is attached in base64 as a file `ID.eml`, because a
    part of type message/rfc822 may not be encoded (RFC 2046 section 5.2.1).
    """
    has_eight_bit = bool(_EIGHT_BIT.search(message.raw))
    plain = (
        bool(_SHORT_LINES.fullmatch(message.raw))
        and (eight_bit or not has_eight_bit)
        # A head in UTF-8 would bind every later server to SMTPUTF8 (RFC 6532 section 3.7).
        and not _EIGHT_BIT.search(_head(message))
    )
    boundary = f"mailquay-{hashlib.sha256(f'{message.id} {message.digest}'.encode()).hexdigest()[:40]}"
    began = _lines(*_forward_head(message, route, now, boundary), *_beginning(message, boundary, plain=plain))
    ended = _lines("", f"--{boundary}--")

    def pieces() -> Iterator[bytes | memoryview]:
        yield began
        if plain:
            yield message.raw
        else:
            yield from _in_base64(message.raw)
        yield ended

    size = len(message.raw) if plain else _size_in_base64(len(message.raw))
    return Letter(
        _envelope(message, route),
        pieces,
        len(began) + size + len(ended),
        eight_bit=plain and has_eight_bit,
        utf8=route.utf8,
    )


def redirect(message: Message, route: Route, *, now: datetime, eight_bit: bool, utf8: bool) -> Letter:
    """The original behind `Resent-` fields. `now` is aware; `eight_bit` and `utf8` say what the server takes.

    Raises:
        Unsendable: SMTP, or this server, would not carry it byte for byte.
    """
    other_way = "it cannot be sent byte for byte; with MODE=forward it can"
    if bytes(message.raw[:1]) in {b" ", b"\t"} or not _LINES.fullmatch(message.raw):
        raise Unsendable(f"its lines are not those of SMTP, or it holds a NUL: {other_way}")
    has_eight_bit = bool(_EIGHT_BIT.search(message.raw))
    if has_eight_bit and not eight_bit:
        raise Unsendable(f"it has 8-bit characters, and the server does not take them: {other_way}")
    resent = _lines(
        f"{TRACE}: {route.trace(message)}",
        f"Resent-From: {route.sender}",
        f"Resent-To: {route.all_recipients}",
        f"Resent-Date: {format_datetime(now)}",
        f"Resent-Message-ID: {route.message_id(message)}",
    )
    return Letter(
        _envelope(message, route),
        lambda: iter((resent, message.raw)),
        len(resent) + len(message.raw),
        eight_bit=has_eight_bit,
        # Old 8-bit heads in other charsets go as they came; SMTPUTF8 would claim that they are UTF-8.
        utf8=route.utf8 or (utf8 and _is_utf8(_head(message))),
    )


def _forward_head(message: Message, route: Route, now: datetime, boundary: str) -> Iterator[str]:
    for trace in message.headers.texts(TRACE):
        # It came with the mail, so it may hold anything.
        yield f"{TRACE}: {re.sub(r'[^!-~ ]', '?', trace)[:300]}"
    yield f"{TRACE}: {route.trace(message)}"
    yield f"From: {route.sender}"
    yield f"To: {route.all_recipients}"
    yield f"Subject: {_subject(message)}"
    yield f"Date: {format_datetime(now)}"
    yield f"Message-ID: {route.message_id(message)}"
    for id_ in message.message_id or ():
        if re.fullmatch(r"[!-;=?-~]{1,300}", id_):
            yield f"References: <{id_}>"
            break
    yield "Auto-Submitted: auto-generated"
    # Exchange does not look at Auto-Submitted, but at this ([MS-OXCMAIL]); bounces are not suppressed.
    yield "X-Auto-Response-Suppress: OOF, AutoReply"
    yield "MIME-Version: 1.0"
    yield f'Content-Type: multipart/mixed; boundary="{boundary}"'
    yield ""


def _beginning(message: Message, boundary: str, *, plain: bool) -> Iterator[str]:
    """A line for people, and the head of the part that holds the original."""
    came = "" if message.received_at is None else f" at {format_datetime(message.received_at)}"
    yield f"--{boundary}"
    yield "Content-Type: text/plain; charset=us-ascii"
    yield ""
    yield f"The attached message came to the mailbox {quote(message.mailbox)[:200]}{came}."
    yield ""
    yield f"--{boundary}"
    if plain:
        yield "Content-Type: message/rfc822"
        yield f"Content-Transfer-Encoding: {'8bit' if _EIGHT_BIT.search(message.raw) else '7bit'}"
        yield "Content-Disposition: attachment"
    else:
        yield f'Content-Type: application/octet-stream; name="{message.id}.eml"'
        yield "Content-Transfer-Encoding: base64"
        yield f'Content-Disposition: attachment; filename="{message.id}.eml"'
    yield ""


def _subject(message: Message) -> str:
    """The subject of a forward, on lines of its own making: whatever the original's says, it begins no other field."""
    text = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]+", " ", message.subject or "")[
        :_SUBJECT_LETTERS
    ]
    encoded = Header(
        f"Fwd: {text}".rstrip(), "us-ascii" if text.isascii() else "utf-8", header_name="Subject"
    )
    return encoded.encode(linesep="\r\n")


def _envelope(message: Message, route: Route) -> str:
    """Who gets a bounce: nobody, if this is one itself or an automatic answer (RFC 5321 section 4.5.5, RFC 3834 section 3.3).

    Else a bounce that is forwarded to where it bounces from would go to and fro for ever.
    """
    null_sender = (message.header("Return-Path") or "").strip() == "<>"
    answer = (message.header("Auto-Submitted") or "").strip().lower().startswith("auto-replied")
    report = (message.header("Content-Type") or "").strip().lower().startswith("multipart/report")
    return "" if null_sender or answer or report else route.sender


def _head(message: Message) -> bytes:
    end = _BLANK_LINE.search(message.raw)
    return bytes(message.raw[: end.start()]) if end else bytes(message.raw)


def _is_utf8(head: bytes) -> bool:
    """Whether a head has letters beyond ASCII, and they are UTF-8 (RFC 6532)."""
    try:
        return not head.decode("utf-8").isascii()
    except UnicodeDecodeError:
        return False


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def _in_base64(raw: bytes | memoryview) -> Iterator[bytes]:
    """Lines of 76 letters (RFC 2045 section 6.8)."""
    for start in range(0, len(raw), _BASE64_OCTETS):
        yield base64.encodebytes(raw[start : start + _BASE64_OCTETS]).replace(b"\n", b"\r\n")


def _size_in_base64(octets: int) -> int:
    return (octets + 2) // 3 * 4 + (octets + 56) // 57 * 2
