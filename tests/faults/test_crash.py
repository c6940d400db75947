"""A worker killed with -9 between any two durable steps: of pull, of deliver, of settling, one test run a step."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.forks import Forks
from tests.bed.identity import Identity
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.valkey import Valkey
from tests.faults import hazard
from tests.faults.plugins import recorded
from worker.demo.certificates import Certificates

MESSAGES = 3
STEPS = 200
"""More than a whole life has."""
SIDE_BY_SIDE = 6


@pytest.fixture(scope="module")
def harbour(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """A Dovecot with a mailbox for each step."""
    addresses = [f"{protocol}{n}@harbour.example" for n in range(STEPS) for protocol in ("imap", "pop3")]
    dovecot = Dovecot(
        certificates=certificates, introspection_url=f"{identity.lab_url}/introspect", passwords=addresses
    )
    dovecot.start()
    yield dovecot
    dovecot.remove()


@dataclass
class Life:
    """One mailbox, its installation, how its first worker and those that followed ended, and the first one's steps."""

    installation: Installation
    mailbox: str
    code: int
    recovered: int
    steps: list[str]


def live(installation: Installation, dovecot: Dovecot, forks: Forks, protocol: str, fatal: int) -> Life:
    """Put mail into a mailbox of its own, let a worker die at a step, then let others go on."""
    folder = installation.folder
    mailbox = f"{protocol}{fatal}"
    address = f"{mailbox}@harbour.example"
    dovecot.save(address, *(numbered(n) for n in range(MESSAGES)))
    # The lives share one Redis, where an output that takes nothing for several of them would count as away.
    late = f"late_{mailbox}"
    installation.on_dovecot(
        mailbox, dovecot, address, protocol=protocol, after="delete", outputs=f"lines,post,record,{late}"
    )
    for name, kind, file in (("RECORD", "Recorder", "record"), (late.upper(), "Latecomer", "late")):
        installation.environ |= {
            f"OUTPUT__{name}__TYPE": f"tests.faults.plugins:{kind}",
            f"OUTPUT__{name}__PATH": str(folder / file),
        }
    installation.environ["BATCH_MESSAGES"] = "2"
    code = forks.run(hazard.work, installation.environ, folder, mailbox, fatal)
    recovered = forks.run(hazard.recover, installation.environ, folder, mailbox)
    return Life(installation, mailbox, code, recovered, (folder / "steps").read_text().splitlines())


def what_is_wrong(life: Life, dovecot: Dovecot) -> list[str]:
    """Every promise that this life broke, in words."""
    found: list[str] = []
    if life.code not in {0, -signal.SIGKILL} or life.recovered != 0:
        found.append(f"the workers ended with {life.code} and {life.recovered}")
    lines = life.installation.lines()
    ids = {line["id"] for line in lines}
    posted = life.installation.posted()
    if not len(lines) == len(ids) == MESSAGES:
        found.append(f"JSONL holds {len(lines)} lines with {len(ids)} ids")
    if sorted(map(number_of, posted.values())) != list(range(MESSAGES)):
        found.append(f"the Maildir holds {sorted(map(number_of, posted.values()))}")
    if {name.partition(".")[0] for name in posted} != ids:
        found.append("the Maildir has other ids than JSONL")
    for name in ("record", "late"):
        seen = recorded(life.installation.folder / name)
        if len(seen) != MESSAGES or {frozenset(of) for of in seen.values()} != {
            frozenset({id_}) for id_ in ids
        }:
            found.append(f"{name} got {seen}")
    spool = life.installation.folder / "data" / "spool"
    left = [
        str(path.relative_to(spool))
        for part in ("tmp", "ready", "failed")
        for path in (spool / part).iterdir()
    ]
    if left:
        found.append(f"the spool still holds {left}")
    if on_server := dovecot.listing(f"{life.mailbox}@harbour.example"):
        found.append(f"the server still holds {on_server}")
    return found


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_worker_killed_between_any_two_steps_loses_nothing_and_shows_nothing_twice(
    tmp_path: Path, fresh_valkey: Valkey, harbour: Dovecot, forks: Forks, protocol: str
) -> None:
    """Whatever step is the last, every message reaches every output under one id, and nothing is left lying about."""
    wrong: list[str] = []
    reached: set[str] = set()

    def lived(fatal: int) -> Life:
        folder = tmp_path / str(fatal)
        folder.mkdir()
        return live(Installation(folder, redis_url=fresh_valkey.url), harbour, forks, protocol, fatal)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        for first in count(1, SIDE_BY_SIDE):
            assert first < STEPS
            lives = list(threads.map(lived, range(first, first + SIDE_BY_SIDE)))
            for life in lives:
                last = life.steps[-1] if life.code else "the end"
                # Outputs are asked side by side, so which of them is the last one of a life is chance.
                reached.add(re.sub(r"(deliver) to .*", r"\1", last.partition(" ")[2]))
                wrong += [f"killed at {last}: {sentence}" for sentence in what_is_wrong(life, harbour)]
            if any(life.code == 0 for life in lives):
                break

    assert wrong == []
    assert {
        "fsync",
        "rename to ready",
        "redis EVALSHA",
        "bell",
        "deliver",
        "unlink in ready",
    } <= reached
