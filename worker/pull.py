"""One mailbox, once: lease, token, source, then batch by batch into the spool, the checkpoint behind it.

It moves bytes from the socket to the spool and nothing else: nothing is parsed here. The checkpoint never passes a
message that is not durably in the spool (promise P1), so it may die at any line and be run again; what comes twice
comes with the same id. It reads top to bottom like section 3 of the architecture.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

import structlog

from worker import state
from worker.backfill import go_back
from worker.begin import recall, remember, renumbered
from worker.bring import bring, bring_again, bring_withheld
from worker.errand import Errand, Pulled, Ring
from worker.errors import (
    HostBusy,
    LeaseLost,
    MailquayError,
    RedisUnavailable,
    SessionExpired,
    SpoolFull,
    Throttled,
    Waiting,
)
from worker.kept import Session
from worker.lease import held
from worker.login import logged_in
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.route import calls
from worker.route import opened as opened_folders
from worker.settle import give_up, settle, settle_apart
from worker.sources import Source
from worker.standing import parking
from worker.timetable import pull_entry
from worker.tokens import AccessToken

log = structlog.get_logger("pull")

_SESSION_MARGIN_SECONDS = 30.0
"""A session yields so long before its token ends: what is on the wire by then still comes."""


def pull(quay: Quay, mailbox: Mailbox, *, ring: Ring, deadline: float = float("inf")) -> Pulled:
    """Pull a mailbox, record how it stands, and park it when something is wrong; raises nothing of `worker.errors`.

    `deadline` is in monotonic seconds: a pull that reaches it stops behind a batch and says `more`.
    """
    begun = time.monotonic()
    pulled = Pulled(mailbox.name)
    try:
        with held(quay.client, state.mailbox_lease(mailbox.name), ttl=quay.lease_seconds) as lease:
            if lease is None:
                pulled.busy = True
                return pulled
            if mailbox.push:
                quay.news.taken(mailbox.name)
            errand = Errand(quay, mailbox, lease, ring, deadline, pulled)
            settle_apart(errand)
            _pull_over_sessions(errand)
            _stand_well(quay, pulled)
    except Waiting as waiting:
        pulled.waits = waiting
    except MailquayError as error:
        pulled.trouble = error
    if not isinstance(pulled.trouble, RedisUnavailable):
        # Without Redis there is nothing to be parked in, and the timetable calls again by itself.
        with suppress(RedisUnavailable):
            if pulled.trouble:
                pulled.again = quay.standings.of(mailbox.name).state == pulled.trouble.state
                pulled.failures = _park(quay, mailbox, pulled.trouble)
            if isinstance(pulled.waits, HostBusy):
                # Put back by seconds. One whose host is away comes at its own time, and finds it back by then.
                quay.timetable.park(pull_entry(mailbox.name), quay.clock() + pulled.waits.seconds)
            quay.timetable.answered(pull_entry(mailbox.name))
    _report(pulled, time.monotonic() - begun)
    return pulled


def _pull_over_sessions(errand: Errand) -> None:
    """A session that was kept comes first; one that ends with its token is followed by another while each gets somewhere."""
    if (kept := errand.quay.kept.take(errand.mailbox)) and _went_on(errand, kept):
        return
    ended: AccessToken | None = None
    before = -1
    while True:
        try:
            fence = errand.lease.fence
            with logged_in(errand.quay, errand.mailbox, fence=fence, ended=ended) as session:
                ended = session.token
                _pull(_within(errand, session), session)
        except SessionExpired:
            if errand.pulled.batches == before:
                raise
            before = errand.pulled.batches
        else:
            return


def _went_on(errand: Errand, session: Session) -> bool:
    """Pull in a session that was kept. Whatever is wrong with it is no trouble: a new one follows in the same pull."""
    try:
        _pull(_within(errand, session), session)
    except (LeaseLost, RedisUnavailable, SpoolFull, Throttled):
        raise
    except MailquayError as error:
        log.info("connection.dropped", mailbox=errand.mailbox.name, reason=error.sentence)
        return False
    finally:
        errand.quay.kept.let_go(session)
    return True


def _within(errand: Errand, session: Session) -> Errand:
    """The errand, at the end of its token at the latest: behind a batch it yields, and the next pull has a new one."""
    errand = replace(errand, arrived=session.arrived)
    if session.token is None:
        return errand
    left = session.token.expires_at - errand.quay.clock() - _SESSION_MARGIN_SECONDS
    return replace(errand, deadline=min(errand.deadline, time.monotonic() + left))


def _pull(errand: Errand, session: Session) -> None:
    source = session.source
    try:
        recall(errand)
        _pull_new(errand, source)
        # New mail first, and again after every turn at what is old.
        while not errand.pulled.more:
            if not go_back(errand, source):
                if not errand.quay.kept.keep(errand.mailbox, session):
                    source.finish()
                return
            _pull_new(errand, source)
    finally:
        if errand.pulled.batches or errand.pulled.recognised or errand.pulled.withheld:
            remember(errand)


def _pull_new(errand: Errand, source: Source) -> None:
    """Pull what is new in each folder, and settle what was handed over."""
    checkpoints, name = errand.quay.checkpoints, errand.mailbox.name
    for opened, checkpoint in opened_folders(errand, source, calls(errand, source)):
        errand.arrived()
        bring_again(errand, source, opened)
        checkpoint = renumbered(errand, source, opened, checkpoint)  # noqa: PLW2901  (it is the one to go on from)
        for window in source.new(opened, after=checkpoint.uid, seen=checkpoint.uidls):
            bring(errand, source, opened, window, recognise=checkpoint.recognise)
            if errand.pulled.more:
                return
            bring_withheld(errand, source, opened)
        bring_withheld(errand, source, opened)
        if checkpoint.recognise:
            checkpoints.recognised(name, opened.folder)
        settle(errand, source, opened)
        checkpoints.forget_uidls(errand.lease.fence, name, source.gone(opened, checkpoint.uidls))
    give_up(errand)


def _stand_well(quay: Quay, pulled: Pulled) -> None:
    """Record that all went well, but for folders that are missing and AFTER: that is logged when it is new."""
    before = quay.standings.of(pulled.mailbox).sentence
    but = pulled.missing or pulled.unsettled
    quay.standings.well(pulled.mailbox, quay.clock(), but=but)
    if but and but.sentence != before:
        event = "folder.missing" if pulled.missing else "settle.refused"
        log.warning(event, mailbox=pulled.mailbox, reason=but.sentence)


def _park(quay: Quay, mailbox: Mailbox, error: MailquayError) -> int:
    """Note the failure and put the next poll off; returns how many there were in a row."""
    now = quay.clock()
    failures = quay.standings.ill(mailbox.name, now, error)
    if wait := parking(error, failures):
        # What a server asked for is the least: those that were throttled together come back one after the other.
        factor = 1.5 - quay.jitter() / 2 if isinstance(error, Throttled) else quay.jitter()
        quay.timetable.park(pull_entry(mailbox.name), now + wait * factor)
    return failures


def _report(pulled: Pulled, seconds: float) -> None:
    """The one canonical event of a pull."""
    event = {
        "messages": pulled.messages,
        "octets": pulled.octets,
        "batches": pulled.batches,
        "recognised": pulled.recognised,
        "withheld": pulled.withheld,
        "more": pulled.more,
        "seconds": round(seconds, 3),
    }
    if pulled.waits and not pulled.batches:
        # Of a host that is away one event tells, and `status` of each of its mailboxes.
        log.debug(
            "pull.waits", mailbox=pulled.mailbox, state=pulled.waits.state, reason=pulled.waits.sentence
        )
    elif pulled.trouble is None:
        log.info("pull.finished", mailbox=pulled.mailbox, **event)
    else:
        # A mailbox that waits for its owner is polled as ever, and nobody is alarmed every minute.
        say = log.info if pulled.again else log.warning
        say(
            "pull.failed",
            mailbox=pulled.mailbox,
            state=pulled.trouble.state,
            who=pulled.trouble.who,
            reason=pulled.trouble.sentence,
            failures=pulled.failures,
            **event,
        )
