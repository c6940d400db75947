"""A TLS proxy in front of a mail server of the bed that refuses, hangs, hangs up, lies, dawdles or shows a wrong certificate.

It ends TLS on both sides, so a fault can come at a given word of the server's answer, to the octet.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Literal

from tests.bed.tls_proxy import TlsProxy
from worker.demo.certificates import Certificates

_STEPS_A_SECOND = 50


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens right behind the first `at` in what the server says, or behind `after` octets of it.

    The server hangs up, says nothing more for ever (`hang`), breaks the connection without a goodbye (`reset`), or goes on.
    Without `at` and `after` it happens before its first word. Before it `words` are said in the server's name. With `once`
    it happens in one session only.
    """

    kind: Literal["hang up", "hang", "reset", "go on"]
    at: bytes = b""
    after: int = 0
    words: bytes = b""
    once: bool = False

    def place(self, said: bytes) -> int | None:
        """How many octets the server says before it happens, or None when they are not among these."""
        if not self.at:
            return self.after if len(said) >= self.after else None
        found = said.find(self.at)
        return None if found < 0 else found + len(self.at)


class FaultProxy(TlsProxy):
    """Stands before the TLS port `target` on localhost and presents `shown`. `fault` may be changed at any time."""

    def __init__(self, target: int, *, trusted: Certificates, shown: Certificates | None = None) -> None:
        super().__init__(target, trusted=trusted, shown=shown)
        self.fault: Fault | None = None
        self.delay = 0.0
        """Seconds that each piece of the server's words takes longer."""
        self.rate: int | None = None
        """Octets a second that a session gets at most; None is as fast as they come."""
        self.sessions = 0
        """Connections accepted so far."""
        self.said = 0
        """Octets that the server has said in the last session, as far as they were passed on."""

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        with contextlib.suppress(OSError):
            behind, before = await asyncio.open_connection(
                "localhost", self._target, ssl=self._upstream, server_hostname="localhost"
            )
            asking = asyncio.create_task(self._pass_on(reader, before))
            try:
                await self._answer(behind, writer)
            finally:
                asking.cancel()
                before.transport.abort()
                writer.transport.abort()
                await asyncio.gather(asking, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the server's words on until the fault, and behind one that goes on."""
        fault, said, self.said = self.fault, b"", 0
        while fault is None or (place := fault.place(said)) is None:
            data = await reader.read(1 << 16)
            if not data:
                return
            if fault:
                before, said = len(said), said + data
                data = said[before : fault.place(said)]
            await self._say(data, writer)
        if fault.once:
            self.fault = None
        await self._say(fault.words, writer)
        if fault.kind == "go on":
            await self._say(said[place:], writer)
            while data := await reader.read(1 << 16):
                await self._say(data, writer)
        elif fault.kind == "hang":
            await self._stopping.wait()
        elif fault.kind == "reset":
            # Lingering for no time is TCP's way of breaking off (RFC 9293 section 3.10.5).
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()
        else:
            # What was written is to arrive before the end does.
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def _say(self, words: bytes, writer: asyncio.StreamWriter) -> None:
        """Pass words on, as slowly as it is set."""
        await asyncio.sleep(self.delay)
        while words:
            step = len(words) if self.rate is None else max(1, self.rate // _STEPS_A_SECOND)
            writer.write(words[:step])
            await writer.drain()
            self.said += len(words[:step])
            words = words[step:]
            if self.rate is not None:
                await asyncio.sleep(1 / _STEPS_A_SECOND)
