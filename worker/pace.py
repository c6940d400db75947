"""How fast a watcher signs in to one host with many connections: so many at a time, and in its turn among all processes.

After a restart of a mail server thousands of sessions want to come back at once; a server takes that for an attack, and
some lock accounts for it. Turns are those of `hosts.py`, which all pulls share; how many sign in at a time is this process's
own matter. It counts logins only, not connections that stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from worker.errors import HostBusy, MailquayError
from worker.hosts import Hosts, Visit, host_of
from worker.mailbox import Mailbox

_AT_ONCE = 20
_LOOK_SECONDS = 0.5


class Pace:
    """Turns to sign in. `sleep` waits for seconds."""

    def __init__(
        self,
        hosts: Hosts,
        *,
        at_once: int = _AT_ONCE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._hosts = hosts
        self._at_once = at_once
        self._sleep = sleep
        self._places: dict[str, asyncio.Semaphore] = {}
        # Redis is asked in a thread, so that sessions which stand hear their news meanwhile.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="turns")

    @asynccontextmanager
    async def turn(self, mailbox: Mailbox) -> AsyncIterator[Visit]:
        """Wait for a turn to sign in at the mailbox's host, and have it for the length of the block.

        Raises:
            HostAway: the host is away, or this was the probe that found it still so.
            RedisUnavailable: there is nobody to ask.
        """
        run = asyncio.get_running_loop().run_in_executor
        host = host_of(mailbox.endpoint)
        async with self._places.setdefault(host, asyncio.Semaphore(self._at_once)):
            visit = await self._let_in(mailbox)
            try:
                yield visit
            except MailquayError as error:
                away = await run(self._asking, self._hosts.ended, visit, error)
                if away and visit.probe is not None:
                    raise self._hosts.as_error(away) from error
                raise
            else:
                await run(self._asking, self._hosts.ended, visit, None)

    async def _let_in(self, mailbox: Mailbox) -> Visit:
        run = asyncio.get_running_loop().run_in_executor
        while True:
            try:
                visit = await run(self._asking, self._hosts.ask, mailbox)
            except HostBusy:
                await self._sleep(_LOOK_SECONDS)
            else:
                if visit.wait:
                    await self._sleep(visit.wait)
                return visit

    def close(self) -> None:
        """Let the thread go."""
        self._asking.shutdown(wait=False, cancel_futures=True)
