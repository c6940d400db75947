"""Going back over a folder while somebody watches: a backfill is noted and then worked off by pulls, one after the other.

Each pull takes new mail first and gives the lease back, so the schedule is not disturbed; where workers run, they take
turns at the same backfill. Whoever is killed leaves it to the others, or to the next call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date

from worker import state
from worker.backfill import ask
from worker.begin import recall, remember
from worker.checkpoint import Backfill
from worker.errand import Errand, Pulled, Ring
from worker.errors import LeaseLost, Misconfigured, Throttled, Unreachable
from worker.lease import Lease, held
from worker.login import logged_in
from worker.mailbox import Mailbox, Since, write_since
from worker.pull import pull
from worker.quay import Quay
from worker.sources import Source
from worker.spool import Ticket

_PULL_SECONDS = 60.0
"""After so long a pull gives the lease back: a sign-in a minute is what a schedule costs too."""
_LOOK_SECONDS = 0.5
_TRIES = 6
"""Failures in a row, minutes in all, after which a person is told instead."""

Sleep = Callable[[float], None]
Clock = Callable[[], float]


def note(
    quay: Quay, mailbox: Mailbox, folder: str, since: Since, *, sleep: Sleep = time.sleep
) -> Backfill | None:
    """Note that a folder is to be gone back over; None when nothing lies behind its checkpoint.

    Raises:
        MailquayError: the mailbox cannot be opened, has no such folder, or is being pulled all the time.
    """
    start = since.start(quay.now())
    with alone(quay, mailbox, sleep=sleep) as (errand, source):
        return ask(errand, source, folder, start.date() if start else None, word=write_since(since))


def give_up(quay: Quay, mailbox: Mailbox, folder: str, *, sleep: Sleep = time.sleep) -> bool:
    """Forget the backfill of a folder; False when there was none."""
    if folder not in quay.checkpoints.backfills(mailbox.name):
        return False
    with lease_of(quay, mailbox, sleep=sleep) as lease:
        quay.checkpoints.end_backfill(mailbox.name, folder)
        remember(_errand(quay, mailbox, lease))
    return True


def rewind(quay: Quay, mailbox: Mailbox, folder: str, to: int | date, *, sleep: Sleep = time.sleep) -> str:
    """Move a checkpoint back, so that the next pull begins with the uid `to`, or with that day; says what was done.

    Raises:
        Misconfigured: the folder was never pulled, POP3 has no uids, or `to` lies ahead: nothing is ever skipped.
        MailquayError: the mailbox cannot be opened.
    """
    with alone(quay, mailbox, sleep=sleep) as (errand, source):
        recall(errand)
        opened = source.open(folder, writable=False)
        at = quay.checkpoints.load(mailbox.name, folder)
        if at is None or at.uidvalidity != opened.uidvalidity:
            raise Misconfigured(
                f"{folder} was never pulled, or was renumbered since; nothing can be moved back"
            )
        uid, keep = source.start(opened, to) if isinstance(to, date) else (to - 1, frozenset[str]())
        fence = errand.lease.fence
        if opened.uidvalidity is None:
            if isinstance(to, int) and to > 1:
                raise Misconfigured("POP3 has no uids; rewind to a date or to start")
            again = sorted(at.uidls - keep)
            quay.checkpoints.forget_uidls(fence, mailbox.name, again)
            done = f"{len(again)} messages are pulled again at the next pull"
        elif uid >= at.uid:
            raise Misconfigured(
                f"{folder} is at uid {at.uid}, and {uid + 1} is not behind it; rewind moves back only"
            )
        else:
            quay.checkpoints.move(fence, mailbox.name, folder, uidvalidity=at.uidvalidity, uid=uid)
            done = f"{folder} is moved back from uid {at.uid} to {uid}; the next pull begins behind it"
        remember(errand)
        return done


def work_off(
    quay: Quay,
    mailbox: Mailbox,
    folder: str,
    *,
    ring: Ring,
    progress: Callable[[Backfill], None],
    sleep: Sleep = time.sleep,
    clock: Clock = time.monotonic,
) -> None:
    """Pull until the backfill of a folder has ended, here or elsewhere; `progress` hears how far it is.

    Raises:
        MailquayError: a person has to act, or it went on failing. The backfill stays and can be gone on with.
    """

    def rung(ticket: Ticket) -> None:
        ring(ticket)
        if now := quay.checkpoints.backfills(mailbox.name).get(folder):
            progress(now)

    failures = 0
    while going := quay.checkpoints.backfills(mailbox.name).get(folder):
        progress(going)
        pulled = pull(quay, mailbox, ring=rung, deadline=clock() + _PULL_SECONDS)
        if folder in pulled.gone_back:
            progress(pulled.gone_back[folder])
        trouble = pulled.trouble or pulled.waits
        if not (pulled.busy or pulled.more or trouble):
            # It is at its end, or the pull found no way to go on with it.
            trouble = _stuck(quay, mailbox, folder, going)
        if pulled.busy:
            sleep(_LOOK_SECONDS)
        elif trouble:
            failures += 1
            if not trouble.retried or failures == _TRIES:
                raise trouble
            sleep(trouble.seconds if isinstance(trouble, Throttled) else 2.0**failures)
        else:
            failures = 0


def _stuck(quay: Quay, mailbox: Mailbox, folder: str, before: Backfill) -> Unreachable | None:
    if quay.checkpoints.backfills(mailbox.name).get(folder) != before:
        return None
    return Unreachable(f"{mailbox.endpoint.host} does not open {folder} any more; what is left of it waits")


@contextmanager
def alone(quay: Quay, mailbox: Mailbox, *, sleep: Sleep = time.sleep) -> Iterator[tuple[Errand, Source]]:
    """The mailbox for the length of the block: its lease, and a session with its server.

    Raises:
        LeaseLost: others pulled it for as long as one pull may take.
    """
    with lease_of(quay, mailbox, sleep=sleep) as lease, logged_in(quay, mailbox) as session:
        yield _errand(quay, mailbox, lease), session.source


@contextmanager
def lease_of(quay: Quay, mailbox: Mailbox, *, sleep: Sleep) -> Iterator[Lease]:
    """The lease on a mailbox for the length of the block, as soon as a pull under way has given it back.

    Raises:
        LeaseLost: others pulled it for as long as one pull may take.
    """
    waited = 0.0
    while waited < quay.settings.pull_limit.total_seconds():
        with held(quay.client, state.mailbox_lease(mailbox.name), ttl=quay.lease_seconds) as lease:
            if lease:
                yield lease
                return
        sleep(_LOOK_SECONDS)
        waited += _LOOK_SECONDS
    raise LeaseLost("it is being pulled all the time; try again later", mailbox=mailbox.name)


def _errand(quay: Quay, mailbox: Mailbox, lease: Lease) -> Errand:
    return Errand(quay, mailbox, lease, lambda _: None, float("inf"), Pulled(mailbox.name))
