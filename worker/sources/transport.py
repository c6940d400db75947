"""One encrypted connection to a mail server, read line by line or by count.

TLS is always verified, against the system's authorities or a given CA file. Every answer draws on one deadline, and
every line has a limit, so that a server that hangs, drips or floods cannot hold a worker (promise P8). It knows
nothing of IMAP or POP3. It is our own instead of `imaplib`'s and `poplib`'s because theirs have global line limits, no
overall deadline, and lose their place after a line that is too long.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from worker.errors import Misconfigured, Unreachable
from worker.sources import Endpoint, TooLarge
from worker.sources.tls import Tls

_BUFFER = 256 * 1024
_PIECE = 128 * 1024
_SLOWEST_OCTETS_A_SECOND = 2_000
"""A server slower than this over a whole literal is taken for hung: one that drips would hold a worker; modems were faster."""

_KEEP_ALIVE: Mapping[str, int] = {"TCP_KEEPIDLE": 120, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 4}
"""A host that vanished without a word is missed after four minutes, and a router that forgets connections over which nothing
goes for as long remembers this one. Where a system does not know an option, the next command finds out."""


def keep_alive(connection: socket.socket) -> None:
    """Let TCP look after a connection in which nothing is said for minutes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Wire:
    """A connection with a read buffer. `answer_seconds` is what one line or the start of a literal may take."""

    def __init__(self, endpoint: Endpoint, *, answer_seconds: float, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        try:
            self._socket: socket.socket = socket.create_connection(
                (endpoint.host, endpoint.port), timeout=answer_seconds
            )
        except OSError as error:
            raise Unreachable(
                f"cannot connect to {endpoint.host} port {endpoint.port}: {_why(error)}. "
                "Check HOST and PORT, and whether the server is up."
            ) from error
        self._read: Callable[[memoryview], int | None] = self._socket.recv_into
        self._send: Callable[[bytes], None] = self._socket.sendall
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.tls == "implicit":
            self.start_tls()

    def start_tls(self) -> None:
        """Encrypt the connection, verifying the server's certificate and name (RFC 8314 section 5.3).

        Raises:
            Misconfigured: the certificate does not fit; mail is never read from an unproven server.
            Unreachable: the handshake failed otherwise.
        """
        # Bytes that came before the handshake could be injected commands' answers (RFC 3501 section 6.2.1).
        if self._start != self._end:
            raise Unreachable(f"{self.endpoint.host} sent data ahead of the TLS handshake; hung up")
        try:
            context = ssl.create_default_context(cafile=self.endpoint.ca_file)
        except OSError as error:
            self.close()
            raise Misconfigured(
                f"CA_FILE {self.endpoint.ca_file} cannot be used ({_why(error)}). It must hold certificates in PEM form, "
                "readable for this user."
            ) from error
        try:
            deadline = self._clock() + self._answer_seconds
            tls = Tls(self._socket, context, self.endpoint.host, expired=lambda: self._clock() > deadline)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise Misconfigured(
                f"the certificate of {self.endpoint.host} port {self.endpoint.port} is not to be trusted: "
                f"{error.verify_message}. Set HOST to the name in the certificate, or CA_FILE to its authority."
            ) from error
        except OSError as error:
            self.close()
            raise Unreachable(
                f"no TLS with {self.endpoint.host} port {self.endpoint.port}: {_why(error)}. "
                "Check PORT and TLS (implicit or starttls)."
            ) from error
        self._read, self._send = tls.read, tls.sendall

    def keep_alive(self) -> None:
        """Let TCP look after the connection from now on; one that has ended already is found out by the next command."""
        with suppress(OSError):
            keep_alive(self._socket)

    def wait_at_most(self, seconds: float) -> None:
        """From now on one line, or the start of a literal, may take so long."""
        self._answer_seconds = seconds
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """Send bytes. A server that has hung up is found out by the next read: first comes what it said before, and why.

        Raises:
            Unreachable: the connection is gone, or the server does not read.
        """
        try:
            self._send(data)
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:
            raise self._broken(error) from error

    def line(self, limit: int) -> bytes:
        """The next line without its line end.

        Raises:
            Unreachable: the server hung, hung up, or sent more than `limit` octets without a line end.
        """
        deadline = self._clock() + self._answer_seconds
        searched = self._start
        while (found := self._buffer.find(b"\n", searched, self._end)) < 0:
            searched = self._end
            if self._end - self._start > limit:
                raise Unreachable(f"{self.endpoint.host} sent a line of more than {limit} octets; hung up")
            searched -= self._fill(deadline, limit)
        end = found - 1 if found > self._start and self._buffer[found - 1] == 13 else found
        line = bytes(self._view[self._start : end])
        self._start = found + 1
        return line

    def exactly(self, count: int) -> bytes | bytearray:
        """The next `count` octets.

        Raises:
            Unreachable: the server hung or hung up before they were all there.
        """
        if self._end - self._start >= count:
            data = bytes(self._view[self._start : self._start + count])
            self._start += count
            return data
        whole = bytearray(count)
        view = memoryview(whole)
        have = self._end - self._start
        view[:have] = self._view[self._start : self._end]
        self._start = self._end = 0
        deadline = self._clock() + self._answer_seconds + count / _SLOWEST_OCTETS_A_SECOND
        while have < count:
            have += self._receive(view[have:], deadline)
        return whole

    def chunks(self, count: int, size: int = 1 << 20) -> Iterator[bytes | bytearray]:
        """The next `count` octets in pieces of at most `size`, so that a huge message never lies in memory whole."""
        while count:
            piece = self.exactly(min(count, size))
            count -= len(piece)
            yield piece

    def dotted(self, limit: int) -> Iterator[bytes]:
        """A multi-line answer up to its final dot, unstuffed, in pieces of whole lines (RFC 1939 section 3).

        Raises:
            TooLarge: the server sent more than `limit` octets.
            Unreachable: it hung, or hung up.
        """
        begun, octets, searched = self._clock(), 0, self._start
        while True:
            # Here the unread part always begins at the beginning of a line.
            if self._buffer[self._start : min(self._start + 3, self._end)] == b".\r\n":
                self._start += 3
                return
            found = self._buffer.find(b"\r\n.\r\n", max(self._start, searched - 4), self._end)
            if found >= 0:
                piece = _unstuffed(self._view[self._start : found + 2])
                self._start = found + 5
                self._within(octets + len(piece), limit)
                yield piece
                return
            searched = self._end
            if (
                self._end - self._start >= _PIECE
                and (cut := self._buffer.rfind(b"\r\n", self._start, self._end)) > self._start
            ):
                piece = _unstuffed(self._view[self._start : cut + 2])
                self._start = cut + 2
                octets += len(piece)
                self._within(octets, limit)
                yield piece
                continue
            patience = self._answer_seconds + (octets + self._end - self._start) / _SLOWEST_OCTETS_A_SECOND
            if self._end - self._start > limit:
                raise TooLarge(
                    f"{self.endpoint.host} sent a line of more than {limit} octets; hung up", size=limit + 1
                )
            searched -= self._fill(begun + patience, limit)

    def _within(self, octets: int, limit: int) -> None:
        if octets > limit:
            raise TooLarge(
                f"{self.endpoint.host} sent a message of more than {limit} octets; hung up", size=octets
            )

    def close(self) -> None:
        """Hang up; never raises."""
        try:
            self._socket.close()
        except OSError:
            # There is nobody left to be told.
            return

    def _fill(self, deadline: float, limit: int) -> int:
        """Read more into the buffer; returns by how much its content moved to the front."""
        moved = 0
        if self._end == len(self._buffer):
            moved = self._start
            have = self._end - self._start
            if moved:
                self._buffer[:have] = self._buffer[self._start : self._end]
            else:
                # One line fills the buffer: grow it, up to the limit that the caller set.
                self._view.release()
                self._buffer.extend(bytes(min(len(self._buffer), limit)))
                self._view = memoryview(self._buffer)
            self._start, self._end = 0, have
        elif self._start == self._end:
            moved = self._start
            self._start = self._end = 0
        self._end += self._receive(self._view[self._end :], deadline)
        return moved

    def _receive(self, into: memoryview, deadline: float) -> int:
        count: int | None = None
        try:
            while count is None:
                # The socket's own time-out is `answer_seconds`: so a wait ends at most that long after the deadline.
                if self._clock() > deadline:
                    raise TimeoutError
                count = self._read(into)
        except OSError as error:
            raise self._broken(error) from error
        if not count:
            raise Unreachable(f"{self.endpoint.host} closed the connection in mid-answer")
        return count

    def _broken(self, error: OSError) -> Unreachable:
        return Unreachable(f"the connection to {self.endpoint.host} broke: {_why(error)}")


def _unstuffed(lines: memoryview) -> bytes:
    """Whole lines with the dot taken off that the server put before a dot."""
    data = bytes(lines)
    if data.startswith(b".."):
        data = data[1:]
    return data.replace(b"\r\n..", b"\r\n.")


def _why(error: OSError) -> str:
    """What happened, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or type(error).__name__
