"""Entra's addresses: discovery, keys, device code, authorize and token, and the pages that a person fills in.

Reads requests, asks the provider, writes answers in Entra's shape. The address that the provider goes by is the one
that the client used, so that it works under any host name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import unquote_plus, urlencode, urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from worker.demo.identity import pages, refusals
from worker.demo.identity.credentials import Proof
from worker.demo.identity.grants import Application
from worker.demo.identity.provider import IdentityProvider
from worker.demo.identity.refusals import EntraRefusal, Reason, describe

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class EntraRoutes:
    """The HTTP surface of one identity provider."""

    def __init__(self, provider: IdentityProvider) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """Every address, for a Starlette application."""
        return [
            Route("/common/discovery/instance", self.instance),
            Route("/{tenant}/v2.0/.well-known/openid-configuration", self.configuration),
            Route("/{tenant}/discovery/v2.0/keys", self.keys),
            Route("/{tenant}/oauth2/v2.0/devicecode", self.device_code, methods=["POST"]),
            Route("/{tenant}/oauth2/v2.0/authorize", self.authorize, methods=["GET", "POST"]),
            Route("/{tenant}/oauth2/v2.0/token", self.token, methods=["POST"]),
            Route("/devicelogin", self.device_login, methods=["GET", "POST"]),
        ]

    async def instance(self, request: Request) -> Response:
        """Instance discovery: which authority a tenant lives at."""
        address = f"{_base(request)}/{self._provider.tenant}/v2.0/.well-known/openid-configuration"
        return JSONResponse({"tenant_discovery_endpoint": address, "api-version": "1.1", "metadata": []})

    async def configuration(self, request: Request) -> Response:
        """OpenID Connect discovery (OpenID Connect Discovery section 4)."""
        tenant = request.path_params["tenant"]
        if tenant not in {self._provider.tenant, self._provider.tenant_id, "common", "organizations"}:
            return self._refuse(request, "openid-configuration", refusals.UNKNOWN_TENANT)
        self._provider.note("openid-configuration", "ok")
        base = f"{_base(request)}/{tenant}"
        return JSONResponse(
            {
                "issuer": self._provider.issuer,
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "response_types_supported": ["code"],
                "response_modes_supported": ["query", "form_post"],
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": [
                    "client_secret_post",
                    "client_secret_basic",
                    "private_key_jwt",
                ],
            }
        )

    async def keys(self, _: Request) -> Response:
        """The public signing key."""
        return JSONResponse(self._provider.signer.key_set())

    async def device_code(self, request: Request) -> Response:
        """Begin a sign-in by device code (RFC 8628 section 3.1)."""
        form = await request.form()
        client_id = _text(form, "client_id")
        try:
            device_code, sign_in = self._provider.begin_device(client_id, _text(form, "scope"))
        except EntraRefusal as refusal:
            return self._refuse(request, "devicecode", refusal.reason, client_id=client_id)
        self._provider.note("devicecode", "ok", client_id=client_id)
        address = f"{_base(request)}/devicelogin"
        return JSONResponse(
            {
                "user_code": sign_in.user_code,
                "device_code": device_code,
                "verification_uri": address,
                "expires_in": self._provider.settings.device_lifetime,
                "interval": self._provider.settings.interval,
                "message": f"To sign in, open {address} and enter the code {sign_in.user_code}.",
            }
        )

    async def device_login(self, request: Request) -> Response:
        """Where a person types the code in and agrees, or does not (RFC 8628 section 3.3)."""
        if request.method == "GET":
            code = request.query_params.get("user_code", "")
            return HTMLResponse(pages.device_page(self._provider.accounts, code))
        form = await request.form()
        accept = _text(form, "decision") == "accept"
        if not self._provider.decide_device(_text(form, "user_code"), _text(form, "upn"), accept=accept):
            return HTMLResponse(pages.notice_page("That code or account is not known."), status_code=400)
        return HTMLResponse(pages.notice_page("Done. You may close this window."))

    async def authorize(self, request: Request) -> Response:
        """Where a browser is sent for an authorization code (RFC 6749 section 4.1.1)."""
        form = await request.form() if request.method == "POST" else FormData()
        wish = {key: str(value) for key, value in (*request.query_params.items(), *form.items())}
        if urlsplit(wish.get("redirect_uri", "")).hostname not in LOOPBACK:
            return self._refuse(request, "authorize", refusals.WRONG_REDIRECT)
        if wish.get("code_challenge_method") != "S256":
            return _send_back(wish, _error(refusals.NO_CHALLENGE))
        if request.method == "GET":
            return HTMLResponse(pages.authorize_page(self._provider.accounts, wish))
        if wish.get("decision") != "accept":
            return _send_back(wish, _error(refusals.CANCELLED))
        try:
            code = self._provider.issue_code(
                client_id=wish.get("client_id", ""),
                scope=wish.get("scope", ""),
                redirect_uri=wish["redirect_uri"],
                upn=wish.get("upn", ""),
                challenge=wish.get("code_challenge", ""),
                nonce=wish.get("nonce"),
            )
        except EntraRefusal as refusal:
            return _send_back(wish, _error(refusal.reason))
        return _send_back(wish, {"code": code})

    async def token(self, request: Request) -> Response:
        """Every grant ends here (RFC 6749 section 3.2)."""
        form = await request.form()
        client_id, proof = _client_of(request, form)
        grant = _text(form, "grant_type")
        name = "device_code" if grant == DEVICE_GRANT else grant
        try:
            application = self._provider.authenticate(
                client_id, proof, audience=f"{_base(request)}{request.url.path}"
            )
            answer = self._redeem(grant, form, application)
        except EntraRefusal as refusal:
            return self._refuse(request, "token", refusal.reason, grant=name, client_id=client_id)
        self._provider.note("token", "ok", grant=name, client_id=client_id)
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def _redeem(self, grant: str, form: FormData, application: Application) -> dict[str, object]:
        """The tokens for whatever the client brings."""
        client_id = application.client_id
        match grant:
            case "client_credentials":
                return self._provider.issue_app_token(application, _text(form, "scope"))
            case "refresh_token":
                return self._provider.refresh(client_id, _text(form, "refresh_token"), _text(form, "scope"))
            case "authorization_code":
                return self._provider.redeem_code(
                    client_id,
                    _text(form, "code"),
                    redirect_uri=_text(form, "redirect_uri"),
                    verifier=_text(form, "code_verifier"),
                )
            case _ if grant == DEVICE_GRANT:
                return self._provider.redeem_device(client_id, _text(form, "device_code"))
        raise EntraRefusal(refusals.UNKNOWN_GRANT_TYPE)

    def _refuse(
        self, request: Request, endpoint: str, reason: Reason, *, grant: str = "", client_id: str = ""
    ) -> Response:
        self._provider.note(endpoint, reason.error, grant=grant, client_id=client_id)
        correlation_id = request.headers.get("client-request-id")
        body = describe(reason, now=self._provider.clock(), correlation_id=correlation_id)
        return JSONResponse(body, status_code=reason.status)


def _base(request: Request) -> str:
    """Scheme, host and port by which the client reached this server."""
    return f"{request.url.scheme}://{request.url.netloc}"


def _text(form: FormData, key: str) -> str:
    return str(form.get(key, ""))


def _client_of(request: Request, form: FormData) -> tuple[str, Proof]:
    """The client's id and proof, from HTTP Basic (RFC 6749 section 2.3.1) or from the form."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            client_id, _, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", Proof()
        return unquote_plus(client_id), Proof(unquote_plus(secret))
    is_jwt = _text(form, "client_assertion_type") == JWT_BEARER
    assertion = _text(form, "client_assertion") if is_jwt else ""
    return _text(form, "client_id"), Proof(_text(form, "client_secret"), assertion)


def _error(reason: Reason) -> dict[str, str]:
    return {"error": reason.error, "error_description": f"AADSTS{reason.number}: {reason.sentence}"}


def _send_back(wish: Mapping[str, str], answer: Mapping[str, str]) -> Response:
    """Take the browser back to the client, in the response mode that it asked for."""
    answer = {**answer, **({"state": wish["state"]} if "state" in wish else {})}
    if wish.get("response_mode") == "form_post":
        return HTMLResponse(pages.post_back_page(wish["redirect_uri"], answer))
    return RedirectResponse(f"{wish['redirect_uri']}?{urlencode(answer)}", status_code=302)
