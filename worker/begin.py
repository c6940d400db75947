"""Where a folder begins, and how that survives a flushed Redis: checkpoints recorded, remembered, brought back.

A new folder begins where SINCE says, and a folder that appears later at its first message, because all that is in it is
new. What is recorded here stands before any message is fetched, and durably beside the spool before it stands in Redis.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import astuple, replace
from datetime import timedelta

import structlog

from worker.checkpoint import Backfill, Checkpoint
from worker.errand import Errand
from worker.errors import Misconfigured
from worker.folders import patterns, plain
from worker.recognise import renamed
from worker.sources import Opened, Source

log = structlog.get_logger("pull")

_MANY = 5_000
"""A new folder with more messages than this is gone back over from the newest down, beside the pulling of new mail.

So many come within minutes from any server; behind many more, new mail would wait for hours."""


def recall(errand: Errand) -> None:
    """Bring checkpoints back that a flushed Redis has lost: else an old mailbox would look new and skip its mail."""
    quay, name, folders = errand.quay, errand.mailbox.name, errand.mailbox.folders
    known = quay.checkpoints.known(name)
    unknown = set(plain(folders)) - known
    if not unknown and not (patterns(folders) and not known):
        return
    note = quay.spool.recall(name)
    if note and (lost := {folder: at for folder, at in note["folders"].items() if folder not in known}):
        log.warning(
            "checkpoint.restored", mailbox=name, reason="Redis had lost it; repeats carry the same ids"
        )
        rest = {} if known else note
        quay.checkpoints.restore(errand.lease.fence, name, {**rest, "folders": lost, "uidls": note["uidls"]})


def remember(errand: Errand) -> None:
    """Keep a copy of the checkpoints beside the spool, unless Redis was flushed meanwhile: then the old copy counts."""
    exported = errand.quay.checkpoints.export(errand.mailbox.name)
    if exported["folders"]:
        errand.quay.spool.remember(errand.mailbox.name, exported)


def checkpoint(errand: Errand, source: Source, opened: Opened, *, appeared: bool = False) -> Checkpoint:
    """How far this folder is; a new one begins where SINCE says, and that is recorded before anything else.

    `appeared`: it was not there when its pattern was first looked up, so SINCE=now skips nothing of it.
    """
    quay, mailbox = errand.quay, errand.mailbox
    found = quay.checkpoints.load(mailbox.name, opened.folder)
    if found and found.uidvalidity == opened.uidvalidity:
        return found
    begun, going = Checkpoint(opened.uidvalidity), None
    if found:
        # RFC 3501 section 2.3.1.1: the old uids mean nothing any more. All that is wanted is listed again, so that
        # nothing is lost.
        log.warning("folder.renumbered", mailbox=mailbox.name, folder=opened.folder, reason="new UIDVALIDITY")
        day = quay.checkpoints.begun(mailbox.name, opened.folder)
        begun = replace(begun, uid=source.start(opened, day)[0] if day else 0, recognise=mailbox.recognize)
        if mailbox.recognize:
            quay.checkpoints.recognise(mailbox.name, opened.folder, opened.uidvalidity)
    elif not (appeared and mailbox.since.kind == "now"):
        begun, going = _beginning(errand, source, opened)
    _record(errand, opened.folder, begun, going)
    return begun


def renumbered(errand: Errand, source: Source, opened: Opened, at: Checkpoint) -> Checkpoint:
    """Where to go on, and whether what comes may have been handed over under another number.

    It stays so until the folder was gone through once. A maildrop has no UIDVALIDITY to say it, but its UIDLs all change.
    """
    mailbox, checkpoints = errand.mailbox, errand.quay.checkpoints
    if not mailbox.recognize or at.recognise or opened.uidvalidity is not None:
        return replace(at, recognise=mailbox.recognize and at.recognise)
    # What Mailquay has deleted itself is gone, and says nothing of the others.
    known = at.uidls - errand.pulled.deleted
    gone = source.gone(opened, known)
    if not renamed(known=len(known), gone=len(gone), listed=opened.exists):
        return at
    log.warning("folder.renumbered", mailbox=mailbox.name, folder=opened.folder, reason="most UIDLs are new")
    checkpoints.recognise(mailbox.name, opened.folder, None)
    skipped = frozenset[str]()
    if day := checkpoints.begun(mailbox.name, opened.folder):
        with suppress(Misconfigured):
            # Without TOP the server tells no dates; then what SINCE had skipped comes as well.
            _, skipped = source.start(opened, day)
    checkpoints.move(
        errand.lease.fence, mailbox.name, opened.folder, uidvalidity=None, uidls=sorted(skipped - at.uidls)
    )
    return replace(at, uidls=at.uidls | skipped, recognise=True)


def _beginning(errand: Errand, source: Source, opened: Opened) -> tuple[Checkpoint, Backfill | None]:
    """The checkpoint of a new folder by SINCE, and what is gone back over besides when that is much."""
    since = errand.mailbox.since
    uid, uidls = 0, frozenset[str]()
    if since.kind != "all":
        start = since.start(errand.quay.now())
        uid, uidls = source.start(opened, start.date() if start and since.kind != "now" else None)
        if start:
            # Servers count days in a zone of their own.
            day = start.date() - timedelta(days=1)
            errand.quay.checkpoints.note_begun(errand.lease.fence, errand.mailbox.name, opened.folder, day)
    begun = Checkpoint(opened.uidvalidity, uid, uidls)
    if opened.uidvalidity is None or opened.exists <= _MANY or since.kind == "now":
        return begun, None
    last, _ = source.start(opened, None)
    if last <= uid:
        return begun, None
    log.info("backfill.begun", mailbox=errand.mailbox.name, folder=opened.folder, messages=opened.exists)
    return Checkpoint(opened.uidvalidity, last), Backfill(opened.uidvalidity, uid + 1, last, last, "SINCE")


def _record(errand: Errand, folder: str, begun: Checkpoint, going: Backfill | None) -> None:
    checkpoints, name = errand.quay.checkpoints, errand.mailbox.name
    # The note comes first: were Redis flushed between the two, SINCE=now would begin later and skip mail.
    note = checkpoints.export(name)
    note["folders"][folder] = [begun.uidvalidity, begun.uid]
    note["uidls"] = sorted({*note["uidls"], *begun.uidls})
    if going:
        note.setdefault("backfills", {})[folder] = astuple(going)
    errand.quay.spool.remember(name, note)
    if going:
        # The checkpoint is about to pass what only the backfill knows of.
        checkpoints.move_backfill(errand.lease.fence, name, folder, going)
    checkpoints.move(
        errand.lease.fence, name, folder,
        uidvalidity=begun.uidvalidity, uid=begun.uid, uidls=sorted(begun.uidls),
    )  # fmt: skip
