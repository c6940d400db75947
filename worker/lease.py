"""Leases: the exclusive, renewable, fenced right to work on one mailbox or one batch.

A lease keeps two processes from doing the same work; it does not guarantee that they never overlap, since a process
can be paused for longer than its lease lives. What guarantees safety is the fence: a number that rises with every
lease, goes with whatever the holder writes, and is compared there in the same instant (`checkpoint.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker import state
from worker.errors import LeaseLost, RedisUnavailable


class Lease:
    """One lease that this process holds. `fence` goes with every write made under it."""

    def __init__(
        self,
        client: state.Client,
        what: str,
        *,
        fence: int,
        ttl: float,
        since: float,
        clock: Callable[[], float],
    ) -> None:
        self.what = what
        self.fence = fence
        self._client = client
        self._ttl = ttl
        self._clock = clock
        self._ends_at = since + ttl
        self._ended = threading.Event()
        self._lost = False

    def check(self) -> None:
        """Return while the lease is held, to the best of this process's knowledge; call before each durable step.

        Raises:
            LeaseLost: it ran out, or somebody else took it.
        """
        # The clock tells what the renewing thread cannot: a process that was stopped wakes up with both asleep.
        if self._lost or self._clock() > self._ends_at:
            raise LeaseLost(f"the lease on {self.what} ran out; whoever takes it next goes on")

    def renew(self) -> bool:
        """Prolong the lease by its time to live; False when it is lost.

        Raises:
            RedisUnavailable: it may still be held, or not.
        """
        asked_at = self._clock()
        held = self._client.register_script(state.RENEW_LEASE)(
            keys=[state.lease_key(self.what)], args=[self.fence, int(self._ttl * 1000)]
        )
        if held:
            self._ends_at = asked_at + self._ttl
        else:
            self._lost = True
        return not self._lost

    def release(self) -> None:
        """Give the lease back. One that ran out meanwhile, or a Redis that is away, is no error: it expires."""
        self._ended.set()
        try:
            self._client.register_script(state.RELEASE_LEASE)(
                keys=[state.lease_key(self.what)], args=[self.fence]
            )
        except RedisUnavailable:
            # The lease has a time to live for exactly this case.
            return

    def keep(self) -> None:
        """Renew at a third of the time to live until the lease ends; the body of the renewing thread."""
        while not self._ended.wait(self._ttl / 3):
            try:
                if not self.renew():
                    return
            except RedisUnavailable:
                # Redis may be back before the lease runs out; when it is not, the next renewal finds the lease lost.
                continue


def held_now(client: state.Client) -> list[str]:
    """What anybody holds a lease on at this moment.

    Raises:
        RedisUnavailable: it cannot be known.
    """
    start = state.lease_key("")
    return sorted(str(key).removeprefix(start) for key in client.scan_iter(f"{start}*", count=1000))


@contextmanager
def held(
    client: state.Client, what: str, *, ttl: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[Lease | None]:
    """Hold the lease on `what` for the length of the block; None when somebody else holds it.

    A thread renews it every third of `ttl` seconds, so that a long answer of a server does not lose it. When the
    process dies, the lease is free again after `ttl` seconds.

    Raises:
        RedisUnavailable: there is no lease to be had without Redis.
    """
    since = clock()
    fence = int(
        client.register_script(state.ACQUIRE_LEASE)(
            keys=[state.lease_key(what), state.FENCE], args=[what, int(ttl * 1000)]
        )
    )
    if not fence:
        yield None
        return
    lease = Lease(client, what, fence=fence, ttl=ttl, since=since, clock=clock)
    thread = threading.Thread(target=lease.keep, name=f"lease {what}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.release()
        thread.join(timeout=1)
