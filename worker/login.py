"""Logging in to a mailbox's server: the token acquired just before, one other token when it is refused, and why.

A server gives no reasons. So a token that was refused is decoded and compared with what the server needs; what does not
fit is said, the token itself never. A refusal is answered by at most one refresh, and never by a loop of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import (
    LoginRefused,
    MailquayError,
    NotConnected,
    SessionExpired,
    TokenTooLong,
    Unreachable,
)
from worker.hosts import Visit
from worker.kept import Session
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.sources import Credentials, Source, sasl
from worker.sources.providers import CLOUDS, PERMISSIONS
from worker.tokens import AccessToken
from worker.tokens.claims import Wanted, decoded, misfits

_POP3_TOKEN_LIMIT = 4096
"""Exchange Online's POP3 takes no longer token, since July 2025 (jstedfast/MailKit#1948)."""
_BLOCKED_SECONDS = 3600.0
"""For so long Exchange may refuse to connect a mailbox that worked, after many logins."""


@contextmanager
def logged_in(
    quay: Quay,
    mailbox: Mailbox,
    *,
    fence: int | None = None,
    ended: AccessToken | None = None,
    insist: bool = False,
) -> Iterator[Session]:
    """A session with a mailbox's server for the length of the block, or longer if it is kept in it (`kept.py`).

    `ended` is a token that the server has just called expired.

    `fence` is that of the mailbox's lease: under it the session waits for its turn at the host, and is not tried while that is
    away (`hosts.py`). Without it, and with `insist`, a person waits; with `insist` a refused token is replaced in any case.

    Exchange Online may take a token and refuse at the first folder, so a refusal in the block counts as one of the login.

    Raises:
        AccountTrouble: there is no token to be had, and the error says who must act.
        LoginRefused, NotConnected, TokenTooLong: the server refuses it, and another token did not help.
        Waiting: it was not its turn, or the host is away; nothing was tried.
        MailquayError: whatever the source finds wrong with the server.
    """
    with quay.hosts.visiting(mailbox, fence) as visit:
        session = _log_in(quay, mailbox, visit, ended, insist=insist)
        try:
            yield session
        except NotConnected as refused:
            raise diagnosed(quay, mailbox, session.token, refused) from refused
        finally:
            quay.kept.let_go(session)


def _log_in(
    quay: Quay, mailbox: Mailbox, visit: Visit, ended: AccessToken | None, *, insist: bool
) -> Session:
    if mailbox.auth == "password":
        assert mailbox.password is not None
        secret = mailbox.password.get_secret_value()
        return _with(quay, mailbox, visit, Credentials(mailbox.username, secret, bearer=False), None)
    keeper, account = quay.keeper(mailbox), quay.settings.account(mailbox)
    token = (ended and keeper.another(account, mailbox.scopes, ended)) or keeper.access(
        account, mailbox.scopes
    )
    try:
        return _with(quay, mailbox, visit, Credentials(mailbox.username, token.secret), token)
    except (LoginRefused, SessionExpired) as refused:
        # The token may have been revoked, or lack what its owner has been given meanwhile.
        another = keeper.another(account, mailbox.scopes, token, insist=insist)
        if another is None:
            raise diagnosed(quay, mailbox, token, refused) from refused
    try:
        return _with(quay, mailbox, visit, Credentials(mailbox.username, another.secret), another)
    except LoginRefused as refused:
        raise diagnosed(quay, mailbox, another, refused) from refused


def _with(
    quay: Quay, mailbox: Mailbox, visit: Visit, credentials: Credentials, token: AccessToken | None
) -> Session:
    # A provider of tokens that is away, before this, is not the mail server's fault.
    visit.called = True
    source = _connected(quay, mailbox, credentials)
    return Session(source, token, quay.clock(), arrived=lambda: quay.hosts.arrived(visit))


def _connected(quay: Quay, mailbox: Mailbox, credentials: Credentials) -> Source:
    """A session with the server. One that repeats the command it refuses must not bring a secret into a sentence."""
    try:
        return quay.connect(mailbox, credentials)
    except MailquayError as error:
        if sasl.repeated(error.sentence, credentials, mailbox.endpoint):
            error.sentence = (
                f"{mailbox.endpoint.host} refused, and repeated what was sent; its words are not shown"
            )
            error.args = (error.sentence,)
        raise


def diagnosed(
    quay: Quay, mailbox: Mailbox, token: AccessToken | None, refused: LoginRefused | SessionExpired
) -> MailquayError:
    """The same refusal, with everything that the token and the past say about it."""
    if token is None or isinstance(refused, SessionExpired):
        return refused
    if mailbox.protocol == "pop3" and len(token.secret) > _POP3_TOKEN_LIMIT:
        return TokenTooLong(
            f"{refused.sentence} The token has {len(token.secret)} characters, and Exchange's POP3 takes no more than "
            f"{_POP3_TOKEN_LIMIT}: let the app registration put fewer claims and groups into it, or set PROTOCOL=imap."
        )
    found = _misfits(quay, mailbox, token)
    if found:
        return type(refused)(f"{refused.sentence} The token does not fit: {'; '.join(found)}.")
    pulled_ago = quay.clock() - quay.standings.of(mailbox.name).pulled_at
    if isinstance(refused, NotConnected) and pulled_ago < _BLOCKED_SECONDS:
        return Unreachable(
            f"{mailbox.endpoint.host} took the token and does not open the mailbox just now. It did "
            f"{pulled_ago / 60:.0f} minutes ago, so this is taken for one of its pauses after many logins; tried again"
        )
    return refused


def _misfits(quay: Quay, mailbox: Mailbox, token: AccessToken) -> list[str]:
    """What is wrong with a token by its own words, where it has some and the server's needs are known."""
    claims = decoded(token.secret)
    wanted = _wanted(mailbox)
    return [] if claims is None or wanted is None else misfits(claims, wanted, now=quay.clock())


def _wanted(mailbox: Mailbox) -> Wanted | None:
    """What Exchange Online needs; of other servers nobody here knows."""
    for cloud in CLOUDS.values():
        if any(scope.startswith((cloud.resource, cloud.app_resource)) for scope in mailbox.scopes):
            return Wanted(
                {cloud.resource, cloud.app_resource},
                PERMISSIONS[mailbox.auth, mailbox.protocol],
                mailbox.account if mailbox.auth == "delegated" else None,
            )
    return None
