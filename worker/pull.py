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
from worker.bring import bring, bring_again
from worker.checkpoint import Checkpoint, Place
from worker.errand import Errand, Pulled, Ring
from worker.errors import MailquayError, RedisUnavailable, SessionExpired
from worker.lease import held
from worker.login import Session, logged_in
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.settle import settle
from worker.sources import Opened, Source
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
            _pull_over_sessions(Errand(quay, mailbox, lease, ring, deadline, pulled))
            quay.standings.well(mailbox.name, quay.clock())
    except MailquayError as error:
        pulled.trouble = error
    if not isinstance(pulled.trouble, RedisUnavailable):
        # Without Redis there is nothing to be parked in, and the timetable calls again by itself.
        with suppress(RedisUnavailable):
            if pulled.trouble:
                pulled.again = quay.standings.of(mailbox.name).state == pulled.trouble.state
                pulled.failures = _park(quay, mailbox, pulled.trouble)
            quay.timetable.answered(pull_entry(mailbox.name))
    _report(pulled, time.monotonic() - begun)
    return pulled


def _pull_over_sessions(errand: Errand) -> None:
    """A session that ends with its token is followed by another one, as long as each gets somewhere."""
    ended: AccessToken | None = None
    before = -1
    while True:
        try:
            with logged_in(errand.quay, errand.mailbox, ended=ended) as session:
                ended = session.token
                _pull(_within(errand, session), session.source)
        except SessionExpired:
            if errand.pulled.batches == before:
                raise
            before = errand.pulled.batches
        else:
            return


def _within(errand: Errand, session: Session) -> Errand:
    """The errand, at the end of its token at the latest: behind a batch it yields, and the next pull has a new one."""
    if session.token is None:
        return errand
    left = session.token.expires_at - errand.quay.clock() - _SESSION_MARGIN_SECONDS
    return replace(errand, deadline=min(errand.deadline, time.monotonic() + left))


def _pull(errand: Errand, source: Source) -> None:
    quay, mailbox = errand.quay, errand.mailbox
    try:
        _recall(errand)
        settled: list[Place] = []
        for folder in mailbox.folders:
            opened = source.open(folder, writable=mailbox.after.action != "keep")
            checkpoint = _checkpoint(errand, source, opened)
            bring_again(errand, source, opened)
            for window in source.new(opened, after=checkpoint.uid, seen=checkpoint.uidls):
                bring(errand, source, opened, window)
                if errand.pulled.more:
                    return
            settled += settle(errand, source, opened)
            quay.checkpoints.forget_uidls(
                errand.lease.fence, mailbox.name, source.gone(opened, checkpoint.uidls)
            )
        source.finish()
        quay.checkpoints.settled(mailbox.name, settled)
    finally:
        if errand.pulled.batches:
            _remember(errand)


def _recall(errand: Errand) -> None:
    """Bring checkpoints back that a flushed Redis has lost: else an old mailbox would look new and skip its mail."""
    quay, name = errand.quay, errand.mailbox.name
    unknown = set(errand.mailbox.folders) - quay.checkpoints.known(name)
    note = quay.spool.recall(name) if unknown else None
    if note and (lost := {folder: at for folder, at in note["folders"].items() if folder in unknown}):
        log.warning(
            "checkpoint.restored", mailbox=name, reason="Redis had lost it; repeats carry the same ids"
        )
        quay.checkpoints.restore(errand.lease.fence, name, {**note, "folders": lost})


def _remember(errand: Errand) -> None:
    """Keep a copy of the checkpoints beside the spool, unless Redis was flushed meanwhile: then the old copy counts."""
    exported = errand.quay.checkpoints.export(errand.mailbox.name)
    if exported["folders"]:
        errand.quay.spool.remember(errand.mailbox.name, exported)


def _checkpoint(errand: Errand, source: Source, opened: Opened) -> Checkpoint:
    """How far this folder is; a new one begins where SINCE says, and that is recorded before anything else."""
    quay, mailbox = errand.quay, errand.mailbox
    found = quay.checkpoints.load(mailbox.name, opened.folder)
    if found and found.uidvalidity == opened.uidvalidity:
        return found
    uid, uidls = 0, frozenset[str]()
    if found:
        # RFC 3501 section 2.3.1.1: the old uids mean nothing any more. All is pulled again, so that nothing is lost.
        log.warning("folder.renumbered", mailbox=mailbox.name, folder=opened.folder, reason="new UIDVALIDITY")
    elif mailbox.since.kind != "all":
        start = mailbox.since.start(quay.now())
        uid, uidls = source.start(opened, start.date() if start and mailbox.since.kind != "now" else None)
    # The note comes first: were Redis flushed between the two, SINCE=now would begin later and skip mail.
    note = quay.checkpoints.export(mailbox.name)
    note["folders"][opened.folder] = [opened.uidvalidity, uid]
    quay.spool.remember(mailbox.name, {**note, "uidls": sorted({*note["uidls"], *uidls})})
    quay.checkpoints.move(
        errand.lease.fence,
        mailbox.name,
        opened.folder,
        uidvalidity=opened.uidvalidity,
        uid=uid,
        uidls=sorted(uidls),
    )
    return Checkpoint(opened.uidvalidity, uid, uidls)


def _park(quay: Quay, mailbox: Mailbox, error: MailquayError) -> int:
    """Note the failure and put the next poll off; returns how many there were in a row."""
    now = quay.clock()
    failures = quay.standings.ill(mailbox.name, now, error)
    if wait := parking(error, failures):
        quay.timetable.park(pull_entry(mailbox.name), now + wait * quay.jitter())
    return failures


def _report(pulled: Pulled, seconds: float) -> None:
    """The one canonical event of a pull."""
    event = {
        "messages": pulled.messages,
        "octets": pulled.octets,
        "batches": pulled.batches,
        "more": pulled.more,
        "seconds": round(seconds, 3),
    }
    if pulled.trouble is None:
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
