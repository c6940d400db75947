"""The demo's POP3 server (RFC 1939) over TLS, with XOAUTH2 in two steps as the only way in, as Exchange Online has it.

It knows CAPA (RFC 2449), AUTH (RFC 5034), STAT, LIST, UIDL, RETR, TOP, DELE, RSET, NOOP and QUIT, and reads pipelined
commands. Messages go away at QUIT only. USER and PASS are refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from worker.demo.identity import IdentityProvider
from worker.demo.mail_store import MailStore, Stored

CAPABILITIES = (b"TOP", b"UIDL", b"SASL XOAUTH2", b"PIPELINING", b"RESP-CODES")
IDLE_SECONDS = 600
_XOAUTH2 = re.compile(rb"user=([^\x01]*)\x01auth=Bearer ([^\x01]*)\x01\x01", re.IGNORECASE)


@contextlib.asynccontextmanager
async def serving_pop3(
    provider: IdentityProvider, store: MailStore, listener: socket.socket, tls: ssl.SSLContext
) -> AsyncIterator[None]:
    """Speak POP3 on `listener` for the length of the block."""
    sessions: dict[asyncio.Future[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sessions[ended] = writer
        try:
            # A client that goes away, hangs or sends an endless line ends its own session only.
            with contextlib.suppress(ConnectionError, TimeoutError, ValueError, asyncio.IncompleteReadError):
                await _Session(provider, store, reader, writer).run()
        finally:
            writer.close()
            del sessions[ended]
            ended.set_result(None)

    listening = await asyncio.start_server(connected, sock=listener, ssl=tls)
    try:
        yield
    finally:
        listening.close()
        for writer in sessions.values():
            writer.transport.abort()
        await asyncio.gather(*sessions)


class _Refused(Exception):
    """An `-ERR` with this text; `fatal` closes the connection."""

    def __init__(self, text: str, *, fatal: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.fatal = fatal


class _Session:
    """One connection, from greeting to QUIT."""

    def __init__(
        self,
        provider: IdentityProvider,
        store: MailStore,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._provider = provider
        self._store = store
        self._reader = reader
        self._writer = writer
        self._mailbox: str | None = None
        self._uidvalidity = 0
        self._messages: list[Stored] = []
        self._deleted: set[int] = set()
        self._open = True

    async def run(self) -> None:
        await self._ok("The Microsoft Exchange POP3 service is ready.")
        while self._open:
            verb, _, rest = (await self._line()).decode("latin-1").partition(" ")
            try:
                await self._command(verb.upper())(rest.split())
            except _Refused as refused:
                await self._send(f"-ERR {refused.text}\r\n".encode())
                self._open = not refused.fatal

    def _command(self, verb: str) -> Callable[[list[str]], Awaitable[None]]:
        anywhere = {"CAPA": self._capa, "QUIT": self._quit, "NOOP": self._noop}
        before = {"AUTH": self._auth, "USER": self._no_passwords, "PASS": self._no_passwords}
        after = {
            "STAT": self._stat,
            "LIST": self._list,
            "UIDL": self._uidl,
            "RETR": self._retr,
            "TOP": self._top,
            "DELE": self._dele,
            "RSET": self._rset,
        }
        known = anywhere | (before if self._mailbox is None else after)
        return known.get(verb, self._invalid)

    async def _invalid(self, _: list[str]) -> None:
        raise _Refused("Command is not valid in this state.")

    async def _no_passwords(self, _: list[str]) -> None:
        raise _Refused("Logon failure: unknown user name or bad password.")

    async def _capa(self, _: list[str]) -> None:
        await self._listing(CAPABILITIES)

    async def _noop(self, _: list[str]) -> None:
        await self._ok()

    async def _quit(self, _: list[str]) -> None:
        if self._mailbox is not None and self._deleted:
            await self._store.delete(
                self._mailbox, [self._messages[number - 1].uid for number in self._deleted]
            )
        self._open = False
        await self._ok("Microsoft Exchange Server POP3 server signing off.")

    async def _auth(self, words: list[str]) -> None:
        if not words:
            await self._listing([b"XOAUTH2"])
            return
        if words[0].upper() != "XOAUTH2":
            raise _Refused("Unsupported authentication mechanism.")
        if len(words) > 1:
            # Exchange Online breaks off when the initial response comes on the command's own line.
            raise _Refused("Protocol error. Connection is closed. 10", fatal=True)
        await self._send(b"+ \r\n")
        answer = await self._line()
        try:
            match = _XOAUTH2.fullmatch(base64.b64decode(answer, validate=True))
        except binascii.Error:
            match = None
        if match is None:
            raise _Refused("Authentication failure: the exchange was cancelled or malformed.")
        mailbox, token = (part.decode("utf-8", "replace") for part in match.groups())
        if not self._provider.introspect(token, mailbox=mailbox, service="pop3").active:
            raise _Refused("[AUTH] Authentication failure: unknown user name or bad password.")
        self._mailbox = mailbox
        self._uidvalidity = (await self._store.inbox(mailbox)).uid_validity
        self._messages = await self._store.messages(mailbox)
        await self._ok("User successfully logged on.")

    async def _stat(self, _: list[str]) -> None:
        left = [message for _, message in self._left()]
        await self._ok(f"{len(left)} {sum(len(message.raw) for message in left)}")

    async def _list(self, words: list[str]) -> None:
        await self._one_or_all(words, lambda message: str(len(message.raw)))

    async def _uidl(self, words: list[str]) -> None:
        await self._one_or_all(words, lambda message: f"{self._uidvalidity}-{message.uid}")

    async def _retr(self, words: list[str]) -> None:
        await self._text(self._message(words)[1].raw)

    async def _top(self, words: list[str]) -> None:
        header, blank, body = self._message(words[:1])[1].raw.partition(b"\r\n\r\n")
        try:
            lines = body.splitlines(keepends=True)[: int(words[1])]
        except (IndexError, ValueError):
            raise _Refused("TOP needs a message and a number of lines.") from None
        await self._text(header + blank + b"".join(lines))

    async def _dele(self, words: list[str]) -> None:
        number, _ = self._message(words)
        self._deleted.add(number)
        await self._ok()

    async def _rset(self, _: list[str]) -> None:
        self._deleted.clear()
        await self._ok()

    def _left(self) -> list[tuple[int, Stored]]:
        """Messages that are not marked as deleted, with their numbers."""
        numbered = enumerate(self._messages, start=1)
        return [(number, message) for number, message in numbered if number not in self._deleted]

    def _message(self, words: Sequence[str]) -> tuple[int, Stored]:
        number = int(words[0]) if words and words[0].isdecimal() else 0
        if not 1 <= number <= len(self._messages) or number in self._deleted:
            raise _Refused("There is no such message.")
        return number, self._messages[number - 1]

    async def _one_or_all(self, words: list[str], say: Callable[[Stored], str]) -> None:
        if words:
            number, message = self._message(words)
            await self._ok(f"{number} {say(message)}")
        else:
            await self._listing([f"{number} {say(message)}".encode() for number, message in self._left()])

    async def _listing(self, lines: Sequence[bytes]) -> None:
        await self._send(b"+OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b".\r\n")

    async def _text(self, raw: bytes) -> None:
        """A multi-line answer: lines that begin with a dot get another one (RFC 1939 section 3)."""
        end = b"" if raw.endswith(b"\r\n") else b"\r\n"
        await self._send(b"+OK\r\n" + re.sub(rb"(?m)^\.", b"..", raw) + end + b".\r\n")

    async def _ok(self, text: str = "") -> None:
        await self._send(f"+OK {text}".rstrip().encode() + b"\r\n")

    async def _line(self) -> bytes:
        async with asyncio.timeout(IDLE_SECONDS):
            return (await self._reader.readuntil(b"\n")).rstrip(b"\r\n")

    async def _send(self, text: bytes) -> None:
        self._writer.write(text)
        await self._writer.drain()
