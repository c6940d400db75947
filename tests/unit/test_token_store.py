"""Stored tokens on a real server: one writer at a time, and nobody's newer token is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.bed.valkey import Valkey
from worker import state
from worker.errors import TokensUnreadable
from worker.tokens import AccessToken, Grant, Stored, Trouble
from worker.tokens.seal import Seal
from worker.tokens.store import TokenStore

ALICE = "alice@contoso.com"
NOW = 1_900_000_000.0


@pytest.fixture
def client(fresh_valkey: Valkey) -> Iterator[state.Client]:
    client = state.connect(fresh_valkey.url)
    yield client
    client.close()


@pytest.fixture
def store(client: state.Client) -> TokenStore:
    key = Fernet.generate_key().decode()
    return TokenStore(client, Seal(lambda: [key]))


def swap(store: TokenStore, account: str, cache: str, *, read: int, **more: Any) -> bool:
    return store.swap(account, Grant(cache), read=read, now=NOW, **more)


def cache_of(store: TokenStore, account: str) -> str | None:
    grant = store.load(account).grant
    return grant.cache if grant else None


def test_a_writer_that_read_an_older_version_writes_nothing(store: TokenStore) -> None:
    """Compare and set: somebody signed in meanwhile, and theirs stays."""
    assert store.load(ALICE) == Stored(0)
    assert swap(store, ALICE, "first", read=0)
    first = store.load(ALICE).version
    assert not swap(store, ALICE, "late", read=0)
    assert swap(store, ALICE, "second", read=first)

    assert cache_of(store, ALICE) == "second"
    assert store.glance(ALICE).version > first


def test_of_many_writers_at_once_exactly_one_succeeds(store: TokenStore) -> None:
    """However they race."""
    for _ in range(10):
        version = store.glance(ALICE).version
        with ThreadPoolExecutor(4) as threads:
            done = list(threads.map(lambda n, at=version: swap(store, ALICE, f"{n}", read=at), range(4)))
        assert done.count(True) == 1
        assert cache_of(store, ALICE) == str(done.index(True))


def test_accounts_are_the_same_however_they_are_written(store: TokenStore) -> None:
    """Providers compare them without regard to case."""
    swap(store, "Alice@Contoso.com", "x", read=0)
    swap(store, "bob@contoso.com", "y", read=0)

    assert cache_of(store, ALICE) == "x"
    assert store.accounts() == [ALICE, "bob@contoso.com"]


def test_nothing_readable_is_stored(client: state.Client, store: TokenStore) -> None:
    """A stolen dump of Redis holds no token; a blob moved to another account, or a wrong key, opens nothing."""
    grant = Grant("refresh-token", {"scope": AccessToken("access-token", NOW + 3600, NOW)})
    store.swap(ALICE, grant, read=0, now=NOW)
    fields = client.hgetall(state.token_key(ALICE))
    assert isinstance(fields, dict)
    assert not any("-token" in value for value in fields.values())
    assert store.load(ALICE).grant == grant

    client.hset(state.token_key("bob@contoso.com"), mapping=fields)
    with pytest.raises(TokensUnreadable, match="moved"):
        store.load("bob@contoso.com")
    wrong = Fernet.generate_key().decode()
    with pytest.raises(TokensUnreadable, match="TOKEN_KEYS_FILE"):
        TokenStore(client, Seal(lambda: [wrong])).load(ALICE)
    assert "-token" not in repr(store.load(ALICE))


def test_times_outlast_a_refresh_and_a_trouble_does_not(store: TokenStore) -> None:
    """When somebody signed in is told until he does so again; a trouble belongs to the version that it was found with."""
    trouble = Trouble("NeedsSignIn", "sign in again", since=NOW, tries=1, again_at=NOW + 60)
    store.swap(ALICE, Grant("x"), read=0, now=NOW, signed_in=True, client_id="c", ends_at=NOW + 9)
    first = store.load(ALICE).version
    store.note(ALICE, trouble, read=first)
    assert store.glance(ALICE) == Stored(first, None, NOW, NOW, NOW + 9, "c", trouble)

    store.swap(ALICE, Grant("y"), read=first, now=NOW + 5, client_id="c")
    store.note(ALICE, trouble, read=first)

    second = store.glance(ALICE)
    assert second == Stored(second.version, None, NOW, NOW + 5, None, "c", None)


def test_a_forgotten_account_never_gets_an_old_version_again(store: TokenStore) -> None:
    """A refresh that was under way when somebody forgot the account must not bring it back."""
    swap(store, ALICE, "x", read=0)
    before = store.glance(ALICE).version
    assert store.forget(ALICE)
    assert not store.forget(ALICE)

    assert not swap(store, ALICE, "late", read=before)
    assert swap(store, ALICE, "new", read=0)
    assert store.glance(ALICE).version > before


def test_a_new_key_takes_over_without_anybody_noticing(client: state.Client) -> None:
    """Sealed anew under the same version: a reader with both keys finds the same, and the old key is needed no more."""
    keys = [Fernet.generate_key().decode()]
    store = TokenStore(client, Seal(lambda: keys))
    swap(store, ALICE, "x", read=0)
    before = store.load(ALICE)
    keys.insert(0, Fernet.generate_key().decode())

    assert store.reseal(ALICE)
    keys.pop()

    assert store.load(ALICE) == before
    assert not store.reseal("nobody@contoso.com")
