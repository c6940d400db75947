"""Tokens at rest: only whoever has the keys reads them, and only where they belong."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from worker.errors import TokensUnreadable
from worker.tokens.seal import Seal, keys_in


def key() -> str:
    return Fernet.generate_key().decode()


def test_what_was_sealed_opens_for_its_account_alone() -> None:
    """A blob that somebody moved to another account does not open: its owner would pull the wrong mail."""
    seal = Seal([key()])
    blob = seal.seal("alice@contoso.com", "cache")

    assert "cache" not in blob
    assert seal.open("alice@contoso.com", blob) == "cache"
    with pytest.raises(TokensUnreadable, match="sealed for another account"):
        seal.open("bob@contoso.com", blob)


def test_keys_can_be_changed_without_downtime() -> None:
    """The first seals, all open; a key that was taken away is asked for by name, never guessed at."""
    old, new = key(), key()
    before = Seal([old]).seal("alice", "cache")
    both = Seal([new, old])

    assert both.open("alice", before) == "cache"
    after = both.seal("alice", "cache")
    assert Seal([new]).open("alice", after) == "cache"
    with pytest.raises(TokensUnreadable, match=r"TOKEN_KEYS_FILE.*mailquay login alice") as caught:
        Seal([new]).open("alice", before)
    assert new not in str(caught.value)


@pytest.mark.parametrize("keys", [[], ["not a key"], [Fernet.generate_key().decode(), ""]])
def test_keys_that_are_none_are_refused_without_being_shown(keys: list[str]) -> None:
    """Tokens are never stored in clear for want of a key."""
    with pytest.raises(TokensUnreadable, match="TOKEN_KEYS_FILE") as caught:
        Seal(keys)
    assert not any(found in str(caught.value) for found in keys if found)


def test_a_damaged_blob_is_unreadable_and_no_more() -> None:
    """Whatever happened to it in Redis."""
    seal = Seal([key()])
    for blob in ("", "x", seal.seal("alice", "cache")[:-7], "ünicode"):
        with pytest.raises(TokensUnreadable, match="alice"):
            seal.open("alice", blob)


def test_a_missing_file_of_keys_is_made_once_for_the_owner_only(tmp_path: Path) -> None:
    """Of many processes that start at the same moment all get the same key."""
    path = tmp_path / "data" / "token_keys"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: keys_in(path, create=True), range(8)))

    assert len({tuple(keys) for keys in found}) == 1
    assert len(found[0]) == 1
    assert Seal(found[0]).open("a", Seal(found[0]).seal("a", "x")) == "x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["token_keys"]


def test_a_file_of_keys_is_read_line_by_line(tmp_path: Path) -> None:
    """Newest first; empty lines do no harm; one that cannot be read is named, and not replaced."""
    path = tmp_path / "keys"
    path.write_text("\n new \n\nold\n")

    assert keys_in(path, create=True) == ["new", "old"]
    with pytest.raises(TokensUnreadable, match="cannot be read"):
        keys_in(tmp_path / "missing", create=False)
    with pytest.raises(TokensUnreadable, match="cannot be read"):
        keys_in(tmp_path, create=True)
