"""The Celery tasks: what each queue's bell means. A few lines each; the work is in the modules they call.

A task says "look at mailbox X" or "look at batch Y". It may be lost, late or doubled without harm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from worker import health
from worker.alert import alert as alert_people
from worker.app import app
from worker.deliver import deliver as deliver_batch
from worker.errand import Pulled
from worker.errors import MailquayError, RedisUnavailable
from worker.keep_alive import keep_alive as keep_accounts_alive
from worker.pull import pull as pull_mailbox
from worker.quay import Quay, quay
from worker.spool import Ticket
from worker.sweep import sweep as sweep_once
from worker.timetable import pull_entry

log = structlog.get_logger("tasks")


@app.task(name="mailquay.pull")  # type: ignore[untyped-decorator]
def pull(mailbox: str) -> None:
    """Pull one mailbox; one that is not configured any more is passed over."""
    with _ending_in_a_line("pull", mailbox):
        here = quay()
        found = here.settings.mailboxes.get(mailbox)
        if found is None or not found.enabled:
            here.timetable.answered(pull_entry(mailbox))
            return
        # Half of the limit: the other half is for the batch in hand.
        deadline = time.monotonic() + here.settings.pull_limit.total_seconds() / 2
        pulled = pull_mailbox(here, found, ring=_ring_from_pull, deadline=deadline)
        health.sign_of_life(here, "puller")
        if pulled.more or (found.push and _heard_meanwhile(here, pulled)):
            ring_pull(mailbox)


@app.task(name="mailquay.deliver")  # type: ignore[untyped-decorator]
def deliver(ticket: str) -> None:
    """Deliver one batch, if it is still there under this name."""
    found = Ticket.parse(ticket)
    with _ending_in_a_line("deliver", found.mailbox if found else ""):
        here = quay()
        delivered = deliver_batch(here, found) if found else None
        if delivered and delivered.next:
            ring_deliver(delivered.next)
        health.sign_of_life(here, "deliverer")


@app.task(name="mailquay.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Ring again for what was forgotten."""
    with _ending_in_a_line("sweep"):
        here = quay()
        sweep_once(here, ring=ring_deliver, ring_pull=ring_pull)
        health.sign_of_life(here, "deliverer")


@app.task(name="mailquay.keep_alive")  # type: ignore[untyped-decorator]
def keep_alive() -> None:
    """Refresh accounts that were idle for long, before their provider forgets them."""
    with _ending_in_a_line("keep_alive"):
        keep_accounts_alive(quay())


@app.task(name="mailquay.alert")  # type: ignore[untyped-decorator]
def alert() -> None:
    """Tell people who has lost access, or will, and who has it again."""
    with _ending_in_a_line("alert"):
        alert_people(quay())


def _heard_meanwhile(here: Quay, pulled: Pulled) -> bool:
    """Whether mail was announced during a pull: its own bell rings in vain, because the mailbox is leased."""
    return not (pulled.busy or pulled.trouble or pulled.waits) and here.news.there(pulled.mailbox)


@contextmanager
def _ending_in_a_line(task: str, mailbox: str = "") -> Iterator[None]:
    """What was foreseen ends a task in one line and not in a traceback; its bell is rung again."""
    try:
        yield
    except MailquayError as error:
        log.warning("task.given_up", task=task, mailbox=mailbox, state=error.state, reason=error.sentence)
    except OperationalError as error:
        reason = f"the broker does not answer ({type(error).__name__}); the bell is rung again by the sweep"
        log.warning("task.given_up", task=task, mailbox=mailbox, reason=reason)
    except SoftTimeLimitExceeded:
        reason = (
            "it took longer than it may (see PULL_LIMIT); what was spooled counts, and the next one goes on"
        )
        log.warning("task.given_up", task=task, mailbox=mailbox, reason=reason)


def _ring_from_pull(ticket: Ticket) -> None:
    """A large mailbox takes minutes, and each batch shows that the puller is alive."""
    health.sign_of_life(quay(), "puller")
    ring_deliver(ticket)


def ring_deliver(ticket: Ticket) -> None:
    """Ring for a batch, once in the life of a lease. A bell that cannot be rung is rung by the sweep."""
    here = quay()
    try:
        # A deliverer that died keeps its batch out of reach for as long: ringing more often would be in vain.
        if here.timetable.may_ring(str(ticket), seconds=int(here.lease_seconds)):
            deliver.delay(str(ticket))
    except (OperationalError, RedisUnavailable) as error:
        log.warning("bell.lost", mailbox=ticket.mailbox, reason=type(error).__name__)


def ring_pull(mailbox: str) -> None:
    """Ring for a mailbox."""
    pull.delay(mailbox)


def ring_for_news(mailbox: str) -> None:
    """Ring for a mailbox whose server announced new mail. A bell that cannot be rung is rung by the sweep."""
    try:
        ring_pull(mailbox)
    except OperationalError as error:
        log.warning("bell.lost", mailbox=mailbox, reason=type(error).__name__)
