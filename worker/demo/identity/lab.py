"""Steers the identity provider from outside: its settings, staged answers, and what it has seen.

`/_lab` is for tests, for the demo and for mail servers that ask whether a token is good. It is open to whoever reaches
it, which is why the servers listen on loopback. It never shows a token or a secret.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.demo.identity import refusals
from worker.demo.identity.provider import IdentityProvider
from worker.demo.identity.refusals import describe
from worker.demo.identity.routes import EntraRoutes
from worker.demo.identity.settings import Settings


def entra_app(provider: IdentityProvider) -> ASGIApp:
    """Entra's addresses, the lab's, and staged answers in front of them: what clients reach over TLS."""
    routes: list[BaseRoute] = [*EntraRoutes(provider).routes(), *lab_routes(provider)]
    return StagedAnswers(Starlette(routes=routes), provider)


def lab_routes(provider: IdentityProvider) -> list[Route]:
    """The addresses below `/_lab`."""

    async def show(_: Request) -> Response:
        return JSONResponse({"settings": provider.settings.model_dump(), "counts": provider.counts()})

    async def change(request: Request) -> Response:
        wish = await request.json()
        try:
            provider.settings = Settings.model_validate(
                {**provider.settings.model_dump(), **wish.get("settings", {})}
            )
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        for upn in wish.get("revoke", []):
            provider.revoke(upn)
        if wish.get("forget_requests"):
            provider.requests.clear()
        return await show(request)

    async def introspect(request: Request) -> Response:
        form = await request.form()
        token, mailbox, service = (str(form.get(key, "")) for key in ("token", "user", "service"))
        return JSONResponse(asdict(provider.introspect(token, mailbox=mailbox, service=service)))

    return [
        Route("/_lab", show, methods=["GET"]),
        Route("/_lab", change, methods=["POST"]),
        Route("/_lab/introspect", introspect, methods=["POST"]),
    ]


class StagedAnswers:
    """Gives the answers that `Settings.answers` asks for, once each, before the real ones."""

    def __init__(self, app: ASGIApp, provider: IdentityProvider) -> None:
        self._app = app
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = str(scope["path"]).rpartition("/")[2]
        kind = self._next(endpoint)
        if kind is None:
            await self._app(scope, receive, send)
            return
        self._provider.note(endpoint, kind)
        if kind in {"drop", "hang"}:
            if kind == "drop":
                # ASGI has no word for this; uvicorn's `receive` belongs to the one object that knows the connection.
                cast("Any", receive).__self__.transport.abort()
            # Nothing is ever sent; the request ends when the client is gone.
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await self._response(kind)(scope, receive, send)

    def _next(self, endpoint: str) -> str | None:
        for answer in self._provider.settings.answers:
            kind, _, where = answer.partition("@")
            if endpoint == (where or "token"):
                self._provider.settings.answers.remove(answer)
                return kind
        return None

    def _response(self, kind: str) -> Response:
        if kind == "html":
            return HTMLResponse("<!doctype html><title>Sign in</title><p>Something went wrong.</p>")
        _, _, name = kind.partition("=")
        if name:
            reason = refusals.BY_NAME[name]
            return JSONResponse(describe(reason, now=self._provider.clock()), status_code=reason.status)
        headers = {"Retry-After": str(self._provider.settings.retry_after)}
        body = {"error": "temporarily_unavailable", "error_description": "AADSTS90033: A transient error."}
        return JSONResponse(body, status_code=int(kind), headers=headers)
