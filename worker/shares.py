"""Shares: which of several watchers watches which mailbox.

One command a process keeps up thousands of leases: a watcher shows itself and is told its even share. No mailbox is in
two shares, the share of a watcher that died falls to the others within its time to live, and one that comes later gets its own
by and by. A process that was paused for longer than that may watch beside its successor until it asks again, which costs a
needless pull and no more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from worker import state


class Shares:
    """The share of one watcher. `watcher` is a name that no other process has, `ttl` its time to live in seconds."""

    def __init__(self, client: state.Client, watcher: str, *, ttl: float) -> None:
        self._client = client
        self._watcher = watcher
        self._ttl = ttl

    def mine(self, wanted: Collection[str], watched: Collection[str]) -> set[str]:
        """Show that this watcher lives, and say what it watches from now on; of what it has `watched` it keeps what it may."""
        first = [mailbox for mailbox in wanted if mailbox in watched]
        others = [mailbox for mailbox in wanted if mailbox not in watched]
        share = self._client.register_script(state.SHARE_WATCH)(
            keys=[state.WATCHERS, state.WATCHED],
            args=[self._watcher, int(self._ttl * 1000), *first, *others],
        )
        return set(cast("list[str]", share))

    def leave(self) -> None:
        """Leave everything to the others, at once."""
        self._client.zrem(state.WATCHERS, self._watcher)
