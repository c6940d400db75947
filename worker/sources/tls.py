"""TLS over a connected socket, in memory: one system call brings many records.

Mail servers send records of a few kilobytes. `ssl.SSLSocket` costs two system calls a record and a handful of Python's own
calls; decrypting in memory takes a seventh less of the processor. What is verified is the context's business, and waits
are limited by the socket's time-out and by the caller, who is asked again after every one.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

_PIECE = 128 * 1024
"""Octets taken off the socket at a time."""


class Tls:
    """The client's end of an encrypted connection. `expired` says whether the handshake takes too long.

    Raises:
        ssl.SSLError: the handshake failed; the server is told why.
        OSError: the socket broke, or timed out.
    """

    def __init__(
        self, plain: socket.socket, context: ssl.SSLContext, host: str, *, expired: Callable[[], bool]
    ) -> None:
        self._plain = plain
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._piece = memoryview(bytearray(_PIECE))
        self._object = context.wrap_bio(self._coming, self._going, server_hostname=host)
        self._decrypted = self._object.read
        try:
            while not self._shaken():
                if expired():
                    raise TimeoutError
                if not self._took_more():
                    raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the server hung up")
        finally:
            # Also when it failed: a server that knows why can write it into its log.
            with suppress(OSError):
                self._flush()

    def read(self, into: memoryview) -> int | None:
        """Decrypt into a buffer; how many octets, 0 at the end, None when what came is no whole record yet.

        Raises:
            OSError: the socket broke or timed out, or what came is no TLS.
        """
        try:
            return cast("int", self._decrypted(len(into), into))
        except ssl.SSLWantReadError:
            # A new key may have to be answered (RFC 8446 section 4.6.3).
            self._flush()
            return None if self._took_more() else 0
        except ssl.SSLZeroReturnError:
            return 0

    def sendall(self, data: bytes) -> None:
        """Encrypt and send.

        Raises:
            OSError: the socket broke or timed out.
        """
        left = memoryview(data)
        while left:
            left = left[self._object.write(left) :]
        self._flush()

    def _shaken(self) -> bool:
        """Whether the handshake is over; what it has to say is sent."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        return True

    def _took_more(self) -> bool:
        count = self._plain.recv_into(self._piece)
        self._coming.write(self._piece[:count])
        return count > 0

    def _flush(self) -> None:
        if self._going.pending:
            self._plain.sendall(self._going.read())
