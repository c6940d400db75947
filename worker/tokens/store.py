"""Token caches in Redis: sealed, versioned, written by compare and set only.

One blob an account. The version tells everybody that somebody signed in or refreshed; a writer that read an older
version writes nothing. What is in a blob is the provider's business (`entra`).
"""

from __future__ import annotations

from typing import cast

from worker import state
from worker.tokens import Stored
from worker.tokens.seal import Seal


class TokenStore:
    """The stored caches of all accounts. Accounts are compared without regard to case, as providers do."""

    def __init__(self, client: state.Client, seal: Seal) -> None:
        self._client = client
        self._seal = seal

    def load(self, account: str) -> Stored:
        """The stored cache with its version; version 0 and no cache for an account that never signed in.

        Raises:
            TokensUnreadable: it cannot be opened.
        """
        account = account.casefold()
        version, blob = cast(
            "list[str | None]", self._client.hmget(state.token_key(account), ["version", "blob"])
        )
        return Stored(int(version or 0), self._seal.open(account, blob) if blob else None)

    def version(self, account: str) -> int:
        """The stored version alone: it changes when somebody signs in."""
        return int(cast("str | None", self._client.hget(state.token_key(account.casefold()), "version")) or 0)

    def stored_at(self, account: str) -> float | None:
        """When the cache was stored last, in Unix seconds: at a sign-in or a refresh. None without one."""
        found = cast("str | None", self._client.hget(state.token_key(account.casefold()), "stored_at"))
        return None if found is None else float(found)

    def swap(self, account: str, *, read: int, cache: str) -> bool:
        """Store a cache in place of the version that was read; False when somebody else stored one meanwhile."""
        account = account.casefold()
        swapped = self._client.register_script(state.SWAP_TOKEN)(
            keys=[state.token_key(account)], args=[read, self._seal.seal(account, cache)]
        )
        return bool(swapped)

    def accounts(self) -> list[str]:
        """Every account that has a stored cache, sorted."""
        prefix, suffix = state.token_key("\0").split("\0")
        return sorted(
            key.removeprefix(prefix).removesuffix(suffix)
            for key in cast("list[str]", self._client.keys(f"{prefix}*"))
        )
