"""A wire to a server on loopback that loses answers: what a client sends arrives, what it should hear may not.

It knows no protocol. A client that connects while the wire is good can find it bad at its next word.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class LossyWire:
    """`answers` says what becomes of the server's words from now on: "pass", "lose" them, or "cut" the connection."""

    def __init__(self, target: int) -> None:
        self.answers = "pass"
        self.connections = 0
        # Octets that clients have sent.
        self.carried = 0
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break all connections that are open now."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break all connections and take no new one."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for end in (self._listener, *self._open):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for source, sink, lossy in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._carry, args=(source, sink, lossy))
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket, lossy: bool) -> None:
        with suppress(OSError):
            while said := source.recv(65536):
                if lossy and self.answers == "cut":
                    break
                self.carried += 0 if lossy else len(said)
                if not lossy or self.answers == "pass":
                    sink.sendall(said)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def lossy(target: int) -> Iterator[LossyWire]:
    """Lay a wire to a port for the time of a test."""
    wire = LossyWire(target)
    try:
        yield wire
    finally:
        wire.close()
