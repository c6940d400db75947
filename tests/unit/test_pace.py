"""Signing in with many connections, in turns."""

from __future__ import annotations

import asyncio

from worker.pace import Pace


class Clockwork:
    """Sleeps take no time and are kept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_logins_of_one_host_are_spread_over_time() -> None:
    """Each waits for a longer time than the one before; another host is not concerned."""
    clockwork = Clockwork()
    pace = Pace(at_once=100, a_second=10, sleep=clockwork.sleep)

    async def run() -> None:
        async def login(host: str) -> None:
            async with pace.turn(host):
                pass

        await asyncio.gather(*(login("one.example") for _ in range(5)), login("other.example"))

    asyncio.run(run())

    assert [round(seconds, 1) for seconds in clockwork.slept] == [0.1, 0.2, 0.3, 0.4]


def test_no_more_than_so_many_sign_in_at_a_time() -> None:
    """A host is the same in any case; who is done, or fails, makes room."""
    pace = Pace(at_once=3, a_second=1e6)
    inside, most = 0, 0

    async def run() -> None:
        async def login(number: int) -> None:
            nonlocal inside, most
            async with pace.turn("One.Example" if number % 2 else "one.example"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.01)
                inside -= 1
                if number % 3 == 0:
                    raise ConnectionError

        await asyncio.gather(*map(login, range(20)), return_exceptions=True)

    asyncio.run(run())

    assert (inside, most) == (0, 3)
