"""A mail server whose folder has as many messages as it is told, all tiny and made up on the way out.

    python -m bench.vast IMAP|POP3 PORT MESSAGES HANG_UP_AFTER CHAIN_FILE KEY_FILE

It speaks as much IMAP or POP3 over TLS as a pull asks for, takes every password, and hangs up after so many messages (0:
never), because nobody wants to wait for a million. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

_CAPABLE = b"[CAPABILITY IMAP4rev1 SASL-IR UIDPLUS AUTH=PLAIN]"
_SIZE = 400
_NUMBERED = {b"UIDL", b"LIST", b"RETR", b"TOP"}
_BLOCK = 16 * 1024
"""What is sent at once, as real servers do: a line in a TLS record of its own would be slow to read."""

Answer = Iterator[bytes]


class HungUp(Exception):
    """As many messages went out as were to go out."""


class Vast:
    """What both protocols share: `count` messages, of which `limit` go out at most (0: all)."""

    greeting = b""

    def __init__(self, count: int, limit: int) -> None:
        self.count = count
        self._left = limit or count

    def message(self, number: int) -> bytes:
        """A whole message of `_SIZE` octets, each another one.

        Raises:
            HungUp: it was one too many.
        """
        if not self._left:
            raise HungUp
        self._left -= 1
        head = (
            b"From: a@vast.example\r\nSubject: %07d\r\nMessage-ID: <%07d@vast.example>\r\n"
            b"Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n\r\n" % (number, number)
        )
        return head + b"x" * (_SIZE - len(head) - 2) + b"\r\n"

    def answer(self, line: bytes) -> Answer:
        """What the server says to a line."""
        raise NotImplementedError


class VastImap(Vast):
    """Uids are 1 to `count`."""

    greeting = b"* OK " + _CAPABLE + b" ready\r\n"

    def answer(self, line: bytes) -> Answer:
        """Untagged answers and the tagged end."""
        tag, _, command = line.strip().partition(b" ")
        verb = command.upper()
        if verb.startswith(b"UID FETCH"):
            uids, items = re.match(rb"UID FETCH (\S+) (.*)", command, re.IGNORECASE).groups()  # type: ignore[union-attr]
            yield from (self._fetched(uid, items.upper()) for uid in self._uids(uids))
        elif verb.startswith(b"UID SEARCH"):
            low, high = re.search(rb"(\d+):(\d+)", verb).groups()  # type: ignore[union-attr]
            yield b"* SEARCH"
            yield from (b" %d" % uid for uid in range(int(low), min(int(high), self.count) + 1))
            yield b"\r\n"
        elif verb.startswith((b"SELECT", b"EXAMINE")):
            yield b"* %d EXISTS\r\n* OK [UIDVALIDITY 1] so\r\n* OK [UIDNEXT %d] so\r\n" % (
                self.count,
                self.count + 1,
            )
        elif verb.startswith(b"LIST"):
            yield b'* LIST () "/" INBOX\r\n'
        elif verb.startswith(b"CAPABILITY"):
            yield b"* " + _CAPABLE[1:-1] + b"\r\n"
        yield tag + (b" OK " + _CAPABLE + b" done\r\n" if verb.startswith(b"AUTH") else b" OK done\r\n")

    def _uids(self, uids: bytes) -> Iterator[int]:
        for part in uids.split(b","):
            low, _, high = part.partition(b":")
            first = self.count if low == b"*" else int(low)
            last = first if not high else self.count if high == b"*" else int(high)
            yield from range(min(first, last), min(max(first, last), self.count) + 1)

    def _fetched(self, uid: int, items: bytes) -> bytes:
        said = b"* %d FETCH (UID %d FLAGS () INTERNALDATE " % (uid, uid) + b'"23-Nov-2026 10:00:00 +0000"'
        if b"BODY" in items:
            return said + b" BODY[] {%d}\r\n%s)\r\n" % (_SIZE, self.message(uid))
        return said + b" RFC822.SIZE %d)\r\n" % _SIZE


class VastPop3(Vast):
    """UIDLs have sixteen octets, as Dovecot's have."""

    greeting = b"+OK ready\r\n"

    def answer(self, line: bytes) -> Answer:
        """One line, or several up to a dot."""
        verb, _, words = line.strip().upper().partition(b" ")
        number = int(words.split()[0]) if verb in _NUMBERED and words else 0
        if verb in {b"UIDL", b"LIST"} and number:
            yield b"+OK " + self._listed(verb, number)
            return
        yield b"+OK\r\n"
        if verb == b"CAPA":
            yield b"USER\r\nUIDL\r\nTOP\r\nPIPELINING\r\n.\r\n"
        elif verb in {b"UIDL", b"LIST"}:
            yield from (self._listed(verb, one) for one in range(1, self.count + 1))
            yield b".\r\n"
        elif verb in _NUMBERED:
            yield self.message(number) + b".\r\n"

    def _listed(self, verb: bytes, number: int) -> bytes:
        return b"%d %016x\r\n" % (number, number) if verb == b"UIDL" else b"%d %d\r\n" % (number, _SIZE)


async def serve(make: Callable[[], Vast], port: int, chain_file: str, key_file: str) -> None:
    """Serve one folder after the other until the standard input ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_file, key_file)

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        folder = make()
        writer.write(folder.greeting)
        with suppress(ConnectionError, ssl.SSLError, HungUp):
            while line := await reader.readline():
                block = bytearray()
                try:
                    for piece in folder.answer(line):
                        block += piece
                        if len(block) > _BLOCK:
                            writer.write(bytes(block))
                            block.clear()
                            await writer.drain()
                            if writer.transport.is_closing():
                                return
                finally:
                    writer.write(bytes(block))
                if line.strip().upper().endswith((b"QUIT", b"LOGOUT")):
                    break
        with suppress(ConnectionError, ssl.SSLError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(session, "127.0.0.1", port, ssl=context)
    end = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(end), sys.stdin)
    print("ready", flush=True)
    await end.read()
    server.close()


if __name__ == "__main__":
    kind, at, size, hang_up_after, chain, key = sys.argv[1:]
    folder_kind = VastImap if kind == "IMAP" else VastPop3
    asyncio.run(serve(lambda: folder_kind(int(size), int(hang_up_after)), int(at), chain, key))
