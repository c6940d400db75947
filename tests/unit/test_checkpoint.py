"""Checkpoints on a real server: they move under the lease that is held, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date

import orjson
import pytest

from tests.bed.valkey import Valkey
from worker import state
from worker.checkpoint import Checkpoint, Checkpoints, Place
from worker.errors import LeaseLost
from worker.identity import imap_id, pop3_id
from worker.lease import Lease, held


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


@pytest.fixture
def checkpoints(client: state.Client) -> Checkpoints:
    return Checkpoints(client)


@pytest.fixture
def lease(client: state.Client) -> Iterator[Lease]:
    with held(client, state.mailbox_lease("box"), ttl=30) as lease:
        assert lease
        yield lease


def test_each_folder_has_its_own(checkpoints: Checkpoints, lease: Lease) -> None:
    """What was never pulled has none; another mailbox's lease does not matter."""
    assert not checkpoints.known("box")
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=42)
    checkpoints.move(lease.fence, "box", "Junk Email/Ünlü", uidvalidity=8, uid=1)

    assert checkpoints.known("box")
    assert checkpoints.load("box", "INBOX") == Checkpoint(7, 42)
    assert checkpoints.load("box", "Junk Email/Ünlü") == Checkpoint(8, 1)
    assert checkpoints.load("box", "Sent") is None
    assert checkpoints.load("other", "INBOX") is None


def test_pop3_remembers_every_uidl_and_forgets_those_that_are_gone(
    checkpoints: Checkpoints, lease: Lease
) -> None:
    """However many there are: a script takes only so many arguments at once."""
    uidls = [f"uidl-{n}" for n in range(2_500)]

    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=None, uidls=uidls)
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=None, uidls=["late"])
    checkpoints.forget_uidls(lease.fence, "box", uidls[1:])
    checkpoints.forget_uidls(lease.fence, "box", [])

    assert checkpoints.load("box", "INBOX") == Checkpoint(None, 0, frozenset({"uidl-0", "late"}))


TakeOver = Callable[[], Lease]


@pytest.fixture
def take_over(client: state.Client) -> Iterator[TakeOver]:
    """Another process gets the lease, as if it had run out."""
    with ExitStack() as stack:

        def take() -> Lease:
            client.delete(state.lease_key(state.mailbox_lease("box")))
            successor = stack.enter_context(held(client, state.mailbox_lease("box"), ttl=30))
            assert successor
            return successor

        yield take


@pytest.mark.parametrize("wrote", [True, False])
def test_a_stale_fence_moves_nothing(
    checkpoints: Checkpoints, lease: Lease, take_over: TakeOver, *, wrote: bool
) -> None:
    """The holder before may wake up at any time, whether or not the new one has written already."""
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=10)
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=None, uidls=["a"])
    successor = take_over()
    if wrote:
        checkpoints.move(successor.fence, "box", "INBOX", uidvalidity=7, uid=20)
    before = checkpoints.export("box")

    with pytest.raises(LeaseLost, match="box"):
        checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=30, uidls=["b"])
    with pytest.raises(LeaseLost):
        checkpoints.restore(lease.fence, "box", {"folders": {"INBOX": [7, 99]}, "uidls": []})
    checkpoints.forget_uidls(lease.fence, "box", ["a"])

    assert checkpoints.export("box") == before
    checkpoints.move(successor.fence, "box", "INBOX", uidvalidity=7, uid=21)


def test_a_holder_that_outlived_a_flush_moves_nothing(
    client: state.Client, checkpoints: Checkpoints, lease: Lease
) -> None:
    """Else the next pull would take the little that it knows for the whole, and skip or repeat the rest."""
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=10)
    client.flushall()

    with pytest.raises(LeaseLost):
        checkpoints.move(lease.fence, "box", "Junk", uidvalidity=8, uid=1)

    assert not checkpoints.known("box")
    assert checkpoints.export("box") == {"folders": {}, "uidls": []}


def test_what_was_exported_can_be_restored(
    client: state.Client, checkpoints: Checkpoints, lease: Lease, take_over: TakeOver
) -> None:
    """The copy beside the spool is enough to go on after a flush: for IMAP, and for POP3."""
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=10)
    checkpoints.move(lease.fence, "box", "Junk", uidvalidity=8, uid=3)
    imap = checkpoints.export("box")
    client.flushall()
    successor = take_over()
    checkpoints.restore(successor.fence, "box", imap)
    assert checkpoints.export("box") == imap

    client.flushall()
    successor = take_over()
    pop3 = {"folders": {"INBOX": [None, 0]}, "uidls": ["a", "b"]}
    checkpoints.restore(successor.fence, "box", pop3)
    assert checkpoints.export("box") == pop3
    assert checkpoints.load("box", "INBOX") == Checkpoint(None, 0, frozenset("ab"))


def test_a_folder_remembers_since_when_its_mail_is_wanted(
    client: state.Client, checkpoints: Checkpoints, lease: Lease, take_over: TakeOver
) -> None:
    """Going back over it reaches further, never less far; a flush does not forget it."""
    march, april = date(2026, 3, 1), date(2026, 4, 1)
    assert checkpoints.begun("box", "INBOX") is None
    checkpoints.reach_back(lease.fence, "box", "INBOX", march)
    assert checkpoints.begun("box", "INBOX") is None
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=10)
    checkpoints.note_begun(lease.fence, "box", "INBOX", april)
    checkpoints.reach_back(lease.fence, "box", "INBOX", date(2026, 5, 1))
    assert checkpoints.begun("box", "INBOX") == april
    checkpoints.reach_back(lease.fence, "box", "INBOX", march)
    exported = orjson.loads(orjson.dumps(checkpoints.export("box")))
    client.flushall()
    fence = take_over().fence
    checkpoints.restore(fence, "box", exported)
    assert checkpoints.begun("box", "INBOX") == march
    checkpoints.reach_back(fence, "box", "INBOX", None)
    assert checkpoints.begun("box", "INBOX") is None


def test_a_renumbered_folder_is_compared_until_it_was_gone_through(
    checkpoints: Checkpoints, lease: Lease
) -> None:
    """The mark comes first, and means one UIDVALIDITY; a maildrop has none."""
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=7, uid=10)
    checkpoints.recognise("box", "INBOX", 8)
    assert checkpoints.load("box", "INBOX") == Checkpoint(7, 10)
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=8, uid=3)
    assert checkpoints.load("box", "INBOX") == Checkpoint(8, 3, recognise=True)
    checkpoints.recognised("box", "INBOX")
    assert checkpoints.load("box", "INBOX") == Checkpoint(8, 3)
    checkpoints.move(lease.fence, "box", "INBOX", uidvalidity=None, uidls=["a"])
    checkpoints.recognise("box", "INBOX", None)
    assert checkpoints.load("box", "INBOX") == Checkpoint(None, 0, frozenset("a"), recognise=True)


def test_places_to_pull_again_are_kept_once_each_until_struck_off(checkpoints: Checkpoints) -> None:
    """Noting one twice, as after a crash, is the same as once."""
    places = [Place("INBOX", "a", 7, 1), Place("INBOX", "b", 7, 2), Place("INBOX", "c", uidl="x y")]

    checkpoints.ask_again("box", places[:2])
    checkpoints.ask_again("box", places[1:])
    assert checkpoints.to_pull_again("box") == places
    checkpoints.pulled_again("box", places[:1])
    checkpoints.pulled_again("box", [])
    assert checkpoints.to_pull_again("box") == places[1:]
    checkpoints.pulled_again("box", places)
    assert checkpoints.to_pull_again("box") == []


@pytest.mark.parametrize("uids", [[1], [1, 2, 3], [1, 2, 3, 7, 9, 10], [5, 3, 4]])
def test_where_the_messages_of_a_batch_lie_is_kept_in_few_words(
    checkpoints: Checkpoints, uids: list[int]
) -> None:
    """A hundred thousand batches may wait: what follows from a place, as its id does, is not written down."""
    places = [Place("INBOX", imap_id("box", "INBOX", 7, uid), 7, uid) for uid in uids]
    checkpoints.note_places("box", "b", places)

    assert checkpoints.places("box", "b") == sorted(places, key=lambda place: place.uid or 0)
    assert checkpoints.places("box", "c") == []
    maildrop = [Place("INBOX", pop3_id("box", uidl), uidl=uidl) for uidl in ("x y", "z")]
    checkpoints.note_places("box", "p", maildrop)
    assert checkpoints.places("box", "p") == maildrop
    checkpoints.note_places("box", "full", [Place("INBOX", "", 7, uid) for uid in range(1, 65)])
    assert checkpoints._client.memory_usage(state.places_key("box", "full")) < 200
    checkpoints.forget_places("box", "b")
    assert checkpoints.places("box", "b") == []
