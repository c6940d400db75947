"""What outputs that speak with a mail server have in common: how they get in, and how a call's messages go through one session.

A session is opened for the first message that needs one and left at the end of the call. A connection that breaks costs one message
its receipt, the next message tries a new one; a server that lets nobody in, or breaks connection after connection, costs one call's
patience and not one a message. What is said in a session is the output's own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipelines.account import AccountOptions, CannotSignIn, NoToken, Tokens, secret_of
from pipelines.message import Message
from pipelines.output import Receipt, Retry
from pipelines.outputs.mail_wire import Broken, Wire

# So many broken connections in a row, and the rest of the call waits for the next one.
_PATIENCE = 2


class MailSession(Protocol):
    """A session with a mail server."""

    ended: bool
    """Whether the server has taken leave."""

    def quit(self) -> None:
        """Take leave and hang up; never raises."""
        ...

    def hang_up(self) -> None:
        """Close a connection in which there is nobody to take leave of; never raises."""
        ...


Session = TypeVar("Session", bound=MailSession)


class NotLetIn(Exception):
    """There is no session to be had; `receipt` says why."""

    def __init__(self, receipt: Retry) -> None:
        super().__init__(receipt.reason)
        self.receipt = receipt


@dataclass(frozen=True)
class Denied:
    """The server does not let the account in: the receipt that this means, and whether another token might help."""

    receipt: Retry
    refuses_token: bool = True


def hand_over(
    messages: Sequence[Message], *, opened: Callable[[], Session], hand: Callable[[Session, Message], Receipt]
) -> list[Receipt]:
    """Hand the messages to the server one after the other; a receipt for each.

    `opened` gives a session or raises `NotLetIn`; both it and `hand` may raise `Broken`.
    """
    receipts: list[Receipt] = []
    session: Session | None = None
    trouble: Receipt | None = None
    broken = 0
    for message in messages:
        if trouble is not None:
            receipts.append(trouble)
            continue
        try:
            session = session or opened()
            receipts.append(hand(session, message))
            broken = 0
        except NotLetIn as error:
            trouble = error.receipt
            receipts.append(trouble)
        except Broken as error:
            # It was taken or not; how a repetition is recognised is the output's affair.
            receipts.append(Retry(str(error)))
            broken += 1
            trouble = receipts[-1] if broken == _PATIENCE else None
        if session and (broken or session.ended):
            session.hang_up()
            session = None
    if session:
        session.quit()
    return receipts


def try_sign_in(opened: Callable[[], Session]) -> None:
    """Open a session and leave it.

    Raises:
        CannotSignIn: the server cannot be reached, or does not let this account in.
    """
    try:
        opened().quit()
    except NotLetIn as error:
        raise CannotSignIn(error.receipt.reason) from error
    except Broken as error:
        raise CannotSignIn(str(error)) from error


def signed_in(
    options: AccountOptions,
    tokens: Tokens | None,
    *,
    start: Callable[[Wire], Session],
    enter: Callable[[Session, str], Denied | None],
) -> Session:
    """A session that the account has signed in to; a token that is refused is replaced once.

    `start` waits for the greeting, `enter` signs in with a secret. Both may raise `Broken` and `CannotSignIn`.

    Raises:
        NotLetIn: there is none to be had, and the receipt says why.
        Broken: the connection broke.
    """
    try:
        secret = secret_of(options, tokens)
        session, denied = _tried(options, start, enter, secret)
        if denied and denied.refuses_token and options.wants_tokens and tokens:
            another = tokens.another(secret)
            if another is not None:
                session, denied = _tried(options, start, enter, another)
    except (CannotSignIn, NoToken) as error:
        raise NotLetIn(Retry(str(error))) from error
    if denied:
        raise NotLetIn(denied.receipt)
    return session


def _tried(
    options: AccountOptions,
    start: Callable[[Wire], Session],
    enter: Callable[[Session, str], Denied | None],
    secret: str,
) -> tuple[Session, Denied | None]:
    """Connect and sign in: the session, and why the server refuses, when it does; then the session is left already."""
    wire = Wire(options.server, ca_file=options.ca_file, timeout=options.timeout.total_seconds())
    try:
        session = start(wire)
        denied = enter(session, secret)
    except (Broken, CannotSignIn):
        wire.close()
        raise
    if denied:
        session.quit()
    return session, denied
