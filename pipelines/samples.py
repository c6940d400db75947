"""Messages to try outputs and stages with: easy ones, nasty ones, and what strangers may send and servers may say.

They are the same at every call and in every process, ids included. `pipelines.testing` hands them on.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

from pipelines.message import Message, Source
from pipelines.parse import parse

RAWS = (
    b"From: a@example.com\r\nTo: b@example.com\r\nSubject: plain\r\n\r\nHello.\r\n",
    b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\xc3\xbc\r\n",
    b"Subject: raw 8-bit \xe4\xf6\xfc and a NUL \0\n\nbare line feeds\nFrom here on \xff\xfe\0",
    b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000,
    b"\r\n\r\nno header at all",
    b"",
)

# Stands in subject and body of every hostile message, so that it is seen where it must not be.
TELLTALE = "swordfish"
_BODY = b"\r\n\r\n" + TELLTALE.encode() + b"\r\n"
HOSTILE = {
    "line ends in names of headers": b"Sub\rject: swordfish\r\nX-\nEvil: 1\r\n\rTo: a@example.com\r\n: x\r\nNo colon" + _BODY,
    "line ends in values": b"Subject: swordfish =?utf-8?q?=0D=0ABcc:_a@example.com=0D=0A=0D=0Ax?=\r\n"
    b"From: =?utf-8?q?=0D=0A?= <a@example.com>\r\nMessage-ID: <a\r\n\tb=0D=0A@example.com>" + _BODY,
    "a huge subject": b"Subject: " + b"swordfish " * 100_000 + _BODY,
    "ten thousand recipients": b"Subject: swordfish\r\nTo: "
    + b",\r\n ".join(b"a%d@example.com" % number for number in range(10_000)) + _BODY,
    "lone surrogates": b"Subject: swordfish =?utf-16-be?b?2AA=?= =?utf-8?b?7aCA?= \xed\xa0\x80\r\nFrom: \xed\xa0\x80 <\xed\xb0\x80@x>\r\n"
    b"Content-Type: text/plain; charset=utf-16-be; name*=utf-16-be''%D8%00" + _BODY + b"\xd8\x00\xd8",
    "NULs": b"Subject: swordfish\0\r\nFrom: \0 <a\0@\0>\r\nMessage-ID: <\0@\0>\r\nX\0: \0" + _BODY + b"\0\0",
    "names of attachments": b"Subject: swordfish\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    + b"".join(
        b'--x\r\nContent-Type: a/b\r\nContent-Disposition: attachment; filename="%b"\r\n\r\nswordfish\r\n' % name
        for name in (b"../../../etc/passwd", b"/etc/passwd", b"", b".", b"CON", b"a\0b", b"\xed\xa0\x80", b"a/" * 5000, b"\r\nX: y")
    ) + b"--x--\r\n",
    "parts in parts": b"Subject: swordfish\r\n"
    + b"".join(b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (depth, depth) for depth in range(300)) + _BODY,
    "the last second of the calendar": b"Subject: swordfish\r\nDate: Fri, 31 Dec 9999 23:59:59 -1200" + _BODY,
    "the first second of the calendar": b"Subject: swordfish\r\nDate: Mon, 01 Jan 0001 00:00:00 +1400" + _BODY,
    "what protocols end at": b"From swordfish\r\nSubject: swordfish" + _BODY + b".\r\n..\r\nFrom swordfish\r\n>From\r\n\r\n.\n.\r.\r\n",
    "a line without an end": b"Subject: swordfish\r\n\r\n" + b"swordfish" * 50_000,
    "carriage returns alone": b"Subject: swordfish\r\rswordfish\r" * 100,
    "only line ends": b"\r\n\r\n\r\n",
    "nothing": b"",
}  # fmt: skip
# When a server says it received them: near both ends of the calendar, beyond them in UTC, or it does not say.
_MOMENTS = (
    datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    None,
)


def sample_messages(count: int, *, mailbox: str = "contract") -> list[Message]:
    """Return `count` different messages, easy and nasty ones in turn, the same at every call."""
    return [
        _sample(RAWS[number % len(RAWS)], f"{mailbox} {number}", uid=number + 1, mailbox=mailbox)
        for number in range(count)
    ]


def hostile_messages() -> list[Message]:
    """Return what strangers may send and servers may say, the same at every call; TELLTALE is in subjects and bodies."""
    return [
        parse(
            raw,
            id=_id(f"hostile {name}"),
            mailbox="contract",
            source=Source(
                folder="../\ud800\0\r\nX: y", uidvalidity=2**32, uid=number, uidl="\udcff\0 ", flags=("\\Seen", "\r\n", "\ud800", "")
            ),
            received_at=_MOMENTS[number % len(_MOMENTS)],
        )
        for number, (name, raw) in enumerate(HOSTILE.items())
    ]  # fmt: skip


def small_messages(count: int) -> list[Message]:
    """Return `count` different messages of some hundred bytes, the same at every call."""
    return [_sample(RAWS[0], f"small {number}", uid=number + 1) for number in range(count)]


def _sample(raw: bytes, name: str, *, uid: int, mailbox: str = "contract") -> Message:
    return parse(
        raw,
        id=_id(name),
        mailbox=mailbox,
        source=Source(folder="INBOX", uidvalidity=1, uid=uid, uidl=None, flags=()),
        received_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
    )


def _id(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:32]
