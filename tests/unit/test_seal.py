"""Tokens at rest: only whoever has the keys reads them, and only where they belong."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from worker.errors import TokensUnreadable
from worker.tokens.seal import KeyFile, Seal


def key() -> str:
    return Fernet.generate_key().decode()


def test_what_was_sealed_opens_for_its_account_alone() -> None:
    """A blob that somebody moved to another account does not open: its owner would pull the wrong mail."""
    keys = [key()]
    seal = Seal(lambda: keys)
    blob = seal.seal("alice@contoso.com", "cache")

    assert "cache" not in blob
    assert seal.open("alice@contoso.com", blob) == "cache"
    with pytest.raises(TokensUnreadable, match="sealed for another account"):
        seal.open("bob@contoso.com", blob)


def test_keys_can_be_changed_without_downtime() -> None:
    """The first seals, all open; a key that was taken away is asked for by name, never guessed at."""
    old, new = key(), key()
    before = Seal(lambda: [old]).seal("alice", "cache")
    both = Seal(lambda: [new, old])

    assert both.open("alice", before) == "cache"
    after = both.seal("alice", "cache")
    assert Seal(lambda: [new]).open("alice", after) == "cache"
    with pytest.raises(TokensUnreadable, match=r"TOKEN_KEYS_FILE.*mailquay login alice") as caught:
        Seal(lambda: [new]).open("alice", before)
    assert new not in str(caught.value)


@pytest.mark.parametrize("keys", [[], ["not a key"], [Fernet.generate_key().decode(), ""]])
def test_keys_that_are_none_are_refused_without_being_shown(keys: list[str]) -> None:
    """Tokens are never stored in clear for want of a key."""
    with pytest.raises(TokensUnreadable, match="TOKEN_KEYS_FILE") as caught:
        Seal(lambda: keys).seal("alice", "cache")
    assert not any(found in str(caught.value) for found in keys if found)


def test_a_damaged_blob_is_unreadable_and_no_more() -> None:
    """Whatever happened to it in Redis."""
    keys = [key()]
    seal = Seal(lambda: keys)
    for blob in ("", "x", seal.seal("alice", "cache")[:-7], "ünicode"):
        with pytest.raises(TokensUnreadable, match="alice"):
            seal.open("alice", blob)


def test_a_missing_file_of_keys_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    """Of many processes that start at the same moment all get the same key."""
    path = tmp_path / "data" / "token_keys"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: KeyFile(path, create=True)(), range(8)))

    assert len({tuple(keys) for keys in found}) == 1
    assert len(found[0]) == 1
    seal = Seal(lambda: found[0])
    assert seal.open("a", seal.seal("a", "x")) == "x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["token_keys"]


def test_a_file_of_keys_is_read_line_by_line(tmp_path: Path) -> None:
    """Newest first; empty lines do no harm; one that cannot be read is named, and not replaced."""
    path = tmp_path / "keys"
    path.write_text("\n new \n\nold\n")

    assert KeyFile(path, create=True)() == ["new", "old"]
    with pytest.raises(TokensUnreadable, match="cannot be read"):
        KeyFile(tmp_path / "missing", create=False)()
    with pytest.raises(TokensUnreadable, match="cannot be read"):
        KeyFile(tmp_path, create=True)()


def test_a_file_of_keys_that_changes_is_read_again(tmp_path: Path) -> None:
    """Workers that run for months take a new key without a restart."""
    path = tmp_path / "keys"
    keys = KeyFile(path, create=True)
    seal = Seal(keys)
    before = seal.seal("alice", "cache")
    new = key()

    keys.put_in_front(new)

    other = Seal(KeyFile(path, create=False))
    assert other.open("alice", before) == seal.open("alice", before) == "cache"
    after = seal.seal("alice", "cache")
    assert Seal(lambda: [new]).open("alice", after) == "cache"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_stored_in_clear_is_believed_only_by_whoever_stores_in_clear() -> None:
    """Whoever can write to Redis could otherwise plant a grant of his own and have mail pulled with it."""
    clear = Seal(list, in_clear=True)
    blob = clear.seal("alice", "cache")

    assert "cache" in blob
    assert clear.open("alice", blob) == "cache"
    with pytest.raises(TokensUnreadable, match="DANGEROUSLY_STORE_TOKENS_IN_CLEAR"):
        Seal(lambda: [key()]).open("alice", blob)
