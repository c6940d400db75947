"""How fast one process signs in to one host with many connections: so many at a time, and so many a second.

After a restart of a mail server thousands of sessions want to come back at once; a server takes that for an attack, and
some lock accounts for it. It holds for `asyncio` in one process, and counts logins only, not connections that stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_AT_ONCE = 20
_A_SECOND = 10.0
"""No provider publishes a budget; two thousand mailboxes of one host are back in three and a half minutes."""


@dataclass(slots=True)
class _Host:
    places: asyncio.Semaphore
    next_at: float = field(default=0.0)


class Pace:
    """Turns to sign in. `sleep` waits for seconds."""

    def __init__(
        self,
        *,
        at_once: int = _AT_ONCE,
        a_second: float = _A_SECOND,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._at_once = at_once
        self._a_second = a_second
        self._sleep = sleep
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Wait for a turn to sign in to `host`, and have it for the length of the block."""
        found = self._hosts.setdefault(host.lower(), _Host(asyncio.Semaphore(self._at_once)))
        async with found.places:
            now = asyncio.get_running_loop().time()
            at = max(now, found.next_at)
            found.next_at = at + 1 / self._a_second
            if at > now:
                await self._sleep(at - now)
            yield
