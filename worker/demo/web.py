"""Serves an ASGI application on a socket, inside a running event loop.

It leaves signals alone, writes no log, and stops at once, whoever is connected. It opens no socket
by itself except through `listen`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from worker.demo.certificates import Certificates


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one."""
    listener = socket.create_server((host, port), backlog=256)
    # Connections inherit this. asyncio would not set it, because create_server leaves the socket's protocol open, and
    # every answer in two pieces would wait 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def port_of(listener: socket.socket) -> int:
    """The port that a socket listens on."""
    port: int = listener.getsockname()[1]
    return port


class _Server(uvicorn.Server):
    """A server that says when it is ready and does not touch the process's signal handlers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Like a server that goes down: nobody is waited for, least of all idle clients that keep their connection.
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, certificates: Certificates | None = None
) -> AsyncIterator[None]:
    """Serve `app` on `listener` for the length of the block, over TLS when `certificates` are given."""
    server = _Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="critical",
            ssl_certfile=str(certificates.chain_file) if certificates else None,
            ssl_keyfile=str(certificates.key_file) if certificates else None,
            timeout_graceful_shutdown=1,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    try:
        yield
    finally:
        server.should_exit = True
        await running
