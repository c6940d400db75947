"""Which sessions are kept for a next pull, and which are closed instead."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from worker.kept import Kept, Session
from worker.mailbox import Mailbox
from worker.sources import Source
from worker.tokens import AccessToken


class Resting:
    """As much of a source as matters here."""

    def __init__(self, *, tidy: bool = True) -> None:
        self.open = True
        self._tidy = tidy

    def rest(self) -> bool:
        return self._tidy

    def close(self) -> None:
        self.open = False


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


def mailbox(name: str = "box", **said: Any) -> Mailbox:
    return Mailbox(
        name=name,
        **{
            "address": "support@example.com", "auth": "password", "password": "x", "host": "localhost",
            "outputs": "lines", "keep_connection": "yes", **said,
        },
    )  # fmt: skip


def session(source: Resting, *, since: float = 1000, ends: float | None = None) -> Session:
    token = None if ends is None else AccessToken("t", ends, since)
    return Session(cast("Source", source), token, since)


def test_a_session_is_used_once_and_kept_anew(clock: Time) -> None:
    """It is out of reach while it is used, and the same afterwards."""
    kept, source = Kept(clock), Resting()
    first = session(source)
    assert kept.keep(mailbox(), first)
    kept.let_go(first)

    assert kept.take(mailbox("other")) is None
    assert kept.take(mailbox()) is first
    assert kept.take(mailbox()) is None
    assert source.open
    kept.let_go(first)
    assert not source.open


@pytest.mark.parametrize(("said", "tidy"), [({"keep_connection": "no"}, True), ({}, False)])
def test_what_is_not_wanted_or_not_tidy_is_not_kept(clock: Time, said: dict[str, str], tidy: bool) -> None:
    """A command that has no answer yet would answer the next one."""
    assert not Kept(clock).keep(mailbox(**said), session(Resting(tidy=tidy)))


def test_a_session_is_kept_for_a_quarter_of_an_hour_behind_its_sign_in(clock: Time) -> None:
    """However often it is used: so long at most goes unnoticed what a server does not announce."""
    kept, source = Kept(clock), Resting()
    one = session(source)
    for minutes in (0, 5, 10, 14):
        clock.now = 1000 + 60 * minutes
        assert kept.keep(mailbox(), one)
        assert kept.take(mailbox()) is one
    assert kept.keep(mailbox(), one)

    clock.now = 1000 + 60 * 15
    assert kept.take(mailbox("other")) is None

    assert not source.open
    assert kept.take(mailbox()) is None
    assert not kept.keep(mailbox(), one)


@pytest.mark.parametrize(("ends", "fit"), [(1000 + 600, True), (1000 + 119, False), (900, False)])
def test_a_session_is_not_kept_to_the_end_of_its_token(clock: Time, ends: float, fit: bool) -> None:
    """A server ends it then, in the middle of whatever it does."""
    kept = Kept(clock)
    assert kept.keep(mailbox(), session(Resting(), ends=ends)) is fit

    clock.now += 500

    assert kept.take(mailbox()) is None


@pytest.mark.parametrize("said", [{"password": "y"}, {"folders": "Archive"}, {"host": "127.0.0.1"}])
def test_a_mailbox_that_is_configured_otherwise_gets_a_new_session(clock: Time, said: dict[str, str]) -> None:
    """The old one may be another person's by now."""
    kept, source = Kept(clock), Resting()
    kept.keep(mailbox(), session(source))

    assert kept.take(mailbox(**said)) is None

    assert not source.open


def test_of_too_many_sessions_the_one_used_least_lately_is_closed(clock: Time) -> None:
    """A process keeps so many and no more."""
    kept = Kept(clock, most=2)
    sources = {name: Resting() for name in "abc"}
    for name in "ab":
        kept.keep(mailbox(name), session(sources[name]))
    again = kept.take(mailbox("a"))
    assert again
    kept.keep(mailbox("a"), again)

    kept.keep(mailbox("c"), session(sources["c"]))

    assert [name for name, source in sources.items() if source.open] == ["a", "c"]


def test_a_forked_process_does_not_use_the_sessions_of_its_parent(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes in one encrypted connection would break it for both."""
    kept, source = Kept(clock), Resting()
    kept.keep(mailbox(), session(source))

    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert kept.take(mailbox()) is None
    assert kept.keep(mailbox(), session(Resting()))
    assert kept.take(mailbox())


def test_a_process_that_ends_closes_its_sessions(clock: Time) -> None:
    """All of them."""
    kept, sources = Kept(clock), [Resting(), Resting()]
    for name, source in zip("ab", sources, strict=True):
        kept.keep(mailbox(name), session(source))

    kept.close()

    assert [source.open for source in sources] == [False, False]
