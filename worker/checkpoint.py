"""Checkpoints: how far each folder of a mailbox has been handed over to the spool.

A checkpoint lives in Redis and moves only forward, only after the spool has the messages durably, and only under the
fence of a lease that is held: a stale one cannot move it. A copy (`export`) is kept beside the spool, because a flushed
Redis must not make an old mailbox look new. What was noted here too: messages to pull once more, and messages the server may now settle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from worker import state
from worker.errors import LeaseLost

_PLACES_SECONDS = 8 * 86400
"""Longer than a batch may owe something; what a crash leaves behind goes by itself."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one folder is: IMAP has `uidvalidity` and the highest `uid` done, POP3 the set of `uidls` done."""

    uidvalidity: int | None = None
    uid: int = 0
    uidls: frozenset[str] = field(default=frozenset(), repr=False)


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


class Checkpoints:
    """The checkpoints of all mailboxes."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def load(self, mailbox: str, folder: str) -> Checkpoint | None:
        """The checkpoint of a folder; None for one that was never pulled."""
        text = cast("str | None", self._client.hget(state.checkpoint_key(mailbox), f"folder:{folder}"))
        if text is None:
            return None
        uidvalidity, uid = orjson.loads(text)
        uidls = (
            cast("set[str]", self._client.smembers(state.uidls_key(mailbox))) if uidvalidity is None else ()
        )
        return Checkpoint(uidvalidity, uid, frozenset(uidls))

    def known(self, mailbox: str) -> frozenset[str]:
        """The folders of this mailbox that anything was ever recorded of (and not flushed since)."""
        fields = cast("list[str]", self._client.hkeys(state.checkpoint_key(mailbox)))
        return frozenset(name.removeprefix("folder:") for name in fields if name.startswith("folder:"))

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
        moved = self._client.register_script(state.MOVE_CHECKPOINT)(
            keys=[
                state.checkpoint_key(mailbox),
                state.uidls_key(mailbox),
                state.lease_key(state.mailbox_lease(mailbox)),
            ],
            args=[fence, f"folder:{folder}", orjson.dumps([uidvalidity, uid]), *uidls],
        )
        if not moved:
            raise LeaseLost(
                "the lease on it is not held any more; the next pull goes on from the last checkpoint",
                mailbox=mailbox,
            )

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
        folders = {
            name.removeprefix("folder:"): orjson.loads(text)
            for name, text in sorted(fields.items())
            if name.startswith("folder:")
        }
        return {"folders": folders, "uidls": sorted(uidls)}

    def restore(self, fence: int, mailbox: str, exported: Mapping[str, Any]) -> None:
        """Bring back what `export` gave: an older state only means repeats under the same ids.

        Raises:
            LeaseLost: the lease is not held any more.
        """
        for folder, (uidvalidity, uid) in exported["folders"].items():
            uidls = exported["uidls"] if uidvalidity is None else ()
            self.move(fence, mailbox, folder, uidvalidity=uidvalidity, uid=uid, uidls=uidls)

    def ask_again(self, mailbox: str, places: Iterable[Place]) -> None:
        """Note messages that the next pull must fetch once more."""
        self._add(state.again_key(mailbox), places)

    def to_pull_again(self, mailbox: str) -> list[Place]:
        """The messages noted by `ask_again`."""
        return self._places(state.again_key(mailbox))

    def pulled_again(self, mailbox: str, places: Iterable[Place]) -> None:
        """Strike messages off the list of `ask_again`."""
        self._remove(state.again_key(mailbox), places)

    def note_places(self, mailbox: str, batch: str, places: Iterable[Place]) -> None:
        """Keep a copy of where the messages of a batch lie: a file that was cut to nothing cannot tell it."""
        text = orjson.dumps([place.dumps() for place in places])
        self._client.set(state.places_key(mailbox, batch), text, ex=_PLACES_SECONDS)

    def places(self, mailbox: str, batch: str) -> list[Place]:
        """The copy that `note_places` keeps; empty when there is none (any more)."""
        text = cast("str | None", self._client.get(state.places_key(mailbox, batch)))
        return [Place.loads(place) for place in orjson.loads(text)] if text else []

    def forget_places(self, mailbox: str, batch: str) -> None:
        """Throw the copy away: the batch owes nothing any more."""
        self._client.delete(state.places_key(mailbox, batch))

    def may_settle(self, mailbox: str, places: Iterable[Place]) -> None:
        """Note messages that the server may now mark, move or delete."""
        self._add(state.settle_key(mailbox), places)

    def to_settle(self, mailbox: str) -> list[Place]:
        """The messages noted by `may_settle`, sorted."""
        return self._places(state.settle_key(mailbox))

    def settled(self, mailbox: str, places: Iterable[Place]) -> None:
        """Strike messages off the list of `may_settle`."""
        self._remove(state.settle_key(mailbox), places)

    def _add(self, key: str, places: Iterable[Place]) -> None:
        if texts := [place.dumps() for place in places]:
            self._client.sadd(key, *texts)

    def _remove(self, key: str, places: Iterable[Place]) -> None:
        if texts := [place.dumps() for place in places]:
            self._client.srem(key, *texts)

    def _places(self, key: str) -> list[Place]:
        return sorted(Place.loads(text) for text in cast("set[str]", self._client.smembers(key)))
