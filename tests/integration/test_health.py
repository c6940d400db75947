"""Health is about work that is done, not about processes that answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.installation import Installation
from tests.bed.processes import descendants, wait_until
from tests.bed.valkey import Valkey
from worker import settings
from worker.demo.harbour import BOB
from worker.health import ROLES, illness, sign_of_life
from worker.quay import Quay
from worker.spool import Batch, Entry
from worker.state import life_key
from worker.timetable import pull_entry


@dataclass
class Clock:
    """A clock that goes on when it is told to. It begins at a time that no spool would call unset."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quay(installation: Installation, clock: Clock) -> Iterator[Quay]:
    said = settings.load({**installation.environ, "STALLED_AFTER": "5m"}, cwd=installation.folder)
    assert said.redis_url
    quay = Quay(said, said.redis_url, clock=clock)
    yield quay
    quay.close()


def called(quay: Quay, mailbox: str) -> None:
    """Ring the bell of a mailbox, as beat does."""
    quay.timetable.sync({pull_entry(mailbox): 3600.0}, quay.clock())
    assert quay.timetable.claim(quay.clock()) == [pull_entry(mailbox)]


def spooled(quay: Quay, *, due: float) -> None:
    """Put a batch of one message into the spool."""
    batch = Batch("0" * 32, "bob", "INBOX", entries=(Entry("1" * 32, owed=("lines",)),))
    with quay.spool.new(batch) as writer:
        entry = writer.add(batch.entries[0], [b"Subject: Crate\r\n\r\n"])
        writer.commit(Batch("0" * 32, "bob", "INBOX", entries=(entry,)), due=int(due))


def test_a_beat_is_well_while_it_ticks(quay: Quay, clock: Clock) -> None:
    """Half a minute without a tick, and mailboxes are not called."""
    assert "has not ticked so far" in str(illness(quay, "beat"))
    sign_of_life(quay, "beat")

    clock.now += 29
    assert illness(quay, "beat") is None
    clock.now += 2
    assert "has not ticked for 31 s" in str(illness(quay, "beat"))


def test_a_worker_with_nothing_to_do_is_well(quay: Quay, clock: Clock) -> None:
    """However long it has been idle, and whatever is due later."""
    spooled(quay, due=clock.now + 86_400)
    sign_of_life(quay, "puller")

    clock.now += 80_000

    assert illness(quay, "puller") is None
    assert illness(quay, "deliverer") is None


def test_a_puller_that_finishes_nothing_while_a_mailbox_waits_is_ill(quay: Quay, clock: Clock) -> None:
    """The one that works is well, however many mailboxes wait, and so is the one that has just begun."""
    sign_of_life(quay, "puller")
    clock.now += 1000
    called(quay, "bob")
    clock.now += 299
    assert illness(quay, "puller") is None

    clock.now += 2

    assert "finished nothing for 1301 s, but work waits for 301 s" in str(illness(quay, "puller"))
    assert illness(quay, "deliverer") is None
    sign_of_life(quay, "puller")
    assert illness(quay, "puller") is None
    assert "finished nothing so far" in str(illness(quay, "puller", host="elsewhere"))


def test_a_puller_is_well_when_the_mailbox_was_pulled_by_another(quay: Quay, clock: Clock) -> None:
    """Of several pullers one may get nothing to do."""
    called(quay, "bob")
    quay.timetable.answered(pull_entry("bob"))
    clock.now += 1000

    assert illness(quay, "puller") is None


def test_a_deliverer_that_finishes_nothing_while_a_batch_is_due_is_ill(quay: Quay, clock: Clock) -> None:
    """What counts is for how long the batch has been due."""
    spooled(quay, due=clock.now + 600)
    clock.now += 899
    assert illness(quay, "deliverer") is None

    clock.now += 2

    assert "work waits for 301 s" in str(illness(quay, "deliverer"))
    sign_of_life(quay, "deliverer")
    assert illness(quay, "deliverer") is None


def test_every_role_is_ill_while_redis_is_away(installation: Installation, fresh_valkey: Valkey) -> None:
    """The check ends within its time, with a sentence and without a traceback."""
    fresh_valkey.stop()

    checked = installation.run("health", "deliverer", timeout=15)

    assert checked.returncode == 1
    assert "Redis does not answer" in checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_puller_that_stands_still_is_ill_and_recovers(installation: Installation, dovecot: Dovecot) -> None:
    """Real processes, stopped in the middle of everything: nothing but the missing work gives them away."""
    dovecot.forget(BOB)
    # Every role runs: the watcher does so when a mailbox has PUSH=yes.
    installation.on_dovecot("bob", dovecot, BOB, every="1s", push="yes")
    installation.environ["STALLED_AFTER"] = "2s"
    quay = installation.quay()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "up"],
        cwd=installation.folder,
        env=installation.full_environ(LOG_LEVEL="error"),
    )
    try:
        for role in ROLES:
            # Bob has no mail: a pull that found nothing, and a sweep, are work that was done.
            key = life_key(role, socket.gethostname())
            wait_until(
                lambda key=key: quay.client.exists(key), timeout=40, what=f"a sign of life of the {role}"
            )
        stopped = [pid for pid, command in descendants().items() if "puller@" in command]
        assert stopped
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: illness(quay, "puller"), timeout=15, what="the illness")
            assert illness(quay, "beat") is None
            assert installation.run("health", "puller").returncode == 1
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not illness(quay, "puller"), timeout=20, what="the recovery")
        assert installation.run("health", "puller").returncode == 0
    finally:
        process.terminate()
        process.wait(timeout=60)
