"""IMAP and POP3 on real servers: every way to sign in, both ways to TLS, and the same bytes out of each."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tests.bed.clients import imap_login
from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, MAILBOXES
from worker.demo.imap import serving_imap
from worker.demo.mail_store import MailStore
from worker.demo.pop3 import serving_pop3
from worker.demo.web import listen, port_of
from worker.errors import LoginRefused, Misconfigured
from worker.sources import Credentials, Endpoint, Ref, Source
from worker.sources.imap import ImapSource
from worker.sources.pop3 import Pop3Source

RAW = [
    b"Subject: one\r\n\r\n.dot\r\n..dots\r\n.\r\n",
    b"Subject: two\r\n\r\n" + bytes(range(128, 256)) + b"\r\n",
]
EARLIER = frozenset[str]()


def connect(protocol: str, endpoint: Endpoint, credentials: Credentials) -> Source:
    kind = ImapSource if protocol == "imap" else Pop3Source
    return kind(endpoint, credentials, message_max=1 << 20, answer_seconds=10, clock=time.monotonic)


def pulled(source: Source, folder: str = "INBOX") -> list[tuple[Ref, bytes]]:
    """Everything in a folder, as a first pull gets it."""
    try:
        opened = source.open(folder, writable=False)
        windows = source.new(opened, after=0, seen=EARLIER)
        groups = source.fetch(window for window in windows if window)
        found = [(message.ref, b"".join(message.chunks)) for _, messages in groups for message in messages]
        source.finish()
        return found
    finally:
        source.close()


@pytest.fixture(scope="module")
def bearer_only(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """A Dovecot that takes tokens by OAUTHBEARER alone."""
    dovecot = Dovecot(
        certificates=certificates,
        introspection_url=f"{identity.lab_url}/introspect",
        passwords=MAILBOXES,
        extra="auth_mechanisms = plain oauthbearer",
    )
    dovecot.start()
    yield dovecot
    dovecot.remove()


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("secret", ["password", "token"])
def test_plain_ports_are_encrypted_before_anything_is_said(
    dovecot: Dovecot, identity: Identity, protocol: str, secret: str
) -> None:
    """STARTTLS and STLS, then a password or a token; the messages are the same as over implicit TLS."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *RAW)
    token = Credentials(ALICE, identity.token(ALICE))
    credentials = token if secret == "token" else Credentials(ALICE, dovecot.passwords[ALICE], bearer=False)
    plain, implicit = (
        (dovecot.imap_port, dovecot.imaps_port)
        if protocol == "imap"
        else (dovecot.pop3_port, dovecot.pop3s_port)
    )
    upgraded = Endpoint("localhost", plain, "starttls", str(dovecot.ca_file))
    encrypted = Endpoint("localhost", implicit, "implicit", str(dovecot.ca_file))

    found = pulled(connect(protocol, upgraded, credentials))

    assert [raw for _, raw in found] == RAW
    assert found == pulled(connect(protocol, encrypted, token))


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_oauthbearer_is_used_where_xoauth2_is_not_offered(
    bearer_only: Dovecot, identity: Identity, protocol: str
) -> None:
    """A good token gets in; a bad one is refused with a sentence, not with a hang."""
    bearer_only.forget(ALICE)
    bearer_only.save(ALICE, *RAW)
    port = bearer_only.imaps_port if protocol == "imap" else bearer_only.pop3s_port
    endpoint = Endpoint("localhost", port, "implicit", str(bearer_only.ca_file))

    assert [
        raw for _, raw in pulled(connect(protocol, endpoint, Credentials(ALICE, identity.token(ALICE))))
    ] == RAW
    with pytest.raises(LoginRefused):
        connect(protocol, endpoint, Credentials(ALICE, "no.such.token"))
    assert "method=OAUTHBEARER" in bearer_only.log


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("secret", ["password", "token"])
def test_a_wrong_secret_is_refused_in_words(dovecot: Dovecot, protocol: str, secret: str) -> None:
    """And the secret is not in them (promise P7)."""
    port = dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port
    endpoint = Endpoint("localhost", port, "implicit", str(dovecot.ca_file))

    with pytest.raises(LoginRefused, match="localhost") as caught:
        connect(protocol, endpoint, Credentials(ALICE, "wr0ng-secret", bearer=secret == "token"))

    assert "wr0ng-secret" not in str(caught.value)


def test_a_folder_with_letters_beyond_ascii_is_found_and_a_missing_one_is_named(
    dovecot: Dovecot, identity: Identity
) -> None:
    """Its name is spelled in modified UTF-7 on the wire."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, RAW[0])
    token = identity.token(ALICE)
    client = imap_login(dovecot.imaps_port, dovecot.ca_file, ALICE, token)
    client.create('"Entw&APw-rfe &- mehr"')
    client.append('"Entw&APw-rfe &- mehr"', "", "", RAW[1])
    client.logout()
    endpoint = Endpoint("localhost", dovecot.imaps_port, "implicit", str(dovecot.ca_file))

    found = pulled(connect("imap", endpoint, Credentials(ALICE, token)), "Entwürfe & mehr")
    assert [raw for _, raw in found] == [RAW[1]]
    with pytest.raises(Misconfigured, match=r"Entw.rfe.*Check FOLDERS"):
        pulled(connect("imap", endpoint, Credentials(ALICE, token)), "Entwürfe")


def test_a_new_mailbox_can_begin_at_a_day(dovecot: Dovecot, identity: Identity) -> None:
    """The server counts days by the time of arrival."""
    dovecot.forget(ALICE)
    client = imap_login(dovecot.imaps_port, dovecot.ca_file, ALICE, identity.token(ALICE))
    for day in (1, 5, 9):
        client.append("INBOX", "", f'"{day:2d}-Jan-2026 12:00:00 +0000"', RAW[0])
    client.logout()
    endpoint = Endpoint("localhost", dovecot.imaps_port, "implicit", str(dovecot.ca_file))
    source = connect("imap", endpoint, Credentials(ALICE, identity.token(ALICE)))

    opened = source.open("INBOX", writable=False)
    found = [
        source.start(opened, since)[0]
        for since in (date(2026, 1, 1), date(2026, 1, 4), date(2026, 2, 1), None)
    ]
    source.close()

    assert found == [0, 1, 3, 3]


class DemoServers:
    """The demo's own mail servers in a thread: pymap for IMAP, and a strict POP3."""

    def __init__(self, certificates: Certificates, identity: Identity) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificates.chain_file, certificates.key_file)
        self._provider = identity.provider
        self._listeners = [listen("127.0.0.1", 0) for _ in range(2)]
        self.endpoints = {
            protocol: Endpoint("localhost", port_of(listener), "implicit", str(certificates.ca_file))
            for protocol, listener in zip(("imap", "pop3"), self._listeners, strict=True)
        }
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo servers")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        for listener in self._listeners:
            listener.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        store = MailStore(MAILBOXES)
        for raw in RAW:
            await store.deliver(ALICE, raw, received_at=datetime.now(UTC))
        async with (
            serving_imap(self._provider, store, self._listeners[0], self._tls),
            serving_pop3(self._provider, store, self._listeners[1], self._tls),
        ):
            self._ready.set()
            await self._stopping.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def demo(certificates: Certificates, identity: Identity) -> Iterator[DemoServers]:
    demo = DemoServers(certificates, identity)
    demo.start()
    yield demo
    demo.stop()


def test_a_second_imap_server_gives_the_same_bytes(demo: DemoServers, identity: Identity) -> None:
    """pymap: no SASL-IR habits of Dovecot, uids that begin above a hundred, another order of items."""
    found = pulled(connect("imap", demo.endpoints["imap"], Credentials(ALICE, identity.token(ALICE))))

    assert [raw for _, raw in found] == RAW
    assert [ref.uid for ref, _ in found] == [101, 102]


def test_a_pop3_server_that_hangs_up_on_one_line_sign_in_is_signed_in_to(
    demo: DemoServers, identity: Identity
) -> None:
    """As Exchange Online does: XOAUTH2 takes two steps; listings, dots and bytes come out as they are."""
    found = pulled(connect("pop3", demo.endpoints["pop3"], Credentials(ALICE, identity.token(ALICE))))

    assert [raw for _, raw in found] == RAW
    assert len({ref.uidl for ref, _ in found}) == 2


def test_a_second_imap_server_tells_of_new_mail_in_a_session_that_was_kept(
    demo: DemoServers, identity: Identity
) -> None:
    """In the answer to NOOP, as RFC 3501 has it; without news the folder is as it was."""
    endpoint, token = demo.endpoints["imap"], identity.token(ALICE)
    source = connect("imap", endpoint, Credentials(ALICE, token))
    before = source.open("INBOX", writable=False)
    assert source.rest()
    assert source.open("INBOX", writable=False) is before

    client = imap_login(endpoint.port, Path(str(endpoint.ca_file)), ALICE, token)
    assert client.append("INBOX", "", "", RAW[0])[0] == "OK"
    client.logout()
    after = source.open("INBOX", writable=False)
    source.close()

    assert (before.exists, after.exists) == (2, 3)
    assert (before.uid_next, after.uid_next) == (103, 104)
