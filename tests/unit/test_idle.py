"""Listening against scripted servers: what is news, what ends a session, and what no server may do to us."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from worker.demo.certificates import Certificates, write_certificates
from worker.errors import LoginRefused, MailquayError, Misconfigured, SessionExpired, Throttled, Unreachable
from worker.sources import Credentials, Endpoint, NoPush
from worker.sources import idle_wire as wire
from worker.sources.idle import IdleSession
from worker.sources.idle_wire import Authorities

TOKEN = Credentials("support@contoso.com", "t0ken")
PASSWORD = Credentials("bob", "hush", bearer=False)
CAPABLE = b"[CAPABILITY IMAP4rev1 SASL-IR IDLE AUTH=XOAUTH2 AUTH=PLAIN]"
GREETING = b"* OK " + CAPABLE + b" ready\r\n"
WELCOME = b"<tag> OK " + CAPABLE + b" welcome\r\n"


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.said: list[bytes] = []
        self.tag = b""

    async def say(self, text: bytes) -> None:
        self.writer.write(text.replace(b"<tag>", self.tag))
        await self.writer.drain()

    async def hear(self, start: bytes, *, tagged: bool = True) -> bytes:
        """The next line, which has to begin with `start`."""
        line = (await self.reader.readline()).rstrip(b"\r\n")
        if tagged:
            self.tag, _, line = line.partition(b" ")
        self.said.append(line)
        assert line.startswith(start), line
        return line

    async def listen_to(self, *, exists: int = 3) -> None:
        """Everything up to IDLE, as a good server does it."""
        await self.say(GREETING)
        await self.hear(b"AUTHENTICATE XOAUTH2 ")
        await self.say(WELCOME)
        await self.hear(b'EXAMINE "INBOX"')
        await self.say(b"* %d EXISTS\r\n* 0 RECENT\r\n<tag> OK [READ-ONLY] opened\r\n" % exists)
        await self.hear(b"IDLE")
        await self.say(b"+ idling\r\n")

    async def renewal(self) -> None:
        await self.hear(b"DONE", tagged=False)

    async def silence(self) -> None:
        """Say nothing until the client hangs up."""
        await self.reader.read()


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, tls: Certificates | None) -> AsyncIterator[int]:
    """A server on loopback that plays a script; what goes wrong in it comes out of the block. Yields its port."""
    peers: list[asyncio.Task[None]] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peers.append(task)
        try:
            await script(Peer(reader, writer))
        except (ConnectionError, ssl.SSLError):
            pass  # The client has hung up on a flood.
        finally:
            writer.transport.abort()

    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.chain_file, tls.key_file)
    server = await asyncio.start_server(play, "127.0.0.1", 0, ssl=context)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        # Every script ends with its client, so this also says whether the client has hung up.
        async with asyncio.timeout(5):
            await asyncio.gather(*peers)


async def begun(port: int, certificates: Certificates, **options: object) -> IdleSession:
    said = {"credentials": TOKEN, "folder": "INBOX", "tls": "implicit", "answer_seconds": 5.0, **options}
    endpoint = Endpoint("localhost", port, str(said.pop("tls")), str(certificates.ca_file))
    return await IdleSession.begun(
        endpoint, said.pop("credentials"), said.pop("folder"), Authorities(), **said  # type: ignore[arg-type]
    )  # fmt: skip


def heard(certificates: Certificates, script: Script, *waits: float, **options: object) -> list[bool]:
    """What one session hears in waits of so many seconds, after the first news, which are always there."""

    async def run() -> list[bool]:
        async with serving(script, certificates) as port:
            session = await begun(port, certificates, **options)
            try:
                assert await session.news(0)
                return [await session.news(seconds) for seconds in waits]
            finally:
                session.close()

    return asyncio.run(run())


def refusal(certificates: Certificates, script: Script, **options: object) -> MailquayError:
    """The error that a session begins, or goes on, with."""
    with pytest.raises(MailquayError) as caught:
        heard(certificates, script, 5.0, **options)
    return caught.value


# -- news ------------------------------------------------------------------------------------------------------------


def test_a_message_that_comes_is_news_once(certificates: Certificates) -> None:
    """And a quiet minute is none."""

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        await peer.say(b"* 4 EXISTS\r\n* 1 RECENT\r\n")
        await peer.silence()

    assert heard(certificates, script, 5.0, 0.1) == [True, False]


def test_only_a_number_that_grows_is_news(certificates: Certificates) -> None:
    """What is deleted, marked or kept alive elsewhere calls nobody; one that comes after a deletion does."""

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        await peer.say(
            b"* OK Still here\r\n* 3 EXISTS\r\n* 2 FETCH (FLAGS (\\Seen))\r\n* 2 EXPUNGE\r\n* 2 EXISTS\r\n"
        )
        assert await peer.reader.readexactly(1)
        await peer.say(b"* 2 EXPUNGE\r\n* 2 EXISTS\r\n")
        await peer.silence()

    async def run() -> None:
        async with serving(script, certificates) as port:
            session = await begun(port, certificates)
            assert await session.news(0)
            assert not await session.news(0.2)
            await session._wire.send(b"x")
            assert await session.news(5)
            session.close()

    asyncio.run(run())


def test_news_during_a_renewal_are_news(certificates: Certificates) -> None:
    """Between DONE and the next IDLE the server may say everything that it says in IDLE."""

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        await peer.renewal()
        await peer.say(b"* 4 EXISTS\r\n<tag> OK IDLE terminated\r\n")
        await peer.hear(b"IDLE")
        await peer.say(b"* 5 EXISTS\r\n+ idling\r\n")
        await peer.renewal()
        await peer.say(b"<tag> OK IDLE terminated\r\n")
        await peer.hear(b"IDLE")
        await peer.say(b"+ idling\r\n* 6 EXISTS\r\n")
        await peer.silence()

    assert heard(certificates, script, 5.0, 5.0, renew_seconds=0.05) == [True, True]


def test_idle_is_renewed_while_nothing_comes(certificates: Certificates) -> None:
    """Well before the 29 minutes after which a server may hang up."""
    renewals = 0

    async def script(peer: Peer) -> None:
        nonlocal renewals
        await peer.listen_to()
        for _ in range(3):
            await peer.renewal()
            renewals += 1
            await peer.say(b"<tag> OK done\r\n")
            await peer.hear(b"IDLE")
            await peer.say(b"+ \r\n")
        await peer.say(b"* 4 EXISTS\r\n")
        await peer.silence()

    assert heard(certificates, script, 5.0, renew_seconds=0.05) == [True]
    assert renewals == 3


def test_a_wait_that_ends_in_the_middle_of_a_literal_loses_no_place(certificates: Certificates) -> None:
    """What stands in a literal is nobody's answer, however it looks and whenever it comes."""

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        await peer.say(b"* 1 FETCH (X {26}\r\n* 9 EXISTS\r\n")
        assert await peer.reader.readexactly(1)
        await peer.say(b"* 8 EXISTS\r\n)\r\n* 4 EXISTS\r\n")
        await peer.silence()

    async def run() -> None:
        async with serving(script, certificates) as port:
            session = await begun(port, certificates)
            assert await session.news(0)
            assert not await session.news(0.2)
            await session._wire.send(b"x")
            assert await session.news(5)
            assert session._exists == 4
            session.close()

    asyncio.run(run())


# -- signing in ------------------------------------------------------------------------------------------------------


def test_the_token_follows_the_invitation_where_there_is_no_initial_response(
    certificates: Certificates,
) -> None:
    """And what the server can do is asked for when it does not say so, before and after."""

    async def script(peer: Peer) -> None:
        await peer.say(b"* OK ready\r\n")
        await peer.hear(b"CAPABILITY")
        await peer.say(b"* CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER\r\n<tag> OK\r\n")
        await peer.hear(b"AUTHENTICATE OAUTHBEARER")
        await peer.say(b"+ \r\n")
        sent = base64.b64decode(await peer.hear(b"", tagged=False))
        assert b"auth=Bearer t0ken\x01" in sent
        await peer.say(b"<tag> OK welcome\r\n")
        await peer.hear(b"CAPABILITY")
        await peer.say(b"* CAPABILITY IMAP4rev1 IDLE\r\n<tag> OK\r\n")
        await peer.hear(b"EXAMINE")
        await peer.say(b"<tag> OK\r\n")
        await peer.hear(b"IDLE")
        await peer.say(b"+ idling\r\n")
        await peer.silence()

    assert heard(certificates, script) == []


def test_a_refusal_is_told_and_holds_no_token(certificates: Certificates) -> None:
    """The challenge with the reason is answered, so that the refusal comes."""

    async def script(peer: Peer) -> None:
        await peer.say(GREETING)
        await peer.hear(b"AUTHENTICATE")
        await peer.say(b"+ " + base64.b64encode(b'{"status":"400"}') + b"\r\n")
        await peer.hear(b"", tagged=False)
        await peer.say(b"<tag> NO AUTHENTICATE failed.\r\n")
        await peer.silence()

    said = refusal(certificates, script)

    assert isinstance(said, LoginRefused)
    assert "t0ken" not in str(said)


def test_a_server_without_idle_is_no_error_of_the_session(certificates: Certificates) -> None:
    """It is told apart, so that nobody tries again: what it said before the login does not count."""

    async def script(peer: Peer) -> None:
        await peer.say(GREETING)
        await peer.hear(b"AUTHENTICATE PLAIN")
        await peer.say(b"<tag> OK [CAPABILITY IMAP4rev1 UIDPLUS] welcome\r\n")
        await peer.silence()

    assert isinstance(refusal(certificates, script, credentials=PASSWORD), NoPush)


def test_a_folder_is_found_under_the_spelling_of_its_server(certificates: Certificates) -> None:
    """`/` in FOLDERS is the server's separator, and its names are compared without regard to case."""

    async def script(peer: Peer) -> None:
        await peer.say(GREETING)
        await peer.hear(b"AUTHENTICATE")
        await peer.say(WELCOME)
        await peer.hear(b'EXAMINE "Projects/Quay"')
        await peer.say(b"<tag> NO [NONEXISTENT] no such folder\r\n")
        await peer.hear(b'LIST "" "*"')
        await peer.say(b'* LIST () "." INBOX\r\n* LIST () "." Projects.QUAY\r\n<tag> OK\r\n')
        await peer.hear(b'EXAMINE "Projects.QUAY"')
        await peer.say(b"<tag> OK\r\n")
        await peer.hear(b"IDLE")
        await peer.say(b"+ \r\n")
        await peer.silence()

    assert heard(certificates, script, folder="Projects/Quay") == []


def test_a_folder_that_is_not_there_is_misconfigured(certificates: Certificates) -> None:
    """A person has to look at FOLDERS."""

    async def script(peer: Peer) -> None:
        await peer.say(GREETING)
        await peer.hear(b"AUTHENTICATE")
        await peer.say(WELCOME)
        await peer.hear(b"EXAMINE")
        await peer.say(b"<tag> NO [NONEXISTENT] no such folder\r\n")
        await peer.hear(b"LIST")
        await peer.say(b"<tag> OK\r\n")
        await peer.silence()

    assert isinstance(refusal(certificates, script, folder="Gone"), Misconfigured)


# -- the end of a session --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (b"* BYE Session invalidated - AccessTokenExpired\r\n", SessionExpired),
        (b"* bye Autologout; idle for too long\r\n", Unreachable),
        (b"Server Unavailable. 15\r\n", Unreachable),
        (b"A3 OK IDLE terminated by the server\r\n", Unreachable),
        (b"A3 BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds\r\n", Throttled),
        (b"", Unreachable),
    ],
)
def test_whatever_ends_a_session_is_told_apart(
    certificates: Certificates, words: bytes, kind: type[MailquayError]
) -> None:
    """A token that ran out, a pause that was asked for, and everything else."""

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        await peer.say(words)
        peer.writer.close()

    assert isinstance(refusal(certificates, script), kind)


def test_a_server_that_refuses_idle_is_told_apart_from_one_that_has_none(certificates: Certificates) -> None:
    """It may do so for now."""

    async def script(peer: Peer) -> None:
        await peer.say(GREETING)
        await peer.hear(b"AUTHENTICATE")
        await peer.say(WELCOME)
        await peer.hear(b"EXAMINE")
        await peer.say(b"<tag> OK\r\n")
        await peer.hear(b"IDLE")
        await peer.say(b"<tag> NO [UNAVAILABLE] not now\r\n")
        await peer.silence()

    assert isinstance(refusal(certificates, script), Unreachable)


# -- hostile servers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["greeting", "login", "folder", "idle", "renewal"])
def test_a_server_that_falls_silent_is_given_up(certificates: Certificates, step: str) -> None:
    """At whatever step; in IDLE itself silence is what is expected, and the renewal finds out."""

    async def script(peer: Peer) -> None:
        async def until_silent(at: str) -> bool:
            if step == at:
                await peer.silence()
            return step == at

        if await until_silent("greeting"):
            return
        await peer.say(GREETING)
        await peer.hear(b"AUTHENTICATE")
        if await until_silent("login"):
            return
        await peer.say(WELCOME)
        await peer.hear(b"EXAMINE")
        if await until_silent("folder"):
            return
        await peer.say(b"<tag> OK\r\n")
        await peer.hear(b"IDLE")
        if await until_silent("idle"):
            return
        await peer.say(b"+ \r\n")
        await peer.silence()

    said = refusal(certificates, script, answer_seconds=0.2, renew_seconds=0.1)

    assert isinstance(said, Unreachable)
    assert "no answer" in said.sentence


def test_a_server_that_never_shakes_hands_is_given_up(certificates: Certificates) -> None:
    """The connection stands, and nothing comes."""

    async def run() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(Unreachable, match="no answer"),
        ):
            await begun(listener.getsockname()[1], certificates, answer_seconds=0.2)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("flood", "told"),
    [
        (b"* " + b"x" * 300_000, "line of more than"),
        (b"* {0}\r\n" + b"{0}\r\n" * 100_000, "line of more than"),
        (b"* 1 FETCH (X {9999999999}\r\n" + b"x" * (1 << 20), "floods"),
        (b"* OK again\r\n" * 200_000, "floods"),
    ],
    ids=["a line without an end", "a line of literals", "a literal without an end", "lines without an end"],
)
def test_a_server_that_floods_is_hung_up_on(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, flood: bytes, told: str
) -> None:
    """Memory and time of thousands of other mailboxes are not to be had by one server."""
    monkeypatch.setattr(wire, "_ALLOWANCE", 1 << 19)

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        await peer.say(flood)
        await peer.silence()

    said = refusal(certificates, script)

    assert isinstance(said, Unreachable)
    assert told in said.sentence


def test_what_a_server_says_between_renewals_has_a_new_measure_each_time(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that lasts for days is no flood."""
    monkeypatch.setattr(wire, "_ALLOWANCE", 3000)

    async def script(peer: Peer) -> None:
        await peer.listen_to()
        for _ in range(4):
            await peer.say(b"* OK Still here\r\n" * 100)
            await peer.renewal()
            await peer.say(b"<tag> OK\r\n")
            await peer.hear(b"IDLE")
            await peer.say(b"+ \r\n")
        await peer.say(b"* 4 EXISTS\r\n")
        await peer.silence()

    assert heard(certificates, script, 5.0, renew_seconds=0.1) == [True]


def test_another_servers_certificate_is_not_trusted(certificates: Certificates, tmp_path: Path) -> None:
    """Nothing is said to an unproven server."""
    others = write_certificates(tmp_path / "others")
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)

    async def run() -> None:
        async with serving(script, others) as port:
            with pytest.raises(Misconfigured, match="certificate"):
                await begun(port, certificates)

    asyncio.run(run())

    assert peers == []


def test_a_ca_file_that_is_none_is_misconfigured(certificates: Certificates, tmp_path: Path) -> None:
    """The sentence names the variable."""
    nothing = Certificates(tmp_path / "gone.pem", certificates.chain_file, certificates.key_file)

    async def run() -> None:
        async with serving(lambda peer: peer.silence(), certificates) as port:
            with pytest.raises(Misconfigured, match="CA_FILE"):
                await begun(port, nothing)

    asyncio.run(run())


def test_what_is_injected_ahead_of_starttls_is_not_taken(certificates: Certificates) -> None:
    """Somebody in between could put answers there before TLS begins."""

    async def script(peer: Peer) -> None:
        await peer.say(b"* OK ready\r\n")
        await peer.hear(b"STARTTLS")
        await peer.say(b"<tag> OK begin\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n")
        await peer.silence()

    async def run() -> None:
        async with serving(script, None) as port:
            with pytest.raises(Unreachable, match="ahead of the TLS handshake"):
                await begun(port, certificates, tls="starttls")

    asyncio.run(run())


def test_nothing_secret_is_said_where_starttls_is_refused(certificates: Certificates) -> None:
    """A server, or somebody in between, that offers none gets no token."""
    said: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.say(GREETING)
        await peer.hear(b"STARTTLS")
        await peer.say(b"<tag> BAD unknown\r\n")
        said.append(await peer.reader.read())

    async def run() -> None:
        async with serving(script, None) as port:
            with pytest.raises(Misconfigured, match="STARTTLS"):
                await begun(port, certificates, tls="starttls")

    asyncio.run(run())

    assert said == [b""]


def test_nobody_there_is_unreachable(certificates: Certificates) -> None:
    """The sentence says where nobody was."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(Unreachable, match=re.escape(f"localhost port {port}")):
            await begun(port, certificates)

    asyncio.run(run())
