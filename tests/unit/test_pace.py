"""Signing in with many connections, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.bed.installation import Installation
from worker.errors import HostAway, Unreachable
from worker.hosts import host_of
from worker.mailbox import Mailbox
from worker.pace import Pace
from worker.quay import Quay


class Clockwork:
    """Sleeps take no time and are kept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


Configured = Callable[..., tuple[Quay, list[Mailbox]]]


@pytest.fixture
def configured(installation: Installation) -> Iterator[Configured]:
    """So many watched mailboxes of one host, written in several ways."""

    def make(count: int, **more: str) -> tuple[Quay, list[Mailbox]]:
        for number in range(count):
            installation.mailbox(
                f"box{number}", address=f"box{number}@example.com", password="p" * 9, outputs="lines", push="yes",
                host="One.Example" if number % 2 else "one.example",
            )  # fmt: skip
        quay = installation.quay(**more)
        return quay, list(quay.settings.mailboxes.values())

    return make


def run(pace: Pace, work: Any) -> None:
    async def all_of_it() -> None:
        await work

    try:
        asyncio.run(all_of_it())
    finally:
        pace.close()


def test_logins_of_one_host_are_spread_over_time(configured: Configured) -> None:
    """Its turns are those that pulls of all processes share: what they have used up is waited for."""
    quay, boxes = configured(8, HOST_LOGINS="2")
    clockwork = Clockwork()
    pace = Pace(quay.hosts, at_once=100, sleep=clockwork.sleep)
    for box in boxes[:3]:
        quay.hosts.ask(box)

    async def login() -> None:
        async with pace.turn(boxes[3]) as visit:
            assert visit.mailbox == boxes[3].name

    run(pace, login())

    (slept,) = clockwork.slept
    assert 0.5 < slept <= 1


def test_no_more_than_so_many_sign_in_at_a_time(configured: Configured) -> None:
    """A host is the same in any case; who is done, or fails, makes room."""
    quay, boxes = configured(20, HOST_LOGINS="1000")
    pace = Pace(quay.hosts, at_once=3)
    inside, most = 0, 0

    async def login(number: int, box: Mailbox) -> None:
        nonlocal inside, most
        async with pace.turn(box):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1
            if number % 3 == 0:
                raise ConnectionError

    async def all_of_them() -> None:
        await asyncio.gather(*map(login, range(20), boxes), return_exceptions=True)

    run(pace, all_of_them())

    assert (inside, most) == (0, 3)


def test_sessions_that_cannot_be_begun_find_their_host_away(configured: Configured) -> None:
    """Six want to sign in, five fail, and the last one is told and does not call."""
    quay, boxes = configured(6, HOST_LOGINS="1000")
    pace = Pace(quay.hosts)
    called: list[str] = []

    async def login(box: Mailbox) -> None:
        async with pace.turn(box) as visit:
            visit.called = True
            called.append(box.name)
            raise Unreachable("cannot connect to one.example")

    async def one_after_the_other() -> None:
        for box in boxes[:5]:
            with pytest.raises(Unreachable):
                await login(box)
        with pytest.raises(HostAway):
            await login(boxes[5])

    run(pace, one_after_the_other())

    assert called == [box.name for box in boxes[:5]]
    assert quay.hosts.away(host_of(boxes[0].endpoint))
