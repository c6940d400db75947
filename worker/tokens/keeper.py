"""Keeps grants fresh: decides when a provider is asked, by whom, and what happens when it says no.

A token that is good costs one read of Redis and no lock. Of many processes with an expired one exactly one asks, stores
what came before anybody uses it, and the others use that. A refused renewal is noted with the account, so that neither
fifty mailboxes nor a poll every minute ask again; a token that still lives is used meanwhile. It knows no MSAL and no HTTP.

A process that is killed between the provider's answer and the store loses a refresh token that the provider has already
rotated; nothing on this side can prevent that. Entra keeps the old one good; a provider that does not wants a new sign-in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from worker.errors import (
    AccountTrouble,
    LeaseLost,
    MailquayError,
    NeedsSignIn,
    Throttled,
    Unreachable,
)
from worker.tokens import AccessToken, Grant, Granted, Held, Lock, Stored, spelled
from worker.tokens.store import TokenStore
from worker.tokens.verdict import judged, restored

MARGIN_SECONDS = 300.0
"""A token with less left than this is renewed: a pull may take that long."""
_USABLE_SECONDS = 30.0
"""A token with more left than this is used while no better one is to be had."""
_OTHERS_REFRESH_SECONDS = 40.0
"""How long to wait for another process that is refreshing the same account: longer than a killed one keeps the lock."""
_JUST_SECONDS = 60.0
"""A token as new as this is refused for another reason than its age."""


Renew = Callable[[str, Grant | None, Sequence[str], Callable[[], None]], Granted]
"""Asks the provider for an account's new tokens; raises what `verdict` makes of a refusal.

The last argument is called right before the refresh token is sent, and may raise.
"""


class Keeper:
    """Tokens of one app registration. `lock` keeps refreshes of one account apart across processes.

    `signed_in` says that a person has to have signed in first; an application on its own asks at any time.
    """

    def __init__(
        self,
        renew: Renew,
        store: TokenStore,
        lock: Lock,
        *,
        client_id: str,
        signed_in: bool,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._renew = renew
        self._store = store
        self._lock = lock
        self._client_id = client_id
        self._signed_in = signed_in
        self._clock = clock
        self._sleep = sleep

    def access(self, account: str, scopes: Sequence[str]) -> AccessToken:
        """A token that is good for five minutes or longer, or for as long as the provider's tokens are.

        Raises:
            NeedsSignIn: nobody signed in, or the provider wants the owner again.
            NeedsAdmin, RegistrationRefused, OurBug: the provider says that somebody else has to act.
            SignInDoubtful: the provider refuses what worked a moment ago; tried again for a while.
            Unreachable, Throttled: the provider does not answer; tried again.
            TokensUnreadable: the stored token cannot be opened with the keys at hand.
        """
        stored = self._loaded(account)
        token = stored.grant.token(scopes) if stored.grant else None
        if token and token.good(self._clock(), margin=MARGIN_SECONDS):
            return token
        return self._renewed(account, scopes, instead_of=None)

    def another(
        self, account: str, scopes: Sequence[str], refused: AccessToken, *, insist: bool = False
    ) -> AccessToken | None:
        """A token other than one that a server refused; None when that one was itself asked for because of a refusal.

        Were each refusal answered by a refresh, a mailbox that is switched off would ask for one at every poll, which Entra
        calls a loop (AADSTS50196). `insist` is for a person who waits. Raises as `access`.
        """
        stored = self._loaded(account)
        token = stored.grant.token(scopes) if stored.grant else None
        if token and token.secret != refused.secret:
            return token
        just_issued = 0 <= self._clock() - refused.issued_at < _JUST_SECONDS
        if not insist and (refused.forced or just_issued):
            return None
        return self._renewed(account, scopes, instead_of=refused, forced=True)

    def renew(self, account: str, scopes: Sequence[str]) -> None:
        """Refresh whether or not it is due, so that the grant does not die of idleness. Raises as `access`."""
        stored = self._loaded(account)
        self._renewed(account, scopes, instead_of=stored.grant.token(scopes) if stored.grant else None)

    def ask_anew(self, account: str) -> None:
        """Forget what was noted of refusals: somebody has mended something and wants to see whether it helped."""
        self._store.note(account, {}, read=self._store.glance(account).version)

    def _loaded(self, account: str) -> Stored:
        stored = self._store.load(account)
        if self._signed_in and stored.grant is None:
            raise NeedsSignIn(f"nobody has signed in as {account} yet. Run `mailquay login {account}`")
        if stored.grant and stored.client_id != self._client_id:
            # A grant is good for the application that it was given to, and for no other (RFC 6749 section 10.4).
            raise NeedsSignIn(
                f"{account} signed in under another app registration than the one configured now. Run "
                f"`mailquay login {account}`"
            )
        return stored

    def _renewed(
        self,
        account: str,
        scopes: Sequence[str],
        *,
        instead_of: AccessToken | None,
        forced: bool = False,
    ) -> AccessToken:
        """The token after a renewal by whoever gets the lock; one that is good already serves unless it is `instead_of`."""
        give_up = self._clock() + _OTHERS_REFRESH_SECONDS
        while True:
            with self._lock(f"token:{account.casefold()}") as held:
                stored = self._loaded(account)
                token = stored.grant.token(scopes) if stored.grant else None
                if token and instead_of and token.secret == instead_of.secret:
                    token = None
                # Whoever held the lock before has refreshed, or has noted why that is not to be had now.
                if token and token.good(self._clock(), margin=MARGIN_SECONDS):
                    return token
                usable = token if token and token.expires_at > self._clock() + _USABLE_SECONDS else None
                with suppress(LeaseLost):
                    # It was asleep between the lock and the request: somebody else may be asking by now.
                    if held is not None:
                        return self._asked(account, scopes, stored, usable, held, forced=forced)
                if usable:
                    return usable
                if trouble := stored.trouble(scopes):
                    # The provider is in trouble, and somebody is waiting for it already: one is enough.
                    raise restored(trouble, self._clock())
            if self._clock() > give_up:
                raise Unreachable(
                    f"the token of {account} is being refreshed elsewhere, for too long; tried again"
                )
            self._sleep(0.1)

    def _asked(
        self,
        account: str,
        scopes: Sequence[str],
        stored: Stored,
        usable: AccessToken | None,
        held: Held,
        *,
        forced: bool,
    ) -> AccessToken:
        """Ask the provider, under the lock, unless it was asked a moment ago; `usable` is better than an error.

        Raises:
            LeaseLost: the lock ran out before the refresh token was sent; nothing was asked.
        """
        before = stored.trouble(scopes)
        if before and self._clock() < before.again_at:
            if usable:
                return usable
            raise restored(before, self._clock())
        try:
            granted = self._renew(account, stored.grant, scopes, held.check)
        except MailquayError as said:
            if not isinstance(said, AccountTrouble | Throttled | Unreachable):
                # A file that cannot be read here, or a lock that is lost, says nothing of the account.
                raise
            error, trouble = judged(said, stored, before, self._clock())
            self._store.note(account, {**stored.troubles, spelled(scopes): trouble}, read=stored.version)
            if usable:
                return usable
            raise error from said
        token = replace(granted.token, forced=forced)
        alive = _alive(stored.grant.tokens if stored.grant else {}, self._clock())
        grant = replace(granted.grant, tokens={**alive, spelled(scopes): token})
        self._save(account, scopes, stored, replace(granted, grant=grant))
        return token

    def _save(self, account: str, scopes: Sequence[str], stored: Stored, granted: Granted) -> None:
        """Store what came before it is used. When somebody signed in meanwhile, theirs stays and ours serves for once.

        Raises:
            RedisUnavailable: it stayed away for half a minute.
        """
        # Without a new refresh token the old one ends when it would have ended.
        ends_at = granted.ends_at if granted.rotated or granted.ends_at else stored.ends_at
        troubles = {key: trouble for key, trouble in stored.troubles.items() if key != spelled(scopes)}
        now = self._clock()
        self._store.outlasting(
            lambda: self._store.swap(
                account,
                granted.grant,
                read=stored.version,
                now=now,
                ends_at=ends_at,
                client_id=self._client_id,
                troubles=troubles,
            ),
            clock=self._clock,
            sleep=self._sleep,
        )


def _alive(tokens: Mapping[str, AccessToken], now: float) -> dict[str, AccessToken]:
    """Those that have not ended: a protocol that is used no more leaves nothing behind for ever."""
    return {scopes: token for scopes, token in tokens.items() if token.expires_at > now}
