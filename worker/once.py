"""Pull every mailbox once and deliver until nothing is due, without a broker: for cron, scripts and benchmarks.

The same pull and the same deliver as the workers, in a pool of processes, one a core (a mailbox that is only pulled
needs no other process); leases, checkpoints and tokens
live in Redis as always. A bell is a message to the parent process.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker import log, settings
from worker.alert import alert
from worker.errand import Pulled, Ring
from worker.errors import HostBusy, RedisUnavailable
from worker.owing import is_due
from worker.parking import let_out, waiting_batches
from worker.pull import pull as pull_mailbox
from worker.quay import Quay
from worker.spool import Ticket

if TYPE_CHECKING:
    from worker.deliver import Delivered


@dataclass(slots=True)
class Totals:
    """What was done: messages pulled, delivered and dropped by stages, what waits or failed, and every trouble once."""

    pulled: int = 0
    arrived: int = field(default=0, repr=False)
    rung: int = field(default=0, repr=False)
    delivered: int = 0
    dropped: int = 0
    waiting: int = 0
    failed: int = 0
    troubles: list[str] = field(default_factory=list)

    def note(self, trouble: str) -> None:
        """Keep a trouble, once."""
        if trouble not in self.troubles:
            self.troubles.append(trouble)


Progress = Callable[[Totals], None]
GoOn = Callable[[bool], bool]
"""Asked at every look, with whether there is nothing to do: whether to go on. It may take its time with the answer."""

_DEATHS = 20
"""How many pools may be lost in one run; more than a few deadly messages, or something worse, is left to the next."""

_AT_ONCE = 1000
"""Batches that are let out at a time when an output is back."""

_here: Quay
_bells: multiprocessing.Queue[Ticket]


def _until_nothing_is_due(idle: bool) -> bool:
    return not idle


def run(
    quay: Quay,
    mailboxes: Sequence[str],
    *,
    drain: bool = True,
    progress: Progress = lambda _: None,
    go_on: GoOn = _until_nothing_is_due,
) -> Totals:
    """Pull these mailboxes; with `drain`, deliver what they brought and everything else that is due. Then alert people.

    It ends when `go_on` says no, and no batch that was begun is under way any more.

    Raises:
        RedisUnavailable: there is no working without leases.
    """
    totals = Totals()
    left = set(mailboxes)
    if not drain and len(left) == 1:
        _pull_here(quay, left.pop(), totals, progress)
    for _ in range(_DEATHS if left or drain else 0):
        try:
            _work(quay, left, totals, drain=drain, progress=progress, go_on=go_on)
            break
        except BrokenProcessPool:
            # A message that kills its process takes the whole pool along; a new pool goes on with all the others.
            totals.note(
                "a process died at its work; its mailbox or batch is free again when LEASE_TTL is over"
            )
            if not go_on(False):
                break
    waiting = waiting_batches(quay)
    for ticket in waiting:
        if ticket.attempts:
            totals.note(
                f"{ticket.mailbox}: the delivery of batch {ticket.batch} was begun and not ended; run again"
            )
    totals.waiting = sum(ticket.messages for ticket in waiting)
    progress(totals)
    # What was done is told in any case.
    try:
        alert(quay)
    except RedisUnavailable as error:
        totals.note(error.sentence)
    return totals


def _pull_here(quay: Quay, mailbox: str, totals: Totals, progress: Progress) -> None:
    """Pull one mailbox in this process: starting others would take longer than most pulls."""

    def ring(ticket: Ticket) -> None:
        totals.pulled += ticket.messages
        progress(totals)

    _count(totals, _in_its_turn(quay, mailbox, ring))
    totals.pulled = totals.arrived


def _work(
    quay: Quay, left: set[str], totals: Totals, *, drain: bool, progress: Progress, go_on: GoOn
) -> None:
    """Pull the mailboxes that are `left`, striking them off, and deliver for as long as `go_on` says.

    Raises:
        BrokenProcessPool: a process died.
    """
    context = multiprocessing.get_context("spawn")
    bells: multiprocessing.Queue[Ticket] = context.Queue()
    workers = max(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(quay.redis_url, dict(os.environ), bells)
    ) as pool:
        running: set[Future[Any]] = {pool.submit(_pull, name) for name in sorted(left)}
        handed: set[str] = set()
        over = False
        while True:
            for ticket in _rung(bells):
                totals.rung += ticket.messages
                if drain and not over:
                    handed.add(str(ticket))
                    running.add(pool.submit(_deliver, ticket))
            for future in [future for future in running if future.done()]:
                running.discard(future)
                if future.cancelled():
                    continue
                result = future.result()
                if isinstance(result, Pulled):
                    left.discard(result.mailbox)
                elif result and result.next and not over:
                    # Its turn has come, perhaps under a name that it had before.
                    handed.add(str(result.next))
                    running.add(pool.submit(_deliver, result.next))
                _count(totals, result)
            totals.pulled = max(totals.arrived, totals.rung)
            progress(totals)
            if drain and not running and not over:
                due = _due(quay, handed)
                handed.update(map(str, due))
                running.update(pool.submit(_deliver, ticket) for ticket in due)
            is_idle = not running
            if not over and not go_on(is_idle):
                over = True
                if running:
                    # What is under way comes to its end, and nothing else is begun.
                    pool.shutdown(wait=False, cancel_futures=True)
            if over and not running:
                break
            if is_idle:
                # While nothing was to be done, the same names may have come to mean something else.
                handed.clear()


def _begin(redis_url: str, environ: dict[str, str], bells: multiprocessing.Queue[Ticket]) -> None:
    """Set up one process of the pool."""
    global _here, _bells  # noqa: PLW0603  (the pool hands no state to its functions)
    said = settings.load(environ, cwd=Path.cwd())
    log.configure(level="warning" if said.log_format == "auto" else said.log_level, form=said.log_format)
    _here = Quay(said, redis_url)
    _bells = bells


def _pull(mailbox: str) -> Pulled:
    return _in_its_turn(_here, mailbox, _bells.put)


def _in_its_turn(quay: Quay, mailbox: str, ring: Ring) -> Pulled:
    """Pull a mailbox as soon as it is its turn at its host: there is no schedule that would call again."""
    while isinstance(
        (pulled := pull_mailbox(quay, quay.settings.mailboxes[mailbox], ring=ring)).waits, HostBusy
    ):
        pass
    return pulled


def _deliver(ticket: Ticket) -> Delivered | None:
    # To pull only, nothing of parsing and of outputs is needed.
    from worker.deliver import deliver as deliver_batch

    return deliver_batch(_here, ticket)


def _rung(bells: multiprocessing.Queue[Ticket]) -> list[Ticket]:
    """The bells rung since the last look, waiting a moment for the first."""
    rung: list[Ticket] = []
    try:
        rung.append(bells.get(timeout=0.05))
        while True:
            rung.append(bells.get_nowait())
    except queue.Empty:
        return rung


def _due(quay: Quay, handed: set[str]) -> list[Ticket]:
    """Batches that are due and were not handed out under this very name: each attempt changes the name."""
    let_out(quay, most=_AT_ONCE)
    now = time.time()
    return [
        ticket for ticket in quay.spool.tickets() if is_due(ticket.due, now) and str(ticket) not in handed
    ]


def _count(totals: Totals, result: Pulled | Delivered | None) -> None:
    if isinstance(result, Pulled):
        totals.arrived += result.messages
        if result.busy:
            totals.note(f"{result.mailbox}: another process is pulling it")
        for trouble in filter(None, (result.trouble, result.waits, result.missing)):
            totals.note(f"{result.mailbox}: {trouble.sentence}")
    elif result:
        totals.delivered += result.done
        totals.dropped += result.dropped
        totals.failed += result.failed
        if result.trouble:
            totals.note(f"{result.mailbox}: {result.trouble}")
