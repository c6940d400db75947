"""When a maildrop counts as renumbered, and which digests are remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.bed.valkey import Valkey
from worker import state
from worker.recognise import DAYS, MOST, Handed, renamed, short

NOW = 1_800_000_000


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.mark.parametrize(
    ("known", "gone", "listed", "expected"),
    [
        (100, 100, 100, True),
        (100, 100, 103, True),
        (100, 60, 100, True),
        (3, 3, 3, True),
        (0, 0, 50, False),
        (100, 0, 150, False),
        (100, 40, 100, False),
        (100, 100, 10, False),
        (100, 100, 0, False),
        (2, 2, 2, False),
    ],
)
def test_a_maildrop_is_renumbered_when_most_uidls_go_and_as_many_come(
    *, known: int, gone: int, listed: int, expected: bool
) -> None:
    """Neither new mail, nor deleted mail, nor both in the measure of a day."""
    assert renamed(known=known, gone=gone, listed=listed) is expected


def test_a_digest_is_known_for_as_long_as_it_is_kept(client: state.Client) -> None:
    """By mailbox; nothing asked for is nothing asked."""
    handed = Handed(client)
    handed.note("box", [digest(1), digest(2)], NOW)
    handed.note("box", [digest(3)], NOW + DAYS * 86400 - 1)

    assert handed.known("box", [digest(1), digest(3), digest(4)]) == {digest(1), digest(3)}
    assert handed.known("shop", [digest(1)]) == frozenset()
    assert handed.known("box", []) == frozenset()
    handed.note("box", [digest(4)], NOW + DAYS * 86400)
    assert handed.known("box", [digest(1), digest(2), digest(3), digest(4)]) == {digest(3), digest(4)}


def test_the_newest_digests_are_kept_and_cost_about_a_hundred_octets_each(client: state.Client) -> None:
    """A mailbox with a lot of mail does not fill Redis."""
    handed = Handed(client)
    for start in range(0, MOST + 1000, 1000):
        handed.note("box", map(digest, range(start, start + 1000)), NOW + start)

    key = state.handed_key("box")
    assert client.zcard(key) == MOST
    assert handed.known("box", [digest(999), digest(1000)]) == {digest(1000)}
    octets = client.memory_usage(key, samples=0)
    assert octets is not None
    assert octets / MOST < 130


def test_a_digest_is_kept_short() -> None:
    """128 bits: chance never makes two of them equal, and nobody can."""
    assert len(short(digest(1))) == 22
    assert len({short(digest(number)) for number in range(1000)}) == 1000
