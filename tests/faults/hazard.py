"""Work on an installation, done in a child that may be killed at a chosen step: run by `tests.bed.forks`.

A step is every call after which the world outside this process has changed, or may have. The child dies right before
the chosen one, or in the middle of it when it is a write; before the next one is after this one.
"""

from __future__ import annotations

import itertools
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from pipelines.outputs.jsonl import JsonlOutput
from pipelines.outputs.maildir import MaildirOutput
from tests.faults.plugins import Latecomer, Recorder
from worker import settings, state
from worker.deliver import deliver
from worker.pull import pull
from worker.quay import Quay
from worker.sources.transport import Wire
from worker.spool import Ticket

LEASE_SECONDS = 0.2
WRITES = {"EVALSHA", "SADD", "SREM", "SET", "DEL"}
"""Leases, checkpoints and notes; nothing hangs on what only people look at, as counters and standings."""
SETTLING = (b"DELE", b"QUIT")
SETTLING_BY_UID = (b" UID STORE", b" UID EXPUNGE", b" UID COPY", b" UID MOVE")


class Steps:
    """Counts steps, notes their names in a file, and kills this process at the chosen one."""

    def __init__(self, fatal: int, trace: Path) -> None:
        self._fatal = fatal
        self._count = itertools.count(1)
        self._trace = trace.open("a", buffering=1)
        self._lock = threading.Lock()

    def step(self, name: str, *, halfway: Callable[[], object] = lambda: None) -> None:
        """One step, which may be the last."""
        with self._lock:
            number = next(self._count)
            self._trace.write(f"{number} {name}\n")
            if number == self._fatal:
                halfway()
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count every step that the worker makes from now on."""
        self._before(os, "fsync", lambda *_: "fsync")
        self._before(os, "rename", lambda _, target: f"rename to {Path(target).parent.name}")
        self._before(os, "unlink", lambda path, *_, **__: f"unlink in {Path(path).parent.name}")
        self._before(state.Client, "execute_command", _redis_write)
        self._before(
            Wire,
            "send",
            lambda _, data: (
                data.decode("latin-1").partition("\r\n")[0]
                if data.startswith(SETTLING) or any(verb in data for verb in SETTLING_BY_UID)
                else None
            ),
        )
        for output in (JsonlOutput, MaildirOutput, Recorder, Latecomer):
            self._before(output, "deliver", lambda one, _: f"deliver to {one.name}")
        self._writes()

    def _before(self, owner: Any, name: str, named: Callable[..., str | None]) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            if label := named(*arguments, **options):
                self.step(label)
            return real(*arguments, **options)

        setattr(owner, name, watched)

    def _writes(self) -> None:
        real = os.write

        def write(file: int, data: bytes) -> int:
            if stat.S_ISREG(os.fstat(file).st_mode):
                self.step("write half", halfway=lambda: real(file, data[: len(data) // 2]))
            return real(file, data)

        os.write = write  # type: ignore[assignment]


def _redis_write(_: object, *words: Any, **__: Any) -> str | None:
    renewing = threading.current_thread().name.startswith("lease ")
    return f"redis {words[0]}" if words[0] in WRITES and not renewing else None


def log_to(file: Path) -> None:
    """Let what this process logs go to a file."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file.open("a", buffering=1)))


def opened(environ: Mapping[str, str], folder: Path, *, ahead: float = 0.0) -> Quay:
    """A quay with short leases, whose clock is `ahead` by so many seconds."""
    said = settings.load(environ, cwd=folder)
    quay = Quay(said, str(said.redis_url), clock=lambda: time.time() + ahead)
    quay.lease_seconds = LEASE_SECONDS
    return quay


def work(environ: Mapping[str, str], folder: Path, mailbox: str, fatal: int) -> None:
    """Pull, deliver, wait for what an output wants later, deliver that, settle: a whole life, up to the fatal step."""
    log_to(folder / "log")
    steps = Steps(fatal, folder / "steps")
    steps.watch()
    for ahead in (0.0, 60.0):
        quay = opened(environ, folder, ahead=ahead)
        rung: list[Ticket] = []

        def ring(ticket: Ticket, rung: list[Ticket] = rung) -> None:
            steps.step("bell")
            rung.append(ticket)

        pull(quay, quay.settings.mailboxes[mailbox], ring=ring)
        for ticket in rung if not ahead else quay.spool.tickets():
            deliver(quay, ticket)
        quay.close()
    quay = opened(environ, folder, ahead=60.0)
    pull(quay, quay.settings.mailboxes[mailbox], ring=ring)
    quay.close()


def recover(environ: Mapping[str, str], folder: Path, mailbox: str) -> None:
    """What the others do after the death: pull and sweep until nothing is due and all is settled."""
    log_to(folder / "log")
    deadline = time.monotonic() + 15
    ahead = 60.0
    idle = False
    while not idle and time.monotonic() < deadline:
        quay = opened(environ, folder, ahead=ahead)
        pulled = pull(quay, quay.settings.mailboxes[mailbox], ring=lambda _: None)
        for ticket in quay.spool.tickets():
            deliver(quay, ticket)
        quay.spool.clean()
        owing = quay.spool.tickets() or quay.releases.waiting(mailbox)
        idle = not (pulled.busy or pulled.trouble or pulled.messages or owing)
        quay.close()
        # Retries are due by then, and what is unfinished is old.
        ahead += 120
        if not idle:
            time.sleep(LEASE_SECONDS / 4)


def drain(environ: Mapping[str, str], folder: Path) -> None:
    """Deliver what is due, as one worker does until something kills it."""
    log_to(folder / "log")
    quay = opened(environ, folder)
    for ticket in quay.spool.tickets():
        deliver(quay, ticket)
    quay.close()
