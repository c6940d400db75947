"""What the bed's TLS proxies have in common: they end TLS on both sides, so that octets are those of the protocol."""

from __future__ import annotations

import asyncio
import ssl
import threading
from abc import ABC, abstractmethod

from tests.bed.clients import trusting
from tests.bed.processes import answers, free_port, wait_until
from worker.demo.certificates import Certificates


class TlsProxy(ABC):
    """Stands before the TLS port `target` on localhost and presents `shown`; a class of its own says what passes."""

    def __init__(self, target: int, *, trusted: Certificates, shown: Certificates | None = None) -> None:
        self.port = free_port()
        self._target = target
        self._upstream = trusting(trusted.ca_file)
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        presented = shown or trusted
        self._server.load_cert_chain(presented.chain_file, presented.key_file)
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, and return when connections are accepted."""
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), name="proxy"
        )
        self._thread.start()
        wait_until(lambda: answers(self.port), timeout=5, what="the proxy's start")

    def stop(self) -> None:
        """End all sessions; connections are refused until `start`."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """End for good."""
        self.stop()
        self._loop.close()

    async def _serve(self) -> None:
        sessions: set[asyncio.Task[None]] = set()

        async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            sessions.add(task)
            try:
                await self._session(reader, writer)
            finally:
                sessions.discard(task)

        # Handshakes that a client breaks off are part of the game; nobody has to hear of them.
        self._loop.set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(session, "127.0.0.1", self.port, ssl=self._server)
        async with server:
            await self._stopping.wait()
            for task in sessions:
                task.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)

    @abstractmethod
    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
