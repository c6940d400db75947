"""An IMAP session that only listens: it signs in, opens one folder read-only and waits in IDLE (RFC 2177).

It says that there is new mail and nothing more; what is new, the pull finds out. It fetches nothing, changes nothing and
never sends ENABLE. IDLE is renewed well before the 29 minutes of the RFC, and news that arrive while it is renewed are
news all the same. Every answer has a deadline, and everything that comes a limit (promise P8).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from pipelines.imap_text import mutf7
from worker.errors import Misconfigured, Unreachable
from worker.sources import Credentials, Endpoint, NoPush, sasl
from worker.sources.idle_wire import Authorities, IdleWire
from worker.sources.imap_text import quoted
from worker.sources.listing import Listing
from worker.sources.refusal import meaning, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_RENEW_SECONDS = 9 * 60.0
"""RFC 2177 wants 29 minutes at most; the routers of small networks forget a silent connection after ten."""
_EXISTS = re.compile(rb"\* (\d{1,10}) EXISTS\b", re.IGNORECASE)
_EXPUNGE = re.compile(rb"\* \d{1,10} EXPUNGE\b", re.IGNORECASE)
_CAPABILITY = re.compile(r"\[CAPABILITY ([^\]]*)\]", re.IGNORECASE)


class IdleSession:
    """A session that waits for mail; `begun` makes one. `answer_seconds` is what one answer may take.

    `renew_seconds` is how long one IDLE lasts; a silent server that is gone is found out by then.
    """

    __slots__ = (
        "_answer_seconds",
        "_capabilities",
        "_exists",
        "_host",
        "_idling",
        "_news",
        "_renew_at",
        "_renew_seconds",
        "_tags",
        "_wire",
    )

    def __init__(self, wire: IdleWire, *, answer_seconds: float, renew_seconds: float) -> None:
        self._wire = wire
        self._host = wire.endpoint.host
        self._answer_seconds = answer_seconds
        self._renew_seconds = renew_seconds
        self._capabilities: frozenset[str] = frozenset()
        self._exists = 0
        self._idling: bytes | None = None
        # What came before somebody listened is news, too.
        self._news = True
        self._renew_at = 0.0
        self._tags = 0

    @classmethod
    async def begun(
        cls,
        endpoint: Endpoint,
        credentials: Credentials,
        folder: str,
        authorities: Authorities,
        *,
        answer_seconds: float,
        renew_seconds: float = _RENEW_SECONDS,
    ) -> IdleSession:
        """Connect, sign in, open the folder and begin to listen: what comes from now on is heard.

        Raises:
            NoPush: the server has no IDLE.
            LoginRefused, NotConnected: it does not let us in.
            Misconfigured: its certificate, its protocol or the folder is not what the configuration says.
            Unreachable, Throttled, SessionExpired: it does not serve us now.
        """
        async with _deadline(answer_seconds, endpoint.host):
            wire = await IdleWire.connected(endpoint, authorities)
        session = cls(wire, answer_seconds=answer_seconds, renew_seconds=renew_seconds)
        try:
            await session._greeted()
            if endpoint.tls == "starttls":
                await session._start_tls()
            await session._sign_in(endpoint, credentials)
            await session._open(folder)
            await session._begin()
        except BaseException:
            wire.close()
            raise
        return session

    async def news(self, seconds: float) -> bool:
        """Wait for new mail; False when there was none for `seconds`. The first call is true at once. IDLE is renewed meanwhile.

        Raises:
            SessionExpired, Throttled, Unreachable: the session is over, and why.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while not self._news and clock() < until:
            if clock() >= self._renew_at:
                await self._renew()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(until, self._renew_at)):
                    while not self._news:
                        self._note(await self._wire.line())
        heard, self._news = self._news, False
        return heard

    def close(self) -> None:
        """Hang up; never raises. The server needs no goodbye from somebody who changed nothing."""
        self._wire.close()

    # -- signing in ----------------------------------------------------------------------------------------------

    async def _greeted(self) -> None:
        async with _deadline(self._answer_seconds, self._host):
            line = (await self._wire.line()).decode("latin-1")
        if line[:5].upper() == "* BYE":
            raise meaning(line[6:], host=self._host, during="connecting")
        if not line.startswith("* "):
            raise Misconfigured(f"{self._host} does not speak IMAP. Check HOST, PORT, PROTOCOL.")
        self._note_capabilities(line)

    async def _start_tls(self) -> None:
        status, text = await self._run("STARTTLS")
        if status != "OK":
            raise Misconfigured(
                f"{self._host} offers no STARTTLS: {shown(text)}. Set TLS=implicit and its port."
            )
        async with _deadline(self._answer_seconds, self._host):
            await self._wire.start_tls()
        # What was announced in clear is not to be believed (RFC 3501 section 6.2.1).
        self._capabilities = frozenset()

    async def _sign_in(self, endpoint: Endpoint, credentials: Credentials) -> None:
        if not self._capabilities:
            await self._run("CAPABILITY")
        offered = {name.removeprefix("AUTH=") for name in self._capabilities if name.startswith("AUTH=")}
        chosen = sasl.mechanism(credentials, frozenset(offered))
        if chosen:
            first = sasl.encoded(chosen, credentials, endpoint).decode()
            last = sasl.answer_to_challenge(chosen).decode()
            if "SASL-IR" in self._capabilities:
                status, text = await self._run(f"AUTHENTICATE {chosen} {first}", [last])
            else:
                status, text = await self._run(f"AUTHENTICATE {chosen}", [first, last])
        elif not credentials.bearer and "LOGINDISABLED" not in self._capabilities:
            status, text = await self._run(f"LOGIN {quoted(credentials.user)} {quoted(credentials.secret)}")
        else:
            raise Misconfigured(
                f"{self._host} offers none of the ways to sign in with this AUTH "
                f"(it offers {', '.join(sorted(offered)) or 'nothing'}). Check AUTH and HOST."
            )
        if status != "OK":
            raise meaning(text, host=self._host, during="signing in")
        if "CAPABILITY" not in text.upper():
            # Some servers announce IDLE only to those who have signed in, and only when they are asked.
            await self._run("CAPABILITY")
        if "IDLE" not in self._capabilities:
            raise NoPush(f"{self._host} does not announce new mail (it has no IDLE)")

    async def _open(self, folder: str) -> None:
        status, text = await self._run(f"EXAMINE {quoted(mutf7(folder))}")
        if status != "OK" and folder != "INBOX" and (spelled := await self._spelled(folder)):
            status, text = await self._run(f"EXAMINE {quoted(spelled)}")
        if status != "OK":
            raise meaning(text, host=self._host, during=f"opening the folder {folder}")

    async def _spelled(self, folder: str) -> str | None:
        """How the server itself spells a folder that it does not know by the name in FOLDERS."""
        listing = Listing(self._host)
        await self._run('LIST "" "*"', note=listing.note)
        return listing.alike(folder)

    # -- listening -----------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._wire.allow()
        tag = self._tag()
        async with _deadline(self._answer_seconds, self._host):
            await self._wire.send(f"{tag} IDLE\r\n".encode())
            while not (line := await self._wire.line()).startswith(b"+"):
                if done := self._tagged(line, tag):
                    raise meaning(done[1], host=self._host, during="waiting for mail")
                self._note(line)
        self._idling = tag.encode()
        self._renew_at = asyncio.get_running_loop().time() + self._renew_seconds

    async def _renew(self) -> None:
        """End IDLE and begin it again. A server that dies silently is found out here."""
        tag, self._idling = self._idling or b"", None
        async with _deadline(self._answer_seconds, self._host):
            await self._wire.send(b"DONE\r\n")
            await self._finished(tag.decode(), [], None)
        await self._begin()

    def _note(self, line: bytes) -> None:
        """Take one untagged line: count messages, and raise what a goodbye means."""
        if found := _EXISTS.match(line):
            count = int(found[1])
            # After an EXPUNGE some servers say how many are left; only a number that grows is news.
            self._news = self._news or count > self._exists
            self._exists = count
        elif _EXPUNGE.match(line):
            self._exists = max(0, self._exists - 1)
        elif line[:5].upper() == b"* BYE":
            raise meaning(line[6:].decode("latin-1"), host=self._host, during="waiting for mail")
        elif line[:12].upper() == b"* CAPABILITY":
            self._capabilities = frozenset(line[13:].decode("latin-1").upper().split())
        elif not line.startswith((b"*", b"+")):
            # A server that ends IDLE by itself, or Exchange's bare "Server Unavailable. 15" outside the protocol.
            text = line.decode("latin-1")
            if line.partition(b" ")[0] == self._idling or "server unavailable" in text.lower():
                raise meaning(text, host=self._host, during="waiting for mail")

    # -- the protocol --------------------------------------------------------------------------------------------

    async def _run(
        self, command: str, replies: list[str] | None = None, note: Callable[[bytes], None] | None = None
    ) -> tuple[str, str]:
        """Send one command and return its status and text. `replies` answer challenges in turn, `note` reads along."""
        tag = self._tag()
        async with _deadline(self._answer_seconds, self._host):
            await self._wire.send(f"{tag} {command}\r\n".encode())
            return await self._finished(tag, replies or [], note)

    async def _finished(
        self, tag: str, replies: list[str], note: Callable[[bytes], None] | None
    ) -> tuple[str, str]:
        while True:
            line = await self._wire.line()
            if done := self._tagged(line, tag):
                return done
            if line.startswith(b"+"):
                # The second challenge holds the reason as base64 JSON; the refusal comes after our answer to it.
                await self._wire.send((replies.pop(0) if replies else "*").encode() + b"\r\n")
            else:
                self._note(line)
                if note:
                    note(line)

    def _tag(self) -> str:
        self._tags += 1
        return f"A{self._tags}"

    def _tagged(self, line: bytes, tag: str) -> tuple[str, str] | None:
        head, _, rest = line.partition(b" ")
        if head != tag.encode():
            return None
        status, _, text = rest.decode("latin-1").partition(" ")
        self._note_capabilities(text)
        return status.upper(), text

    def _note_capabilities(self, text: str) -> None:
        if found := _CAPABILITY.search(text):
            self._capabilities = frozenset(found[1].upper().split())


@asynccontextmanager
async def _deadline(seconds: float, host: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Unreachable(f"{host} gave no answer in {seconds:.0f} s; hung up") from error
