"""Backfill: going back over a folder from the newest message down, a turn at a time, beside the pulling of new mail.

What is still to be gone back over stands in Redis, with a copy beside the spool, and is moved only behind durable
batches (promise P1), so it can be killed at any line and goes on. Messages have the ids they always have: what outputs
have already they recognise. The checkpoint of new mail is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date

import structlog

from worker.begin import checkpoint, recall, remember
from worker.bring import bring
from worker.checkpoint import Backfill
from worker.errand import Errand
from worker.folders import choose
from worker.sources import NoSuchFolder, Opened, Ref, Source, grouped

log = structlog.get_logger("pull")

_TURN_SECONDS = 30.0
"""A turn ends behind the batches in hand after so long, and new mail is looked for."""
_AT_ONCE = 512
"""Messages between two moves of the backfill: what a death costs in repeats."""

Clock = Callable[[], float]


def go_back(errand: Errand, source: Source, *, clock: Clock = time.monotonic) -> bool:
    """Take one turn at a backfill of the mailbox; whether another turn may follow in this session.

    When the deadline came with something left, the pull says `more`.
    """
    for folder, todo in errand.quay.checkpoints.backfills(errand.mailbox.name).items():
        # A folder that cannot be opened may come back, with all that is still to be had of it.
        if opened := _opened(source, folder):
            turn = min(_TURN_SECONDS, errand.mailbox.every.seconds or _TURN_SECONDS)
            _take_turn(errand, source, opened, todo, until=min(clock() + turn, errand.deadline), clock=clock)
            left = bool(errand.quay.checkpoints.backfills(errand.mailbox.name))
            # A POP3 session does not see what comes after it began.
            errand.pulled.more = left and (clock() > errand.deadline or opened.uidvalidity is None)
            return left and not errand.pulled.more
    return False


def ask(errand: Errand, source: Source, folder: str, since: date | None, *, word: str) -> Backfill | None:
    """Note that a folder is to be gone back over `since` a day, or all of it; None when there is nothing in it.

    One that was asked for in the same `word` and has not ended goes on where it is.
    """
    checkpoints, name = errand.quay.checkpoints, errand.mailbox.name
    recall(errand)
    opened = source.open(folder, writable=False)
    if folder in choose(errand.mailbox.folders, [folder]):
        last = checkpoint(errand, source, opened).uid
    else:
        # Nobody pulls what is new in it, so there is no checkpoint to stop at.
        last, _ = source.start(opened, None)
    going = checkpoints.backfills(name).get(folder)
    if going and going.uidvalidity == opened.uidvalidity and going.since == word:
        return going
    uid, uidls = source.start(opened, since) if since else (0, frozenset[str]())
    low, high = (1, opened.exists - len(uidls)) if opened.uidvalidity is None else (uid + 1, last)
    if going and going.since == "SINCE":
        # What the beginning of the mailbox still owes must not be forgotten over a shorter wish.
        low = min(low, going.low)
    checkpoints.end_backfill(name, folder)
    checkpoints.reach_back(errand.lease.fence, name, folder, since)
    if high < low:
        return None
    asked = Backfill(opened.uidvalidity, low, high, high, word)
    checkpoints.move_backfill(errand.lease.fence, name, folder, asked, uidls=sorted(uidls))
    remember(errand)
    return asked


def _take_turn(
    errand: Errand, source: Source, opened: Opened, todo: Backfill, *, until: float, clock: Clock
) -> None:
    """Fetch from the newest down until the time is up or nothing is left."""
    checkpoints, name, folder = errand.quay.checkpoints, errand.mailbox.name, opened.folder
    if opened.uidvalidity != todo.uidvalidity:
        # Under a new UIDVALIDITY the pull of new mail begins at the first message anyway.
        log.warning("backfill.dropped", mailbox=name, folder=folder, reason="the folder was renumbered")
        checkpoints.end_backfill(name, folder)
        return
    seen = checkpoints.backfilled(name) if opened.uidvalidity is None else frozenset[str]()
    patient = replace(errand, deadline=float("inf"))
    for window in source.back(opened, low=todo.low, high=todo.high, seen=seen):
        for refs in _slices(errand, window):
            before = errand.pulled.messages, errand.pulled.octets
            bring(patient, source, opened, refs, again=True)
            todo = replace(
                todo,
                high=refs[0].uid - 1 if refs[0].uid else todo.high - len(refs),
                messages=todo.messages + errand.pulled.messages - before[0],
                octets=todo.octets + errand.pulled.octets - before[1],
            )
            uidls = [ref.uidl for ref in refs if ref.uidl]
            checkpoints.move_backfill(errand.lease.fence, name, folder, todo, uidls=uidls)
            errand.pulled.gone_back[folder] = todo
            if clock() > until and todo.high >= todo.low:
                return
    errand.lease.check()
    checkpoints.end_backfill(name, folder)
    log.info("backfill.finished", mailbox=name, folder=folder, messages=todo.messages, octets=todo.octets)


def _opened(source: Source, folder: str) -> Opened | None:
    try:
        return source.open(folder, writable=False)
    except NoSuchFolder:
        return None


def _slices(errand: Errand, window: Sequence[Ref]) -> Iterator[list[Ref]]:
    """A window from its newest message down, in slices that ascend in themselves."""
    octets = 4 * errand.quay.settings.batch_size
    for refs in grouped(window[::-1], messages=_AT_ONCE, octets=octets):
        yield refs[::-1]
