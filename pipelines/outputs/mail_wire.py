"""One connection to a mail server, for the outputs that speak SMTP and IMAP: lines in, bytes out, each under a deadline.

It is our own because `smtplib` and `imaplib` know a time-out for each read and none for an answer, so that a server that drips
holds them for days; because `imaplib` rewrites the line ends of what it appends; and because both want a message whole in
memory, and copy it. TLS is always verified. It knows neither protocol.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from pipelines.account import CannotSignIn, Tls

_PIECE = 64 * 1024
# More than any honest answer has.
_LONGEST_LINE = 64 * 1024
_ANSWER_OCTETS = 4 * 2**20
# A server that takes a large message more slowly than this is taken for hung.
_SLOWEST_OCTETS_A_SECOND = 10_000


class Broken(Exception):
    """The connection is of no use any more: broken, too slow, or not spoken by the rules. Its text is a sentence."""


class Wire:
    """A connection to `host` and `port`; `timeout` seconds for it and for each answer. `clock` counts seconds.

    Raises:
        CannotSignIn: the server cannot be reached or proven, or is to be spoken to in clear and is another machine.
    """

    def __init__(
        self,
        server: tuple[str, int, Tls],
        *,
        ca_file: Path | None,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host, self.port, tls = server
        self.where = f"{self.host} port {self.port}"
        self._ca_file = ca_file
        self._timeout = timeout
        self._clock = clock
        self._buffer = bytearray()
        self._octets = 0
        self._deadline = 0.0
        self.begin()
        try:
            self._socket: socket.socket = socket.create_connection((self.host, self.port), timeout=timeout)
        except OSError as error:
            raise CannotSignIn(f"{self.where} cannot be reached: {_why(error)}") from error
        with suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls == "implicit":
            self.start_tls()
        elif tls == "none" and not ipaddress.ip_address(self._peer()).is_loopback:
            self.close()
            raise CannotSignIn(
                f"{self.host} is not this machine, so it is not spoken to without TLS; set TLS"
            )

    def start_tls(self) -> None:
        """Encrypt the connection, verifying certificate and name.

        Raises:
            CannotSignIn: the server cannot be proven, or sent something ahead of the handshake, which is an attack.
        """
        self.begin()
        if self._buffer:
            self.close()
            raise CannotSignIn(f"{self.where} sent data ahead of the TLS handshake; hung up")
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            self.close()
            raise CannotSignIn(
                f"CA_FILE {self._ca_file} gives no certificate: {error.strerror or error}"
            ) from error
        try:
            self._socket.settimeout(self._left())
            self._socket = context.wrap_socket(self._socket, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise CannotSignIn(
                f"the certificate of {self.where} is not to be trusted: {error.verify_message}"
            ) from error
        except (OSError, Broken) as error:
            self.close()
            why = _why(error) if isinstance(error, OSError) else str(error)
            raise CannotSignIn(f"no TLS with {self.where}: {why}; check PORT and TLS") from error

    @property
    def own_address(self) -> str:
        """Our end of the connection as an address."""
        return str(self._socket.getsockname()[0]).partition("%")[0]

    def begin(self, octets: int = 0) -> None:
        """Begin an exchange: it may take the time-out, and longer when so many octets are sent in it."""
        self._octets = 0
        self._deadline = self._clock() + self._timeout + octets / _SLOWEST_OCTETS_A_SECOND

    def send(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Send bytes, a piece at a time. That a server has hung up is found out by the next read: first comes why it did.

        Raises:
            Broken: the server does not read, or the connection is gone otherwise.
        """
        try:
            for piece in pieces:
                view = memoryview(piece).cast("B")
                for start in range(0, len(view), _PIECE):
                    self._socket.settimeout(self._left())
                    self._socket.sendall(view[start : start + _PIECE])
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:
            raise self._broken(error) from error

    def line(self) -> bytes:
        """The next line without its line end.

        Raises:
            Broken: the server hung, hung up, or sent what is no honest line.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _LONGEST_LINE:
                raise Broken(f"{self.where} sent a line without an end")
            self._fill()
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def exactly(self, count: int) -> bytes:
        """The next `count` octets. Raises as `line`."""
        if count > _ANSWER_OCTETS:
            raise Broken(f"{self.where} sent more than was asked for")
        while len(self._buffer) < count:
            self._fill()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def close(self) -> None:
        """Hang up; never raises."""
        with suppress(OSError):
            self._socket.close()

    def _peer(self) -> str:
        return str(self._socket.getpeername()[0]).partition("%")[0]

    def _fill(self) -> None:
        try:
            self._socket.settimeout(self._left())
            data = self._socket.recv(_PIECE)
        except OSError as error:
            raise self._broken(error) from error
        if not data:
            raise Broken(f"{self.where} closed the connection")
        self._octets += len(data)
        if self._octets > _ANSWER_OCTETS:
            raise Broken(f"{self.where} answers without an end")
        self._buffer += data

    def _left(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise Broken(f"{self.where} did not answer in time")
        return left

    def _broken(self, error: OSError) -> Broken:
        if isinstance(error, TimeoutError):
            return Broken(f"{self.where} did not answer in time")
        return Broken(f"the connection to {self.where} broke: {_why(error)}")


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or type(error).__name__
