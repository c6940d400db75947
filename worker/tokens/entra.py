"""Access tokens from Microsoft Entra, or a provider that speaks its protocol, through MSAL.

The only module that imports msal. MSAL's cache is a dictionary in memory whose last writer wins; here it is loaded from
the store, used, and stored again by compare and set before anything that came with it is used. A token that is still
good costs no request and no lock. It never deletes a refresh token, whatever the provider says about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msal
import requests
from msal.exceptions import MsalServiceError

from worker.errors import MailquayError, Misconfigured, NeedsAdmin, NeedsSignIn, Unreachable
from worker.tokens import AccessToken, Lock, Registration
from worker.tokens.store import TokenStore

_MARGIN_SECONDS = 300
"""A token with less left than this is renewed: a pull may take that long."""
_OTHERS_REFRESH_SECONDS = 20.0
"""How long to wait for another process that is refreshing the same account."""

_HTTP_CACHE: dict[str, Any] = {}
"""MSAL's memory of discovery answers and Retry-After, shared in this process so that it is not asked each time."""


class _Session(requests.Session):
    """An HTTP session whose every call has a deadline; MSAL itself sets none."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", (5, 20))
        return super().request(*args, **options)


class Entra:
    """Tokens for accounts of one app registration. `lock` keeps refreshes of one account apart across processes."""

    def __init__(
        self,
        registration: Registration,
        store: TokenStore,
        lock: Lock,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registration = registration
        self._store = store
        self._lock = lock
        self._clock = clock
        self._sleep = sleep

    def access(self, account: str, scopes: Sequence[str], *, renewed: bool = False) -> AccessToken:
        """A token good for at least five minutes; see `Tokens.access` for what it raises."""
        stored = self._store.load(account)
        if stored.cache is None:
            raise NeedsSignIn(f"nobody has signed in as {account} yet. Run `mailquay login {account}`")
        first_version = stored.version
        if not renewed and (token := self._fresh(_cache(stored.cache), scopes, _MARGIN_SECONDS)):
            return token
        give_up = self._clock() + _OTHERS_REFRESH_SECONDS
        while True:
            with self._lock(f"token:{account.casefold()}") as held:
                stored = self._store.load(account)
                cache = _cache(stored.cache or "{}")
                # Whoever held the lock before has refreshed: a newer version is as good as a refresh of our own.
                wanted = renewed and stored.version == first_version
                if not wanted and (token := self._fresh(cache, scopes, _MARGIN_SECONDS)):
                    return token
                if held is not None:
                    return self._refreshed(account, scopes, cache, stored.version)
                if not renewed and self._clock() > give_up and (token := self._fresh(cache, scopes, 0)):
                    return token
            if self._clock() > give_up:
                raise Unreachable(
                    f"the token of {account} is being refreshed elsewhere, for too long; tried again"
                )
            self._sleep(0.2)

    def begin_device_flow(self, scopes: Sequence[str]) -> dict[str, Any]:
        """Start signing in by device code (RFC 8628): `user_code` and `verification_uri` are for the person.

        Raises:
            Misconfigured, NeedsAdmin: the provider refuses this app or these scopes.
            Unreachable: it does not answer.
        """
        flow = self._asked(
            lambda app: app.initiate_device_flow(scopes=list(scopes)), msal.SerializableTokenCache()
        )
        if "user_code" not in flow:
            raise refusal("the app registration", flow)
        return flow

    def finish_device_flow(
        self, flow: dict[str, Any], account: str, *, give_up: Callable[[], bool] = lambda: False
    ) -> str:
        """Wait until the person has approved, and store what came; returns the user name that signed in.

        Raises:
            NeedsSignIn: declined, too late, or somebody else signed in; nothing was stored.
        """
        cache = msal.SerializableTokenCache()
        result = self._asked(
            lambda app: app.acquire_token_by_device_flow(flow, exit_condition=lambda _: give_up()), cache
        )
        if "access_token" not in result:
            raise refusal(account, result)
        claims = result.get("id_token_claims", {})
        who = str(claims.get("preferred_username") or claims.get("upn") or "")
        if who.casefold() != account.casefold():
            raise NeedsSignIn(
                f"{who or 'somebody without a name'} signed in, but this sign-in is for {account}; nothing was "
                f"stored. Sign out in the browser and run `mailquay login {account}` again"
            )
        text = cache.serialize()
        while not self._store.swap(account, read=self._store.version(account), cache=text):
            # A worker has just refreshed the tokens of the sign-in before; this one is newer.
            continue
        return who

    def _refreshed(self, account: str, scopes: Sequence[str], cache: Any, version: int) -> AccessToken:
        result = self._asked(lambda app: _silently(app, scopes), cache)
        if "access_token" not in result:
            raise refusal(account, result)
        if cache.has_state_changed:
            # Stored before it is used: a crash after this line loses nothing. When somebody signed in meanwhile,
            # theirs stays, and ours serves for this once.
            self._store.swap(account, read=version, cache=cache.serialize())
        return AccessToken(result["access_token"], self._clock() + int(result.get("expires_in", 0)))

    def _fresh(self, cache: Any, scopes: Sequence[str], margin: float) -> AccessToken | None:
        """A cached token that is good for `margin` seconds more, found without any request."""
        kind = msal.TokenCache.CredentialType.ACCESS_TOKEN
        for entry in cache.search(kind, target=list(scopes)):
            if int(entry["expires_on"]) > self._clock() + margin:
                return AccessToken(entry["secret"], float(entry["expires_on"]))
        return None

    def _asked(self, ask: Callable[[Any], dict[str, Any] | None], cache: Any) -> dict[str, Any]:
        """Ask the provider, and make every way of not answering one error."""
        session = _Session()
        if self._registration.ca_file:
            # requests prefers REQUESTS_CA_BUNDLE from the environment to `verify`; an explicit setting must win.
            session.verify = self._registration.ca_file
            session.trust_env = False
        authority = self._registration.authority
        try:
            app = msal.PublicClientApplication(
                self._registration.client_id,
                authority=authority,
                # The public cloud is known to MSAL; any other address is taken at its word.
                instance_discovery=None if "//login.microsoftonline.com/" in authority else False,
                token_cache=cache,
                http_client=session,
                http_cache=_HTTP_CACHE,
            )
            return ask(app) or {"error": "no_account"}
        except (requests.RequestException, MsalServiceError) as error:
            raise Unreachable(
                f"the identity provider {authority} does not answer ({type(error).__name__}); tried again"
            ) from error
        except ValueError as error:
            # MSAL says ValueError for an answer that is no JSON and for an authority that it cannot use.
            raise Unreachable(
                f"the identity provider {authority} gave no usable answer. If this stays, check ENTRA__TENANT or "
                "ENTRA__AUTHORITY"
            ) from error
        finally:
            session.close()


def refusal(account: str, result: Mapping[str, Any]) -> MailquayError:
    """The error behind an OAuth error answer, decided on `error` and `suberror`, never on its text (RFC 6749 5.2)."""
    error = str(result.get("error", "unknown"))
    codes = ", ".join(f"AADSTS{code}" for code in result.get("error_codes", ()))
    said = f"the identity provider says {error}" + (f" ({codes})" if codes else "")
    again = f"Run `mailquay login {account}`"
    if error in {"temporarily_unavailable", "server_error", "slow_down"}:
        return Unreachable(f"{said} for {account}; tried again")
    if error in {"authorization_declined", "access_denied"}:
        return NeedsSignIn(f"the sign-in as {account} was declined. {again}")
    if error in {"expired_token", "code_expired", "authorization_pending"}:
        return NeedsSignIn(f"nobody approved the sign-in as {account} in time. {again}")
    if error in {"invalid_grant", "interaction_required", "login_required", "consent_required", "no_account"}:
        return NeedsSignIn(f"{said} for {account}: the owner has to sign in again. {again}")
    if error == "unauthorized_client":
        return NeedsAdmin(f"{said}: the app registration is unknown to the tenant or may not do this")
    return Misconfigured(f"{said}. Check ENTRA__CLIENT_ID, ENTRA__TENANT and the scopes")


def _silently(app: Any, scopes: Sequence[str]) -> dict[str, Any] | None:
    accounts = app.get_accounts()
    if not accounts:
        return None
    result: dict[str, Any] | None = app.acquire_token_silent_with_error(
        list(scopes), account=accounts[0], force_refresh=True
    )
    return result


def _cache(text: str) -> Any:
    cache = msal.SerializableTokenCache()
    cache.deserialize(text)
    return cache
