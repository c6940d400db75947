"""Work on an installation whose spool is in an object store, in a child that dies at a chosen request or write to Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.hazard import LEASE_SECONDS, Steps, log_to, opened
from worker.deliver import deliver
from worker.pull import pull
from worker.spool.bucket import Bucket
from worker.sweep import sweep


def work(environ: Mapping[str, str], folder: Path, mailbox: str, fatal: int) -> None:
    """Pull, deliver and sweep as a machine does, up to the fatal step, or until nothing is left to do."""
    log_to(folder / "log")
    steps = Steps(fatal, folder / "steps")
    steps.watch()
    _requests_are_steps(steps)
    deadline = time.monotonic() + 20
    ahead = 0.0
    while time.monotonic() < deadline:
        quay = opened(environ, folder, ahead=ahead)
        pulled = pull(quay, quay.settings.mailboxes[mailbox], ring=lambda _: None)
        for ticket in quay.spool.tickets():
            deliver(quay, ticket)
        swept = sweep(quay, ring=lambda _: None, ring_pull=lambda _: None)
        left = pulled.busy or pulled.trouble or pulled.messages or swept.waiting
        idle = not (left or quay.spool.parked_for() or quay.releases.waiting(mailbox))
        quay.close()
        if idle:
            return
        # What rests for a while is due by then.
        ahead += 120
        time.sleep(LEASE_SECONDS / 4)
    raise TimeoutError


def _requests_are_steps(steps: Steps) -> None:
    real = Bucket._tried

    def tried(self: Bucket, act: Callable[[], Any]) -> Any:
        steps.step("before a request")
        answer = real(self, act)
        steps.step("behind a request")
        return answer

    Bucket._tried = tried  # type: ignore[method-assign]
