"""The spool in an object store, for several machines: S3 and what speaks like it, Google's, Azure's.

`commit` returns when the store has answered for raw messages, record and pointer (promise P1). How a batch moves, and why
exactly one of several processes moves it, is told in `chains`; the names of objects in `record`. Leases in Redis save work
here, too, but nothing hangs on them. A repeat under the same ids is possible where it is in the file spool, and where a
store that answers too late does in the end what was given up.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.errors import LeaseLost, SpoolFull
from worker.spool import Batch, OpenBatch, Ticket
from worker.spool.bucket import Bucket
from worker.spool.chains import Chain, Chains, newest
from worker.spool.notes import day
from worker.spool.object_batch import ObjectBatch, ObjectBatchWriter, opened
from worker.spool.object_clean import Cleaner
from worker.spool.object_notes import ObjectNotes
from worker.spool.record import FAILED, KEPT, READY

_MEASURED_SHARE = 50
"""The spool is measured no more often than that it takes one part in so many of the time."""


class ObjectSpool(ObjectNotes):
    """A spool in a bucket. All methods raise SpoolUnavailable, which is a SpoolFull, when the store does not answer.

    Pulling stops while more than `spool_max` octets wait. What was delivered stays for `keep` seconds. `scratch` is a folder
    for large batches that are being read.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        scratch: Path,
        spool_max: int | None = None,
        keep: float = 0,
        clock: Callable[[], float],
        name: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        super().__init__(bucket)
        self._chains = Chains(bucket, name=name)
        self._cleaner = Cleaner(bucket, self._chains, keep=keep, clock=clock)
        self._scratch = scratch
        self._spool_max = spool_max
        self._keep = keep
        self._clock = clock
        self._name = name
        self._measured, self._measure_again_at = 0, 0.0

    def new(self, plan: Batch) -> ObjectBatchWriter:
        """Begin a batch; nothing is asked of the store yet."""
        return ObjectBatchWriter(self._bucket, self._chains, plan, name=self._name)

    def tickets(self) -> list[Ticket]:
        """Every batch in `ready`, soonest due first; of several pointers of a batch only the newest."""
        return self._waiting(READY)

    def begin(self, ticket: Ticket) -> Ticket | None:
        """Count the attempt in the record. Of several processes that try, the swap lets exactly one succeed."""
        return self._moved(READY, ticket, to=READY, under=replace(ticket, attempts=ticket.attempts + 1))

    def postpone(self, ticket: Ticket, due: int) -> Ticket | None:
        """Set the attempts back and move the due time."""
        return self._moved(READY, ticket, to=READY, under=replace(ticket, attempts=0, due=due))

    def open(self, ticket: Ticket, *, parked: str = "") -> AbstractContextManager[OpenBatch]:
        """Read a batch; its raw messages are fetched when the first of them is asked for.

        Raises:
            BatchDamaged: its record was overwritten, or, later, its raw messages are gone.
            LeaseLost: it is not there any more.
        """
        return self._opened(_place(parked), ticket)

    def again(self, ticket: Ticket, opened: OpenBatch, batch: Batch, *, due: int) -> Ticket | None:  # noqa: ARG002
        """Write the next generation into the record; the raw messages stay as they are."""
        return self._moved(READY, ticket, to=READY, under=batch.ticket(due=due), batch=batch)

    def park(self, ticket: Ticket, output: str, now: float) -> None:
        """Move the batch to `parked/OUTPUT`, without its attempts; it may already have been moved by somebody else."""
        self._moved(READY, ticket, to=f"parked/{output}", under=replace(ticket, attempts=0, due=int(now)))

    def parked_for(self) -> list[str]:
        """The outputs below `parked`."""
        return self._bucket.folders("parked")

    def parked(self, output: str) -> list[Ticket]:
        """What is in `parked/OUTPUT`."""
        return self._waiting(f"parked/{output}")

    def unpark(self, ticket: Ticket, output: str) -> Ticket | None:
        """Move a batch back to `ready`."""
        return self._moved(f"parked/{output}", ticket, to=READY, under=replace(ticket, due=0))

    def finish(self, ticket: Ticket, now: float) -> None:
        """Remove the batch, or move it to `kept/DAY`."""
        if self._keep:
            under = replace(ticket, attempts=0, due=int(now))
            self._moved(READY, ticket, to=f"{KEPT}/{day(int(now))}", under=under)
        else:
            self._chains.end(READY, ticket)

    def remove(self, ticket: Ticket, *, parked: str = "") -> None:
        """Remove the batch. One that is gone already was removed by whoever took it over."""
        self._chains.end(_place(parked), ticket)

    def kept(self) -> list[Ticket]:
        """What is in the days of `kept`."""
        return self._waiting(KEPT)

    def open_kept(self, ticket: Ticket) -> AbstractContextManager[OpenBatch]:
        """Read a kept batch; raises as `open` does."""
        return self._opened(f"{KEPT}/{day(ticket.due)}", ticket)

    def forget_kept(self, ticket: Ticket) -> None:
        """Remove a kept batch."""
        self._chains.end(f"{KEPT}/{day(ticket.due)}", ticket)

    def fail(self, ticket: Ticket, reason: str) -> None:
        """Move the batch to `failed`, with the reason in its record."""
        self._moved(READY, ticket, to=FAILED, under=ticket, reason=reason)

    def failed(self) -> list[tuple[Ticket, str]]:
        """The batches in `failed`, each with the reason in its record."""
        found = [self._chains.find(FAILED, ticket) for ticket in self._waiting(FAILED)]
        return [(chain.record.ticket, chain.record.reason) for chain in found if chain is not None]

    def open_failed(self, ticket: Ticket) -> AbstractContextManager[OpenBatch]:
        """Read a failed batch; raises as `open` does."""
        return self._opened(FAILED, ticket)

    def retry(self, ticket: Ticket) -> Ticket:
        """Give a failed batch a new beginning, and move it back to `ready`; one that cannot be read as it is.

        Raises:
            LeaseLost: it is not there any more.
        """
        batch, now = self._there(FAILED, ticket).record.batch, self._clock()
        waiting = replace(ticket, attempts=0, due=0)
        changes: dict[str, Any] = {"reason": ""}
        if batch is not None:
            batch = replace(batch, created=int(now), sequence=int(now * 1e6), outputs={})
            waiting, changes["batch"] = batch.ticket(), batch
        if self._moved(FAILED, ticket, to=READY, under=waiting, **changes) is None:
            raise _gone(ticket)
        return waiting

    def drop(self, ticket: Ticket) -> None:
        """Remove a failed batch."""
        self._chains.end(FAILED, ticket)

    def clean(self) -> int:
        """Remove what dead processes left, generations that were replaced, and what was kept for long enough."""
        return self._cleaner.clean()

    def free(self) -> int | None:
        """Nobody can tell."""
        return None

    def check_room(self) -> None:
        """Compare what waits with what may. Stores have no end: DISK_FREE_MIN is for the spool in a folder.

        Raises:
            SpoolFull: there is more.
        """
        if self._spool_max is not None and self._octets() >= self._spool_max:
            raise SpoolFull(
                "as much mail waits in the spool's store as SPOOL_MAX allows. Mail waits on its server; "
                "see why outputs do not take it, pulling then goes on by itself."
            )

    def _octets(self) -> int:
        """The octets of the messages that wait, as they were a moment ago."""
        begun = self._clock()
        if begun >= self._measure_again_at:
            waiting = [*self.tickets(), *self._waiting("parked")]
            self._measured = sum(ticket.octets for ticket in waiting)
            now = self._clock()
            self._measure_again_at = now + max(1.0, _MEASURED_SHARE * (now - begun))
        return self._measured

    def _waiting(self, folder: str) -> list[Ticket]:
        return sorted((one.ticket for one in newest(self._chains.pointers(folder)).values()), key=str)

    def _moved(self, place: str, ticket: Ticket, *, to: str, under: Ticket, **changes: Any) -> Ticket | None:
        return under if self._chains.move(place, ticket, to=to, under=under, **changes) else None

    def _there(self, place: str, ticket: Ticket) -> Chain:
        chain = self._chains.find(place, ticket)
        if chain is None:
            raise _gone(ticket)
        return chain

    @contextmanager
    def _opened(self, place: str, ticket: Ticket) -> Iterator[ObjectBatch]:
        with opened(self._bucket, self._there(place, ticket), scratch=self._scratch) as batch:
            yield batch


def _place(parked: str) -> str:
    return f"parked/{parked}" if parked else READY


def _gone(ticket: Ticket) -> LeaseLost:
    sentence = f"the batch {ticket.batch} is not where it was; whoever has taken it over goes on"
    return LeaseLost(sentence, mailbox=ticket.mailbox)
