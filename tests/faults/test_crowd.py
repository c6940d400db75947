"""A crowd of processes on one account, at a provider whose refresh tokens work once and end the session when used again.

A lost refresh token, or one used twice, would stop every mailbox of the account until its owner signs in.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from worker.demo.harbour import ALICE
from worker.demo.identity import Settings
from worker.sign_in import by_device_code

PROCESSES, ROUNDS = 8, 25
HOUR = 3600.0


class Member:
    """One process of the crowd, on a mailbox of its own."""

    def __init__(self, installation: Installation, number: int) -> None:
        self.window = installation.folder / f"window{number}"
        self.window.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crowd", f"box{number}", str(self.window)],
            cwd=installation.folder,
            env=installation.full_environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self, offset: float) -> None:
        """Pull once, at a time that lies `offset` seconds ahead."""
        assert self._process.stdin
        self._process.stdin.write(f"{offset}\n")
        self._process.stdin.flush()

    def trouble(self) -> str | None:
        """How the pull went.

        Raises:
            EOFError: the process was killed.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError
        found: str | None = json.loads(line)["trouble"]
        return found

    def kill(self, *, while_asking: bool) -> bool:
        """Kill it while it asks the provider, or while it does not; False when it was spared because it is otherwise."""
        os.kill(self._process.pid, signal.SIGSTOP)
        if self.window.exists() != while_asking:
            os.kill(self._process.pid, signal.SIGCONT)
            return False
        self._process.kill()
        self._process.wait(timeout=10)
        return True

    def end(self) -> None:
        """End it, if it still lives."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait(timeout=10)


@pytest.fixture
def crowd(installation: Installation, dovecot: Dovecot, fresh_identity: Identity) -> Iterator[list[Member]]:
    """Eight processes with a mailbox each, all of them opened by Alice's one sign-in."""
    installation.signs_in_at(fresh_identity)
    for number in range(PROCESSES):
        address = f"crowd{number}@harbour.example"
        fresh_identity.provider.add_account(ALICE, mailboxes=[address])
        installation.on_dovecot(f"box{number}", dovecot, address, auth="delegated", account=ALICE)
    quay = installation.quay()
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))
    fresh_identity.provider.requests.clear()
    members = [Member(installation, number) for number in range(PROCESSES)]
    yield members
    for member in members:
        member.end()


@pytest.mark.slow
def test_two_hundred_pulls_with_an_expired_token_cost_one_refresh_a_lifetime(
    installation: Installation, crowd: list[Member], fresh_identity: Identity
) -> None:
    """Eight processes find the token expired at the same moment, twenty-five times over; none of them fails."""
    fresh_identity.provider.settings = Settings(strict_rotation=True)
    quay = installation.quay()
    for lifetime in range(1, ROUNDS + 1):
        fresh_identity.offset = lifetime * HOUR
        for member in crowd:
            member.go(fresh_identity.offset)
        assert [member.trouble() for member in crowd] == [None] * PROCESSES
        assert fresh_identity.refreshes() == lifetime
        assert fresh_identity.newest_is_stored(quay, ALICE)


def after_the_killing(installation: Installation, crowd: list[Member], dead: set[int]) -> list[str | None]:
    """How the pulls of those went that live; the dead are replaced."""
    troubles = [member.trouble() for number, member in enumerate(crowd) if number not in dead]
    for number in dead:
        crowd[number].end()
        crowd[number] = Member(installation, number)
    return troubles


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_processes_neither_lose_nor_double_a_refresh_token(
    installation: Installation, crowd: list[Member], fresh_identity: Identity
) -> None:
    """Two of eight are killed with -9 within each lifetime; the others never fail, and there is one refresh a lifetime.

    Whoever is asking the provider at that moment is spared: between its answer and the store the only copy of the new
    refresh token is in that process, which nothing on this side can change.
    """
    fresh_identity.provider.settings = Settings(strict_rotation=True)
    quay = installation.quay()
    chance = random.Random(7)
    died = 0
    for lifetime in range(1, 13):
        fresh_identity.offset = lifetime * HOUR
        for member in crowd:
            member.go(fresh_identity.offset)
        dead = set()
        for victim in chance.sample(range(PROCESSES), 2):
            time.sleep(chance.uniform(0, 0.15))
            if crowd[victim].kill(while_asking=False):
                dead.add(victim)
        died += len(dead)
        assert after_the_killing(installation, crowd, dead) == [None] * (PROCESSES - len(dead))
        assert fresh_identity.refreshes() == lifetime
        assert fresh_identity.newest_is_stored(quay, ALICE)

    assert died > 12


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whoever_is_killed_while_asking_is_replaced_by_another(
    installation: Installation, crowd: list[Member], fresh_identity: Identity
) -> None:
    """Where old tokens stay good, as at Entra, also the one that holds the lock may die with the answer on its way."""
    quay = installation.quay()
    died = 0
    for lifetime in range(1, 3):
        fresh_identity.offset = lifetime * HOUR
        before = fresh_identity.refreshes()
        for member in crowd:
            member.go(fresh_identity.offset)
        dead: set[int] = set()
        while not dead and fresh_identity.refreshes() == before:
            for number, member in enumerate(crowd):
                if not dead and member.window.exists() and member.kill(while_asking=True):
                    dead.add(number)
        died += len(dead)
        assert after_the_killing(installation, crowd, dead) == [None] * (PROCESSES - len(dead))
        assert fresh_identity.newest_is_stored(quay, ALICE)

    assert died
