"""Encryption of grants at rest, with keys that live outside Redis.

A blob is sealed for one account: moved to another account's key it does not open. The first key seals, all keys open,
and the file of keys is read again when it changes, so that keys are changed without downtime. It protects a stolen
Redis, a dump and a backup of it; it does not protect against someone who also has the keys.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from worker.errors import TokensUnreadable

_CLEAR = "clear:"


class Seal:
    """Seals and opens with the Fernet keys (32 octets in URL-safe base64) that `keys` gives, newest first.

    With `in_clear` nothing is encrypted; only DANGEROUSLY_STORE_TOKENS_IN_CLEAR asks for that.
    """

    def __init__(self, keys: Callable[[], Sequence[str]], *, in_clear: bool = False) -> None:
        self._keys = keys
        self._in_clear = in_clear
        self._known: tuple[str, ...] = ()
        self._fernet: MultiFernet | None = None

    def seal(self, account: str, text: str) -> str:
        """Encrypt for one account.

        Raises:
            TokensUnreadable: there is no key, or one of them is no Fernet key.
        """
        # Fernet has no associated data, so the account goes inside and is compared after opening.
        packed = orjson.dumps([account, text])
        return _CLEAR + packed.decode() if self._in_clear else self._ring().encrypt(packed).decode()

    def open(self, account: str, blob: str) -> str:
        """Decrypt what was sealed for this account.

        Raises:
            TokensUnreadable: no key fits, or it was sealed for another account.
        """
        try:
            if blob.startswith(_CLEAR):
                packed = blob.removeprefix(_CLEAR).encode()
            else:
                packed = self._ring().decrypt(blob.encode())
            sealed_for, text = orjson.loads(packed)
        except (InvalidToken, ValueError):
            raise TokensUnreadable(
                f"the stored token of {account} cannot be opened with the keys in TOKEN_KEYS_FILE. Put the key back "
                f"that sealed it, or sign in again with `mailquay login {account}`"
            ) from None
        if sealed_for != account:
            raise TokensUnreadable(
                f"the stored token of {account} was sealed for another account: someone moved it. Sign in again with "
                f"`mailquay login {account}`"
            )
        if blob.startswith(_CLEAR) and not self._in_clear:
            # Whoever can write to Redis could plant a grant of his own, were clear ones believed.
            raise TokensUnreadable(
                f"the token of {account} is stored in clear, and DANGEROUSLY_STORE_TOKENS_IN_CLEAR is off. Sign in "
                f"again with `mailquay login {account}`"
            )
        return str(text)

    def _ring(self) -> MultiFernet:
        keys = tuple(self._keys())
        if self._fernet is None or keys != self._known:
            try:
                self._fernet, self._known = MultiFernet([Fernet(key) for key in keys]), keys
            except ValueError as error:
                raise TokensUnreadable(
                    "TOKEN_KEYS_FILE must hold Fernet keys, one a line, newest first; make one with "
                    "`mailquay tokens new-key`"
                ) from error
        return self._fernet


class KeyFile:
    """The keys in a file, one a line, read again whenever the file changes.

    With `create`, a file with one new key (mode 0600) is made when there is none.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._create = create
        self._seen: tuple[int, ...] = ()
        self._keys: list[str] = []

    def __call__(self) -> list[str]:
        """The keys as they are now.

        Raises:
            TokensUnreadable: the file cannot be read or made.
        """
        try:
            if self._create and not self._path.exists():
                _make(self._path)
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                self._keys = [line.strip() for line in self._path.read_text().splitlines() if line.strip()]
                self._seen = seen
        except OSError as error:
            raise TokensUnreadable(
                f"TOKEN_KEYS_FILE {self._path} cannot be read ({error.strerror}). Tokens are not stored in clear; "
                "make the file readable for this user, or unset the variable to have one made in DATA_DIR"
            ) from error
        return self._keys

    def put_in_front(self, key: str) -> None:
        """Make `key` the newest one: the file is replaced in one step, with the owner and mode that it had.

        Raises:
            TokensUnreadable: the file cannot be written.
        """
        keys = [key, *self()]
        try:
            # Behind a link lies the file itself, and whoever could read it before has to go on reading it.
            path = self._path.resolve(strict=True)
            before = path.stat()
            unfinished = _written(path, keys)
            unfinished.chmod(stat.S_IMODE(before.st_mode))
            if before.st_uid != os.getuid() or before.st_gid != os.getgid():
                os.chown(unfinished, before.st_uid, before.st_gid)
            unfinished.replace(path)
        except OSError as error:
            raise TokensUnreadable(
                f"TOKEN_KEYS_FILE {self._path} cannot be written ({error.strerror}). Make a key with "
                "`mailquay tokens new-key --print` and put it in front by hand"
            ) from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = _written(path, [Fernet.generate_key().decode()])
    try:
        # Several processes may start at once: a link, unlike a rename, never replaces the key of another.
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def _written(path: Path, keys: Sequence[str]) -> Path:
    # The name is unique and the mode 0600; process ids alone repeat between containers that share the folder.
    number, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(number, "wb") as handle:  # noqa: PTH123
        handle.write("".join(f"{key}\n" for key in keys).encode())
        handle.flush()
        os.fsync(handle.fileno())
    return Path(unfinished)
