"""A proxy before the S3-compatible server that breaks chosen requests: what a network and a busy store do to clients.

It also lets one request pass at a time. The server behind it compares and writes in two steps, so of two conditional
writes that it got in the same instant both could succeed, which the stores that it stands for exclude.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.bed.object_store import Bucket, ObjectServer
from tests.bed.scripted_http import Request, ScriptedHttp, said, scripted_http

Fault = Callable[["FaultyStore", Request], bytes]


def busy(store: FaultyStore, request: Request) -> bytes:
    """503 SlowDown; nothing was done."""
    return said("503 Slow Down", b"<Error><Code>SlowDown</Code><Message>secret-key-name</Message></Error>")


def forbidden(store: FaultyStore, request: Request) -> bytes:
    """403; asking again is in vain."""
    return said("403 Forbidden", b"<Error><Code>InvalidAccessKeyId</Code></Error>")


def cut(store: FaultyStore, request: Request) -> bytes:
    """The connection ends; nothing was done."""
    return b""


def lost(store: FaultyStore, request: Request) -> bytes:
    """It was done, and the connection ends before the answer."""
    store.forward(request)
    return b""


def stalled(store: FaultyStore, request: Request) -> bytes:
    """Nobody answers; when the client has long given up, it is done all the same."""
    store.late.append(request)
    store.over.wait(30)
    return b""


class FaultyStore:
    """The proxy. `fault` says for each request, counted from 1, what befalls it, or None."""

    def __init__(self, proxy: ScriptedHttp, server: ObjectServer) -> None:
        self._proxy = proxy
        self._target = urlsplit(server.endpoint).netloc
        self._in_turn = threading.Lock()
        self.bucket = Bucket(proxy.url, server.bucket().name)
        self.over = threading.Event()
        self.late: list[Request] = []
        self.count = 0
        self.fault: Callable[[int, Request], Fault | None] = lambda number, request: None
        proxy.answer = self._answer

    @property
    def requests(self) -> list[Request]:
        """Every request that came."""
        return self._proxy.requests

    def only(self, number: int, fault: Fault) -> None:
        """Break one request, counted from now."""
        self.count = 0
        self.fault = lambda this, _: fault if this == number else None

    def always(self, fault: Fault) -> None:
        """Break every request."""
        self.fault = lambda *_: fault

    def well(self) -> None:
        """Break none."""
        self.fault = lambda *_: None

    def forward(self, request: Request) -> bytes:
        """Let the server do it, and return its answer."""
        with self._in_turn:
            connection = http.client.HTTPConnection(self._target, timeout=10)
            skipped = {"connection", "transfer-encoding", "content-length"}
            headers = {name: value for name, value in request.headers.items() if name not in skipped}
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
        lines = [f"{k}: {v}" for k, v in answer.getheaders() if k.lower() not in {*skipped, "date"}]
        if request.method == "HEAD":
            lines.append(f"content-length: {answer.getheader('content-length') or 0}")
            return "\r\n".join([f"HTTP/1.1 {answer.status} {answer.reason}", *lines, "", ""]).encode()
        return said(f"{answer.status} {answer.reason}", body, *lines)

    def _answer(self, request: Request) -> bytes:
        self.count += 1
        fault = self.fault(self.count, request)
        return self.forward(request) if fault is None else fault(self, request)

    def do_what_was_late(self) -> None:
        """Do what was given up by its client, as a slow store does in the end."""
        while self.late:
            self.forward(self.late.pop(0))


@contextmanager
def faulty_store(server: ObjectServer) -> Iterator[FaultyStore]:
    """Run the proxy for the time of a test, with a bucket of its own behind it."""
    with scripted_http() as proxy:
        store = FaultyStore(proxy, server)
        try:
            yield store
        finally:
            store.over.set()
