"""TLS in front of a server on loopback that speaks none: the plain words go on to the server, which knows nothing of it."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from worker.demo.certificates import Certificates


@contextmanager
def tls_front(target: int, certificates: Certificates) -> Iterator[int]:
    """Listen with TLS for the time of a test; gives the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain_file, certificates.key_file)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=_serve, args=(listener, target, context, over))
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            over.set()
            thread.join()


def _serve(listener: socket.socket, target: int, context: ssl.SSLContext, over: threading.Event) -> None:
    sessions = []
    while not over.is_set():
        with suppress(TimeoutError):
            client, _ = listener.accept()
            sessions.append(threading.Thread(target=_session, args=(client, target, context, over)))
            sessions[-1].start()
    for session in sessions:
        session.join()


def _session(plain: socket.socket, target: int, context: ssl.SSLContext, over: threading.Event) -> None:
    """Carry both ways in one thread: two may not use one TLS connection at once."""
    plain.settimeout(5)
    with (
        suppress(OSError),
        plain,
        context.wrap_socket(plain, server_side=True) as client,
        socket.create_connection(("127.0.0.1", target)) as server,
    ):
        while not over.is_set():
            ready = [client] if client.pending() else select.select([client, server], [], [], 0.05)[0]
            for source in ready:
                said = source.recv(65536)
                if not said:
                    return
                (server if source is client else client).sendall(said)
