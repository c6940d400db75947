"""The spool in an object store: processes that die between any two requests, and that meet in any order of them."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore

from tests.bed.object_spool import object_spool
from tests.model.mortal import Died, Life, stepwise
from tests.unit.test_spool import NOW, RAW, contents, planned, put
from worker.errors import LeaseLost
from worker.spool import BatchDamaged, Ticket
from worker.spool.object import ObjectSpool
from worker.spool.object_batch import PIECE

HOUR = 3600.0


class World:
    """A store, its clock, and processes that use it."""

    def __init__(self, folder: Path, *, keep: float = 0) -> None:
        self.client = MemoryStore()
        self.now = NOW
        self.keep = keep
        self._folder = folder

    def process(self, step: Callable[[Callable[[], Any]], Any] | None = None) -> ObjectSpool:
        """A process of its own: it remembers nothing of the others."""
        bucket = stepwise(self.client)
        if step is not None:
            bucket.step = step  # type: ignore[method-assign]
        return ObjectSpool(bucket, scratch=self._folder, keep=self.keep, clock=lambda: self.now)

    def objects(self) -> list[str]:
        """Every object."""
        return [one["path"] for page in obstore.list(self.client) for one in page if one["path"] != "cleaned"]

    def settle(self, *, clean: bool = True) -> list[dict[str, bytes]]:
        """What the others do later: deliver until nothing waits, also sweep, hours later. What was delivered."""
        delivered = []
        for _ in range(4):
            spool = self.process()
            if clean:
                self.now += 2 * HOUR
                spool.clean()
            for output in spool.parked_for():
                for ticket in spool.parked(output):
                    spool.unpark(ticket, output)
            for ticket, _ in spool.failed():
                spool.retry(ticket)
            for ticket in spool.tickets():
                if begun := spool.begin(ticket):
                    delivered.append(contents(spool, begun))
                    spool.finish(begun, self.now)
        return delivered


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# -- a death between any two requests ----------------------------------------------------------------------------------


def life(spool: ObjectSpool, done: list[str]) -> None:
    """A batch through every place there is; `done` says how far it came."""
    waiting = put(spool, planned("x", "y"), *RAW)
    done.append("spooled")
    begun = spool.begin(waiting)
    assert begun
    with spool.open(begun) as opened:
        entries = tuple(replace(entry, owed=("crm",)) for entry in opened.batch.entries)
        after = replace(opened.batch, generation=1, entries=entries)
        again = spool.again(begun, opened, after, due=int(NOW))
    assert again
    spool.park(again, "crm", NOW)
    (parked,) = spool.parked("crm")
    back = spool.unpark(parked, "crm")
    assert back
    begun = spool.begin(back)
    assert begun
    later = spool.postpone(begun, int(NOW) + 5)
    assert later
    spool.fail(later, "a person is to look at it")
    (failed, _) = spool.failed()[0]
    begun = spool.begin(spool.retry(failed))
    assert begun
    done.append("delivered")
    spool.finish(begun, NOW)
    done.append("finished")


@pytest.mark.parametrize("last_one_done", [False, True], ids=["before", "behind"])
def test_a_process_that_dies_at_any_request_leaves_the_batch_to_be_found_and_in_the_end_nothing(
    tmp_path: Path, *, last_one_done: bool
) -> None:
    """What was spooled is found by the others at once and delivered once; when all is done no object is left."""
    for steps in itertools.count(1):
        world = World(tmp_path)
        done: list[str] = []
        try:
            life(world.process(Life(steps, last_one_done=last_one_done).step), done)
        except Died:
            pass
        else:
            break
        delivered = world.settle(clean=False)
        if "spooled" in done and "delivered" not in done:
            assert len(delivered) == 1, f"request {steps}"
        else:
            # It died before the batch was spooled, so that it is pulled again, or while it was taken out.
            delivered += world.settle()
            assert len(delivered) <= 1, f"request {steps}"
        assert all(found == {"x": RAW[0], "y": RAW[1]} for found in delivered)
        assert world.settle() == [], f"request {steps}"
        assert world.objects() == [], f"request {steps}"
    assert steps > 30


# -- two processes in any order of their requests ----------------------------------------------------------------------


class Baton:
    """Lets two threads take their steps in the order that a test chose: False is the first one's, True the other's."""

    def __init__(self, order: Sequence[bool]) -> None:
        self._order = list(order)
        self._turn = threading.Condition()
        self._ended = [False, False]

    def step(self, who: bool, act: Callable[[], Any]) -> Any:
        with self._turn:
            assert self._turn.wait_for(lambda: self._may(who), timeout=10)
            try:
                return act()
            finally:
                if self._order and not self._ended[not who]:
                    self._order.pop(0)
                self._turn.notify_all()

    def _may(self, who: bool) -> bool:
        return self._ended[not who] or not self._order or self._order[0] == who

    def end(self, who: bool) -> None:
        with self._turn:
            self._ended[who] = True
            self._turn.notify_all()


def orders(mine: int, others: int) -> Iterator[tuple[bool, ...]]:
    """Every order in which so many steps of one and of another can come."""
    for places in itertools.combinations(range(mine + others), others):
        yield tuple(place in places for place in range(mine + others))


def begin(spool: ObjectSpool, ticket: Ticket) -> Ticket | None:
    return spool.begin(ticket)


def postpone(spool: ObjectSpool, ticket: Ticket) -> Ticket | None:
    return spool.postpone(ticket, int(NOW) + 60)


def again(spool: ObjectSpool, ticket: Ticket) -> Ticket | None:
    batch = replace(spool._there("ready", ticket).record.batch or planned(), generation=1)
    return spool._moved("ready", ticket, to="ready", under=batch.ticket(due=int(NOW) + 30), batch=batch)


def finish(spool: ObjectSpool, ticket: Ticket) -> Ticket | None:
    return ticket if spool._chains.end("ready", ticket) else None


def whole(spool: ObjectSpool, ticket: Ticket) -> Ticket | None:
    """Everything from beginning to end, while the other one sleeps between two of its requests."""
    if begun := spool.begin(ticket):
        spool.finish(begun, NOW)
    return begun


ACTS = {"begin": begin, "postpone": postpone, "again": again, "finish": finish}


def meet(
    world: World, order: Sequence[bool], *acts: Callable[[ObjectSpool, Ticket], Ticket | None]
) -> list[Ticket | None]:
    """Two processes that act on one ticket, in this order of their requests; what each of them was told."""
    ticket = put(world.process(), planned("x"), RAW[0])
    baton = Baton(order)

    def run(who: bool) -> Ticket | None:
        spool = world.process(lambda act: baton.step(who, act))
        try:
            return acts[who](spool, ticket)
        except LeaseLost:
            # The one that came too late is told so.
            return None
        finally:
            baton.end(who)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run, (False, True)))


@pytest.mark.parametrize("other", ACTS)
@pytest.mark.parametrize("one", ACTS)
def test_of_two_processes_that_move_one_batch_exactly_one_succeeds_in_every_order_of_their_requests(
    tmp_path: Path, one: str, other: str
) -> None:
    """No lease is needed for it. What the other one did counts for nothing, and nothing is left of it."""
    for order in orders(5, 5):
        world = World(tmp_path)

        told = meet(world, order, ACTS[one], ACTS[other])

        (succeeded,) = (ticket for ticket in told if ticket)
        if (one if told[0] else other) == "finish":
            assert (world.process().tickets(), world.objects()) == ([], []), order
        else:
            assert world.process().tickets() == [succeeded], order
            assert len(world.settle()) == 1, order
            assert world.objects() == [], order


@pytest.mark.parametrize("one", ACTS)
def test_one_that_sleeps_at_any_request_while_others_finish_the_batch_brings_nothing_back(
    tmp_path: Path, one: str
) -> None:
    """Neither a batch that was delivered, nor a name in a listing that leads anywhere."""
    for awake in range(7):
        world = World(tmp_path)

        told = meet(world, [False] * awake + [True] * 30, ACTS[one], whole)

        assert sum(ticket is not None for ticket in told) == 1
        delivered = world.settle()
        assert len(delivered) == (told[1] is None and one != "finish"), awake
        assert world.objects() == [], awake


def test_of_many_that_begin_a_batch_exactly_one_gets_it(world: World) -> None:
    """As the file spool's rename has it."""
    for _ in range(20):
        ticket = put(world.process(), planned("x"), RAW[0])
        spools = [world.process() for _ in range(8)]
        with ThreadPoolExecutor(8) as threads:
            got = [begun for begun in threads.map(begin, spools, [ticket] * 8) if begun]
        assert len(got) == 1
        world.process().remove(got[0])


# -- what is not as it was written -------------------------------------------------------------------------------------


def record_of(world: World) -> str:
    (key,) = (key for key in world.objects() if key.endswith("record.json"))
    return key


@pytest.mark.parametrize("found", [b"", b"{}", b"[1]", b'{"version": 2}', b"\xff\x00"])
def test_a_record_that_was_overwritten_is_damage_and_says_what_the_batch_held(
    world: World, found: bytes
) -> None:
    """From the plan in front of the raw messages; a person finds it in `failed`, and can throw it away."""
    put(world.process(), planned("x", "y"), *RAW)
    obstore.put(world.client, record_of(world), found)
    spool = world.process()

    begun = spool.begin(spool.tickets()[0])
    assert begun
    with pytest.raises(BatchDamaged, match="who else writes to the bucket") as caught, spool.open(begun):
        pass
    spool.fail(begun, caught.value.sentence)

    assert caught.value.plan == planned("x", "y")
    assert spool.tickets() == []
    assert spool.failed() == [(begun, caught.value.sentence)]
    assert spool.begin(spool.retry(begun))
    spool.fail(spool.tickets()[0], "again")
    spool.drop(spool.failed()[0][0])
    assert world.objects() == []


def test_raw_messages_that_are_gone_are_damage_and_can_be_pulled_again(world: World) -> None:
    """The record knows every one of them."""
    ticket = put(world.process(), planned("x", "y"), *RAW)
    obstore.delete(world.client, record_of(world).replace("record.json", "batch.zip"))

    with pytest.raises(BatchDamaged, match="not in the store") as caught:
        contents(world.process(), ticket)

    assert caught.value.plan
    assert [entry.id for entry in caught.value.plan.entries] == ["x", "y"]


@pytest.mark.parametrize("name", ["x.zip", "notes.txt", "a/b", f"{planned('x').ticket()}/what"])
def test_objects_that_are_not_batches_are_let_be(world: World, name: str) -> None:
    """Somebody's object in the bucket stops nothing and is not removed."""
    obstore.put(world.client, f"ready/{name}", b"?")
    ticket = put(world.process(), planned("x"), RAW[0])

    assert world.process().tickets() == [ticket]
    assert world.process().clean() == 0
    assert f"ready/{name}" in world.objects()


# -- what is left behind -----------------------------------------------------------------------------------------------


def test_unfinished_batches_are_removed_after_an_hour_and_not_before(world: World, tmp_path: Path) -> None:
    """Both a small one, whose writer died before its record, and the pieces of a large one."""
    chunk = bytes(PIECE)
    spool = world.process(Life(2, last_one_done=True).step)
    with pytest.raises(Died), spool.new(planned("x")) as writer:
        writer.add(planned("x").entries[0], [chunk, chunk, chunk])
    begun = obstore.head(world.client, world.objects()[0])["last_modified"].timestamp()
    assert len(world.objects()) == 2

    world.now = begun + 0.9 * HOUR
    assert world.process().clean() == 0
    obstore.delete(world.client, "cleaned")
    world.now = begun + 1.1 * HOUR
    assert world.process().clean() == 1
    assert world.objects() == []


def test_a_batch_whose_pointer_is_gone_is_found_within_the_hour(world: World) -> None:
    """Listings are only a view; nothing is lost with a name."""
    ticket = put(world.process(), planned("x"), RAW[0])
    (pointer,) = (key for key in world.objects() if key.startswith("ready/"))
    obstore.delete(world.client, pointer)
    assert world.process().tickets() == []

    world.now += HOUR
    world.process().clean()

    assert world.process().tickets() == [ticket]


def test_what_was_kept_for_long_enough_goes_by_the_day(tmp_path: Path) -> None:
    """KEEP counts from the day on which a batch was delivered."""
    world = World(tmp_path, keep=86400)
    begun = world.process().begin(put(world.process(), planned("x"), RAW[0]))
    assert begun
    world.process().finish(begun, NOW)

    (kept,) = world.process().kept()
    with world.process().open_kept(kept) as opened:
        assert bytes(opened.raw(opened.batch.entries[0])) == RAW[0]
    world.now += 86400
    assert world.process().clean() == 0
    world.now += 86400
    assert world.process().clean() == 1
    assert world.objects() == []


# -- what is large -----------------------------------------------------------------------------------------------------


def anonymous() -> int:
    """The octets of memory that belong to this process alone, the library's own among them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def test_a_huge_message_is_streamed_in_flat_memory_both_ways(tmp_path: Path) -> None:
    """150 MB with less than four pieces in hand; its pieces are one zip, and go with the batch."""
    chunk = os.urandom(1 << 20)
    folder = tmp_path / "store"
    folder.mkdir()
    spool = object_spool(tmp_path, clock=lambda: NOW, client=LocalStore(folder))
    before, peak = anonymous(), 0

    def chunks() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(150):
            peak = max(peak, anonymous())
            yield chunk

    with spool.new(planned("x", "y")) as writer:
        small, huge = planned("x", "y").entries
        entries = (writer.add(small, (RAW[0],)), writer.add(huge, chunks()))
        ticket = writer.commit(replace(planned(), entries=entries))
    with spool.open(ticket) as opened:
        view = opened.raw(entries[1])
        peak = max(peak, anonymous())
        digest = hashlib.sha256(view).hexdigest()
        assert (len(view), bytes(opened.raw(entries[0]))) == (150 << 20, RAW[0])
        peak = max(peak, anonymous())

    assert digest == entries[1].sha256 == hashlib.sha256(chunk * 150).hexdigest()
    assert peak - before < 4 * PIECE
    pieces = sorted(folder.glob("batches/*/batch.zip.*"))
    assert len(pieces) == 10
    whole = tmp_path / "whole.zip"
    whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with zipfile.ZipFile(whole) as archive:
        assert archive.namelist() == ["plan.json", "0001.eml", "0002.eml", "batch.json"]
        assert archive.read("0001.eml") == RAW[0]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_pieces_of_a_large_batch_go_with_it(world: World) -> None:
    """As one object goes."""
    ticket = put(world.process(), planned("x", "y"), b"x" * PIECE, b"y" * PIECE)
    assert sum(".zip." in key for key in world.objects()) == 3
    assert contents(world.process(), ticket)["y"] == b"y" * PIECE

    world.process().remove(ticket)

    assert world.objects() == []
