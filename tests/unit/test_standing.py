"""How a mailbox stands, and how long one that failed is left in peace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bed.valkey import Valkey
from worker import state
from worker.errors import (
    LoginRefused,
    MailquayError,
    Misconfigured,
    NeedsSignIn,
    SpoolFull,
    Throttled,
    Unreachable,
)
from worker.standing import Standing, Standings, parking


@pytest.fixture
def standings(fresh_valkey: Valkey) -> Iterator[Standings]:
    client = state.connect(fresh_valkey.url)
    yield Standings(client)
    client.close()


def test_a_mailbox_that_was_never_pulled_is_new(standings: Standings) -> None:
    """A flushed Redis is the same."""
    assert standings.of("box") == Standing("new")


def test_failures_are_counted_in_a_row_and_forgotten_when_it_is_well_again(standings: Standings) -> None:
    """The last good pull stays known while it fails; counters go on."""
    standings.count("box", "pulled", 3)
    standings.well("box", 100.0)
    assert standings.ill("box", 160.0, Unreachable("the server hung")) == 1
    assert standings.ill("box", 220.0, Unreachable("the server hung")) == 2

    ill = standings.of("box")
    assert (ill.state, ill.sentence, ill.failures) == ("unreachable", "the server hung", 2)
    assert (ill.pulled_at, ill.tried_at, ill.pulled) == (100.0, 220.0, 3)

    standings.well("box", 300.0)
    standings.count("box", "pulled", 4)
    well = standings.of("box")
    assert (well.state, well.sentence, well.failures, well.pulled_at, well.pulled) == ("ok", "", 0, 300.0, 7)


@pytest.mark.parametrize(
    ("error", "first", "longest"),
    [
        (Unreachable("hung"), 5, 300),
        (SpoolFull("full"), 5, 300),
        (Misconfigured("no such folder"), 5, 900),
        (LoginRefused("no reason"), 5, 900),
        (NeedsSignIn("revoked"), 0, 0),
        (Throttled("slow down", seconds=77), 77, 77),
        (Throttled("used up", seconds=300, longest=3600), 300, 3600),
    ],
)
def test_parking_grows_with_failures_and_depends_on_who_must_act(
    error: MailquayError, first: float, longest: float
) -> None:
    """What mends itself is tried every five minutes at least, what a person must mend every quarter of an hour.

    An account without a token costs no request: its mailboxes are polled as ever.
    """
    times = [parking(error, failures) for failures in range(1, 2_000)]

    assert times[0] == first
    assert times == sorted(times)
    assert times[-1] == longest
