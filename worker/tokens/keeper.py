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
    MailquayError,
    NeedsSignIn,
    RedisUnavailable,
    Throttled,
    Unreachable,
)
from worker.tokens import AccessToken, Grant, Granted, Lock, Stored, spelled
from worker.tokens.store import TokenStore
from worker.tokens.verdict import judged, restored

MARGIN_SECONDS = 300.0
"""A token with less left than this is renewed: a pull may take that long."""
_USABLE_SECONDS = 30.0
"""A token with more left than this is used while no better one is to be had."""
_OTHERS_REFRESH_SECONDS = 40.0
"""How long to wait for another process that is refreshing the same account: longer than a killed one keeps the lock."""
_SAVE_SECONDS = 30.0


Renew = Callable[[str, Grant | None, Sequence[str]], Granted]
"""Asks the provider for an account's new tokens; raises what `verdict` makes of a refusal."""


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
        """A token that is good for five minutes or longer; see `Tokens.access` for what it raises."""
        stored = self._loaded(account)
        token = stored.grant.token(scopes) if stored.grant else None
        if token and token.good(self._clock(), margin=MARGIN_SECONDS):
            return token
        return self._renewed(account, scopes, refused=None)

    def another(self, account: str, scopes: Sequence[str], refused: AccessToken) -> AccessToken | None:
        """A token other than a refused one, or None; see `Tokens.another`."""
        stored = self._loaded(account)
        token = stored.grant.token(scopes) if stored.grant else None
        if token and token.secret != refused.secret:
            return token
        if self._clock() - refused.issued_at < (refused.expires_at - refused.issued_at) / 2:
            # Were each refusal answered by a refresh, a mailbox that is switched off would ask for one at every poll.
            return None
        return self._renewed(account, scopes, refused=refused)

    def renew(self, account: str, scopes: Sequence[str]) -> None:
        """Refresh whether or not it is due, so that the grant does not die of idleness. Raises as `access`."""
        stored = self._loaded(account)
        self._renewed(account, scopes, refused=stored.grant.token(scopes) if stored.grant else None)

    def ask_anew(self, account: str) -> None:
        """Forget what was noted of a refusal: somebody has mended something and wants to see whether it helped."""
        self._store.note(account, None, read=self._store.glance(account).version)

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

    def _renewed(self, account: str, scopes: Sequence[str], *, refused: AccessToken | None) -> AccessToken:
        """The token after a renewal by whoever gets the lock."""
        give_up = self._clock() + _OTHERS_REFRESH_SECONDS
        while True:
            with self._lock(f"token:{account.casefold()}") as held:
                stored = self._loaded(account)
                token = stored.grant.token(scopes) if stored.grant else None
                if token and refused and token.secret == refused.secret:
                    token = None
                # Whoever held the lock before has refreshed, or has noted why that is not to be had now.
                if token and token.good(self._clock(), margin=MARGIN_SECONDS):
                    return token
                usable = token if token and token.expires_at > self._clock() + _USABLE_SECONDS else None
                if held is not None:
                    return self._asked(account, scopes, stored, usable)
                if usable:
                    return usable
            if self._clock() > give_up:
                raise Unreachable(
                    f"the token of {account} is being refreshed elsewhere, for too long; tried again"
                )
            self._sleep(0.1)

    def _asked(
        self, account: str, scopes: Sequence[str], stored: Stored, usable: AccessToken | None
    ) -> AccessToken:
        """Ask the provider, under the lock, unless it was asked a moment ago; `usable` is better than an error."""
        now = self._clock()
        if stored.trouble and now < stored.trouble.again_at:
            if usable:
                return usable
            raise restored(stored.trouble, now)
        try:
            granted = self._renew(account, stored.grant, scopes)
        except MailquayError as said:
            if not isinstance(said, AccountTrouble | Throttled | Unreachable):
                # A file that cannot be read here says nothing of the account.
                raise
            error, trouble = judged(said, stored, now)
            self._store.note(account, trouble, read=stored.version)
            if usable:
                return usable
            raise error from said
        before = stored.grant.tokens if stored.grant else {}
        grant = replace(granted.grant, tokens={**_alive(before, now), spelled(scopes): granted.token})
        self._save(account, grant, stored.version, granted.ends_at)
        return granted.token

    def _save(self, account: str, grant: Grant, version: int, ends_at: float | None) -> None:
        """Store what came before it is used. When somebody signed in meanwhile, theirs stays and ours serves for once.

        Raises:
            RedisUnavailable: it stayed away for half a minute.
        """
        now = self._clock()
        while self._clock() < now + _SAVE_SECONDS:
            # The only copy of a rotated refresh token is in this process now: it outlasts a Redis that restarts.
            with suppress(RedisUnavailable):
                self._store.swap(
                    account, grant, read=version, now=now, ends_at=ends_at, client_id=self._client_id
                )
                return
            self._sleep(0.5)
        self._store.swap(account, grant, read=version, now=now, ends_at=ends_at, client_id=self._client_id)


def _alive(tokens: Mapping[str, AccessToken], now: float) -> dict[str, AccessToken]:
    """Those that have not ended: a protocol that is used no more leaves nothing behind for ever."""
    return {scopes: token for scopes, token in tokens.items() if token.expires_at > now}
