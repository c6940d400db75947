"""Mailboxes are divided among watchers, and news are noted once, on a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bed.processes import wait_until
from tests.bed.valkey import Valkey
from worker import state
from worker.errors import Unreachable
from worker.news import News
from worker.shares import Shares
from worker.standing import Standings
from worker.timetable import Timetable, pull_entry

NOW = 1_700_000_000.0
NAMES = [f"m{number}" for number in range(10)]


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


class Process:
    """A watcher that asks for its share."""

    def __init__(self, client: state.Client, name: str, *, ttl: float = 60) -> None:
        self.shares = Shares(client, name, ttl=ttl)
        self.mine: set[str] = set()

    def ask(self, names: list[str] = NAMES) -> set[str]:
        self.mine = self.shares.mine(names, self.mine)
        return self.mine


def test_one_watcher_has_everything(client: state.Client) -> None:
    """And nothing where there is nothing."""
    assert Process(client, "a").ask() == set(NAMES)
    assert Process(client, "b").ask([]) == set()


def test_each_mailbox_is_watched_by_one_of_many_and_evenly(client: state.Client) -> None:
    """Whoever comes later gets what the others give up, which is no more than needed."""
    first, second, third = (Process(client, name) for name in "abc")
    first.ask()

    assert second.ask() == set()
    kept = first.ask()
    assert len(kept) == 5
    assert second.ask() == set(NAMES) - kept
    assert (first.ask(), second.ask()) == (kept, set(NAMES) - kept)

    third.ask()
    for one in (first, second, third):
        one.ask()
    assert sorted(map(len, (first.mine, second.mine, third.mine))) == [2, 4, 4]
    assert first.mine | second.mine | third.mine == set(NAMES)
    assert first.mine <= kept


def test_what_a_dead_watcher_had_is_taken_over_when_its_time_is_up(client: state.Client) -> None:
    """Not before: it may only be slow."""
    dead, heir = Process(client, "dead", ttl=0.5), Process(client, "heir")
    dead.ask()
    heir.ask()
    begun = time.monotonic()
    dead.ask()

    assert len(heir.ask()) == 5
    wait_until(lambda: len(heir.ask()) == 10, timeout=5, what="the take-over")

    # Redis counts whole milliseconds.
    assert time.monotonic() - begun >= 0.49


def test_a_watcher_that_leaves_is_not_waited_for(client: state.Client) -> None:
    """A restart costs no lease time."""
    leaving, heir = Process(client, "leaving"), Process(client, "heir")
    leaving.ask()
    heir.ask()

    leaving.shares.leave()

    assert heir.ask() == set(NAMES)


def test_after_a_flush_everything_is_shared_again(client: state.Client) -> None:
    """The first to come is alone for a moment and takes everything; then it gives up what is too much."""
    first, second = Process(client, "a"), Process(client, "b")
    for one in (first, second, first, second):
        one.ask()
    client.flushall()

    for one in (first, second, first, second):
        one.ask()

    assert (len(first.mine), len(second.mine)) == (5, 5)
    assert first.mine | second.mine == set(NAMES)


def test_a_mailbox_that_is_not_wanted_any_more_leaves_nothing_behind(client: state.Client) -> None:
    """Else Redis would remember every mailbox that ever was."""
    one = Process(client, "a")
    one.ask()

    assert one.ask(["m1"]) == {"m1"}

    assert client.hgetall(state.WATCHED) == {"m1": "a"}


def test_ten_thousand_mailboxes_are_shared_in_a_moment(client: state.Client) -> None:
    """It is asked for three times in the life of a lease, and other commands wait meanwhile."""
    names = [f"mailbox-{number}" for number in range(10_000)]
    one = Process(client, "a")
    one.ask(names)

    begun = time.monotonic()
    assert len(one.ask(names)) == 10_000
    assert time.monotonic() - begun < 1


# -- news ------------------------------------------------------------------------------------------------------------


def test_news_ring_once_until_a_pull_begins(client: state.Client) -> None:
    """A burst of mail is one bell; what comes after the pull has begun is another."""
    news = News(client)

    assert [news.noted("box", NOW), news.noted("box", NOW), news.noted("other", NOW)] == [True, False, True]
    assert news.there("box")
    news.taken("box")
    assert not news.there("box")
    assert news.noted("box", NOW)


def test_a_mailbox_that_failed_is_left_to_its_schedule(client: state.Client) -> None:
    """A server that asked for a pause would be called at every new message."""
    news, standings = News(client), Standings(client)
    standings.ill("box", NOW, Unreachable("gone"))

    assert not news.noted("box", NOW)

    standings.well("box", NOW)
    assert news.noted("box", NOW)


def test_a_bell_for_news_that_is_lost_is_seen_by_the_sweep(client: state.Client) -> None:
    """It stands among the unanswered ones, with its own time or an older one."""
    timetable, news = Timetable(client), News(client)
    timetable.sync({pull_entry("early"): 60.0}, NOW - 30)
    timetable.claim(NOW - 30)

    news.noted("early", NOW)
    news.noted("box", NOW)

    assert [(bell.entry, bell.first) for bell in timetable.unanswered()] == [
        (pull_entry("early"), NOW - 30),
        (pull_entry("box"), NOW),
    ]
