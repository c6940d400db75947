"""A listener on loopback for the answer of an authorization-code sign-in (RFC 8252 section 7.3).

It takes one answer, as a form or in the address, for the sign-in whose `state` it expects; whatever else a browser asks for
is not found. It knows nothing of tokens. The port may be chosen, for a tunnel or a published one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

_BODY_LIMIT = 64 * 1024
"""Octets. An answer is a code and a state, some two thousand."""
_REQUEST_SECONDS = 10.0
"""How long one connection may take to say what it wants."""
_PAGE = (
    b"<!doctype html><meta charset=utf-8><title>Mailquay</title><h1>Mailquay</h1>"
    b"<p>The answer has arrived. How the sign-in went is said where you began it; you may close this window.</p>"
)


class Loopback:
    """Listens on 127.0.0.1 while the block lasts. `port` 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="loopback")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def redirect_uri(self) -> str:
        """Where the provider has to send the browser. Entra and Google ignore the port when they compare it."""
        return f"http://localhost:{self._server.server_port}"

    def expect(self, state: str) -> None:
        """From now on take the answer to the sign-in with this `state`; to be said before the browser is sent off."""
        self._server.expected = state

    def answer(self, *, seconds: float) -> Mapping[str, str] | None:
        """Wait for that answer; None when it did not come in time."""
        return self._server.answer if self._server.arrived.wait(seconds) else None


class _Server(ThreadingHTTPServer):
    """One thread a connection: browsers open some ahead and say nothing on them, which must not keep the answer out."""

    daemon_threads = True
    expected: str | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arrived = threading.Event()
        self.answer: Mapping[str, str] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a browser that hangs up or a request that makes no sense is no matter of whoever signs in."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    timeout = _REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        """An answer in the address."""
        self._take(urlsplit(self.path).query)

    def do_POST(self) -> None:
        """An answer as a form (OAuth 2.0 Form Post Response Mode)."""
        length = self.headers.get("Content-Length", "")
        octets = int(length) if length.isdecimal() else 0
        self._take(self.rfile.read(octets).decode("latin-1") if octets <= _BODY_LIMIT else "")

    def _take(self, text: str) -> None:
        answer = dict(parse_qsl(text))
        # The first answer counts: whoever saw the address could send another one behind it.
        ours = not self.server.arrived.is_set() and urlsplit(self.path).path == "/"
        ours = ours and "state" in answer and answer["state"] == self.server.expected
        self.send_response(200 if ours else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        # The code must not travel on in a Referer, nor wait in a cache.
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(_PAGE if ours else b"")
        if ours:
            # After the page was sent: the process may end as soon as it has the answer.
            self.server.answer = answer
            self.server.arrived.set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name of the class above)
        """Say nothing: the address holds the code."""
