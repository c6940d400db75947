"""Settling: what was handed over is marked, moved or deleted on its server; told again without harm.

IMAP settles in the session that pulls, each folder in its turn. POP3 deletes in a short session of its own, because its
deletions count all at once and only at QUIT: a session that pulls deletes nothing, one that deletes pulls nothing, and
neither can break the other's work. A release is struck off only when its server has confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from worker.checkpoint import Place
from worker.errand import Errand
from worker.errors import Misconfigured, Unreachable
from worker.folders import choose
from worker.login import logged_in
from worker.mailbox import Mailbox
from worker.parking import waiting_batches
from worker.quay import Quay
from worker.release import Release
from worker.sources import Opened, Ref, Refused, Source
from worker.spool import Batch, Entry

log = structlog.get_logger("pull")

_AT_ONCE = {"imap": 2_000, "pop3": 500}
"""Messages settled in one folder by one pull: seconds, also where each costs a round trip; the next pull goes on."""


def released(
    quay: Quay, mailbox: Mailbox, batch: Batch, entries: Sequence[Entry], *, recognised: bool = False
) -> None:
    """Note that messages of a batch's folder were handed over, unless AFTER=keep.

    Raises:
        SpoolFull: there is no room to note it.
    """
    if mailbox.after.action != "keep":
        uids = tuple(entry.uid for entry in entries if entry.uid)
        uidls = tuple(entry.uidl for entry in entries if entry.uidl)
        now = int(quay.clock())
        quay.releases.note(
            mailbox.name, Release(batch.folder, batch.uidvalidity, now, uids, uidls, recognised)
        )


def settle(errand: Errand, source: Source, opened: Opened) -> None:
    """Mark, move or delete what is due in the open folder, in one command; POP3 does it in `settle_apart`.

    What the server refuses to do stops no other folder: the errand keeps what it is.
    """
    if errand.mailbox.protocol == "pop3":
        return
    due = _due(errand, opened)
    try:
        _apply(errand, source, opened, due)
    except (Misconfigured, Refused) as error:
        errand.pulled.unsettled = error
    else:
        errand.quay.releases.strike(errand.mailbox.name, due)


def settle_apart(errand: Errand) -> None:
    """Delete what is due over POP3, in a session of its own; nothing is struck off before the server confirmed QUIT.

    It comes before the session that pulls: a confirmed QUIT has unlocked the maildrop, and a server that wants time between
    two logins refuses the later one. What goes wrong with deleting stops no mail: the errand keeps what it is.

    Raises:
        MailquayError: signing in went wrong; it would for the session that pulls, too.
    """
    quay, mailbox = errand.quay, errand.mailbox
    maildrop = Opened("INBOX", None, None, 0)
    if mailbox.protocol != "pop3" or not (due := _due(errand, maildrop)):
        return
    with logged_in(quay, mailbox, fence=errand.lease.fence) as session:
        source = session.source
        try:
            # Numbers are good for one session, so the messages are listed anew.
            maildrop = source.open(maildrop.folder, writable=True)
            session.arrived()
            _confirmed(errand, source, maildrop, due)
        except (Misconfigured, Unreachable) as error:
            errand.pulled.unsettled = error


def _confirmed(errand: Errand, source: Source, maildrop: Opened, due: Sequence[Release]) -> None:
    try:
        _apply(errand, source, maildrop, due)
    except Refused:
        # One message that the server keeps must not keep the others; all are told again.
        source.finish()
        raise
    source.finish()
    errand.pulled.deleted.update(uidl for release in due for uidl in release.uidls)
    errand.quay.releases.strike(errand.mailbox.name, due)


def give_up(errand: Errand) -> None:
    """Strike off what can never be settled: with AFTER=keep everything, else what lies in folders no longer pulled."""
    quay, mailbox = errand.quay, errand.mailbox
    if mailbox.after.action == "keep":
        quay.releases.strike_all(mailbox.name)
        return
    named = choose(mailbox.folders, ())
    others = quay.releases.elsewhere(mailbox.name, named, _until(errand), most=_AT_ONCE[mailbox.protocol])
    gone = [release for release in others if release.folder not in choose(mailbox.folders, [release.folder])]
    _strike(errand, gone, "its folder is no longer pulled")


def _due(errand: Errand, opened: Opened) -> list[Release]:
    """The releases that may be applied to the open folder now. Those of a former UIDVALIDITY are struck off."""
    quay, mailbox = errand.quay, errand.mailbox
    if mailbox.after.action == "keep":
        return []
    found = quay.releases.due(mailbox.name, opened.folder, _until(errand), most=_AT_ONCE[mailbox.protocol])
    # Under another UIDVALIDITY a uid means another message.
    former = [release for release in found if release.uidvalidity != opened.uidvalidity]
    _strike(errand, former, "the folder was renumbered")
    due = [release for release in found if release not in former]
    if mailbox.after_when == "delivered" and any(release.recognised for release in due) and _owes(errand):
        # Which of them an output still waits for cannot be told any more, so they wait for all.
        due = [release for release in due if not release.recognised]
    return due


def _owes(errand: Errand) -> bool:
    """Whether anything of the mailbox waits in the spool, for an output or for a person."""
    tickets = [*waiting_batches(errand.quay), *(ticket for ticket, _ in errand.quay.spool.failed())]
    return any(ticket.mailbox == errand.mailbox.name for ticket in tickets)


def _until(errand: Errand) -> int:
    return int(errand.quay.clock()) - errand.mailbox.after_days * 86400


def _apply(errand: Errand, source: Source, opened: Opened, due: Sequence[Release]) -> None:
    after = errand.mailbox.after
    uids = [uid for release in due for uid in release.uids]
    uidls = [uidl for release in due for uidl in release.uidls]
    if (uids or uidls) and (refs := source.find(opened, uids, uidls)):
        source.settle(refs, f"move:{after.folder}" if after.action == "move" else after.action)


def _strike(errand: Errand, releases: Sequence[Release], reason: str) -> None:
    if releases:
        messages = sum(release.messages for release in releases)
        log.info("settle.given_up", mailbox=errand.mailbox.name, messages=messages, reason=reason)
        errand.quay.releases.strike(errand.mailbox.name, releases)


def find(source: Source, opened: Opened, places: Sequence[Place]) -> list[Ref]:
    """Those of these messages that the server still has."""
    uids = [place.uid for place in places if place.uid]
    return source.find(opened, uids, [place.uidl for place in places if place.uidl])


def lies_in(place: Place, opened: Opened) -> bool:
    """Whether a place is in this very folder: under another UIDVALIDITY its uid means another message."""
    return place.folder == opened.folder and place.uidvalidity == opened.uidvalidity
