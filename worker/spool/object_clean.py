"""What dead processes left in an object store, and what was kept for long enough, is removed; what lost its pointer gets one.

Nothing is removed on the word of a listing alone, which may miss a batch that moves while it is made: raw messages go when
there is no record beside them, a record when it says that its batch is over. All else is put right, which does no harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import groupby, islice

from worker.spool.bucket import Bucket, Listed
from worker.spool.chains import Chains, newest
from worker.spool.notes import day
from worker.spool.record import READY, UNREADABLE, Pointer, Record, raw_key, record_key

_UNFINISHED_SECONDS = 3600.0
"""How old the last piece of a batch without a record is before its writer counts as dead, and how often that is looked for."""
_AT_ONCE = 5000
"""Kept batches removed by one call; a sweep is not to take minutes."""
_PLACES = ("ready", "parked", "failed", "kept")
_MARK = "cleaned"


class Cleaner:
    """Cleans a bucket. All methods raise SpoolUnavailable."""

    def __init__(self, bucket: Bucket, chains: Chains, *, keep: float, clock: Callable[[], float]) -> None:
        self._bucket = bucket
        self._chains = chains
        self._keep = keep
        self._clock = clock
        self._look_again_at = 0.0

    def clean(self) -> int:
        """Remove what may go; how many batches, or remains of one, went."""
        return self._replaced() + self._expired() + self._unfinished()

    def _replaced(self) -> int:
        """Remove older pointers of a batch, and generations that were replaced by one of another chain."""
        pointers: defaultdict[str, list[Pointer]] = defaultdict(list)
        for pointer in self._chains.pointers(READY):
            pointers[pointer.ticket.batch].append(pointer)
        gone = 0
        for found in pointers.values():
            if len(found) > 1:
                gone += self._sorted_out(found)
        return gone

    def _sorted_out(self, found: list[Pointer]) -> int:
        latest = {
            chain: max((one for one in found if one.chain == chain), key=lambda one: one.move)
            for chain in {one.chain for one in found}
        }
        self._chains.drop(one for one in found if one != latest[one.chain])
        (counts,) = newest(latest.values()).values()
        lower = [one for one in latest.values() if one.ticket.generation < counts.ticket.generation]
        # What is about to take the place of others must live itself.
        if not lower or self._chains.find(READY, counts.ticket) is None:
            return 0
        return sum(self._chains.end(READY, one.ticket) for one in lower)

    def _expired(self) -> int:
        """Remove what lies in days of `kept` that are wholly older than `keep`; nobody changes that any more."""
        last = day(int(self._clock() - self._keep))
        old = (
            pointer
            for date in self._bucket.folders("kept")
            if date < last
            for pointer in self._chains.pointers(f"kept/{date}")
        )
        found = list(islice(old, _AT_ONCE))
        for start in range(0, len(found), 300):
            keys: list[str] = []
            for pointer in found[start : start + 300]:
                # The pieces of a large one are then raw messages without a record.
                keys += [record_key(pointer.chain), raw_key(pointer.chain), pointer.key]
            self._bucket.delete(keys)
        return len(found)

    def _unfinished(self) -> int:
        """Once an hour, by whoever comes first: remove raw messages without a record, find records without a pointer."""
        now = self._clock()
        if now < self._look_again_at:
            return 0
        self._look_again_at = now + _UNFINISHED_SECONDS
        mark = self._bucket.get(_MARK)
        if mark is not None and now - mark.modified < _UNFINISHED_SECONDS:
            return 0
        self._bucket.put(_MARK, b"")
        self._bucket.delete(
            [one.key for one in self._bucket.listed("probe") if now - one.modified > _UNFINISHED_SECONDS]
        )
        pointed = {pointer.chain for place in _PLACES for pointer in self._chains.pointers(place)}
        nowhere = set(pointed)
        gone = 0
        for chain, found in groupby(self._bucket.listed("batches"), lambda one: one.key.split("/")[1]):
            nowhere.discard(chain)
            gone += self._looked_at(chain, list(found), now, pointed=chain in pointed)
        return gone + self._without_record(nowhere)

    def _without_record(self, chains: Collection[str]) -> int:
        """Put pointers right that a store wrote when their batch was over already."""
        if not chains:
            return 0
        old = [one for place in _PLACES for one in self._chains.pointers(place) if one.chain in chains]
        for pointer in old:
            self._chains.straighten(pointer, self._chains.read(pointer))
        return len(old)

    def _looked_at(self, chain: str, objects: list[Listed], now: float, *, pointed: bool) -> int:
        """Look at what there is of one chain."""
        if now - max(one.modified for one in objects) < _UNFINISHED_SECONDS:
            return 0
        if all(one.key != record_key(chain) for one in objects):
            return self._remove_unfinished(chain, objects)
        return 0 if pointed else self._found_again(chain, objects)

    def _remove_unfinished(self, chain: str, objects: list[Listed]) -> int:
        if self._bucket.get(record_key(chain)) is not None:
            return 0
        self._bucket.delete([one.key for one in objects])
        return 1

    def _found_again(self, chain: str, objects: list[Listed]) -> int:
        """Write the pointer of a record that has none, or bury it when its batch is over."""
        found = self._bucket.get(record_key(chain))
        if found is None:
            return 0
        if len(objects) == 1:
            # A record alone: its batch was over, or its writer gave up.
            self._bucket.delete([record_key(chain)])
            return 1
        # One that was overwritten is left for a person.
        with suppress(*UNREADABLE):
            self._chains.restore(chain, Record.loads(found.data), found.version)
        return 0
