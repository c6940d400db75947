"""Checkpoints: how far each folder of a mailbox has been handed over to the spool.

A checkpoint lives in Redis and moves only forward, only after the spool has the messages durably, and only under the
fence of a lease that is held: a stale one cannot move it. A copy (`export`) is kept beside the spool, because a flushed
Redis must not make an old mailbox look new. What was noted here too: messages to pull once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date
from typing import Any, cast

import orjson

from worker import state
from worker.errors import LeaseLost
from worker.identity import imap_id, pop3_id

_PLACES_SECONDS = 8 * 86400
"""Longer than a batch may owe something; what a crash leaves behind goes by itself."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one folder is: IMAP has `uidvalidity` and the highest `uid` done, POP3 the set of `uidls` done.

    `recognise`: it was renumbered and is gone through for the first time since, so what comes may be known already.
    """

    uidvalidity: int | None = None
    uid: int = 0
    uidls: frozenset[str] = field(default=frozenset(), repr=False)
    recognise: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where one message lies on its server: (folder, uidvalidity, uid) or a UIDL. `id` is its message id."""

    folder: str
    id: str
    uidvalidity: int | None = None
    uid: int | None = None
    uidl: str | None = None

    def dumps(self) -> str:
        """One line of JSON; equal places give equal text, so a Redis set holds each once."""
        return orjson.dumps([self.folder, self.id, self.uidvalidity, self.uid, self.uidl]).decode()

    @classmethod
    def loads(cls, text: str) -> Place:
        """The place that `dumps` wrote."""
        return cls(*orjson.loads(text))


@dataclass(frozen=True, slots=True)
class Backfill:
    """What of one folder is still to be gone back over, from the newest down: the uids `low` to `high` of IMAP.

    `top` is where `high` began. POP3 has no `uidvalidity`, and counts messages instead of uids. `since` says what was
    asked for; `messages` and `octets` are what came so far.
    """

    uidvalidity: int | None
    low: int
    high: int
    top: int
    since: str
    messages: int = 0
    octets: int = 0

    @property
    def share(self) -> float:
        """How much of the way is done, from 0 to 1."""
        return (self.top - self.high) / max(self.top - self.low + 1, 1)


def ranges(uids: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as ranges, both ends counted, rising: 1, 2, 3, 7 are (1, 3) and (7, 7)."""
    found: list[tuple[int, int]] = []
    for uid in sorted(uids):
        if found and found[-1][1] == uid - 1:
            found[-1] = (found[-1][0], uid)
        else:
            found.append((uid, uid))
    return found


class Checkpoints:
    """The checkpoints of all mailboxes."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def load(self, mailbox: str, folder: str) -> Checkpoint | None:
        """The checkpoint of a folder; None for one that was never pulled."""
        names = [f"folder:{folder}", f"recognise:{folder}"]
        text, mark = cast("list[str | None]", self._client.hmget(state.checkpoint_key(mailbox), names))
        if text is None:
            return None
        uidvalidity, uid = orjson.loads(text)
        uidls = (
            cast("set[str]", self._client.smembers(state.uidls_key(mailbox))) if uidvalidity is None else ()
        )
        recognise = mark is not None and orjson.loads(mark) == uidvalidity
        return Checkpoint(uidvalidity, uid, frozenset(uidls), recognise)

    def begun(self, mailbox: str, folder: str) -> date | None:
        """The day before which nothing of this folder is wanted, by SINCE or by a backfill; None when all of it is."""
        text = cast("str | None", self._client.hget(state.checkpoint_key(mailbox), f"begun:{folder}"))
        return date.fromisoformat(orjson.loads(text)) if text else None

    def note_begun(self, fence: int, mailbox: str, folder: str, day: date) -> None:
        """Record the day before which nothing of a folder is wanted.

        Raises:
            LeaseLost: the lease is not held any more.
        """
        self._write(fence, mailbox, f"begun:{folder}", day)

    def reach_back(self, fence: int, mailbox: str, folder: str, day: date | None) -> None:
        """What came since `day`, or all, is wanted now; a later day changes nothing.

        Raises:
            LeaseLost: the lease is not held any more.
        """
        if day is None:
            self._client.hdel(state.checkpoint_key(mailbox), f"begun:{folder}")
        elif (begun := self.begun(mailbox, folder)) and day < begun:
            self.note_begun(fence, mailbox, folder, day)

    def recognise(self, mailbox: str, folder: str, uidvalidity: int | None) -> None:
        """Note that a folder was renumbered, before its checkpoint says so; `recognised` ends it."""
        self._client.hset(
            state.checkpoint_key(mailbox), f"recognise:{folder}", orjson.dumps(uidvalidity).decode()
        )

    def recognised(self, mailbox: str, folder: str) -> None:
        """A renumbered folder was gone through: from now on what comes is new."""
        self._client.hdel(state.checkpoint_key(mailbox), f"recognise:{folder}")

    def known(self, mailbox: str) -> frozenset[str]:
        """The folders of this mailbox that anything was ever recorded of (and not flushed since)."""
        return frozenset(self._fields(mailbox, "folder:"))

    def looked_up(self, mailbox: str) -> frozenset[str]:
        """The patterns of FOLDERS whose folders have all begun: what fits one of them later is new."""
        return frozenset(self._fields(mailbox, "pattern:"))

    def note_looked_up(self, fence: int, mailbox: str, patterns: Iterable[str]) -> None:
        """Record that every folder that fits these patterns now has a checkpoint.

        Raises:
            LeaseLost: the lease is not held any more.
        """
        for pattern in patterns:
            self._write(fence, mailbox, f"pattern:{pattern}", 1)

    def vanished(self, mailbox: str, gone: Collection[str]) -> frozenset[str]:
        """Which of the folders that the server no longer lists nobody was told of yet; from now on they were told."""
        told = self._fields(mailbox, "gone:").keys()
        new = set(gone) - told
        if new:
            self._client.hset(state.checkpoint_key(mailbox), mapping={f"gone:{name}": 1 for name in new})
        if back := told - set(gone):
            self._client.hdel(state.checkpoint_key(mailbox), *(f"gone:{name}" for name in back))
        return frozenset(new)

    def backfills(self, mailbox: str) -> dict[str, Backfill]:
        """What is still to be gone back over, by folder."""
        return {
            folder: Backfill(*orjson.loads(text))
            for folder, text in sorted(self._fields(mailbox, "backfill:").items())
        }

    def backfilled(self, mailbox: str) -> frozenset[str]:
        """The UIDLs that the backfill of a POP3 mailbox is done with."""
        return frozenset(cast("set[str]", self._client.smembers(state.backfilled_key(mailbox))))

    def move_backfill(
        self, fence: int, mailbox: str, folder: str, going: Backfill, *, uidls: Sequence[str] = ()
    ) -> None:
        """Record how far a backfill is, or begin one; `uidls` are added to those that it is done with.

        Raises:
            LeaseLost: the lease is not held any more.
        """
        key = state.backfilled_key(mailbox)
        self._write(fence, mailbox, f"backfill:{folder}", astuple(going), uidls=uidls, uidls_key=key)

    def end_backfill(self, mailbox: str, folder: str) -> None:
        """Forget a backfill: it is done, or a person does not want it any more."""
        self._client.hdel(state.checkpoint_key(mailbox), f"backfill:{folder}")
        self._client.delete(state.backfilled_key(mailbox))

    def move(
        self,
        fence: int,
        mailbox: str,
        folder: str,
        *,
        uidvalidity: int | None,
        uid: int = 0,
        uidls: Sequence[str] = (),
    ) -> None:
        """Record that everything up to `uid`, or these `uidls`, is durably in the spool.

        Raises:
            LeaseLost: `fence` is not that of the lease on the mailbox; nothing was recorded.
        """
        self._write(fence, mailbox, f"folder:{folder}", [uidvalidity, uid], uidls=uidls)

    def forget_uidls(self, fence: int, mailbox: str, uidls: Sequence[str]) -> None:
        """Forget UIDLs that the server no longer lists, so that the set does not grow for ever."""
        if uidls:
            self._client.register_script(state.FORGET_UIDLS)(
                keys=[state.uidls_key(mailbox), state.lease_key(state.mailbox_lease(mailbox))],
                args=[fence, *uidls],
            )

    def export(self, mailbox: str) -> dict[str, Any]:
        """Everything `restore` needs, as plain JSON; no folders when there is nothing (any more) to keep."""
        # The set comes first: if Redis is flushed in between, there are no folders, and not folders without their set.
        uidls = cast("set[str]", self._client.smembers(state.uidls_key(mailbox)))
        fields = cast("dict[str, str]", self._client.hgetall(state.checkpoint_key(mailbox)))
        exported: dict[str, Any] = {"folders": {}, "uidls": sorted(uidls)}
        for kind, whole in (
            ("folder:", "folders"),
            ("begun:", "begun"),
            ("pattern:", "patterns"),
            ("backfill:", "backfills"),
        ):
            found = {
                name.removeprefix(kind): orjson.loads(text)
                for name, text in sorted(fields.items())
                if name.startswith(kind)
            }
            if found:
                exported[whole] = found
        return exported

    def restore(self, fence: int, mailbox: str, exported: Mapping[str, Any]) -> None:
        """Bring back what `export` gave: an older state only means repeats under the same ids.

        Raises:
            LeaseLost: the lease is not held any more.
        """
        for folder, (uidvalidity, uid) in exported["folders"].items():
            uidls = exported["uidls"] if uidvalidity is None else ()
            self.move(fence, mailbox, folder, uidvalidity=uidvalidity, uid=uid, uidls=uidls)
        for folder, day in exported.get("begun", {}).items():
            self.note_begun(fence, mailbox, folder, date.fromisoformat(day))
        self.note_looked_up(fence, mailbox, exported.get("patterns", ()))
        for folder, going in exported.get("backfills", {}).items():
            self.move_backfill(fence, mailbox, folder, Backfill(*going))

    def ask_again(self, mailbox: str, places: Iterable[Place]) -> None:
        """Note messages that the next pull must fetch once more."""
        self._add(state.again_key(mailbox), places)

    def to_pull_again(self, mailbox: str) -> list[Place]:
        """The messages noted by `ask_again`."""
        return self._places(state.again_key(mailbox))

    def pulled_again(self, mailbox: str, places: Iterable[Place]) -> None:
        """Strike messages off the list of `ask_again`."""
        self._remove(state.again_key(mailbox), places)

    def note_places(self, mailbox: str, batch: str, places: Sequence[Place]) -> None:
        """Keep a copy of where the messages of a batch lie, all in one folder: a file cut to nothing cannot tell it.

        Ids follow from places, and uids that follow each other are one range: at times a hundred thousand batches wait.
        """
        uids = ranges(place.uid for place in places if place.uid)
        uidls = [place.uidl for place in places if place.uidl]
        noted = [places[0].folder, places[0].uidvalidity, uids, uidls]
        self._client.set(state.places_key(mailbox, batch), orjson.dumps(noted), ex=_PLACES_SECONDS)

    def places(self, mailbox: str, batch: str) -> list[Place]:
        """The copy that `note_places` keeps; empty when there is none (any more)."""
        text = cast("str | None", self._client.get(state.places_key(mailbox, batch)))
        if text is None:
            return []
        folder, uidvalidity, uids, uidls = orjson.loads(text)
        return [
            *(
                Place(folder, imap_id(mailbox, folder, uidvalidity, uid), uidvalidity, uid)
                for first, last in uids
                for uid in range(first, last + 1)
            ),
            *(Place(folder, pop3_id(mailbox, uidl), uidvalidity, uidl=uidl) for uidl in uidls),
        ]

    def forget_places(self, mailbox: str, batch: str) -> None:
        """Throw the copy away: the batch owes nothing any more."""
        self._client.delete(state.places_key(mailbox, batch))

    def _fields(self, mailbox: str, kind: str) -> dict[str, str]:
        """The fields of one kind, without it in their names."""
        fields = cast("dict[str, str]", self._client.hgetall(state.checkpoint_key(mailbox)))
        return {name.removeprefix(kind): text for name, text in fields.items() if name.startswith(kind)}

    def _write(
        self,
        fence: int,
        mailbox: str,
        name: str,
        value: object,
        *,
        uidls: Sequence[str] = (),
        uidls_key: str | None = None,
    ) -> None:
        """Write one field under the fence, and add UIDLs to their set."""
        written = self._client.register_script(state.MOVE_CHECKPOINT)(
            keys=[
                state.checkpoint_key(mailbox),
                uidls_key or state.uidls_key(mailbox),
                state.lease_key(state.mailbox_lease(mailbox)),
            ],
            args=[fence, name, orjson.dumps(value), *uidls],
        )
        if not written:
            raise LeaseLost(
                "the lease on it is not held any more; the next pull goes on from the last checkpoint",
                mailbox=mailbox,
            )

    def _add(self, key: str, places: Iterable[Place]) -> None:
        if texts := [place.dumps() for place in places]:
            self._client.sadd(key, *texts)

    def _remove(self, key: str, places: Iterable[Place]) -> None:
        if texts := [place.dumps() for place in places]:
            self._client.srem(key, *texts)

    def _places(self, key: str) -> list[Place]:
        return sorted(Place.loads(text) for text in cast("set[str]", self._client.smembers(key)))
