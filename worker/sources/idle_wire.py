"""One encrypted connection that mostly waits, for `asyncio`: thousands of them fit into one process.

It promises what `transport.Wire` does: TLS is always verified, and what comes is limited (promise P8); the deadline of a
wait is its caller's, by `asyncio.timeout`. It is our own because `asyncio`'s streams keep 256 KiB for each TLS connection from
its beginning to its end, which is half a gigabyte for 2,000 mailboxes; here a connection that waits keeps nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from worker.errors import Misconfigured, Unreachable
from worker.sources import Endpoint
from worker.sources.transport import keep_alive

_LINE = 64 * 1024
"""Longest line. Nothing is fetched here, so the longest honest one lists capabilities."""
_ALLOWANCE = 16 << 20
"""Octets that may come between two calls of `allow`: somebody who deletes 100,000 messages elsewhere causes 2 MB."""
_LITERAL = re.compile(rb"\{(\d{1,10})\+?\}$")
_PIECE = 16 * 1024
"""Octets read at a time; then the other connections have their turn."""


class Authorities:
    """TLS contexts, one for each CA file: a context with the system's authorities weighs as much as twenty connections."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, int], ssl.SSLContext] = {}

    def context(self, ca_file: str | None) -> ssl.SSLContext:
        """The context that trusts `ca_file`, by default the system's authorities; one that was replaced is read again.

        Raises:
            Misconfigured: the file cannot be used.
        """
        try:
            key = (ca_file, Path(ca_file).stat().st_mtime_ns if ca_file else 0)
            if key not in self._contexts:
                self._contexts[key] = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise Misconfigured(
                f"CA_FILE {ca_file} cannot be used ({_why(error)}). It must hold certificates in PEM form, "
                "readable for this user."
            ) from error
        return self._contexts[key]


class IdleWire:
    """A connection with a read buffer that is as large as what came and was not read yet."""

    __slots__ = ("_authorities", "_buffer", "_head", "_left", "_skip", "_socket", "endpoint")

    def __init__(self, endpoint: Endpoint, connected: socket.socket, authorities: Authorities) -> None:
        self.endpoint = endpoint
        self._socket = connected
        self._authorities = authorities
        self._buffer = bytearray()
        self._left = _ALLOWANCE
        # The beginning of a line that a literal interrupts, and how much of that is still to be passed over.
        self._head = b""
        self._skip = 0

    @classmethod
    async def connected(cls, endpoint: Endpoint, authorities: Authorities) -> IdleWire:
        """Connect, with TLS when it is implicit.

        Raises:
            Unreachable: nobody answers there.
            Misconfigured: the certificate does not fit.
        """
        wire = cls(endpoint, await _connected(endpoint), authorities)
        try:
            if endpoint.tls == "implicit":
                await wire.start_tls()
        except BaseException:
            wire.close()
            raise
        return wire

    async def start_tls(self) -> None:
        """Encrypt the connection, verifying the server's certificate and name (RFC 8314 section 5.3).

        Raises:
            Misconfigured: the certificate does not fit.
            Unreachable: the handshake failed otherwise, or the server spoke ahead of it.
        """
        host, port = self.endpoint.host, self.endpoint.port
        # What came before the handshake could be somebody else's (RFC 3501 section 6.2.1).
        if self._buffer:
            raise Unreachable(f"{host} sent data ahead of the TLS handshake; hung up")
        context = self._authorities.context(self.endpoint.ca_file)
        try:
            wrapped = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
            self._socket = wrapped
            await self._tried(wrapped.do_handshake)
        except ssl.SSLCertVerificationError as error:
            raise Misconfigured(
                f"the certificate of {host} port {port} is not to be trusted: {error.verify_message}. "
                "Set HOST to the name in the certificate, or CA_FILE to its authority."
            ) from error
        except OSError as error:
            raise Unreachable(
                f"no TLS with {host} port {port}: {_why(error)}. Check PORT and TLS (implicit or starttls)."
            ) from error

    async def send(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            Unreachable: the connection is gone.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[await self._tried(partial(self._socket.send, view)) :]
        except OSError as error:
            raise self._broken(error) from error

    async def line(self) -> bytes:
        """The next line without its line end, with `""` for each literal in it: nothing that is looked for comes in one.

        A call that was cancelled has lost nothing; the next one goes on.

        Raises:
            Unreachable: the server hung up, or sent more than it may.
        """
        while True:
            while self._skip > len(self._buffer):
                self._skip -= len(self._buffer)
                self._buffer.clear()
                await self._fill()
            del self._buffer[: self._skip]
            self._skip = 0
            line = self._head + await self._piece()
            if len(line) > _LINE:
                raise self._too_long()
            if not (found := _LITERAL.search(line)):
                self._head = b""
                return line
            self._head, self._skip = line[: found.start()] + b'""', int(found[1])

    async def _piece(self) -> bytes:
        searched = 0
        while (found := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _LINE:
                raise self._too_long()
            await self._fill()
        piece = bytes(self._buffer[:found]).removesuffix(b"\r")
        del self._buffer[: found + 1]
        return piece

    def allow(self) -> None:
        """Let the server send another measure of octets: a server that floods is hung up on, one that talks is not."""
        self._left = _ALLOWANCE

    def close(self) -> None:
        """Hang up; never raises."""
        try:
            self._socket.close()
        except OSError:
            # There is nobody left to be told.
            return

    async def _fill(self) -> None:
        if self._left <= 0:
            raise Unreachable(f"{self.endpoint.host} floods: more than {_ALLOWANCE} octets nobody asked for")
        try:
            piece = await self._tried(partial(self._socket.recv, _PIECE))
        except OSError as error:
            raise self._broken(error) from error
        if not piece:
            raise Unreachable(f"{self.endpoint.host} closed the connection")
        self._left -= len(piece)
        self._buffer += piece

    async def _tried(self, operation: Callable[[], Any]) -> Any:
        """The outcome of an operation on the socket, tried again whenever the socket is ready for it."""
        loop = asyncio.get_running_loop()
        number = self._socket.fileno()
        while True:
            try:
                return operation()
            except (ssl.SSLWantReadError, BlockingIOError):
                # What is sent before TLS begins is one short line, which always finds room.
                watch, unwatch = loop.add_reader, loop.remove_reader
            except ssl.SSLWantWriteError:
                watch, unwatch = loop.add_writer, loop.remove_writer
            ready: asyncio.Future[None] = loop.create_future()
            watch(number, _wake, ready)
            try:
                await ready
            finally:
                unwatch(number)

    def _too_long(self) -> Unreachable:
        return Unreachable(f"{self.endpoint.host} sent a line of more than {_LINE} octets; hung up")

    def _broken(self, error: OSError) -> Unreachable:
        return Unreachable(f"the connection to {self.endpoint.host} broke: {_why(error)}")


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _connected(endpoint: Endpoint) -> socket.socket:
    """A connected socket that never blocks, at the first address of the host that answers."""
    loop = asyncio.get_running_loop()
    failed = OSError()
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as error:
        found, failed = [], error
    for family, kind, protocol, _, address in found:
        one = socket.socket(family, kind, protocol)
        one.setblocking(False)
        try:
            await loop.sock_connect(one, address)
        except OSError as error:
            one.close()
            failed = error
        except BaseException:
            one.close()
            raise
        else:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(one)
            return one
    raise Unreachable(
        f"cannot connect to {endpoint.host} port {endpoint.port}: {_why(failed)}. "
        "Check HOST and PORT, and whether the server is up."
    ) from failed


def _why(error: OSError) -> str:
    """What happened, in a few words."""
    return error.strerror or type(error).__name__
