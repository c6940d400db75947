"""The timetable on a real server: each due mailbox is called once, at its own time, by whoever comes first."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bed.valkey import Valkey
from worker import state
from worker.timetable import Rung, Timetable, phase

NOW = 1_800_000_000.0


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


@pytest.fixture
def timetable(client: state.Client) -> Timetable:
    return Timetable(client)


def test_a_new_mailbox_is_due_at_once_and_then_at_its_phase(timetable: Timetable) -> None:
    """However late it is claimed, it does not drift, and missed calls are not made up for."""
    timetable.sync({"pull:a": 60.0}, NOW)
    at = phase("pull:a", 60.0)

    assert timetable.claim(NOW) == ["pull:a"]
    assert timetable.claim(NOW) == []
    first = timetable.due("pull:a")
    assert first
    assert NOW < first <= NOW + 60
    assert first % 60 == pytest.approx(at, abs=0.002)

    assert timetable.claim(first - 0.001) == []
    assert timetable.claim(first + 200) == ["pull:a"]
    assert timetable.due("pull:a") == first + 240


def test_phases_are_stable_and_evenly_spread() -> None:
    """Ten thousand mailboxes of one interval do not come at once; each comes at the same time on every host."""
    phases = [phase(f"pull:{n}", 300.0) for n in range(10_000)]

    assert phase("pull:support", 300.0) == pytest.approx(29.807, abs=0.001)
    assert phase("pull:support", 600.0) == 2 * phase("pull:support", 300.0)
    a_tenth = Counter(int(found // 30) for found in phases)
    assert sorted(a_tenth) == list(range(10))
    assert all(900 < count < 1_100 for count in a_tenth.values())


def test_ten_thousand_due_mailboxes_are_claimed_once_each_by_two_at_once(fresh_valkey: Valkey) -> None:
    """Within five seconds, syncing included; none is claimed twice and none is left."""
    entries = {f"pull:{n}": 60.0 for n in range(10_000)}
    clients = [state.connect(fresh_valkey.url) for _ in range(2)]

    def beat(client: state.Client) -> list[str]:
        timetable = Timetable(client)
        timetable.sync(entries, NOW)
        claimed: list[str] = []
        while taken := timetable.claim(NOW, limit=100):
            claimed += taken
        return claimed

    begun = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        claimed = list(threads.map(beat, clients))
    seconds = time.monotonic() - begun
    for client in clients:
        client.close()

    assert sorted(claimed[0] + claimed[1]) == sorted(entries)
    assert seconds < 5


def test_beats_that_start_at_different_moments_call_nobody_twice(timetable: Timetable) -> None:
    """A second beat brings the same configuration; what the first has claimed is not new to it."""
    wanted = {"pull:a": 60.0, "pull:b": None}
    timetable.sync(wanted, NOW)
    assert sorted(timetable.claim(NOW)) == ["pull:a", "pull:b"]

    timetable.sync(wanted, NOW + 1)

    assert timetable.claim(NOW + 1) == []


def test_a_change_of_configuration_takes_effect(timetable: Timetable) -> None:
    """Removed mailboxes are not called, new ones at once, shorter intervals within the new one, longer ones as before."""
    timetable.sync(
        {"pull:gone": 60.0, "pull:faster": 86_400.0, "pull:slower": 60.0, "pull:same": 3600.0}, NOW
    )
    timetable.claim(NOW)
    same, slower = timetable.due("pull:same"), timetable.due("pull:slower")

    timetable.sync(
        {"pull:new": 60.0, "pull:faster": 10.0, "pull:slower": 86_400.0, "pull:same": 3600.0}, NOW + 1
    )

    assert timetable.due("pull:gone") is None
    assert (timetable.due("pull:same"), timetable.due("pull:slower")) == (same, slower)
    assert {"pull:new", "pull:faster"} <= set(timetable.claim(NOW + 11))
    assert "pull:gone" not in [bell.entry for bell in timetable.unanswered()]


def test_an_entry_without_an_interval_is_dropped_when_it_is_claimed(
    client: state.Client, timetable: Timetable
) -> None:
    """What another version left behind is not called for ever."""
    client.zadd(state.DUE, {"pull:ghost": 0})

    assert timetable.claim(NOW) == []
    assert timetable.next_due() is None


def test_a_cron_entry_is_armed_a_minute_ahead_until_its_exact_time_is_known(timetable: Timetable) -> None:
    """A beat that dies between the two is late by a minute, and does not lose the mailbox."""
    timetable.sync({"pull:nightly": None}, NOW)

    assert timetable.claim(NOW) == ["pull:nightly"]
    assert timetable.due("pull:nightly") == NOW + 60
    timetable.park("pull:nightly", NOW + 7200)
    assert timetable.claim(NOW + 7199) == []
    assert timetable.claim(NOW + 7200) == ["pull:nightly"]


def test_a_parked_mailbox_waits_and_an_unparked_one_is_due(timetable: Timetable) -> None:
    """A throttled mailbox is called when the server said so, not before; a restart of beat does not forget that."""
    timetable.sync({"pull:a": 60.0}, NOW)
    timetable.claim(NOW)
    timetable.park("pull:a", NOW + 900)
    timetable.park("pull:unknown", NOW + 900)

    timetable.sync({"pull:a": 60.0}, NOW + 30)
    assert timetable.claim(NOW + 899) == []
    assert timetable.due("pull:unknown") is None
    timetable.park("pull:a", NOW + 100)
    assert timetable.claim(NOW + 100) == ["pull:a"]


def test_a_bell_is_unanswered_until_the_work_was_done(timetable: Timetable) -> None:
    """The first ring is kept over later ones: it tells for how long nobody came."""
    timetable.sync({"pull:a": 60.0}, NOW)
    timetable.claim(NOW)
    timetable.claim(NOW + 60)
    bell = Rung("pull:a", NOW, NOW + 60)

    assert timetable.unanswered() == [bell]
    timetable.rung_again(bell, NOW + 90)
    assert timetable.unanswered() == [Rung("pull:a", NOW, NOW + 90)]
    timetable.answered("pull:a")
    assert timetable.unanswered() == []
    timetable.claim(NOW + 120)
    assert timetable.unanswered() == [Rung("pull:a", NOW + 120, NOW + 120)]


def test_the_bell_of_a_batch_is_rung_once_a_minute_at_most(
    client: state.Client, timetable: Timetable
) -> None:
    """Pull and sweep may both ring for it; one task in the queue is enough."""
    assert timetable.may_ring("ticket")
    assert not timetable.may_ring("ticket")
    assert timetable.may_ring("another")
    assert 0 < client.pttl(state.bell_key("ticket")) <= 60_000
