"""The route of one pull: which folders it goes through, and what of those that appear, vanish or cannot be opened.

A plain list of folders costs no round trip. Patterns cost a LIST a pull, so a folder that appears is pulled at once. One
folder that is missing stops no other (promise P5): it is said in the mailbox's standing, and logged once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from worker.begin import checkpoint, remember
from worker.checkpoint import Checkpoint
from worker.errand import Errand
from worker.folders import choose, excluded, fitting, patterns
from worker.sources import NoSuchFolder, Opened, Source

log = structlog.get_logger("pull")


@dataclass(frozen=True, slots=True)
class Call:
    """A folder to call at. `appeared`: it was not there when its pattern was first looked up."""

    folder: str
    named: bool = True
    appeared: bool = False


def calls(errand: Errand, source: Source) -> list[Call]:
    """The folders of one pull, in the order of FOLDERS."""
    mailbox, checkpoints = errand.mailbox, errand.quay.checkpoints
    if not patterns(mailbox.folders):
        return [Call(folder) for folder in choose(mailbox.folders, ())]
    # What was moved away after its hand-over must not come in again.
    there = [
        folder.name
        for folder in source.folders()
        if mailbox.after.folder not in {folder.name, folder.spelled}
    ]
    chosen = choose(mailbox.folders, there)
    _tell_of_vanished(errand, there)
    looked_up = checkpoints.looked_up(mailbox.name)
    route = [Call(folder, not by, appeared=bool(by & looked_up)) for folder, by in chosen.items()]
    if new := set(patterns(mailbox.folders)) - looked_up:
        # All begin before the first is pulled: what appears while that takes hours is new, and SINCE=now keeps it.
        for _ in opened(errand, source, route):
            pass
        checkpoints.note_looked_up(errand.lease.fence, mailbox.name, sorted(new))
        remember(errand)
    return route


def opened(errand: Errand, source: Source, route: list[Call]) -> Iterator[tuple[Opened, Checkpoint]]:
    """Open the folders one after the other, each with how far it is; what cannot be opened is passed over.

    Raises:
        NoSuchFolder: not one of them is there.
    """
    writable = errand.mailbox.after.action != "keep"
    missing: dict[str, NoSuchFolder] = {}
    for call in route:
        try:
            there = source.open(call.folder, writable=writable)
        except NoSuchFolder as error:
            missing[call.folder] = error
            if not call.named:
                # It was listed a moment ago; when it stays away, the next listing tells.
                log.info("folder.vanished", mailbox=errand.mailbox.name, folder=call.folder)
            continue
        yield there, checkpoint(errand, source, there, appeared=call.appeared)
    if len(missing) == len(route):
        raise _nothing_there(errand, missing)
    errand.pulled.missing = _said(
        errand, [call.folder for call in route if call.named and call.folder in missing]
    )


def _nothing_there(errand: Errand, missing: dict[str, NoSuchFolder]) -> NoSuchFolder:
    """What is said when no folder can be pulled at all."""
    if missing:
        return next(iter(missing.values()))
    host = errand.mailbox.endpoint.host
    return NoSuchFolder(
        f"{host} has no folder that FOLDERS fits. Check FOLDERS, and what the account may see"
    )


def _said(errand: Errand, missing: list[str]) -> NoSuchFolder | None:
    """One sentence for all folders that a person has named and that are not there, the same at every pull."""
    if not missing:
        return None
    names = ", ".join(missing)
    host = errand.mailbox.endpoint.host
    return NoSuchFolder(f"{host} does not open {names}; the other folders are pulled. Check FOLDERS")


def _tell_of_vanished(errand: Errand, there: list[str]) -> None:
    """Log a folder that fits a pattern, was pulled before and is gone, once. Its checkpoint stays, should it come back."""
    folders, name = errand.mailbox.folders, errand.mailbox.name
    known = errand.quay.checkpoints.known(name) - set(there)
    fit = {folder for word in patterns(folders) for folder in fitting(word, known)}
    without = {folder for word in excluded(folders) for folder in fitting(word, known)}
    for folder in sorted(errand.quay.checkpoints.vanished(name, fit - without)):
        log.warning("folder.vanished", mailbox=name, folder=folder, reason="the server no longer lists it")
