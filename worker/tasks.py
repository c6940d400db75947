"""The Celery tasks: what each queue's bell means. A few lines each; the work is in the modules they call.

A task says "look at mailbox X" or "look at batch Y". It may be lost, late or doubled without harm.
"""

from __future__ import annotations

import time

import structlog
from kombu.exceptions import OperationalError

from worker import health
from worker.app import app
from worker.deliver import deliver as deliver_batch
from worker.errors import RedisUnavailable
from worker.pull import pull as pull_mailbox
from worker.quay import quay
from worker.spool import Ticket
from worker.sweep import sweep as sweep_once
from worker.timetable import KEEP_ALIVE, pull_entry

log = structlog.get_logger("tasks")


@app.task(name="mailquay.pull")  # type: ignore[untyped-decorator]
def pull(mailbox: str) -> None:
    """Pull one mailbox; one that is not configured any more is passed over."""
    here = quay()
    found = here.settings.mailboxes.get(mailbox)
    if found is None or not found.enabled:
        here.timetable.answered(pull_entry(mailbox))
        return
    # Half of the limit: the other half is for the batch in hand.
    deadline = time.monotonic() + here.settings.pull_limit.total_seconds() / 2
    pulled = pull_mailbox(here, found, ring=ring_deliver, deadline=deadline)
    health.finished(here, "puller")
    if pulled.more:
        ring_pull(mailbox)


@app.task(name="mailquay.deliver")  # type: ignore[untyped-decorator]
def deliver(ticket: str) -> None:
    """Deliver one batch, if it is still there under this name."""
    here = quay()
    if found := Ticket.parse(ticket):
        deliver_batch(here, found)
    health.finished(here, "deliverer")


@app.task(name="mailquay.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Ring again for what was forgotten."""
    here = quay()
    sweep_once(here, ring=ring_deliver, ring_pull=ring_pull)
    health.finished(here, "deliverer")


@app.task(name="mailquay.keep_alive")  # type: ignore[untyped-decorator]
def keep_alive() -> None:
    """Refresh accounts that were idle for long, before their provider forgets them."""
    here = quay()
    here.timetable.answered(KEEP_ALIVE)


def ring_deliver(ticket: Ticket) -> None:
    """Ring for a batch, once a minute at most. A bell that cannot be rung is rung by the sweep."""
    here = quay()
    try:
        if here.timetable.may_ring(str(ticket)):
            deliver.delay(str(ticket))
    except (OperationalError, RedisUnavailable) as error:
        log.warning("bell.lost", mailbox=ticket.mailbox, reason=type(error).__name__)


def ring_pull(mailbox: str) -> None:
    """Ring for a mailbox."""
    pull.delay(mailbox)
