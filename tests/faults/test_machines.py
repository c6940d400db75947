"""Two machines with one object store and one Redis, each with a folder of its own, killed with -9 again and again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.faulty_store import FaultyStore, faulty_store
from tests.bed.forks import Forks
from tests.bed.installation import Installation, numbered
from tests.bed.object_store import ACCESS_KEY, SECRET_KEY, object_server
from tests.bed.processes import wait_until
from tests.bed.valkey import Valkey
from tests.faults import machines
from tests.faults.conftest import delivered_once
from tests.faults.plugins import recorded
from worker.deliver import deliver
from worker.demo.harbour import BOB
from worker.pull import pull

ROUNDS = 12
EACH = 3


@pytest.fixture
def store() -> Iterator[FaultyStore]:
    with object_server() as server, faulty_store(server) as proxied:
        yield proxied


def machine(folder: Path, store: FaultyStore, valkey: Valkey, dovecot: Dovecot, name: str) -> Installation:
    """One machine: its own folder of data, and the outputs and the spool that all share."""
    installation = Installation(folder, redis_url=valkey.url)
    installation.on_dovecot("box", dovecot, BOB, after="delete", outputs="lines,post,record")
    installation.environ |= {
        "DATA_DIR": str(folder / name),
        "BATCH_MESSAGES": "2",
        "OUTPUT__RECORD__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__RECORD__PATH": str(folder / "record"),
        "SPOOL_URL": f"s3://{store.bucket.name}/spool",
        "SPOOL_ENDPOINT": store.bucket.endpoint,
        "SPOOL_ACCESS_KEY": ACCESS_KEY,
        "SPOOL_SECRET_KEY": SECRET_KEY,
    }
    return installation


@pytest.fixture
def both(
    tmp_path: Path, store: FaultyStore, fresh_valkey: Valkey, dovecot: Dovecot
) -> Iterator[list[Installation]]:
    """Two machines, and an empty mailbox."""
    dovecot.forget(BOB)
    installations = [machine(tmp_path, store, fresh_valkey, dovecot, name) for name in ("one", "other")]
    yield installations
    for installation in installations:
        installation.close()


def an_hour_later(installation: Installation) -> None:
    """What a puller left that died between a batch's record and its pointer is found, and delivered once more."""
    for hours in (2, 4):
        quay = installation.quay(clock=lambda hours=hours: time.time() + hours * 3600)
        quay.spool.clean()
        for ticket in quay.spool.tickets():
            deliver(quay, ticket)
        pull(quay, quay.settings.mailboxes["box"], ring=lambda _: None)


@pytest.mark.parametrize("seed", [1, 2])
def test_two_machines_that_are_killed_again_and_again_lose_nothing_and_show_nothing_twice(
    both: list[Installation], store: FaultyStore, dovecot: Dovecot, forks: Forks, seed: int
) -> None:
    """Every message reaches every output under one id, and neither store nor server holds anything in the end."""
    chance, folder = random.Random(seed), both[0].folder
    sent = 0

    def live(installation: Installation, fatal: int) -> int:
        return forks.run(machines.work, installation.environ, folder, "box", fatal)

    ends: list[int] = []
    with ThreadPoolExecutor(2) as threads:
        for _ in range(ROUNDS):
            dovecot.save(BOB, *(numbered(sent + n) for n in range(EACH)))
            sent += EACH
            ends += threads.map(live, both, [chance.randrange(1, 150), chance.randrange(1, 150)])
        calm = [*threads.map(live, both, [0, 0])]
    # A lease that the last dead left may have kept one of the two from finding out that all is done.
    calm.append(live(both[0], 0))

    assert calm[-1] == 0
    assert set(ends) <= {0, -signal.SIGKILL}
    assert ends.count(-signal.SIGKILL) > ROUNDS
    assert delivered_once(both[0], range(sent))
    assert [len(ids) for ids in recorded(folder / "record").values()] == [1] * sent
    assert not dovecot.listing(BOB)
    assert both[0].quay().spool.failed() == []
    an_hour_later(both[0])
    assert delivered_once(both[0], range(sent))
    assert [len(ids) for ids in recorded(folder / "record").values()] == [1] * sent
    left = {key.removeprefix("spool/") for key in store.bucket.objects()}
    assert left <= {"notes/box.json", "cleaned"}
    # Nothing of the mail was ever in a folder of either machine.
    assert [path for name in ("one", "other") for path in (folder / name).rglob("*.zip")] == []


def test_a_run_without_workers_goes_through_the_store(
    both: list[Installation], store: FaultyStore, dovecot: Dovecot
) -> None:
    """The processes of its pool have clients of their own."""
    dovecot.save(BOB, *(numbered(n) for n in range(4)))

    pulled = both[0].run("pull", "box")
    assert (pulled.returncode, len(both[1].quay().spool.tickets())) == (0, 2), pulled.stderr
    drained = both[1].run("drain")

    assert drained.returncode == 0, drained.stderr
    assert delivered_once(both[0], range(4))


def test_all_roles_of_a_machine_work_over_the_store(
    both: list[Installation], store: FaultyStore, dovecot: Dovecot
) -> None:
    """Celery's children are forked, which the library of the store survives only if nobody used it before."""
    both[0].environ |= {"MAILBOX__BOX__EVERY": "1s", "LOG_LEVEL": "info"}
    environ = both[0].full_environ()
    with (both[0].folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "up"],
            cwd=both[0].folder,
            env=environ,
            stdout=log,
            stderr=log,
        )
        try:
            dovecot.save(BOB, *(numbered(n) for n in range(4)))
            wait_until(lambda: len(both[0].lines()) == 4, timeout=60, what="the delivery of four messages")
            wait_until(lambda: len(both[0].posted()) == 4, timeout=20, what="the delivery to the Maildir")
        finally:
            up.terminate()
            up.wait(30)
    assert delivered_once(both[0], range(4))
