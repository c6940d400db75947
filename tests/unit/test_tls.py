"""TLS in memory: a server that never comes to the end of a record holds nobody beyond the time of an answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from worker.errors import Unreachable
from worker.sources import Endpoint
from worker.sources.transport import Wire

SECONDS = 0.3


@pytest.fixture
def dripping() -> Iterator[int]:
    """A port that announces a TLS record of 16 KiB and sends an octet of it now and then."""
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"\x16\x03\x03\x40\x00")
                    while not stopping.wait(SECONDS / 10):
                        connection.sendall(b"\0")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        stopping.set()
        thread.join()


def test_a_handshake_that_drips_runs_out_of_time(dripping: int) -> None:
    """Each octet comes in time, and all of them together never do."""
    endpoint = Endpoint("localhost", dripping, "implicit", None)

    with pytest.raises(Unreachable, match=r"no TLS with localhost .*no answer in time"):
        Wire(endpoint, answer_seconds=SECONDS, clock=time.monotonic)


def test_a_server_that_hangs_up_in_the_handshake_is_named() -> None:
    """Before it has said a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        endpoint = Endpoint("localhost", listener.getsockname()[1], "implicit", None)

        with pytest.raises(Unreachable, match="no TLS with localhost"):
            Wire(endpoint, answer_seconds=5, clock=time.monotonic)
        thread.join()
