"""How a batch moves in an object store: who may change it, and how everybody finds it, whoever dies where.

Only the record counts, and it is only changed by a swap, so of several processes that begin, postpone or finish a batch
exactly one succeeds, however long any of them slept: a late one's version is of the past. Pointers follow: behind each
swap the new pointer is written and then the old one deleted, so at any time a batch that lives has one. A pointer that does
not say what the record says is old; whoever comes upon it writes the right one first, then deletes it, which a mover that
died has left undone. A pointer's name is used once, so a deletion that comes late meets nobody else's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from worker.spool import Ticket
from worker.spool.bucket import Bucket, Version
from worker.spool.record import OVER, UNREADABLE, Pointer, Raw, Record, raw_keys, record_key

_KNOWN = 256
"""Chains that a process remembers, so that whoever began a batch need not look for it again."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A batch as it was read: what its record said, in which version."""

    id: str
    record: Record
    version: Version

    @property
    def key(self) -> str:
        """Where the record lies."""
        return record_key(self.id)

    @property
    def pointer(self) -> Pointer:
        """The pointer that says what the record says."""
        return Pointer(self.record.place, self.record.ticket, self.id, self.record.move)


class Chains:
    """The batches in a bucket. All methods raise SpoolUnavailable."""

    def __init__(self, bucket: Bucket, *, name: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._bucket = bucket
        self._name = name
        self._known: dict[tuple[str, Ticket], Chain] = {}

    def start(self, id_: str, record: Record) -> None:
        """Make a batch durable and visible whose raw messages are there."""
        record = replace(record, stamp=self._name().hex)
        chain = Chain(id_, record, self._bucket.create(record_key(id_), record.dumps()))
        self._bucket.put(chain.pointer.key, b"")
        self._remember(chain)

    def pointers(self, folder: str) -> Iterator[Pointer]:
        """What a listing of a place shows, or of all places below a folder."""
        for found in self._bucket.listed(folder):
            if pointer := Pointer.parse(found.key):
                yield pointer

    def find(self, place: str, ticket: Ticket) -> Chain | None:
        """The batch that waits at a place under a ticket; None when it is gone."""
        if known := self._known.get((place, ticket)):
            return known
        for pointer in list(self.pointers(f"{place}/{ticket}")):
            chain = self.read(pointer)
            if chain is not None and chain.pointer == pointer:
                return chain
            self.straighten(pointer, chain)
        return None

    def read(self, pointer: Pointer) -> Chain | None:
        """What counts of the batch that a pointer is of; None when the batch is over.

        Of a record that somebody overwrote only what the pointer tells is left.
        """
        found = self._bucket.get(record_key(pointer.chain))
        if found is None:
            return None
        try:
            record = Record.loads(found.data)
        except UNREADABLE:
            keys = [one.key for one in self._bucket.listed(f"batches/{pointer.chain}")]
            pieces = sum(".zip." in key for key in keys)
            record = Record(pointer.place, pointer.ticket, None, Raw(pieces=pieces), pointer.move)
        return Chain(pointer.chain, record, found.version)

    def move(self, place: str, ticket: Ticket, *, to: str, under: Ticket, **changes: Any) -> bool:
        """Move a batch to a place, under another ticket, with `changes` in its record; False when another was faster."""
        chain = self.find(place, ticket)
        if chain is None:
            return False
        record = replace(
            chain.record,
            place=to,
            ticket=under,
            move=chain.record.move + 1,
            stamp=self._name().hex,
            **changes,
        )
        version = self._bucket.swap(chain.key, record.dumps(), chain.version)
        self._known.pop((place, ticket), None)
        if version is None:
            return False
        moved = Chain(chain.id, record, version)
        if to == OVER:
            self._bury(moved, chain.pointer)
        else:
            self._bucket.put(moved.pointer.key, b"")
            self._bucket.delete([chain.pointer.key])
            self._remember(moved)
        return True

    def end(self, place: str, ticket: Ticket) -> bool:
        """Take a batch out for good; False when another process has taken it over, or out."""
        return self.move(place, ticket, to=OVER, under=ticket)

    def straighten(self, pointer: Pointer, chain: Chain | None) -> None:
        """Put an old pointer right: finish what a process that died has begun to do to its batch, which is `chain`."""
        if chain is None:
            self._bucket.delete([pointer.key])
        elif chain.record.place == OVER:
            self._bury(chain, pointer)
        else:
            self._bucket.put(chain.pointer.key, b"")
            self._bucket.delete([pointer.key])

    def restore(self, id_: str, record: Record, version: Version) -> None:
        """Write the pointer of a batch that has none, or remove what is left of one that is over."""
        chain = Chain(id_, record, version)
        if record.place == OVER:
            self._bury(chain, chain.pointer)
        else:
            self._bucket.put(chain.pointer.key, b"")

    def drop(self, pointers: Iterable[Pointer]) -> None:
        """Delete pointers that are known to be old."""
        self._bucket.delete([pointer.key for pointer in pointers])

    def _bury(self, chain: Chain, pointer: Pointer) -> None:
        """Remove the objects of a batch that is over. What a death leaves of them, `clean` finds."""
        self._bucket.delete([*raw_keys(chain.id, chain.record.raw.pieces), chain.key, pointer.key])

    def _remember(self, chain: Chain) -> None:
        self._known[chain.record.place, chain.record.ticket] = chain
        while len(self._known) > _KNOWN:
            self._known.pop(next(iter(self._known)), None)


def newest(pointers: Iterable[Pointer]) -> dict[str, Pointer]:
    """Of each batch the pointer that counts."""
    found: dict[str, Pointer] = {}
    for pointer in pointers:
        batch = pointer.ticket.batch
        if batch not in found or pointer.order > found[batch].order:
            found[batch] = pointer
    return found
