"""Workers killed with -9 at random while 2,000 numbered messages flow, by IMAP and POP3, through all real roles."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.processes import descendants, wait_until
from tests.faults.plugins import recorded
from tests.integration.test_roles import log_of, up
from worker.demo.harbour import ALICE, BOB

MESSAGES = 2_000
PORTION = 50
"""So many messages come between two kills."""
SEED = 20261123


class Killer:
    """Kills processes of the roles, mostly children of a pool, now and then a whole worker's parent."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._chance = random.Random(SEED)
        self.kills = 0

    def kill_one(self) -> None:
        """Kill one process, if there is any."""
        workers = {
            pid for pid, command in descendants().items() if "puller@" in command or "deliverer@" in command
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


@pytest.mark.slow
def test_workers_killed_at_random_lose_nothing_and_show_nothing_twice(
    installation: Installation, dovecot: Dovecot
) -> None:
    """Every number arrives in every output; what comes twice has the same id, and is seen once where outputs dedupe."""
    record = installation.folder / "record"
    installation.environ |= {
        "OUTPUT__RECORD__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__RECORD__PATH": str(record),
        "LEASE_TTL": "2s",
        "SWEEP_EVERY": "1s",
        "BATCH_MESSAGES": "20",
        "PULL_CONCURRENCY": "2",
        "LOG_FORMAT": "json",
    }
    for name, address, protocol in (("alice", ALICE, "imap"), ("bob", BOB, "pop3")):
        dovecot.forget(address)
        installation.on_dovecot(
            name, dovecot, address, protocol=protocol, every="1s", outputs="lines,post,record"
        )
    numbers = iter(range(MESSAGES))
    chance = random.Random(SEED)

    def delivered() -> int:
        with contextlib.suppress(FileNotFoundError):
            return installation.lines_file.read_bytes().count(b"\n")
        return 0

    with up(installation) as supervisor:
        killer = Killer(supervisor.pid)
        for saved in range(PORTION, MESSAGES + 1, PORTION):
            for address in (ALICE, BOB):
                dovecot.save(address, *(numbered(next(numbers)) for _ in range(PORTION // 2)))
            # Deaths come while mail is under way: in the middle of pulls, of deliveries, and of starts.
            goal = min(delivered() + chance.randrange(PORTION), saved)
            wait_until(lambda goal=goal: delivered() >= goal, timeout=30, what=f"delivery of {goal}")
            killer.kill_one()
        wait_until(lambda: delivered() >= MESSAGES, timeout=40, what="delivery of all lines")
        wait_until(lambda: len(recorded(record)) >= MESSAGES, timeout=20, what="the recorder's last message")
        wait_until(
            lambda: len(installation.posted()) >= MESSAGES, timeout=20, what="the Maildir's last message"
        )
        spool = installation.quay().spool
        wait_until(lambda: not spool.tickets(), timeout=20, what="an empty spool")

    assert killer.kills > 30
    ids = [line["id"] for line in installation.lines()]
    assert len(ids) == len(set(ids)) == MESSAGES
    assert sorted(map(number_of, installation.posted().values())) == list(range(MESSAGES))
    assert {name.partition(".")[0] for name in installation.posted()} == set(ids)
    seen = recorded(record)
    assert {frozenset(same) for same in seen.values()} == {frozenset({id_}) for id_ in ids}
    assert spool.failed() == []
    assert "role.died" in log_of(installation)
