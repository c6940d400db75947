"""Adds each message to a folder of another mailbox, byte for byte, by IMAP's APPEND, with its time of receipt.

IMAP has no key of its own against duplicates: servers give numbers, Exchange keeps no keywords, and others slow down over one for each
message. So before it is added a message is looked for: one with the same Message-ID (or size, without one), the same date of
receipt and the same Received, Date and Message-ID fields is this one. With MARK=yes a line with the id stands in front of the
message instead, and is looked for. Two processes that add the same message in the same instant may both succeed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipelines.account import AccountOptions, MailProtocol, Plain, Tokens
from pipelines.imap_text import instant, is_quotable, quoted
from pipelines.message import Message
from pipelines.options import Flag, Names
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.imap_answers import judge, judge_sign_in
from pipelines.outputs.imap_session import Response, Session
from pipelines.outputs.mail_sessions import Denied, NotLetIn, hand_over, signed_in, try_sign_in
from pipelines.outputs.mail_wire import Broken

MARK = "X-Mailquay-Id"
# Of so many messages that might be this one the newest are looked at.
_CANDIDATES = 50
_TELLING = ("message-id", "received", "date")


class ImapOptions(AccountOptions):
    """Whose mailbox, which folder, and how."""

    protocol: ClassVar[MailProtocol] = "imap"

    tls: Literal["implicit", "starttls"] | None = Field(
        default=None,
        validate_default=True,
        description="TLS from the first byte, or begun by STARTTLS. There is no way without. Unset: `implicit`.",
        examples=["starttls"],
    )
    username: Plain = Field(
        default="",
        validate_default=True,
        description="Name that the server is told at sign-in: the mailbox, where it is a shared one. Unset: ACCOUNT.",
        examples=["archive@contoso.com"],
    )
    folder: Plain = Field(
        default="INBOX",
        min_length=1,
        description="Folder that gets the messages; `/` parts levels. It is made when it is missing.",
        examples=["Archive/2026"],
    )
    flags: Names = Field(
        default=(),
        description="Flags that messages get; `same` stands for those that they have in the mailbox they came from.",
        examples=[("\\Seen",)],
    )
    mark: Flag = Field(
        default=False,
        description=f"`yes` puts a line `{MARK}: ID` in front of each message, by which a repetition is recognised for certain.",
        examples=["yes"],
    )

    @field_validator("username")
    @classmethod
    def _check_username(cls, username: str, info: ValidationInfo) -> str:
        if not (username or info.data.get("account")) and "auth" in info.data:
            raise ValueError("is not set, and nobody signs in to IMAP without a name; set it, or ACCOUNT")
        return username

    @field_validator("auth")
    @classmethod
    def _check_auth(cls, auth: str) -> str:
        if auth == "none":
            raise ValueError(
                "is not set, and nobody adds mail without signing in; set ACCOUNT or PASSWORD_FILE"
            )
        return auth

    @field_validator("flags")
    @classmethod
    def _check_flags(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            if not re.fullmatch(r"\\(Answered|Flagged|Deleted|Seen|Draft)|[A-Za-z0-9$._-]{1,50}", flag):
                raise ValueError(r"must be flags, such as \Seen or \Flagged, or words without blanks")
        return flags


class ImapOutput(Output):
    """Adds messages to FOLDER of a mailbox."""

    type_name: ClassVar[str] = "imap"
    Options: ClassVar[type[OutputOptions]] = ImapOptions

    options: ImapOptions
    tokens: Tokens | None = None

    def __init__(self, name: str, options: ImapOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock` is in Unix seconds."""
        super().__init__(name, options)
        self.parallel = options.parallel
        self._clock = clock
        host, port, tls = options.server
        self._server = f"{host} port {port}"
        self._starttls = tls == "starttls"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Add the messages one after the other over one connection; where it breaks, the next message tries a new one."""
        return hand_over(messages, opened=self._opened, hand=self._added)

    def try_sign_in(self) -> None:
        """Connect, sign in, and look into the folder.

        Raises:
            CannotSignIn: it cannot be reached, or does not let this account in or into the folder.
        """
        try_sign_in(self._opened)

    def _added(self, session: Session, message: Message) -> Receipt:
        """Add one message unless it is there.

        Raises:
            Broken: the connection broke.
        """
        mark = f"{MARK}: {message.id}\r\n".encode() if self.options.mark else b""
        # IMAP has no empty message: a literal of nothing takes APPEND back (RFC 3502 section 6.3.11).
        pieces = [piece for piece in (mark, message.raw) if len(piece)] or [b"\r\n"]
        size = sum(map(len, pieces))
        limits = [word[12:] for word in session.capabilities if word.startswith("APPENDLIMIT=")]
        if limits and limits[0].isdigit() and int(limits[0][:18]) < size:
            return Refused(f"{self._server} takes {limits[0]} bytes at most, and the message has {size}")
        if self._is_there(session, message, size):
            return Accepted()
        answer = session.append(
            self.options.folder, pieces, flags=self._flags(message), received_at=_date(message)
        )
        return judge(answer, server=self._server, now=self._now())

    def _is_there(self, session: Session, message: Message, size: int) -> bool:
        if self.options.mark:
            return bool(session.search(f'HEADER {MARK} "{message.id}"'))
        id_ = f"<{message.message_id[0]}>" if message.message_id else ""
        if id_ and len(id_) < 500 and is_quotable(id_):
            found = session.search(f"HEADER Message-ID {quoted(id_)}")
        else:
            found = session.search(f"LARGER {max(0, size - 1)} SMALLER {size + 1}")
        if not found:
            return False
        fields = " ".join(_TELLING).upper()
        told = session.fetch(found[-_CANDIDATES:], f"INTERNALDATE BODY.PEEK[HEADER.FIELDS ({fields})]")
        return any(_is_same(response, message) for response in told)

    def _flags(self, message: Message) -> list[str]:
        """The flags to set; what a server alone may set is left out."""
        flags = [flag for flag in self.options.flags if flag != "same"]
        if "same" in self.options.flags:
            flags += [
                flag
                for flag in message.source.flags
                if re.fullmatch(r"\\(?!Recent)\w+|[\w$.-]+", flag, re.ASCII)
            ]
        return list(dict.fromkeys(flags))

    def _opened(self) -> Session:
        """A session that has looked into the folder, which is made when it is missing.

        Raises:
            NotLetIn: there is none to be had, and the receipt says why.
            Broken: the connection broke.
        """
        session = signed_in(
            self.options,
            self.tokens,
            start=lambda wire: Session(wire, starttls=self._starttls),
            enter=self._enter,
        )
        try:
            self._look(session)
        except (Broken, NotLetIn):
            session.hang_up()
            raise
        return session

    def _enter(self, session: Session, secret: str) -> Denied | None:
        """Sign in; why the server refuses, if it does."""
        answer = session.sign_in(self.options.login_name, secret, bearer=self.options.wants_tokens)
        return None if answer.good else Denied(judge_sign_in(answer, server=self._server, now=self._now()))

    def _look(self, session: Session) -> None:
        """Look into the folder, and make it when it is missing."""
        folder = self.options.folder
        if session.examine(folder).good:
            return
        made = session.create(folder)
        if not session.examine(folder).good:
            raise NotLetIn(
                Retry(
                    f"{self._server} has no FOLDER of that name, and answered {made.shown} when it was to be made; check it"
                )
            )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _date(message: Message) -> datetime | None:
    """When the message was received, if IMAP can say it."""
    try:
        return None if message.received_at is None else message.received_at.astimezone(UTC)
    except OverflowError:
        return None


def _is_same(response: Response, message: Message) -> bool:
    """Whether what a server tells of a message is this one: when it came, and by which way."""
    date = _date(message)
    found = re.search(r'INTERNALDATE "([^"]*)"', response.text)
    theirs = instant(found[1]) if found else None
    if date is not None and theirs != date.replace(microsecond=0):
        return False
    text = b"".join(response.literals).decode("utf-8", "replace")
    theirs_by_name: dict[str, list[str]] = {}
    for line in re.sub(r"\r?\n[ \t]+", " ", text).splitlines():
        name, _, value = line.partition(":")
        theirs_by_name.setdefault(name.strip().lower(), []).append(_collapsed(value))
    return all(
        theirs_by_name.get(name, [])
        == [_collapsed(one.raw(name) or "") for one in message.headers.singly(name)]
        for name in _TELLING
    )


def _collapsed(value: str) -> str:
    """A field without its folds: a server may fold anew."""
    return " ".join(value.split())
