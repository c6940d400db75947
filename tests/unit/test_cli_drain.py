"""`mailquay drain`: until the spool is empty, for as long as one waits, and what it says of the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson
import pytest

from tests.bed.batches import spooled
from tests.bed.installation import Installation, numbered
from worker import once
from worker.backlog import Waiting, backlogs, waiting
from worker.drain import Drain
from worker.lease import held
from worker.quay import Quay
from worker.spool import Ticket

COUNT = 12
PATIENCE = 60.0


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """A mailbox whose mail goes to `crm`, as soon as a test says what that is."""
    installation.environ["OUTPUT__CRM__PATH"] = str(installation.folder / "crm")
    installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs="crm")
    return installation


def crm(installation: Installation, what: str) -> Quay:
    installation.environ["OUTPUT__CRM__TYPE"] = f"tests.faults.plugins:{what}"
    return installation.quay()


def sulk(installation: Installation) -> Path:
    return installation.folder / "crm.sulk"


def taken(installation: Installation) -> Counter[str]:
    """How often `crm` took each id."""
    path = installation.folder / "crm"
    text = path.read_text() if path.exists() else ""
    return Counter(line.partition(" ")[0] for line in text.split("\n") if line)


@contextmanager
def draining(installation: Installation, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A `mailquay drain` that runs beside the block, and is ended with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "drain", *arguments],
        cwd=installation.folder,
        env=installation.full_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_an_empty_spool_is_drained_at_once(ours: Installation) -> None:
    """No waiting for nothing, and no failure."""
    crm(ours, "Recorder")

    result = ours.run("drain")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("0 delivered, 0 waiting, 0 failed in ")


def test_it_waits_for_what_is_due_later(ours: Installation) -> None:
    """An output that wants everything later gets it then, in the same run; that is nobody's trouble."""
    quay = crm(ours, "Latecomer")
    spooled(quay, "box", [numbered(n) for n in range(COUNT)], size=4)

    result = ours.run("drain")

    assert result.returncode == 0
    # What is logged is logged.
    assert "box: later" not in result.stderr
    assert result.stdout.startswith(f"{COUNT} delivered, 0 waiting, 0 failed")
    assert set(taken(ours).values()) == {1}
    assert waiting(quay).tickets == []


def test_it_waits_for_parked_batches_until_their_output_is_back(ours: Installation) -> None:
    """It probes the output at the times that the circuit gives, and hands over everything once it is back."""
    quay = crm(ours, "Sulker")
    sulk(ours).touch()
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])

    with draining(ours, "--json") as process:
        until(lambda: len(quay.spool.parked("crm")) >= COUNT - 2)
        assert process.poll() is None
        sulk(ours).unlink()
        stdout, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    totals = orjson.loads(stdout)
    assert (totals["delivered"], totals["waiting"], totals["failed"], totals["outputs"]) == (COUNT, 0, 0, [])
    assert len(taken(ours)) == COUNT
    assert set(taken(ours).values()) == {1}


def test_a_batch_that_another_process_had_in_hand_is_tried_again(
    ours: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name does not change when that process dies before it began; the lease ends, and the drain goes on with it."""
    quay = crm(ours, "Recorder")
    for name, value in ours.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ours.folder)
    (ticket,) = spooled(quay, "box", [numbered(1)])
    looks = 0

    def go_on(idle: bool) -> bool:
        """The real answer; at the first look that finds nothing to do, the lease ends."""
        nonlocal looks
        looks += idle
        if looks == 1:
            assert quay.spool.tickets() == [ticket]
            other.close()
        return patience.go_on(idle) and looks < 50

    with ExitStack() as other:
        patience = Drain(quay, limit=None, show=lambda *_: None, sleep=lambda _: time.sleep(0.1))
        other.enter_context(held(quay.client, f"batch:{ticket.batch}", ttl=30))
        totals = once.run(quay, [], go_on=go_on)

    assert (totals.delivered, totals.waiting) == (1, 0)
    assert 1 < looks < 50


def test_when_the_time_is_over_it_says_what_waits_for_whom(ours: Installation) -> None:
    """How many messages, since when, why, and whether the output is known to be away; the exit code is 1."""
    quay = crm(ours, "Sulker")
    sulk(ours).touch()
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])
    begun = time.time()

    result = ours.run("drain", "--timeout", "12s", "--json")
    again = ours.run("drain", "--timeout", "1s")

    assert time.time() - begun < 60
    assert result.returncode == again.returncode == 1
    totals = orjson.loads(result.stdout)
    assert (totals["delivered"], totals["waiting"]) == (0, COUNT)
    (crm_,) = totals["outputs"]
    assert (crm_["output"], crm_["messages"]) == ("crm", COUNT)
    assert crm_["reason"] == "output crm failed with RuntimeError"
    assert begun - 5 < crm_["since"] < crm_["away_since"] < crm_["next_probe"]
    assert f"crm: {COUNT} messages wait since 20" in again.stderr
    assert "it is away since 20" in again.stderr
    assert "output crm failed with RuntimeError" in again.stderr


def test_one_message_makes_no_output_away(ours: Installation) -> None:
    """Then the reason is that of its last try."""
    quay = crm(ours, "Sulker")
    sulk(ours).touch()
    spooled(quay, "box", [numbered(1)])

    result = ours.run("drain", "--timeout", "1s")

    assert result.returncode == 1
    assert "crm: 1 message waits since 20" in result.stderr
    assert "it is not away: output crm failed with RuntimeError" in result.stderr


def test_the_time_is_kept_while_much_is_still_to_be_done(ours: Installation) -> None:
    """What is under way is ended, what is not begun is left: it is counted, and nothing is lost."""
    quay = crm(ours, "Slowpoke")
    spooled(quay, "box", [numbered(n) for n in range(60)])
    begun = time.monotonic()

    result = ours.run("drain", "--timeout", "3s", "--json")

    totals = orjson.loads(result.stdout)
    assert time.monotonic() - begun < 30
    assert result.returncode == 1
    assert totals["delivered"] >= 1
    assert totals["waiting"] == 60 - totals["delivered"] == 60 - len(taken(ours))


def test_what_fails_meanwhile_ends_it_with_1(ours: Installation) -> None:
    """Nothing waits any more, and yet not all is well."""
    quay = crm(ours, "Refuser")
    spooled(quay, "box", [numbered(1)])

    result = ours.run("drain")

    assert result.returncode == 1
    assert result.stdout.startswith("0 delivered, 0 waiting, 1 failed")
    assert "box: it wants nothing" in result.stderr


def test_no_wait_delivers_what_is_due_and_ends(ours: Installation) -> None:
    """As `once` does, without pulling; it goes with no --timeout."""
    quay = crm(ours, "Latecomer")
    spooled(quay, "box", [numbered(n) for n in range(COUNT)], size=4)

    result = ours.run("drain", "--no-wait", "--json")

    assert result.returncode == 1
    assert orjson.loads(result.stdout)["waiting"] == COUNT
    assert taken(ours) == {}
    assert ours.run("drain", "--no-wait", "--timeout", "1s").returncode == 2
    assert ours.run("drain", "--timeout", "soon").returncode == 2


def test_on_a_terminal_there_is_a_bar(ours: Installation) -> None:
    """Of all that waits, how much is done, and whom it waits for."""
    quay = crm(ours, "Sulker")
    sulk(ours).touch()
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])
    ours.environ |= {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}

    result = ours.run("drain", "--timeout", "12s")

    assert "━" in result.stderr
    assert f"0/{COUNT}" in result.stderr
    assert "waiting for crm, which is away" in result.stderr


# -- how long it rests -----------------------------------------------------------------------------------------------


def test_it_rests_until_something_is_due_and_no_longer_than_it_looks_for_others(ours: Installation) -> None:
    """The next due time, the next probe, or five seconds, because other processes deliver too; and never past the limit."""
    now = 1_800_000_000.0
    slept: list[float] = []
    ours.environ["OUTPUT__CRM__TYPE"] = "tests.faults.plugins:Recorder"
    quay = ours.quay(clock=lambda: now)
    (ticket,) = spooled(quay, "box", [numbered(1)])

    def rest(due: float, limit: float | None = None) -> float:
        nonlocal ticket
        ticket = quay.spool.postpone(ticket, int(due)) or ticket
        assert Drain(quay, limit=limit, show=lambda *_: None, sleep=slept.append).go_on(True)
        return slept[-1]

    assert rest(now + 2) == 2
    assert rest(now + 600) == 5
    assert rest(now + 600, limit=3) == 3
    for number in range(5):
        quay.circuits.failed("crm", str(number), "HTTP 503")
    quay.spool.park(ticket, "crm", now)
    assert 2.5 <= paused(quay, slept) <= 5
    assert not Drain(quay, limit=0, show=lambda *_: None, sleep=slept.append).go_on(False)


def paused(quay: Quay, slept: list[float]) -> float:
    assert Drain(quay, limit=None, show=lambda *_: None, sleep=slept.append).go_on(True)
    return slept[-1]


def test_the_backlog_reads_no_more_than_it_has_to(
    ours: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parked batches by their names only; of the others so many, and it says how many it did not look into."""
    quay = crm(ours, "Recorder")
    tickets = spooled(quay, "box", [numbered(n) for n in range(4)])
    quay.spool.park(tickets[0], "erp", time.time())
    parked = [Ticket(f"{n:032x}", "box", 2, sequence=5_000_000) for n in range(1000)]
    monkeypatch.setattr("worker.backlog._READ", 2)

    found, unread = backlogs(quay, Waiting(quay.spool.tickets(), {"old": parked}))

    told = {backlog.output: (backlog.messages, backlog.since) for backlog in found}
    assert told["old"] == (2000, 5.0)
    assert told["crm"][0] == 2
    assert told["lines"] == (0, 0.0)
    assert unread == 1
    assert waiting(quay).messages == 4


def test_a_pool_that_is_lost_when_the_time_is_over_is_not_replaced(
    ours: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else twenty pools that die one after the other would keep it long past its limit."""
    pools = 0

    def lost(*_: object, **__: object) -> None:
        nonlocal pools
        pools += 1
        raise BrokenProcessPool

    quay = crm(ours, "Recorder")
    spooled(quay, "box", [numbered(1)])
    monkeypatch.setattr(once, "_work", lost)
    show, sleep = (lambda *_: None), (lambda _: None)

    once.run(quay, [], go_on=Drain(quay, limit=0, show=show, sleep=sleep).go_on)
    assert pools == 1
    once.run(quay, [], go_on=Drain(quay, limit=None, show=show, sleep=sleep).go_on)
    assert pools == 21
