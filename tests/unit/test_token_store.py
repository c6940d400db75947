"""Stored tokens on a real server: one writer at a time, and nobody's newer token is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.fernet import Fernet

from tests.bed.valkey import Valkey
from worker import state
from worker.errors import TokensUnreadable
from worker.tokens import Stored
from worker.tokens.seal import Seal
from worker.tokens.store import TokenStore

ALICE = "alice@contoso.com"


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


@pytest.fixture
def store(client: state.Client) -> TokenStore:
    return TokenStore(client, Seal([Fernet.generate_key().decode()]))


def test_a_writer_that_read_an_older_version_writes_nothing(store: TokenStore) -> None:
    """Compare and set: somebody signed in meanwhile, and theirs stays."""
    assert store.load(ALICE) == Stored(0, None)
    assert store.swap(ALICE, read=0, cache="first")
    assert not store.swap(ALICE, read=0, cache="late")
    assert store.swap(ALICE, read=1, cache="second")

    assert store.load(ALICE) == Stored(2, "second")
    assert store.version(ALICE) == 2


def test_of_many_writers_at_once_exactly_one_succeeds(store: TokenStore) -> None:
    """However they race."""
    for version in range(10):
        with ThreadPoolExecutor(4) as threads:
            done = list(threads.map(lambda n, at=version: store.swap(ALICE, read=at, cache=f"{n}"), range(4)))
        assert done.count(True) == 1
        assert store.load(ALICE) == Stored(version + 1, str(done.index(True)))


def test_accounts_are_the_same_however_they_are_written(store: TokenStore) -> None:
    """Providers compare them without regard to case."""
    store.swap("Alice@Contoso.com", read=0, cache="x")
    store.swap("bob@contoso.com", read=0, cache="y")

    assert store.load(ALICE).cache == "x"
    assert store.accounts() == [ALICE, "bob@contoso.com"]


def test_nothing_readable_is_stored(client: state.Client, store: TokenStore) -> None:
    """A stolen dump of Redis holds no token; a blob moved to another account, or a wrong key, opens nothing."""
    store.swap(ALICE, read=0, cache="refresh-token")
    fields = client.hgetall(state.token_key(ALICE))
    assert isinstance(fields, dict)
    assert not any("refresh-token" in value for value in fields.values())

    client.hset(state.token_key("bob@contoso.com"), mapping=fields)
    with pytest.raises(TokensUnreadable, match="moved"):
        store.load("bob@contoso.com")
    with pytest.raises(TokensUnreadable, match="TOKEN_KEYS_FILE"):
        TokenStore(client, Seal([Fernet.generate_key().decode()])).load(ALICE)
    assert "refresh-token" not in repr(store.load(ALICE))
