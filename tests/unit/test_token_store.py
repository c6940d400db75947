"""Stored tokens on a real server: one writer at a time, and nobody's newer token is overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.bed.valkey import Valkey
from worker import state
from worker.errors import TokensUnreadable
from worker.tokens import AccessToken, Grant, Stored, Trouble
from worker.tokens.copies import Copies
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
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path / "tokens")


@pytest.fixture
def store(client: state.Client, copies: Copies) -> TokenStore:
    key = Fernet.generate_key().decode()
    return TokenStore(client, Seal(lambda: [key]), copies)


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


def test_nothing_readable_is_stored(client: state.Client, store: TokenStore, copies: Copies) -> None:
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
        TokenStore(client, Seal(lambda: [wrong]), copies).load(ALICE)
    assert "-token" not in repr(store.load(ALICE))


def test_times_outlast_a_refresh_and_a_trouble_does_not(store: TokenStore) -> None:
    """When somebody signed in is told until he does so again; a trouble belongs to the version that it was found with."""
    troubles = {"imap": Trouble("NeedsSignIn", "sign in again", tries=1, again_at=NOW + 60)}
    store.swap(ALICE, Grant("x"), read=0, now=NOW, signed_in=True, client_id="c", ends_at=NOW + 9)
    first = store.load(ALICE).version
    store.note(ALICE, troubles, read=first)
    assert store.glance(ALICE) == Stored(first, None, NOW, NOW, NOW + 9, "c", troubles)

    store.swap(ALICE, Grant("y"), read=first, now=NOW + 5, client_id="c")
    store.note(ALICE, troubles, read=first)

    second = store.glance(ALICE)
    assert second == Stored(second.version, None, NOW, NOW + 5, None, "c")


def test_a_forgotten_account_never_gets_an_old_version_again(store: TokenStore) -> None:
    """A refresh that was under way when somebody forgot the account must not bring it back."""
    swap(store, ALICE, "x", read=0)
    before = store.glance(ALICE).version
    assert store.forget(ALICE)
    assert not store.forget(ALICE)

    assert not swap(store, ALICE, "late", read=before)
    assert store.accounts() == []
    assert swap(store, ALICE, "new", read=store.glance(ALICE).version)
    assert store.glance(ALICE).version > before


def test_a_new_key_takes_over_without_anybody_noticing(client: state.Client, copies: Copies) -> None:
    """Sealed anew under the same version: a reader with both keys finds the same, and the old key is needed no more."""
    keys = [Fernet.generate_key().decode()]
    store = TokenStore(client, Seal(lambda: keys), copies)
    swap(store, ALICE, "x", read=0)
    before = store.load(ALICE)
    keys.insert(0, Fernet.generate_key().decode())

    assert store.reseal(ALICE)
    keys.pop()

    assert store.load(ALICE) == before
    assert not store.reseal("nobody@contoso.com")


def test_a_flushed_redis_gets_its_grants_back(client: state.Client, store: TokenStore) -> None:
    """Nobody has to sign in again because a server was emptied; the version stays ahead of what was."""
    store.swap(ALICE, Grant("x"), read=0, now=NOW, signed_in=True, client_id="c")
    before = store.load(ALICE)
    client.flushdb()

    after = store.load(ALICE)

    assert (after.grant, after.signed_in_at, after.client_id) == (before.grant, NOW, "c")
    assert after.version > before.version
    assert store.accounts() == [ALICE]


def test_a_redis_that_lost_its_last_second_gets_the_newest_grant_back(
    client: state.Client, store: TokenStore
) -> None:
    """The newest refresh token is the only good one at a provider that rotates them."""
    swap(store, ALICE, "first", read=0)
    earlier = client.hgetall(state.token_key(ALICE))
    swap(store, ALICE, "second", read=store.glance(ALICE).version)
    client.delete(state.token_key(ALICE))
    client.hset(state.token_key(ALICE), mapping=earlier)  # type: ignore[arg-type]

    assert cache_of(store, ALICE) == "second"


def test_a_copy_that_was_overtaken_or_forgotten_brings_nothing_back(
    client: state.Client, store: TokenStore, tmp_path: Path
) -> None:
    """Another machine has refreshed since, or somebody has forgotten the account there."""
    swap(store, ALICE, "first", read=0)
    elsewhere = TokenStore(client, store._seal, Copies(tmp_path / "elsewhere"))
    swap(elsewhere, ALICE, "second", read=store.glance(ALICE).version)
    assert cache_of(store, ALICE) == "second"

    elsewhere.forget(ALICE)
    assert cache_of(store, ALICE) is None


def test_a_copy_that_cannot_be_written_or_read_is_no_trouble(
    client: state.Client, store: TokenStore, tmp_path: Path
) -> None:
    """Redis has the grant; the disk is somebody else's business."""
    (tmp_path / "tokens").write_text("in the way")
    assert swap(store, ALICE, "x", read=0)
    assert cache_of(store, ALICE) == "x"
    (tmp_path / "tokens").unlink()
    swap(store, ALICE, "y", read=store.glance(ALICE).version)
    (file,) = (tmp_path / "tokens").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(file.read_bytes()[:20])

    assert cache_of(store, ALICE) == "y"
