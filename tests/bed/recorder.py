"""A TLS proxy in front of a mail server of the bed that writes down who said what: what a poll costs is counted here.

It ends TLS on both sides, so octets are those of the protocol. It can also play the router that forgets a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from itertools import pairwise

from tests.bed.tls_proxy import TlsProxy
from worker.demo.certificates import Certificates


@dataclass(slots=True)
class Talk:
    """One connection: what `client` and `server` said, in order. A `forgotten` one passes nothing on, and nobody hangs up."""

    words: list[tuple[str, bytes]] = field(default_factory=list)
    forgotten: bool = False

    def said(self, who: str) -> bytes:
        """Everything that `client` or `server` said."""
        return b"".join(words for speaker, words in self.words if speaker == who)

    @property
    def commands(self) -> list[bytes]:
        """The client's lines."""
        return self.said("client").splitlines()

    @property
    def round_trips(self) -> int:
        """How often the client waited for the server: before each of its words, and for the answer to the last one.

        A greeting is waited for as well. To a goodbye no answer is waited for.
        """
        speakers = [speaker for speaker, _ in self.words]
        waits = sum(pair == ("server", "client") for pair in pairwise(speakers))
        goodbye = self.commands and self.commands[-1].split()[-1] in {b"LOGOUT", b"QUIT"}
        return waits if goodbye else waits + 1


class Recorder(TlsProxy):
    """Stands before the TLS port `target` on localhost. `talks` are the connections in which anything was said."""

    def __init__(self, target: int, *, trusted: Certificates) -> None:
        super().__init__(target, trusted=trusted)
        self._talks: list[Talk] = []

    @property
    def talks(self) -> list[Talk]:
        """The connections in which the client said anything since `fresh`, in order."""
        return [talk for talk in self._talks if talk.said("client")]

    def fresh(self) -> None:
        """Forget what was said so far; connections that stand go on."""
        for talk in self._talks:
            talk.words.clear()

    def forget_connections(self) -> None:
        """From now on nothing passes through the connections that stand, and nobody is told."""
        for talk in self._talks:
            talk.forgotten = True

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk()
        self._talks.append(talk)
        with contextlib.suppress(OSError):
            behind, before = await asyncio.open_connection(
                "localhost", self._target, ssl=self._upstream, server_hostname="localhost"
            )
            asking = asyncio.create_task(self._pass_on(talk, "client", reader, before))
            answering = asyncio.create_task(self._pass_on(talk, "server", behind, writer))
            try:
                await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (asking, answering):
                    task.cancel()
                before.transport.abort()
                writer.transport.abort()
                await asyncio.gather(asking, answering, return_exceptions=True)

    async def _pass_on(
        self, talk: Talk, speaker: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            if talk.forgotten:
                await self._stopping.wait()
            talk.words.append((speaker, data))
            writer.write(data)
            await writer.drain()
        if talk.forgotten:
            await self._stopping.wait()
