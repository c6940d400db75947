"""Leases on a real server: exclusive, renewed, fenced, and given up in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.bed.processes import wait_until
from tests.bed.valkey import Valkey
from worker import state
from worker.errors import LeaseLost, RedisUnavailable
from worker.lease import Lease, held

WHAT = "mailbox:support"


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


def fence_of(client: state.Client) -> int:
    with held(client, WHAT, ttl=5) as lease:
        assert lease
        return lease.fence


def test_of_many_that_want_it_one_has_it_at_a_time(client: state.Client) -> None:
    """The others are told so at once and do not wait."""

    def attempt(_: int) -> bool:
        with held(client, WHAT, ttl=5) as lease:
            if lease:
                asked.append(lease.fence)
                wait_until(lambda: len(refused) == 7, timeout=5, what="the refusal of the others")
            else:
                refused.append(True)
            return lease is not None

    asked: list[int] = []
    refused: list[bool] = []
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(attempt, range(8)))

    assert got.count(True) == 1
    assert fence_of(client) > asked[0]


def test_another_thing_is_another_lease(client: state.Client) -> None:
    """One mailbox's work does not hold up another's."""
    with held(client, WHAT, ttl=5) as one, held(client, "mailbox:sales", ttl=5) as other:
        assert one
        assert other


def test_fences_rise_for_ever_even_when_redis_forgets_everything(client: state.Client) -> None:
    """A flush must not give a new holder a fence below an old one's; a clock that went back must not either."""
    fences = [fence_of(client), fence_of(client)]
    client.flushall()
    fences.append(fence_of(client))
    client.hset(state.FENCE, WHAT, fences[-1] + 10**9)
    fences.append(fence_of(client))

    assert fences == sorted(set(fences))
    assert fences[-1] == fences[-2] + 10**9 + 1


def test_a_lease_is_renewed_as_long_as_it_is_needed(client: state.Client) -> None:
    """Work may take longer than the time to live; a thread renews it without being asked."""
    with held(client, WHAT, ttl=0.3) as lease:
        assert lease
        ends = time.monotonic() + 0.9
        while time.monotonic() < ends:
            with held(client, WHAT, ttl=0.3) as second:
                assert second is None
            lease.check()
    assert client.exists(state.lease_key(WHAT)) == 0


def test_a_dead_holders_lease_is_free_after_its_time(client: state.Client) -> None:
    """Nobody renews it any more."""
    client.set(state.lease_key(WHAT), "1", px=50)
    wait_until(lambda: fence_of_or_none(client), timeout=2, what="the end of the lease")


def fence_of_or_none(client: state.Client) -> int | None:
    with held(client, WHAT, ttl=5) as lease:
        return lease and lease.fence


def test_a_lease_that_somebody_else_took_is_noticed_and_not_released(client: state.Client) -> None:
    """The next renewal finds out; the thief's lease stays."""
    with ExitStack() as stack:
        lease = stack.enter_context(held(client, WHAT, ttl=0.3))
        assert lease
        client.delete(state.lease_key(WHAT))
        thief = stack.enter_context(held(client, WHAT, ttl=30))
        assert thief

        wait_until(lambda: lost(lease), timeout=2, what="the loss")
        assert lease.renew() is False
        lease.release()
        assert client.get(state.lease_key(WHAT)) == str(thief.fence)


def lost(lease: Lease) -> bool:
    with suppress(LeaseLost):
        lease.check()
        return False
    return True


def test_a_process_that_was_stopped_knows_that_its_lease_ran_out(client: state.Client) -> None:
    """A suspended machine wakes up with its renewing thread asleep as well; the clock tells."""
    now = [100.0]
    with held(client, WHAT, ttl=30, clock=lambda: now[0]) as lease:
        assert lease
        now[0] += 29
        lease.check()
        assert lease.renew()
        now[0] += 29
        lease.check()
        now[0] += 2
        with pytest.raises(LeaseLost, match=WHAT):
            lease.check()


def test_without_redis_there_is_no_lease(valkey: Valkey, client: state.Client) -> None:
    """Nothing is pulled that nobody else can know of; the sentence names the setting."""
    valkey.stop()
    with pytest.raises(RedisUnavailable, match="REDIS_URL"), held(client, WHAT, ttl=5):
        pytest.fail("there was a lease")
    valkey.start()


def test_a_lease_outlives_a_short_absence_of_redis(valkey: Valkey, client: state.Client) -> None:
    """A restart of Redis in mid-pull costs nothing."""
    with held(client, WHAT, ttl=3) as lease:
        assert lease
        valkey.restart()
        assert lease.renew()
        lease.check()
