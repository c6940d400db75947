"""Sends each message on by mail: forwarded as an attachment of a new message, or redirected as it is.

What is sent carries the message id in its Message-ID (a redirect in its Resent-Message-ID), the same at every repetition. Accepted means
that the server has taken the message over (RFC 5321 section 4.2.5), for all recipients. A message that has been through here is
refused, so no loop lasts. One connection serves one call; `PARALLEL` calls may overlap.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, create_model, field_validator

from pipelines.account import AccountOptions, MailProtocol, Tokens
from pipelines.message import Message
from pipelines.options import Names
from pipelines.output import Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.mail_sessions import Denied, hand_over, signed_in, try_sign_in
from pipelines.outputs.smtp_answers import judge
from pipelines.outputs.smtp_letter import Route, Unsendable, check_loop, forward, redirect
from pipelines.outputs.smtp_session import Letter, Session


def _address(text: str) -> str:
    # What stands between < and > in a command; anything else could be another command.
    if not re.fullmatch(
        r"[^\s<>@\x00-\x1f\x7f\"(),:;\[\]\\]{1,64}@[^\s<>@\x00-\x1f\x7f\"(),:;\\]{1,255}", text
    ):
        raise ValueError("must be a mail address alone, such as archive@example.com")
    return text


Address = Annotated[str, AfterValidator(_address)]


class Sending(AccountOptions):
    """Everything but FROM, which is no name for an attribute in Python."""

    protocol: ClassVar[MailProtocol] = "smtp"

    to: Annotated[Names, Field(min_length=1)] = Field(
        description="Addresses that get every message: all of them, or none.",
        examples=[("archive@example.com",)],
    )
    mode: Literal["forward", "redirect"] = Field(
        default="forward",
        description="`forward` sends a new message with the original attached; `redirect` sends the original, byte for byte, "
        "with Resent fields in front.",
        examples=["redirect"],
    )

    @property
    def sender(self) -> str:
        """The address that mail is sent from."""
        return str(getattr(self, "from"))

    @property
    def login_name(self) -> str:
        """The name that the server is told at sign-in."""
        return super().login_name or self.sender

    @field_validator("to")
    @classmethod
    def _check_to(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_address(address) for address in to)


SmtpOptions = create_model(
    "SmtpOptions",
    __base__=Sending,
    __module__=__name__,
    __doc__="Through which server, from whom, to whom, and how.",
    **{
        "from": (
            Address,
            Field(
                description="Address that mail is sent from and bounces go to. The account has to be allowed to send as it.",
                examples=["robot@contoso.com"],
            ),
        )
    },  # type: ignore[call-overload]  # its fields are keywords, and this one is Python's
)


class SmtpOutput(Output):
    """Sends messages from FROM to TO."""

    type_name: ClassVar[str] = "smtp"
    Options: ClassVar[type[OutputOptions]] = SmtpOptions

    options: Sending
    tokens: Tokens | None = None

    def __init__(self, name: str, options: Sending, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, dates what is sent."""
        super().__init__(name, options)
        self.parallel = options.parallel
        self._clock = clock
        host, port, tls = options.server
        self._server = f"{host} port {port}"
        self._starttls = tls == "starttls"
        self._route = Route(name, options.sender, options.to, host)

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Send the messages one after the other over one connection; where it breaks, the next message tries a new one."""
        return hand_over(messages, opened=self._signed_in, hand=self._sent)

    def try_sign_in(self) -> None:
        """Connect and sign in, and send nothing.

        Raises:
            CannotSignIn: it cannot be reached, or does not let this account in.
        """
        try_sign_in(self._signed_in)

    def _sent(self, session: Session, message: Message) -> Receipt:
        """Send one message and judge the answer; one that cannot be sent this way is refused.

        Raises:
            Broken: the connection broke.
        """
        try:
            check_loop(message, self._route)
            letter = self._letter(session, message)
        except Unsendable as error:
            return Refused(str(error))
        offered = session.extensions
        if self._route.utf8 and "SMTPUTF8" not in offered:
            return Retry(
                f"{self._server} takes no addresses beyond ASCII (SMTPUTF8); check FROM and TO, or HOST"
            )
        limit = offered.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit[:18]) < letter.size:
            return Refused(f"{self._server} takes {limit} bytes at most, and it would have {letter.size}")
        return judge(session.send(letter, self.options.to), server=self._server, now=self._now())

    def _letter(self, session: Session, message: Message) -> Letter:
        """What is sent, as this server can take it.

        Raises:
            Unsendable: the message cannot be sent this way.
        """
        can = {"eight_bit": "8BITMIME" in session.extensions}
        if self.options.mode == "redirect":
            utf8 = "SMTPUTF8" in session.extensions
            return redirect(message, self._route, now=self._now(), utf8=utf8, **can)
        return forward(message, self._route, now=self._now(), **can)

    def _signed_in(self) -> Session:
        """A session in which mail can be sent.

        Raises:
            NotLetIn: there is none to be had, and the receipt says why.
            Broken: the connection broke.
        """
        return signed_in(
            self.options,
            self.tokens,
            start=lambda wire: Session(wire, starttls=self._starttls),
            enter=self._enter,
        )

    def _enter(self, session: Session, secret: str) -> Denied | None:
        """Sign in, where that is asked for; why the server refuses, if it does."""
        said = self.options
        if said.auth == "none":
            return None
        reply = session.sign_in(said.login_name, secret, bearer=said.wants_tokens)
        if reply.good:
            return None
        answer = judge(reply, server=self._server, now=self._now())
        if not isinstance(answer, Retry):
            answer = Retry(f"{self._server} lets nobody in")
        return Denied(answer, refuses_token=reply.code >= 500)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
