"""Bounds how long a server may take for a whole answer, and not only for each piece of it.

The library's time-out begins anew with each byte, so a server that drips the head of its answer would hold a call for days.
Here what is read between two requests on a connection has one deadline: twice the time-out, for a late head and a slow body.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ssl import SSLContext
from typing import Any

import httpcore2

_TIMEOUTS = 2


class HurriedBackend(httpcore2.SyncBackend):
    """Connects as the library does, to streams whose answers have a deadline; `clock` counts seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect within `timeout` seconds."""
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options), self._clock)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._reading_since: float | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        now = self._clock()
        if self._reading_since is None:
            self._reading_since = now
        if timeout is not None:
            left = self._reading_since + _TIMEOUTS * timeout - now
            if left <= 0:
                raise httpcore2.ReadTimeout("the answer takes too long")
            timeout = min(timeout, left)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._reading_since = None
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
