"""Roles under one command: real processes that die, refuse to stop, and leave children behind."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.bed.processes import wait_until
from worker import settings, supervisor
from worker.supervisor import Role, Supervisor, roles


def shell(name: str, script: str) -> Role:
    return Role(name, ("/bin/sh", "-c", script))


@contextmanager
def running(*roles: Role, speed: float = 1.0) -> Iterator[Supervisor]:
    """A supervisor in a thread, looking often; its clock runs `speed` times as fast as ours."""
    supervised = Supervisor(roles, {"PATH": os.environ["PATH"]}, clock=lambda: time.monotonic() * speed)
    thread = threading.Thread(target=supervised.run, kwargs={"seconds": 0.01})
    thread.start()
    try:
        yield supervised
    finally:
        supervised.stop.set()
        thread.join()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc/self").exists() else True


def written(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_role_that_dies_comes_back_after_a_pause_that_doubles(tmp_path: Path) -> None:
    """A broken installation does not spin; the other roles run on."""
    starts, moments = tmp_path / "starts", []
    broken = shell("broken", f"echo x >> {shlex.quote(str(starts))}; exit 3")
    with running(broken, shell("well", "exec sleep 60"), speed=10) as run:
        wait_until(lambda: "well" in run.pids(), timeout=5, what="the start")
        well = run.pids()["well"]
        for count in range(1, 6):
            wait_until(lambda at=count: len(written(starts)) >= at, timeout=10, what=f"start {count}")
            moments.append(time.monotonic() * 10)
        assert run.pids()["well"] == well

    pauses = [later - sooner for sooner, later in pairwise(moments)]
    assert [pause > wanted * 0.7 for pause, wanted in zip(pauses, (1, 2, 4, 8), strict=True)] == [True] * 4
    assert sum(pauses) < 40


def test_a_role_that_ran_for_long_comes_back_soon(tmp_path: Path) -> None:
    """Pauses are for what is broken, not for what dies once a week."""
    starts = tmp_path / "starts"
    script = f"echo x >> {shlex.quote(str(starts))}; exec sleep 0.2"
    with running(shell("mortal", script), speed=1_000):
        wait_until(lambda: len(written(starts)) >= 6, timeout=5, what="the sixth start")


def test_what_a_dead_role_left_behind_goes_before_its_successor_comes(tmp_path: Path) -> None:
    """Children of a worker that was killed by -9 would work on beside the new ones."""
    children = tmp_path / "children"
    script = f"sleep 60 & echo $! >> {shlex.quote(str(children))}; wait"
    with running(shell("worker", script)) as run:
        wait_until(lambda: written(children), timeout=5, what="the first child")
        os.kill(run.pids()["worker"], 9)
        wait_until(lambda: len(written(children)) == 2, timeout=5, what="the second start")
        first, second = map(int, written(children))
        assert not alive(first)
        assert alive(second)
    wait_until(lambda: not alive(second), timeout=2, what="the end of the second child")


def test_what_does_not_stop_in_time_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is bounded, whatever a role makes of TERM."""
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.3)
    children = tmp_path / "children"
    script = f"trap '' TERM; sleep 60 & echo $! >> {shlex.quote(str(children))}; wait; sleep 60"
    with running(shell("stubborn", script), shell("polite", "exec sleep 60")) as run:
        wait_until(lambda: written(children), timeout=5, what="the child")
        pids = [*run.pids().values(), int(written(children)[0])]
        begun = time.monotonic()

    assert time.monotonic() - begun < 3
    wait_until(lambda: not any(map(alive, pids)), timeout=2, what="the end of all processes")


def test_a_polite_role_may_end_its_work(tmp_path: Path) -> None:
    """TERM comes first, and everything else waits for it."""
    said = tmp_path / "said"
    script = f"trap 'sleep 0.3; echo bye > {shlex.quote(str(said))}; exit 0' TERM; echo up > {shlex.quote(str(said))}; while :; do sleep 0.05; done"
    with running(shell("polite", script)):
        wait_until(lambda: written(said) == ["up"], timeout=5, what="the start")

    assert written(said) == ["bye"]


def test_an_error_in_between_stops_the_roles_too(tmp_path: Path) -> None:
    """Nothing is left behind by a supervisor that falls over itself."""
    supervised = Supervisor([shell("well", "exec sleep 60")], {"PATH": os.environ["PATH"]})
    pids: list[int] = []

    def every() -> None:
        pids.extend(supervised.pids().values())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        supervised.run(every, seconds=0.01)

    assert len(pids) == 1
    assert not alive(pids[0])


def test_the_roles_are_the_celery_commands_of_the_installation(tmp_path: Path) -> None:
    """One beat, one puller, one deliverer; every queue has somebody who listens to it."""
    said = settings.load({"DATA_DIR": str(tmp_path), "PULL_CONCURRENCY": "7"}, cwd=tmp_path)

    found = {role.name: role.command for role in roles(said)}

    assert list(found) == ["beat", "puller", "deliverer"]
    assert found["puller"][found["puller"].index("-c") + 1] == "7"
    queues = [command[command.index("-Q") + 1] for command in found.values() if "-Q" in command]
    assert sorted(",".join(queues).split(",")) == ["deliver", "maintenance", "pull"]
