"""Encryption of token caches at rest, with keys that live outside Redis.

A blob is sealed for one account: moved to another account's key it does not open. The first key seals, all keys open,
so a new key can be put in front without downtime. It protects a stolen Redis, a dump and a backup of it; it does not
protect against someone who also has the keys.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from worker.errors import TokensUnreadable


class Seal:
    """Seals and opens with Fernet keys (32 octets in URL-safe base64), newest first.

    Raises:
        TokensUnreadable: there is no key, or one of them is no Fernet key.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            raise TokensUnreadable(
                "TOKEN_KEYS_FILE must hold Fernet keys, one a line, newest first; make one with "
                "`mailquay tokens new-key`"
            ) from error

    def seal(self, account: str, text: str) -> str:
        """Encrypt for one account."""
        # Fernet has no associated data, so the account goes inside and is compared after opening.
        return self._fernet.encrypt(orjson.dumps([account, text])).decode()

    def open(self, account: str, blob: str) -> str:
        """Decrypt what was sealed for this account.

        Raises:
            TokensUnreadable: no key fits, or it was sealed for another account.
        """
        try:
            sealed_for, text = orjson.loads(self._fernet.decrypt(blob.encode()))
        except InvalidToken:
            raise TokensUnreadable(
                f"the stored token of {account} cannot be opened with the keys in TOKEN_KEYS_FILE. Put the key back "
                f"that sealed it, or sign in again with `mailquay login {account}`"
            ) from None
        if sealed_for != account:
            raise TokensUnreadable(
                f"the stored token of {account} was sealed for another account: someone moved it. Sign in again with "
                f"`mailquay login {account}`"
            )
        return str(text)


def keys_in(path: Path, *, create: bool) -> list[str]:
    """The keys in a file, one a line. With `create`, a file with one new key (mode 0600) is made when there is none.

    Raises:
        TokensUnreadable: the file cannot be read or made.
    """
    try:
        if create and not path.exists():
            _make(path)
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise TokensUnreadable(
            f"TOKEN_KEYS_FILE {path} cannot be read ({error.strerror}). Tokens are never stored in clear; make the "
            "file readable for this user, or unset the variable to have one made in DATA_DIR"
        ) from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The name is unique and the mode 0600; process ids alone repeat between containers that share the folder.
    number, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(number, "wb") as handle:  # noqa: PTH123
        handle.write(Fernet.generate_key() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
    try:
        # Several processes may start at once: a link, unlike a rename, never replaces the key of another.
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        Path(unfinished).unlink()
