"""The demo from curtain to curtain: servers, embedded Valkey, sign-ins, letters, then the real roles under a supervisor.

Every process that it starts belongs to a `with` block of `run` and is gone when that ends, in whatever way and however
early. Nothing but the mail servers, the identity provider and the webhook receiver is made for the demo: what pulls and
delivers are the roles of `mailquay up`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from worker import settings
from worker.cli.status import lines
from worker.demo.addresses import Addresses
from worker.demo.approval import sign_in_everybody
from worker.demo.board import Board, View
from worker.demo.carrier import Carrier
from worker.demo.folder import DemoFolder, claimed
from worker.demo.ledger import Ledger
from worker.demo.servers_process import ServersProcess
from worker.demo.variables import environment, variables, write_env
from worker.embedded import embedded
from worker.quay import Quay
from worker.supervisor import Supervisor, roles

_LETTERS_AT_A_TIME = 100
"""More than this are not brought between two looks, so that a high rate does not hold up the end."""


@dataclass(frozen=True, slots=True)
class Programme:
    """What is played: `letters` lie there at the start, then `rate` arrive a second; a `timeout` ends it by itself.

    With a timeout, in seconds, nothing arrives later and the play ends as soon as everything is delivered.
    """

    folder: Path
    letters: int = 40
    rate: float = 1.0
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: counters of all mailboxes, the seconds until then, and what is wrong, a sentence each."""

    pulled: int = 0
    delivered: int = 0
    waiting: int = 0
    failed: int = 0
    seconds: float = 0.0
    troubles: Sequence[str] = ()


class Play:
    """One performance. `stop` ends it from outside, at any moment."""

    def __init__(self, programme: Programme, board: Board, stop: threading.Event) -> None:
        self._programme = programme
        self._board = board
        self._stop = stop
        self._folder = DemoFolder(programme.folder.absolute())
        self._ledger = Ledger(self._folder.outputs)
        self._carrier = Carrier(time.time)
        self._begun = time.monotonic()
        self._ended_at: float | None = None
        self._finished = False
        self._doing = "starting"

    def run(self) -> Outcome:
        """Play until everything is delivered, the time is over, or `stop` is set.

        Raises:
            MailquayError: something that the demo needs does not work.
        """
        with ExitStack() as stack:
            stack.enter_context(claimed(self._folder))
            self._board.say(f"Everything that this demo writes is in {self._folder.path}")
            stack.enter_context(self._carrier)
            seeds = self._carrier.write(self._programme.letters)
            self._ledger.expect(seeds)

            self._doing = "waiting for the demo's servers"
            servers = ServersProcess(
                self._folder.servers, log_file=self._folder.servers_log, environ=environment({})
            )
            stack.enter_context(servers)
            redis_url = stack.enter_context(embedded(self._folder.data))
            addresses = servers.addresses(give_up=self._over)
            if addresses is None:
                return self._outcome(None)
            quay = self._installed(addresses, redis_url)
            stack.callback(quay.close)

            self._doing = "signing in"
            sign_in_everybody(quay, addresses, say=self._board.say)
            self._carrier.bring(addresses.lab, seeds)
            self._board.say(f"{len(seeds)} letters lie in {len(quay.settings.mailboxes)} mailboxes")

            self._doing = "pulling and delivering"
            if not self._over():
                self._perform(quay, servers, addresses.lab)
            view = self._view(quay)
            self._board.show(view)
            return self._outcome(view)

    def _installed(self, addresses: Addresses, redis_url: str) -> Quay:
        """Write down what the installation is told, and open it."""
        outputs = self._folder.outputs
        said = {
            "DATA_DIR": str(self._folder.data),
            "SWEEP_EVERY": "2s",
            **variables(addresses, lines=outputs.lines, maildir=outputs.maildir),
        }
        write_env(self._folder.env_file, said)
        self._environ = environment({**said, "REDIS_URL": redis_url})
        return Quay(settings.load(self._environ, cwd=self._folder.path), redis_url)

    def _perform(self, quay: Quay, servers: ServersProcess, lab: str) -> None:
        """Run beat and workers, let letters arrive, and show how it goes."""
        once = self._programme.timeout is not None
        opened = time.monotonic()

        def look() -> None:
            servers.check()
            if not once:
                self._letters_arrive(lab, time.monotonic() - opened)
            view = self._view(quay)
            self._board.show(view)
            self._finished = (
                once and self._ledger.complete and not view.waiting and view.delivered >= view.brought
            )
            if once and (self._finished or view.failed or self._over()):
                self._ended_at = time.monotonic()
                self._stop.set()

        with self._folder.roles_log.open("ab") as log:
            supervisor = Supervisor(roles(quay.settings), self._environ, output=log.fileno(), stop=self._stop)
            supervisor.run(look, seconds=0.1 if once else 0.5)

    def _letters_arrive(self, lab: str, seconds: float) -> None:
        due = self._programme.letters + int(seconds * self._programme.rate) - self._carrier.written
        letters = self._carrier.write(min(due, _LETTERS_AT_A_TIME))
        self._ledger.expect(letters)
        self._carrier.bring(lab, letters)

    def _over(self) -> bool:
        timeout = self._programme.timeout
        return self._stop.is_set() or (timeout is not None and self._elapsed() > timeout)

    def _elapsed(self) -> float:
        return (self._ended_at or time.monotonic()) - self._begun

    def _view(self, quay: Quay) -> View:
        return View(
            now=quay.clock(),
            seconds=self._elapsed(),
            brought=self._carrier.brought,
            lines=lines(quay),
            mailboxes=quay.settings.mailboxes,
            outputs=self._ledger.look(),
            places=self._ledger.places,
        )

    def _outcome(self, view: View | None) -> Outcome:
        """What is said at the end; of the roles nothing runs any more, so what is missing now stays missing."""
        seconds = round(self._elapsed(), 2)
        troubles: list[str] = []
        if self._programme.timeout is not None:
            troubles = self._ledger.troubles()
            if not self._finished:
                troubles.insert(0, f"not finished after {seconds:g} s, while {self._doing}")
        if view is None:
            return Outcome(seconds=seconds, troubles=troubles)
        if troubles:
            # Why it may be so.
            troubles += [
                f"{line.mailbox}: {line.standing.sentence}" for line in view.lines if line.standing.sentence
            ]
        return Outcome(view.pulled, view.delivered, view.waiting, view.failed, seconds, troubles)
