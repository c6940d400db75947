"""A storm: 2,000 messages while workers die by -9, Redis restarts and forgets, and every output fails one call in ten.

    python -m tests.faults.test_storm 10

runs it ten times, each with other dice.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.processes import descendants, wait_until
from tests.bed.valkey import Valkey
from tests.contract.receiver import receiving
from tests.faults.moods import MoodyReceiver
from tests.faults.plugins import recorded
from tests.integration.test_roles import log_of, up
from worker.demo.harbour import ALICE, BOB
from worker.parking import waiting_batches
from worker.quay import Quay

MESSAGES = 2_000
PORTION = 50
"""So many messages come between two kills."""


class Killer:
    """Kills processes of the roles, mostly children of a pool, now and then a whole worker's parent."""

    def __init__(self, supervisor: int, chance: random.Random) -> None:
        self._supervisor = supervisor
        self._chance = chance
        self.kills = 0

    def kill_one(self) -> None:
        """Kill one process, if there is any."""
        workers = {
            pid
            for pid, command in descendants().items()
            if any(role in command for role in ("puller@", "deliverer@", " beat"))
        }
        parents = {pid for pid in workers if parent_of(pid) == self._supervisor}
        # A role that dies again and again is started ever later, so parents are killed three times only.
        wanted = parents if self.kills in {5, 15, 25} else workers - parents
        if wanted:
            victim = self._chance.choice(sorted(wanted))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                self.kills += 1


def parent_of(pid: int) -> int:
    """The parent of a process; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def storm(installation: Installation, dovecot: Dovecot, valkey: Valkey, chance: random.Random) -> None:
    """One storm from its beginning to its end, and what has to be true then."""
    record = installation.folder / "record"
    with receiving() as receiver:
        receiver.answer = posted = MoodyReceiver()
        kinds = {"LINES": "MoodyLines", "POST": "MoodyPost", "RECORD": "MoodyRecorder"}
        installation.environ |= {
            **{f"OUTPUT__{name}__TYPE": f"tests.faults.moods:{kind}" for name, kind in kinds.items()},
            "OUTPUT__RECORD__PATH": str(record),
            "OUTPUT__HOOK__TYPE": "webhook",
            "OUTPUT__HOOK__URL": receiver.url,
            "OUTPUT__HOOK__TIMEOUT": "500ms",
            "LEASE_TTL": "2s",
            "SWEEP_EVERY": "1s",
            "BATCH_MESSAGES": "20",
            "PULL_CONCURRENCY": "2",
            "LOG_FORMAT": "json",
        }
        for name, address, protocol in (("alice", ALICE, "imap"), ("bob", BOB, "pop3")):
            dovecot.forget(address)
            installation.on_dovecot(
                name, dovecot, address, protocol=protocol, every="1s", outputs="lines,post,record,hook"
            )
        with up(installation) as supervisor:
            killer = Killer(supervisor.pid, chance)
            shocks = {10: valkey.restart, 20: valkey.flush, 30: valkey.kill9}
            for step in flowing(installation, dovecot, chance):
                killer.kill_one()
                if step in shocks:
                    shocks[step]()
                    if not valkey.running:
                        valkey.start()
            quay = installation.quay()
            wait_until(lambda: came_to_rest(quay), timeout=240, what="an empty spool")

    assert killer.kills > 30
    assert "role.died" in log_of(installation)
    ids = [line["id"] for line in installation.lines()]
    assert len(ids) == len(set(ids)) == MESSAGES
    files = installation.posted()
    assert sorted(map(number_of, files.values())) == list(range(MESSAGES))
    assert {name.partition(".")[0] for name in files} == set(ids)
    # One that dedupes nothing may have got a message twice: under one id, which stands for one message.
    seen = recorded(record)
    assert len(seen) == MESSAGES
    assert {frozenset(same) for same in seen.values()} == {frozenset({id_}) for id_ in ids}
    assert posted.taken.keys() == set(ids)
    differing = [bodies for bodies in posted.taken.values() if len(bodies) > 1]
    assert differing == []


def flowing(installation: Installation, dovecot: Dovecot, chance: random.Random) -> Iterator[int]:
    """Bring the mail in portions, and give a turn while each is under way: in the middle of pulls, deliveries, and starts."""
    numbers = iter(range(MESSAGES))

    def delivered() -> int:
        with contextlib.suppress(FileNotFoundError):
            return installation.lines_file.read_bytes().count(b"\n")
        return 0

    for step, saved in enumerate(range(PORTION, MESSAGES + 1, PORTION), 1):
        for address in (ALICE, BOB):
            dovecot.save(address, *(numbered(n) for n in islice(numbers, PORTION // 2)))
        goal = min(delivered() + chance.randrange(PORTION), saved - PORTION)
        wait_until(lambda goal=goal: delivered() >= goal, timeout=60, what=f"delivery of {goal}")
        yield step


def came_to_rest(quay: Quay) -> bool:
    """Whether nothing waits and all mail was pulled; what was refused is put back, as a person does."""
    for ticket, _ in quay.spool.failed():
        # A worker may still be writing the reason beside it, or take it at once.
        with contextlib.suppress(FileNotFoundError):
            quay.spool.retry(ticket)
    lines = quay.settings.outputs["lines"].options
    with contextlib.suppress(FileNotFoundError):
        whole = lines.path.read_bytes().count(b"\n") == MESSAGES  # type: ignore[attr-defined]
        return whole and not waiting_batches(quay) and not quay.spool.failed()
    return False


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_storm_loses_nothing_and_shows_nothing_twice(
    installation: Installation, dovecot: Dovecot, fresh_valkey: Valkey
) -> None:
    """Every number in every output; once in those that dedupe by id; under one id in the others."""
    storm(installation, dovecot, fresh_valkey, random.Random())


if __name__ == "__main__":
    runs = int(sys.argv[1])
    calm = sum(
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--no-header", __file__], check=False
        ).returncode
        == 0
        for _ in range(runs)
    )
    print(f"{calm} of {runs} storms lost nothing")
    sys.exit(calm != runs)
