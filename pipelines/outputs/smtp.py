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

from pipelines.account import AccountOptions, CannotSignIn, MailProtocol, NoToken, Tokens, secret_of
from pipelines.message import Message
from pipelines.options import Names
from pipelines.output import Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.mail_wire import Broken, Wire
from pipelines.outputs.smtp_answers import judge
from pipelines.outputs.smtp_letter import Route, Unsendable, check_loop, forward, redirect
from pipelines.outputs.smtp_session import Reply, Session

# So many broken connections in a row, and the rest of the call waits for the next one.
_PATIENCE = 2


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
    parallel: int = Field(
        default=1, ge=1, le=16, description="How many connections of one process are under way at once."
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


class NotLetIn(Exception):
    """There is no session to be had; `receipt` says why."""

    def __init__(self, receipt: Retry) -> None:
        super().__init__(receipt.reason)
        self.receipt = receipt


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
        receipts: list[Receipt] = []
        session: Session | None = None
        trouble: Receipt | None = None
        broken = 0
        for message in messages:
            if trouble is not None:
                # A server in trouble costs one call's patience, and not one a message.
                receipts.append(trouble)
                continue
            try:
                check_loop(message, self._route)
                session = session or self._signed_in()
                receipts.append(self._sent(session, message))
                broken = 0
            except Unsendable as error:
                receipts.append(Refused(str(error)))
            except NotLetIn as error:
                trouble = error.receipt
                receipts.append(trouble)
            except Broken as error:
                # It was taken or not: the repetition has the same Message-ID.
                receipts.append(Retry(str(error)))
                broken += 1
                trouble = receipts[-1] if broken == _PATIENCE else None
            if session and (broken or session.ended):
                session.hang_up()
                session = None
        if session:
            session.quit()
        return receipts

    def try_sign_in(self) -> None:
        """Connect and sign in, and send nothing.

        Raises:
            CannotSignIn: it cannot be reached, or does not let this account in.
        """
        try:
            self._signed_in().quit()
        except NotLetIn as error:
            raise CannotSignIn(error.receipt.reason) from error
        except Broken as error:
            raise CannotSignIn(str(error)) from error

    def _sent(self, session: Session, message: Message) -> Receipt:
        """Send one message and judge the answer.

        Raises:
            Unsendable: it cannot be sent this way.
            Broken: the connection broke.
        """
        offered = session.extensions
        can = {"eight_bit": "8BITMIME" in offered}
        if self.options.mode == "redirect":
            letter = redirect(message, self._route, now=self._now(), utf8="SMTPUTF8" in offered, **can)
        else:
            letter = forward(message, self._route, now=self._now(), **can)
        if self._route.utf8 and "SMTPUTF8" not in offered:
            return Retry(
                f"{self._server} takes no addresses beyond ASCII (SMTPUTF8); check FROM and TO, or HOST"
            )
        limit = offered.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit[:18]) < letter.size:
            return Refused(f"{self._server} takes {limit} bytes at most, and it would have {letter.size}")
        return judge(session.send(letter, self.options.to), server=self._server, now=self._now())

    def _signed_in(self) -> Session:
        """A session in which mail can be sent; a token that is refused is replaced once.

        Raises:
            NotLetIn: there is none to be had, and the receipt says why.
            Broken: the connection broke.
        """
        try:
            secret = secret_of(self.options, self.tokens)
            session, reply = self._tried(secret)
            if session is None and reply.code >= 500 and self.options.wants_tokens and self.tokens:
                another = self.tokens.another(secret)
                if another is not None:
                    session, reply = self._tried(another)
        except (CannotSignIn, NoToken) as error:
            raise NotLetIn(Retry(str(error))) from error
        if session is None:
            answer = judge(reply, server=self._server, now=self._now())
            raise NotLetIn(answer if isinstance(answer, Retry) else Retry(f"{self._server} lets nobody in"))
        return session

    def _tried(self, secret: str) -> tuple[Session | None, Reply]:
        """Connect and sign in: the session, unless the server refuses, and its answer."""
        said = self.options
        wire = Wire(said.server, ca_file=said.ca_file, timeout=said.timeout.total_seconds())
        try:
            session = Session(wire, starttls=self._starttls)
            if said.auth == "none":
                return session, Reply("sign-in", 235, "")
            reply = session.sign_in(said.login_name, secret, bearer=said.wants_tokens)
        except (Broken, CannotSignIn):
            wire.close()
            raise
        if not reply.good:
            session.quit()
        return session if reply.good else None, reply

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
