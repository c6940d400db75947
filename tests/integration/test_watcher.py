"""A real Dovecot announces mail, and real roles pull it: the schedule, which calls once an hour, has no part in it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import orjson
import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.processes import descendants, wait_until
from tests.bed.proxy import Fault, FaultProxy
from worker import state
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB, MAILBOXES, SUPPORT
from worker.health import illness
from worker.quay import Quay
from worker.shares import Shares
from worker.watch import Watcher

EXPIRED = b"\r\n* BYE Session invalidated - AccessTokenExpired\r\n"


# -- whole roles -----------------------------------------------------------------------------------------------------


@contextmanager
def running(installation: Installation, *verb: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A verb that runs until it is told to stop; its log is `roles.log`."""
    with (installation.folder / "roles.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *verb],
            cwd=installation.folder,
            env=installation.full_environ(**more),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def events(installation: Installation, name: str) -> list[dict[str, Any]]:
    lines = (installation.folder / "roles.log").read_bytes().splitlines()
    return [
        event
        for event in map(orjson.loads, filter(lambda line: line[:1] == b"{", lines))
        if event["event"] == name
    ]


def listening(installation: Installation) -> int:
    """How many mailboxes the watcher last said it was listening for."""
    counted = events(installation, "watch.counted")
    return int(counted[-1]["listening"]) if counted else 0


def watcher_pids() -> list[int]:
    return [pid for pid, command in descendants().items() if command.rstrip().endswith("worker.cli watch")]


@pytest.fixture
def pushed(installation: Installation, dovecot: Dovecot) -> Installation:
    """Bob's mailbox, watched, and called once an hour. What a killed process held is free after two seconds."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    installation.on_dovecot("bob", dovecot, BOB, push="yes", every="1h")
    installation.environ["LEASE_TTL"] = "2s"
    return installation


def came(installation: Installation, count: int, *, within: float) -> None:
    wait_until(lambda: len(installation.lines()) == count, timeout=within, what=f"message {count}")


def test_mail_is_there_a_moment_after_it_has_come(pushed: Installation, dovecot: Dovecot) -> None:
    """Pulled, parsed and written by real roles; each wait may take as long as a bell, a pull and a delivery."""
    with running(pushed, "up"):
        came(pushed, 1, within=60)
        wait_until(lambda: listening(pushed) == 1, timeout=20, what="the watcher's session")
        for count in range(2, 6):
            dovecot.save(BOB, numbered(count))
            came(pushed, count, within=5)
        assert illness(pushed.quay(), "watcher") is None
        assert len(watcher_pids()) == 1
    assert len({line["id"] for line in pushed.lines()}) == 5


def test_a_burst_is_pulled_to_its_end(pushed: Installation, dovecot: Dovecot) -> None:
    """What is announced while the mailbox is pulled finds its lease held, and is pulled behind it."""
    with running(pushed, "up"):
        came(pushed, 1, within=60)
        wait_until(lambda: listening(pushed) == 1, timeout=20, what="the watcher's session")
        for number in range(1, 301):
            dovecot.save(BOB, numbered(number))
        came(pushed, 301, within=15)


def test_a_watcher_that_is_killed_comes_back_and_finds_what_came_meanwhile(
    pushed: Installation, dovecot: Dovecot
) -> None:
    """Its first look at the mailbox rings."""
    with running(pushed, "up"):
        came(pushed, 1, within=60)
        wait_until(lambda: listening(pushed) == 1, timeout=20, what="the watcher's session")
        (pid,) = watcher_pids()
        os.kill(pid, signal.SIGKILL)
        dovecot.save(BOB, numbered(1))
        came(pushed, 2, within=20)
        wait_until(lambda: listening(pushed) == 1, timeout=20, what="the next watcher's session")
        dovecot.save(BOB, numbered(2))
        came(pushed, 3, within=10)


def test_the_mailboxes_of_a_dead_watcher_are_taken_over(pushed: Installation, dovecot: Dovecot) -> None:
    """Two processes share them, each mailbox with one connection; one is killed by -9, and the other has all of them."""
    names = list(MAILBOXES)[:4]
    for number, address in enumerate(names):
        dovecot.forget(address)
        dovecot.save(address, numbered(number))
        pushed.on_dovecot(f"m{number}", dovecot, address, push="yes", every="1h")
    for key in [key for key in pushed.environ if key.startswith("MAILBOX__BOB__")]:
        del pushed.environ[key]
    client = pushed.quay().client

    def shares() -> dict[str, int]:
        owners = list(client.hgetall(state.WATCHED).values())
        return {owner: owners.count(owner) for owner in owners}

    with running(pushed, "watch"), running(pushed, "watch"):
        wait_until(lambda: sorted(shares().values()) == [2, 2], timeout=30, what="an even share")
        wait_until(lambda: len(dovecot_sessions(dovecot)) == 4, timeout=20, what="four sessions")
        first = watcher_pids()[0]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: list(shares().values()) == [4], timeout=20, what="the take-over")
        wait_until(
            lambda: sorted(dovecot_sessions(dovecot)) == sorted(names), timeout=20, what="their sessions"
        )


def dovecot_sessions(dovecot: Dovecot) -> list[str]:
    """Whose mailboxes are open now, one name a session."""
    lines = dovecot._run("who", "-1").splitlines()[1:]
    return [line.split()[0] for line in lines if " imap " in f" {line} "]


# -- one watcher in this process -------------------------------------------------------------------------------------


class Heard:
    """A watcher in a thread, with its bells in a list."""

    def __init__(self, quay: Quay, name: str = "here") -> None:
        self.bells: list[float] = []
        self._quay = quay
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        shares = Shares(quay.client, name, ttl=quay.lease_seconds)
        self.watcher = Watcher(quay, shares, self._ring, sleep=lambda seconds: asyncio.sleep(seconds / 20))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self.watcher.run(self._stop))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _ring(self, mailbox: str) -> None:
        self.bells.append(time.monotonic())
        # As a pull does that begins at once.
        self._quay.news.taken(mailbox)

    def ringing(self, count: int, *, within: float = 10) -> None:
        wait_until(lambda: len(self.bells) >= count, timeout=within, what=f"bell {count}")
        assert len(self.bells) == count


@pytest.fixture
def proxy(dovecot: Dovecot, certificates: Certificates) -> Iterator[FaultProxy]:
    """A proxy before Dovecot's IMAP port."""
    proxy = FaultProxy(dovecot.imaps_port, trusted=certificates)
    proxy.start()
    yield proxy
    proxy.close()


@pytest.fixture
def shared(
    installation: Installation, dovecot: Dovecot, proxy: FaultProxy, fresh_identity: Identity
) -> Installation:
    """The shared mailbox `box`, opened behind the proxy as Alice."""
    dovecot.forget(SUPPORT)
    dovecot.save(SUPPORT, numbered(0))
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot(
        "box", dovecot, SUPPORT, auth="delegated", account=ALICE, port=str(proxy.port), push="yes"
    )
    return installation


def test_a_bell_rings_within_a_second(installation: Installation, dovecot: Dovecot) -> None:
    """Here by STARTTLS; the time runs from before the message lies in the mailbox."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    installation.on_dovecot("bob", dovecot, BOB, push="yes", tls="starttls")
    installation.environ["MAILBOX__BOB__PORT"] = str(dovecot.imap_port)

    with Heard(installation.quay()) as heard:
        heard.ringing(1)
        for count in range(2, 5):
            begun = time.monotonic()
            dovecot.save(BOB, numbered(count))
            heard.ringing(count)
            assert heard.bells[-1] - begun < 1


def test_a_pull_takes_the_news_that_came_before_it(installation: Installation, dovecot: Dovecot) -> None:
    """And no others: a bell for what comes later must ring."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    installation.on_dovecot("bob", dovecot, BOB, push="yes")
    quay = installation.quay()
    assert quay.news.noted("bob", quay.clock())

    assert pulled(quay, "bob").messages == 1

    assert not quay.news.there("bob")
    assert quay.news.noted("bob", quay.clock())


def test_mail_that_came_while_the_server_was_away_rings(installation: Installation, dovecot: Dovecot) -> None:
    """The session breaks, the pauses grow, and the first session that stands rings."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    installation.on_dovecot("bob", dovecot, BOB, push="yes")

    with Heard(installation.quay()) as heard:
        heard.ringing(1)
        dovecot.stop()
        wait_until(lambda: not heard.watcher.listening, timeout=10, what="the end of the session")
        dovecot.save(BOB, numbered(1))
        dovecot.start()
        heard.ringing(2, within=30)
        dovecot.save(BOB, numbered(2))
        heard.ringing(3)


def test_a_session_that_the_server_ends_with_its_token_is_taken_up_at_once(
    shared: Installation, proxy: FaultProxy, fresh_identity: Identity, dovecot: Dovecot
) -> None:
    """Exchange says it in IDLE, once an hour and mailbox."""
    proxy.fault = Fault("hang up", at=b"+ idling", words=EXPIRED, once=True)
    quay = shared.quay()
    shared.sign_in(quay, fresh_identity, ALICE)

    with Heard(quay) as heard:
        heard.ringing(2)
        dovecot.save(SUPPORT, numbered(1))
        heard.ringing(3)

    assert proxy.sessions == 2


def test_a_session_is_begun_anew_before_its_token_ends(
    shared: Installation, proxy: FaultProxy, fresh_identity: Identity, dovecot: Dovecot
) -> None:
    """With a token of a few seconds; the refresh is asked for once, and nothing is missed in between."""
    fresh_identity.provider.settings.token_lifetime = 8
    quay = shared.quay()
    shared.sign_in(quay, fresh_identity, ALICE)
    fresh_identity.provider.requests.clear()
    fresh_identity.provider.settings.token_lifetime = 3600

    with Heard(quay) as heard:
        heard.ringing(1)
        begun = time.monotonic()
        heard.ringing(2, within=15)
        assert time.monotonic() - begun < 8
        dovecot.save(SUPPORT, numbered(1))
        heard.ringing(3)

    assert proxy.sessions == 2
    assert sum(seen.grant == "refresh_token" for seen in fresh_identity.provider.requests) == 1


def test_an_account_that_nobody_has_signed_in_costs_no_login_and_is_watched_once_somebody_has(
    shared: Installation, proxy: FaultProxy, fresh_identity: Identity
) -> None:
    """Neither the mail server nor the provider hears of it before."""
    quay = shared.quay()
    fresh_identity.provider.requests.clear()

    with Heard(quay) as heard:
        wait_until(lambda: heard.watcher._waiting, timeout=10, what="the wait for a sign-in")
        assert (proxy.sessions, len(fresh_identity.provider.requests)) == (0, 0)
        shared.sign_in(quay, fresh_identity, ALICE)
        heard.ringing(1)
