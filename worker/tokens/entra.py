"""Asks Microsoft Entra, Google or any OpenID Connect provider for tokens, through MSAL.

The only module that imports msal. It asks and translates: every answer becomes tokens or an error that says who must act.
It stores nothing and decides no moment; `keeper` and `worker.sign_in` do. MSAL's cache carries the refresh token, and
access tokens are kept beside it, because MSAL would look for them under the scopes that the provider chose to name.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msal
import orjson

from worker.errors import (
    MailquayError,
    Misconfigured,
    NeedsSignIn,
    RegistrationRefused,
    Throttled,
    Unreachable,
)
from worker.tokens import AccessToken, Grant, Granted, Registration, spelled
from worker.tokens.answer import ProviderSession
from worker.tokens.claims import vouched_name
from worker.tokens.credential import for_msal
from worker.tokens.verdict import declined, refusal

_HTTP_CACHE: dict[str, Any] = {}
"""MSAL's memory of discovery answers, shared in this process so that no poll asks for them."""
_LATER_SECONDS = 5.0
"""RFC 8628 section 3.5: a client that is told to slow down, or gets no answer, waits so much longer."""


class Entra:
    """The provider behind one app registration."""

    def __init__(
        self,
        registration: Registration,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registration = registration
        self._clock = clock
        self._sleep = sleep

    # -- keeping a grant fresh ---------------------------------------------------------------------------------------

    def refresh(
        self, account: str, grant: Grant | None, scopes: Sequence[str], before_post: Callable[[], None]
    ) -> Granted:
        """New tokens for the refresh token of a grant (RFC 6749 section 6). `before_post` is called before it is sent.

        Raises:
            MailquayError: what `verdict.refusal` makes of the answer; Unreachable when there was none.
        """
        cache = msal.SerializableTokenCache()
        cache.deserialize(grant.cache if grant else "{}")

        def silently(app: Any) -> dict[str, Any]:
            accounts = app.get_accounts()
            found = accounts and app.acquire_token_silent_with_error(
                list(scopes), account=accounts[0], force_refresh=True
            )
            return found or {"error": "no_account"}

        return self._granted(account, cache, self._asked(account, silently, cache, before_post))

    def client_credentials(
        self,
        account: str,
        grant: Grant | None,  # noqa: ARG002  (an application on its own has none)
        scopes: Sequence[str],
        before_post: Callable[[], None],
    ) -> Granted:
        """A token for the application itself (RFC 6749 section 4.4); it has no refresh token. Raises as `refresh`."""
        cache = msal.SerializableTokenCache()
        answer = self._asked(
            account, lambda app: app.acquire_token_for_client(scopes=list(scopes)), cache, before_post
        )
        return self._granted(account, cache, answer)

    # -- signing in ----------------------------------------------------------------------------------------------

    def begin_device_flow(self, account: str, scopes: Sequence[str]) -> dict[str, Any]:
        """Start a sign-in by device code (RFC 8628): `user_code` and `verification_uri` are for the person.

        Raises:
            Misconfigured: this registration, or the provider, has no device code flow.
            MailquayError: the provider refuses this application or these scopes, or does not answer.
        """
        if self._registration.credential is not None:
            raise Misconfigured(
                "this app registration has a secret or a certificate, and the device code flow is for public clients. "
                f"Run `mailquay login --browser {account}`, or --paste where there is no browser"
            )

        def begin(app: Any) -> dict[str, Any]:
            if not app.authority.device_authorization_endpoint:
                raise Misconfigured(
                    "the identity provider has no device code flow. Run `mailquay login --browser "
                    f"{account}`, or --paste where there is no browser"
                )
            flow: dict[str, Any] = app.initiate_device_flow(scopes=list(scopes))
            return flow

        flow = self._asked(account, begin)
        if "user_code" not in flow:
            raise refusal(account, flow)
        return flow

    def finish_device_flow(
        self, flow: dict[str, Any], account: str, scopes: Sequence[str], *, give_up: Callable[[], bool]
    ) -> Granted:
        """Wait until the person has approved.

        Raises:
            NeedsSignIn: declined, too late, given up, or somebody else signed in.
            MailquayError: as `refresh`.
        """
        cache = msal.SerializableTokenCache()
        pause = float(flow.get("interval", _LATER_SECONDS))
        while True:
            try:
                # Once, and without MSAL's own waiting: a dropped connection is no end of the sign-in.
                answer = self._asked(
                    account,
                    lambda app: app.acquire_token_by_device_flow(flow, exit_condition=lambda _: True),
                    cache,
                )
            except (Unreachable, Throttled):
                answer = {"error": "slow_down"}
            if answer.get("error") not in {"authorization_pending", "slow_down"}:
                return self._signed_in(account, cache, answer, scopes)
            pause += _LATER_SECONDS if answer["error"] == "slow_down" else 0.0
            if give_up() or self._clock() > float(flow.get("expires_at", 0.0)):
                raise declined(account, {"error": "expired_token"})
            self._sleep(pause)

    def begin_code_flow(
        self, account: str, scopes: Sequence[str], *, redirect_uri: str, form_post: bool
    ) -> dict[str, Any]:
        """Start a sign-in by authorization code with PKCE (RFC 6749 section 4.1, RFC 7636): `auth_uri` is for the person.

        `form_post` asks the provider to post the answer, so that the code does not stand in an address.

        Raises:
            MailquayError: the provider does not answer.
        """

        def begin(app: Any) -> dict[str, Any]:
            with warnings.catch_warnings():
                # MSAL warns of answers in an address. Where a person carries the address over, there is no other way.
                warnings.simplefilter("ignore", UserWarning)
                flow: dict[str, Any] = app.initiate_auth_code_flow(
                    list(scopes),
                    redirect_uri=redirect_uri,
                    login_hint=account,
                    # Elsewhere a refresh token wants consent (OpenID Connect Core section 11; Google as well).
                    prompt="select_account" if self._is_entra else "consent",
                    response_mode="form_post" if form_post else None,
                )
            return flow

        flow = self._asked(account, begin)
        if self._registration.name == "google":
            # Google's way of saying offline_access.
            flow["auth_uri"] += "&access_type=offline"
        return flow

    def finish_code_flow(
        self, flow: dict[str, Any], answer: Mapping[str, str], account: str, scopes: Sequence[str]
    ) -> Granted:
        """Redeem the code in `answer`, the parameters that the provider sent back to the redirect URI.

        Raises:
            NeedsSignIn: declined, somebody else signed in, or the answer belongs to another sign-in.
            MailquayError: as `refresh`.
        """
        if answer.get("state") != flow.get("state"):
            # RFC 6749 section 10.12: somebody else's answer, or one of an earlier attempt.
            raise NeedsSignIn(
                f"this answer belongs to another sign-in than the one that was begun for {account}; nothing was "
                f"stored. Run `mailquay login {account}` again"
            )
        cache = msal.SerializableTokenCache()
        found = self._asked(
            account, lambda app: app.acquire_token_by_auth_code_flow(flow, dict(answer)), cache
        )
        return self._signed_in(account, cache, found, scopes)

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _is_entra(self) -> bool:
        return self._registration.name == "entra"

    def _signed_in(
        self, account: str, cache: Any, answer: Mapping[str, Any], scopes: Sequence[str]
    ) -> Granted:
        """The grant, once it is certain that it is this account's and that it can be renewed."""
        if "access_token" not in answer:
            raise declined(account, answer)
        who = vouched_name(self._registration, answer.get("id_token_claims") or {}, now=self._clock())
        if who.lower() != account.lower():
            raise NeedsSignIn(
                f"{who} signed in, but this sign-in is for {account}; nothing was stored. Sign out in the browser and "
                f"run `mailquay login {account}` again. If {who} is who should sign in for the mailbox, set its ACCOUNT"
            )
        if "refresh_token" not in answer:
            raise RegistrationRefused(
                f"the identity provider gave no refresh token for {account}, so the sign-in would end within the hour; "
                "nothing was stored. Allow offline access for the application"
            )
        granted = self._granted(account, cache, answer)
        return replace(granted, grant=Grant(granted.grant.cache, {spelled(scopes): granted.token}))

    def _granted(self, account: str, cache: Any, answer: Mapping[str, Any]) -> Granted:
        if "access_token" not in answer:
            raise refusal(account, answer)
        now = self._clock()
        token = AccessToken(answer["access_token"], now + answer.get("expires_in", 3600), now)
        # Google and Keycloak say how long the refresh token lives, each in its own word.
        lives = answer.get("refresh_token_expires_in") or answer.get("refresh_expires_in")
        return Granted(
            Grant(_without_access_tokens(cache)),
            token,
            ends_at=now + lives if lives else None,
            rotated="refresh_token" in answer,
        )

    def _asked(
        self,
        account: str,
        ask: Callable[[Any], dict[str, Any]],
        cache: Any = None,
        before_post: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Ask the provider, and make every way of not answering one error."""
        said = self._registration
        _forget_refusals()
        with ProviderSession(before_post=before_post) as session:
            if said.ca_file:
                # requests prefers REQUESTS_CA_BUNDLE from the environment to `verify`; an explicit setting must win.
                session.verify, session.trust_env = said.ca_file, False
            try:
                answer = ask(self._app(session, cache))
            except MailquayError:
                raise
            except Exception as error:
                # Whatever MSAL makes of a strange answer: without a chain, because its errors may hold the body.
                raise self._unanswered(account, session, type(error).__name__) from None
            if "error" in answer and (session.status >= 500 or session.status == 429):
                raise refusal(account, answer, status=session.status, retry_after=session.retry_after)
        return answer

    def _unanswered(self, account: str, session: ProviderSession, reason: str) -> MailquayError:
        if session.status == 429 or (session.status >= 500 and session.retry_after):
            answer = {"error": f"HTTP {session.status}"}
            return refusal(account, answer, status=session.status, retry_after=session.retry_after)
        authority = self._registration.authority
        if session.asked == "GET" and session.status in {400, 404}:
            return RegistrationRefused(
                f"the identity provider knows no such tenant or issuer: {authority}. Check ENTRA__TENANT, or the issuer"
            )
        return Unreachable(
            f"the identity provider {authority} does not answer, or not usably ({reason}); tried again. If this stays, "
            "check that it can be reached from here"
        )

    def _app(self, session: ProviderSession, cache: Any) -> Any:
        said = self._registration
        options: dict[str, Any] = {
            "http_client": session,
            "http_cache": _HTTP_CACHE,
            "token_cache": cache or msal.SerializableTokenCache(),
        }
        if self._is_entra:
            # Every other address is taken at its word: instance discovery asks the public cloud about it.
            known = "//login.microsoftonline.com/" in said.authority
            options |= {"authority": said.authority, "instance_discovery": None if known else False}
        else:
            # MSAL wants a path below the host; Google's issuer has none, and a dot is none either (RFC 3986 5.2.4).
            bare = said.authority.count("/") == 2
            options |= {"oidc_authority": f"{said.authority}/." if bare else said.authority}
        if said.name == "google":
            # Google refuses the scope offline_access, which MSAL adds; it is said in the address instead.
            options["exclude_scopes"] = ["offline_access"]
        if said.credential is None:
            return msal.PublicClientApplication(said.client_id, **options)
        return msal.ConfidentialClientApplication(
            said.client_id, client_credential=for_msal(said.credential), **options
        )


def _forget_refusals() -> None:
    """Drop what MSAL remembers of refusals, and keep discovery.

    It would say a refusal again for a minute, in this process alone, also when the provider has thought better of it. When
    to ask again is kept in Redis for all processes (`verdict.judged`).
    """
    for key in [key for key in list(_HTTP_CACHE) if key.startswith("POST ")]:
        _HTTP_CACHE.pop(key, None)


def _without_access_tokens(cache: Any) -> str:
    found = orjson.loads(cache.serialize())
    found.pop("AccessToken", None)
    return orjson.dumps(found).decode()
