"""All roles under one command: starts them, starts them again when they die, and stops them in bounded time.

Each role is the same Celery command that the compose file runs. A role that dies comes back after a pause that doubles
up to half a minute, so a broken installation does not spin. It supervises processes, not work: for that see `health`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from worker.settings import Settings

log = structlog.get_logger("supervisor")

_LONGEST_PAUSE_SECONDS = 30.0
_SETTLED_SECONDS = 60.0
"""A role that ran for so long starts with the shortest pause again."""
STOP_SECONDS = 15.0
"""What the roles may take to stop, above the workers' soft shutdown of 5 s; then they are killed."""


@dataclass(frozen=True, slots=True)
class Role:
    """One process of the system: its name and its command."""

    name: str
    command: tuple[str, ...]


def roles(settings: Settings) -> tuple[Role, ...]:
    """Beat, puller and deliverer (which also does the maintenance), and a watcher when a mailbox has PUSH=yes."""
    celery = (sys.executable, "-m", "celery", "--quiet", "--app", "worker.app")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    pushed = any(mailbox.push and mailbox.enabled for mailbox in settings.mailboxes.values())
    watcher = Role("watcher", (sys.executable, "-m", "worker.cli", "watch"))
    return (
        Role("beat", (*celery, "beat")),
        Role(
            "puller",
            (*celery, "worker", "-n", "puller@%h", "-Q", "pull", "-c", str(settings.pull_concurrency), *quiet),
        ),
        Role(
            "deliverer",
            (
                *celery, "worker", "-n", "deliverer@%h", "-Q", "deliver,maintenance",
                "-c", str(settings.deliver_concurrency), *quiet,
            ),
        ),
        *([watcher] if pushed else []),
    )  # fmt: skip


class Supervisor:
    """Runs roles until `stop` is set."""

    def __init__(
        self,
        roles: Sequence[Role],
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        output: int | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._roles = roles
        # TERM ends a worker softly: running tasks get time to end, then they are handed back.
        self._environ = {**environ, "REMAP_SIGTERM": "SIGQUIT"}
        self._clock = clock
        self._output = output
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self.stop = stop or threading.Event()

    def run(self, every: Callable[[], None] | None = None, *, seconds: float = 1.0) -> None:
        """Start all roles and keep them running until `stop` is set; `every` is called about every so many seconds."""
        try:
            for role in self._roles:
                self._start(role)
            while not self.stop.wait(seconds):
                for role in self._roles:
                    self._look_after(role)
                if every:
                    every()
        finally:
            self._end()

    def pids(self) -> dict[str, int]:
        """The process id of each role that runs."""
        processes = list(self._processes.items())
        return {name: process.pid for name, process in processes if process.poll() is None}

    def _look_after(self, role: Role) -> None:
        if process := self._processes.get(role.name):
            if (code := process.poll()) is None:
                return
            log.error("role.died", role=role.name, code=code)
            # What it left behind would work on beside its successor. Later its number may be another's.
            _kill_group(process)
            del self._processes[role.name]
        lived = self._clock() - self._started[role.name]
        pause = 1.0 if lived > _SETTLED_SECONDS else self._pauses.get(role.name, 1.0)
        if lived < pause:
            return
        self._pauses[role.name] = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self._start(role)

    def _start(self, role: Role) -> None:
        self._started[role.name] = self._clock()
        self._processes[role.name] = subprocess.Popen(  # noqa: S603  (our own commands)
            role.command,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            # Ctrl-C goes to the supervisor alone, which then stops the roles in order.
            start_new_session=True,
        )

    def _end(self) -> None:
        """TERM to all, wait, then KILL to whole process groups: a pool's children go with their parent."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        give_up = self._clock() + STOP_SECONDS
        for name, process in self._processes.items():
            try:
                process.wait(timeout=max(0.1, give_up - self._clock()))
            except subprocess.TimeoutExpired:
                log.warning("role.killed", role=name, reason=f"it did not stop in {STOP_SECONDS:.0f} s")
            _kill_group(process)
            process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a role; mostly there is nothing, as it should be (macOS calls a lone corpse forbidden)."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
