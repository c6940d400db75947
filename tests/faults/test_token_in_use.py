"""A token that ends, or is refused, while a mailbox is pulled with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import flow
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.proxy import Fault, FaultProxy
from tests.bed.scripted import Answers, Scripted
from tests.faults.conftest import Events, delivered_once, of
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, SUPPORT
from worker.errand import Errand, Pulled
from worker.errors import LoginRefused, NotConnected, SessionExpired, TokenTooLong, Unreachable
from worker.kept import Session
from worker.pull import _within, pull
from worker.quay import Quay
from worker.tokens import AccessToken, Grant

EXPIRED = b"\r\n* BYE Session invalidated - AccessTokenExpired\r\n"
HOUR = 3600.0


@pytest.fixture
def proxy(dovecot: Dovecot, certificates: Certificates) -> Iterator[FaultProxy]:
    """A proxy before Dovecot's IMAP port."""
    proxy = FaultProxy(dovecot.imaps_port, trusted=certificates)
    proxy.start()
    yield proxy
    proxy.close()


@pytest.fixture
def box(
    installation: Installation, dovecot: Dovecot, proxy: FaultProxy, fresh_identity: Identity
) -> Installation:
    """The shared mailbox `box` with ten numbered messages, opened behind the proxy by Alice's sign-in."""
    dovecot.forget(SUPPORT)
    dovecot.save(SUPPORT, *(numbered(n) for n in range(10)))
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot("box", dovecot, SUPPORT, auth="delegated", account=ALICE, port=str(proxy.port))
    installation.environ["BATCH_MESSAGES"] = "3"
    installation.sign_in(installation.quay(), fresh_identity, ALICE)
    return installation


def token(**times: float) -> AccessToken:
    now = time.time()
    return AccessToken("t", **{"expires_at": now + HOUR, "issued_at": now, **times})


def pull_box(quay: Quay) -> Pulled:
    return pull(quay, quay.settings.mailboxes["box"], ring=lambda _: None)


def test_a_session_that_ends_with_its_token_is_taken_up_again_at_once(
    box: Installation, proxy: FaultProxy, events: Events
) -> None:
    """Exchange says it in the middle of any command. It is no alarm: the same pull goes on where it was."""
    proxy.fault = Fault("hang up", at=b"OK Fetch completed", words=EXPIRED, once=True)
    quay = box.quay()

    assert flow(quay, "box").trouble is None

    assert proxy.sessions == 2
    assert delivered_once(box, range(10), mailbox="box")
    assert quay.standings.of("box").state == "ok"
    assert of(events, "pull.failed") == []


def test_sessions_that_end_at_once_are_not_begun_for_ever(box: Installation, proxy: FaultProxy) -> None:
    """A server that ends each session before anything came would else be called without a pause."""
    proxy.fault = Fault("hang up", at=b"Logged in", words=EXPIRED)

    assert isinstance(pull_box(box.quay()).trouble, SessionExpired)

    assert proxy.sessions == 2


def test_a_pull_yields_before_its_token_ends(box: Installation) -> None:
    """Behind a batch, and the next pull has a new one: nobody is cut off in the middle of a message."""
    quay = box.quay()
    errand: Any = Errand(quay, None, None, None, deadline=float("inf"), pulled=Pulled("box"))  # type: ignore[arg-type]

    def ends_in(left: float) -> float:
        session = Session(None, token(expires_at=quay.clock() + left))  # type: ignore[arg-type]
        return _within(errand, session).deadline - time.monotonic()

    assert ends_in(600) == pytest.approx(570, abs=2)
    assert ends_in(10) < 0
    soon = replace(errand, deadline=time.monotonic() + 5)
    assert _within(soon, Session(None, token())).deadline == soon.deadline  # type: ignore[arg-type]
    assert _within(errand, Session(None, None)).deadline == errand.deadline  # type: ignore[arg-type]


def test_a_mailbox_that_refuses_every_token_costs_one_forced_refresh_in_the_life_of_a_token(
    box: Installation, proxy: FaultProxy, fresh_identity: Identity
) -> None:
    """The access was taken away: another token does not help, and asking for one at each poll is called a loop."""
    quay = box.quay(clock=fresh_identity.now)
    assert pull_box(quay).trouble is None
    fresh_identity.provider.full_access[SUPPORT].discard(ALICE)
    fresh_identity.provider.requests.clear()
    try:
        for _ in range(4):
            trouble = pull_box(quay).trouble
            assert isinstance(trouble, LoginRefused)
        assert fresh_identity.refreshes() == 0
        fresh_identity.offset = HOUR / 2 + 60
        for _ in range(4):
            assert isinstance(pull_box(quay).trouble, LoginRefused)
        assert fresh_identity.refreshes() == 1
    finally:
        fresh_identity.provider.full_access[SUPPORT].add(ALICE)

    assert pull_box(quay).trouble is None


def test_a_token_that_was_revoked_at_the_server_is_replaced_in_the_same_pull(
    box: Installation, proxy: FaultProxy, fresh_identity: Identity
) -> None:
    """The server calls it expired while its time is not up: one refresh, and the mailbox is pulled."""
    quay = box.quay(clock=fresh_identity.now)
    fresh_identity.offset = HOUR / 2 + 60
    mailbox = quay.settings.mailboxes["box"]
    found = quay.keeper(mailbox).access(ALICE, mailbox.scopes)
    stored = quay.token_store.load(ALICE)
    assert stored.grant
    spoiled = {scopes: replace(one, secret=found.secret[:-4]) for scopes, one in stored.grant.tokens.items()}
    quay.token_store.swap(
        ALICE,
        Grant(stored.grant.cache, spoiled),
        read=stored.version,
        now=quay.clock(),
        client_id=stored.client_id,
    )
    fresh_identity.provider.requests.clear()

    assert pull_box(quay).trouble is None

    assert fresh_identity.refreshes() == 1


CONNECTED_NOT: Answers = {
    b"CAPABILITY": b"* CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR\r\n<tag> OK done\r\n",
    b"AUTHENTICATE": b"<tag> OK AUTHENTICATE completed.\r\n",
    b"EXAMINE": b"<tag> BAD User is authenticated but not connected.\r\n* BYE Connection closed. 14\r\n",
}


def on_script(
    installation: Installation, identity: Identity, script: Scripted, *, secret: str, protocol: str = "imap"
) -> Quay:
    """The mailbox `box` on a scripted server, with a token that Alice is taken to have."""
    installation.signs_in_at(identity)
    installation.mailbox(
        "box",
        address=ALICE,
        auth="delegated",
        protocol=protocol,
        host="localhost",
        port=str(script.port),
        ca_file=str(script.ca_file),
        outputs="lines",
    )
    quay = installation.quay(clock=identity.now)
    scopes = " ".join(quay.settings.mailboxes["box"].scopes)
    now = quay.clock()
    grant = Grant("{}", {scopes: AccessToken(secret, now + 24 * HOUR, now)})
    quay.token_store.swap(ALICE, grant, read=0, now=now, client_id=identity.client_id)
    return quay


def test_authenticated_but_not_connected_is_told_apart(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """On a new mailbox something is missing, and the list says what; on one that worked it is a pause, until it lasts."""
    with Scripted(certificates, b"* OK ready\r\n", CONNECTED_NOT, tagged=True) as script:
        secret = fresh_identity.token(ALICE)
        quay = on_script(installation, fresh_identity, script, secret=secret)

        new = pull_box(quay).trouble
        assert isinstance(new, NotConnected)
        assert "full access" in new.sentence
        assert "licence" in new.sentence
        assert secret not in new.sentence

        quay.standings.well("box", quay.clock())
        fresh_identity.offset = 600
        pause = pull_box(quay).trouble
        assert isinstance(pause, Unreachable)
        assert "10 minutes ago" in pause.sentence

        fresh_identity.offset = HOUR + 60
        assert isinstance(pull_box(quay).trouble, NotConnected)


def test_a_token_too_long_for_pop3_is_its_own_error(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """Exchange answers a protocol error; the sentence names the length, and never the token."""
    answers: Answers = {
        b"CAPA": b"+OK\r\nSASL XOAUTH2\r\nUIDL\r\n.\r\n",
        b"AUTH XOAUTH2": b"+ \r\n",
        b"": b"-ERR Protocol error. Connection is closed. 10\r\n",
    }
    secret = fresh_identity.token(ALICE, extra={"wids": "x" * 4000})
    with Scripted(certificates, b"+OK ready\r\n", answers, tagged=False) as script:
        quay = on_script(installation, fresh_identity, script, secret=secret, protocol="pop3")

        trouble = pull_box(quay).trouble

        assert isinstance(trouble, TokenTooLong)
        assert f"{len(secret)} characters" in trouble.sentence
        assert "4096" in trouble.sentence
        assert secret not in trouble.sentence
