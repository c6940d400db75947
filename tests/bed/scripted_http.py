"""An HTTP server that says what a test wrote down, byte for byte: for answers that no real server gives on demand.

It reads requests properly and answers with raw octets; connections are kept until an answer is empty or says close.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def said(status: str, body: bytes = b"", *headers: str) -> bytes:
    """An answer: `status` as in `503 Slow Down`, headers as lines without their ends."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class ScriptedHttp(ThreadingHTTPServer):
    """Keeps every request, and asks `answer` what to say to it; an empty answer hangs up."""

    daemon_threads = True

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], bytes] = lambda request: said("200 OK")
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def paths(self, method: str) -> list[str]:
        """The paths that were asked for by one method."""
        return [request.path for request in self.requests if request.method == method]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: tests break connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedHttp

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = Request(self.command, self.path, headers, body)
        self.server.requests.append(request)
        answer = self.server.answer(request)
        self.wfile.write(answer)
        self.close_connection = not answer or b"connection: close" in answer

    def __getattr__(self, name: str) -> Any:
        # The library looks for `do_GET`, `do_PUT` and so on.
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def scripted_http(*, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedHttp]:
    """Run a server for the time of a test."""
    with ScriptedHttp(tls=tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
