"""A copy of each sealed grant beside the spool, because a Redis that is flushed, or loses its last second, loses sign-ins.

It holds what Redis holds, sealed alike, one file an account, replaced in one step. Which of the two is newer, the version
says. A copy that cannot be written is reported and no more: Redis has the grant.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import orjson
import structlog

log = structlog.get_logger("tokens")


class Copies:
    """The copies in a folder, which is made at the first one, for its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, account: str, fields: Mapping[str, str]) -> None:
        """Keep the fields of an account's entry."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            number, unfinished = tempfile.mkstemp(prefix=".unfinished.", dir=self._folder)
            with open(number, "wb") as handle:  # noqa: PTH123
                handle.write(orjson.dumps({"account": account, **fields}))
                handle.flush()
                os.fsync(handle.fileno())
            Path(unfinished).replace(self._path(account))
        except OSError as error:
            log.warning("token.not_copied", account=account, reason=f"{self._folder}: {error.strerror}")

    def load(self, account: str) -> dict[str, str]:
        """The fields that `save` kept; none when there are none, or they cannot be read."""
        try:
            found = orjson.loads(self._path(account).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            # A missing copy is the rule on a machine that has not refreshed this account; a torn one is as good as none.
            return {}
        ours = isinstance(found, dict) and found.pop("account", None) == account
        return found if ours else {}

    def forget(self, account: str) -> None:
        """Delete the copy of an account."""
        self._path(account).unlink(missing_ok=True)

    def _path(self, account: str) -> Path:
        # A name may hold anything that a file name may not.
        return self._folder / f"{hashlib.sha256(account.encode()).hexdigest()[:32]}.json"
