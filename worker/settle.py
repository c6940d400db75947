"""Settling: what deliver has noted is marked, moved or deleted on the server, in one command; told again without harm."""

from __future__ import annotations

from collections.abc import Sequence

from worker.checkpoint import Place
from worker.errand import Errand
from worker.sources import Opened, Ref, Source


def settle(errand: Errand, source: Source, opened: Opened) -> list[Place]:
    """Mark, move or delete what deliver has noted, in one command; the caller strikes it off after the session's end."""
    after = errand.mailbox.after
    if after.action == "keep":
        return []
    noted = errand.quay.checkpoints.to_settle(errand.mailbox.name)
    places = [place for place in noted if lies_in(place, opened)]
    if refs := find(source, opened, places):
        source.settle(refs, f"move:{after.folder}" if after.action == "move" else after.action)
    return places


def find(source: Source, opened: Opened, places: Sequence[Place]) -> list[Ref]:
    """Those of these messages that the server still has."""
    uids = [place.uid for place in places if place.uid]
    return source.find(opened, uids, [place.uidl for place in places if place.uidl])


def lies_in(place: Place, opened: Opened) -> bool:
    """Whether a place is in this very folder: under another UIDVALIDITY its uid means another message."""
    return place.folder == opened.folder and place.uidvalidity == opened.uidvalidity
