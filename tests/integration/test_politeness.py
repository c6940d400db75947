"""Limits for each mail server, with real pulls and a real watcher on a real Dovecot."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.installation import Installation, numbered
from tests.bed.proxy import FaultProxy
from worker import state
from worker.cli.status import lines
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.errors import HostBusy
from worker.pace import Pace
from worker.quay import Quay
from worker.shares import Shares
from worker.timetable import pull_entry
from worker.watch import Watcher

NAMES = [f"box{number}" for number in range(12)]


@pytest.fixture
def boxes(installation: Installation, dovecot: Dovecot) -> Installation:
    """Twelve mailboxes of one server, each with a message."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    for name in NAMES:
        installation.on_dovecot(name, dovecot, BOB)
    return installation


class Connections:
    """How many connections there are at a time, over all quays."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0
        self._lock = threading.Lock()

    def count(self, quay: Quay) -> Quay:
        connect: Any = quay.connect

        def counted(*arguments: Any) -> Any:
            with self._lock:
                self.now, self.all = self.now + 1, self.all + 1
                self.most = max(self.most, self.now)
            source = connect(*arguments)
            close = source.close

            def closed() -> None:
                source.close = close
                close()
                with self._lock:
                    self.now -= 1

            source.close = closed
            # Long enough for every other process to want to come in meanwhile.
            time.sleep(0.05)
            return source

        quay.connect = counted  # type: ignore[method-assign]
        return quay


def test_many_processes_hold_no_more_connections_than_they_may(boxes: Installation) -> None:
    """Each mailbox is pulled; none of them is called failed for having waited."""
    connections = Connections()
    quays = [connections.count(boxes.quay(HOST_CONNECTIONS="2", HOST_LOGINS="1000")) for _ in range(6)]

    def work(quay: Quay, names: list[str]) -> int:
        done = 0
        for name in names:
            while (one := pulled(quay, name)).waits:
                assert isinstance(one.waits, HostBusy)
            assert one.trouble is None
            done += one.messages
        return done

    with ThreadPoolExecutor(6) as threads:
        shares = [NAMES[number::6] for number in range(6)]
        assert sum(threads.map(work, quays, shares)) == len(NAMES)

    assert connections.most == 2
    assert connections.now == 0
    assert {quays[0].standings.of(name).failures for name in NAMES} == {0}


def test_a_pull_without_a_place_is_put_back_by_seconds(boxes: Installation) -> None:
    """Its state says what it waits for, its time is moved, and neither a failure nor a login is counted."""
    connections = Connections()
    quay = connections.count(boxes.quay(HOST_CONNECTIONS="1"))
    quay.timetable.sync({pull_entry(name): 3600.0 for name in NAMES}, quay.clock())
    quay.timetable.claim(quay.clock())
    inside = quay.hosts.visiting(quay.settings.mailboxes["box0"], fence_of(quay, "box0"))
    with inside:
        one = pulled(quay, "box1")
        assert isinstance(one.waits, HostBusy)
        assert one.trouble is None
        assert connections.all == 0
        due = quay.timetable.due(pull_entry("box1"))
        assert due
        assert 1 < due - quay.clock() <= 4
        shown = {line.mailbox: line.standing for line in lines(quay)}
        assert shown["box1"].state == "waiting"
        assert "HOST_CONNECTIONS" in shown["box1"].sentence
        assert shown["box2"].state == "new"

    assert pulled(quay, "box1").messages == 1
    assert {line.standing.state for line in lines(quay) if line.mailbox == "box1"} == {"ok"}


def fence_of(quay: Quay, mailbox: str, *, seconds: int = 60) -> int:
    """The fence of a lease that another process holds for so long."""
    quay.client.set(state.lease_key(state.mailbox_lease(mailbox)), "77", ex=seconds)
    return 77


def test_once_pulls_all_mailboxes_however_few_places_there_are(boxes: Installation) -> None:
    """There is no schedule that would call again; a process of another installation has the only place for long."""
    quay = boxes.quay(HOST_CONNECTIONS="1")
    other = quay.settings.mailboxes["box0"].model_copy(update={"name": "other"})
    quay.hosts.ask(other, fence_of(quay, "other", seconds=8))

    done = boxes.run("once", "--json", HOST_CONNECTIONS="1", HOST_LOGINS="4")

    assert done.returncode == 0, done.stdout + done.stderr
    said = orjson.loads(done.stdout)
    assert (said["pulled"], said["troubles"]) == (len(NAMES), [])


def test_check_waits_for_no_place(boxes: Installation) -> None:
    """A person waits for its answer."""
    quay = boxes.quay(HOST_CONNECTIONS="1")
    with quay.hosts.visiting(quay.settings.mailboxes["box0"], fence_of(quay, "box0")):
        done = boxes.run("check", "--connect", HOST_CONNECTIONS="1", HOST_LOGINS="1")

    assert done.returncode == 0, done.stdout
    assert done.stdout.count("INBOX holds 1 messages") == len(NAMES)


@pytest.fixture
def proxy(dovecot: Dovecot, certificates: Certificates) -> Iterator[FaultProxy]:
    """Before Dovecot's IMAP; it refuses connections until it is started."""
    proxy = FaultProxy(dovecot.imaps_port, trusted=certificates)
    yield proxy
    proxy.close()


def test_a_watcher_leaves_a_host_alone_that_is_away(
    boxes: Installation, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of its twelve sessions find out, the others wait; when it is back, all are there within seconds."""
    for name in NAMES:
        boxes.mailbox(name, push="yes", port=str(proxy.port))
    quay = boxes.quay(HOST_LOGINS="1000")
    # The first probe comes after five seconds and not before.
    monkeypatch.setattr(quay, "jitter", lambda: 1.0)
    called: list[str] = []
    listen: Any = quay.listen

    def counted(mailbox: Any, *arguments: Any) -> Any:
        called.append(mailbox.name)
        return listen(mailbox, *arguments)

    monkeypatch.setattr(quay, "listen", counted)
    # One after the other, so that nobody is on the way when the host is found away.
    pace = Pace(quay.hosts, at_once=1)
    shares = Shares(quay.client, "me", ttl=60)
    watcher = Watcher(quay, shares, lambda _: None, pace=pace, sleep=lambda s: asyncio.sleep(s / 20))

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(watcher.run(stop))
        try:
            async with asyncio.timeout(20):
                while not quay.hosts.away(f"localhost:{proxy.port}"):
                    await asyncio.sleep(0.01)
                assert len(called) == len(set(called)) == 5
                # Twenty times faster than real ones, the watcher's pauses are over many times; the probe's time is real.
                await asyncio.sleep(2)
                assert len(called) == 5
                await asyncio.to_thread(proxy.start)
                while len(watcher.listening) < len(NAMES):
                    await asyncio.sleep(0.01)
        finally:
            stop.set()
            await running

    asyncio.run(run())
    assert not quay.hosts.away(f"localhost:{proxy.port}")
