"""Grants in Redis: sealed, versioned, written by compare and set only.

One blob an account. The version tells everybody that somebody signed in or refreshed; a writer that read an older
version writes nothing. Versions follow the server's clock, so that none comes twice, not even after `forget` or a flush. A
copy on this machine brings back what Redis has lost. What is in MSAL's cache is the provider's business (`entra`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

import orjson

from worker import state
from worker.errors import RedisUnavailable
from worker.tokens import AccessToken, Grant, Stored, Trouble
from worker.tokens.copies import Copies

if TYPE_CHECKING:
    from worker.tokens.seal import Seal

_PATIENCE_SECONDS = 30.0
_FORGOTTEN_SECONDS = 90 * 86400
"""For so long a forgotten account is known to be forgotten, so that a copy elsewhere does not bring it back."""


class TokenStore:
    """The grants of all accounts. Accounts are compared without regard to case, as providers do."""

    def __init__(self, client: state.Client, seal: Seal, copies: Copies) -> None:
        self._client = client
        self._seal = seal
        self._copies = copies

    def load(self, account: str) -> Stored:
        """What is stored for an account, opened.

        Raises:
            TokensUnreadable: it cannot be opened.
        """
        account = account.casefold()
        fields = self._read(account)
        stored = _stored(fields)
        if not fields.get("blob"):
            return stored
        found = orjson.loads(self._seal.open(account, fields["blob"]))
        tokens = {scopes: AccessToken(*token) for scopes, token in found["tokens"].items()}
        return replace(stored, grant=Grant(found["cache"], tokens))

    def glance(self, account: str) -> Stored:
        """What is stored for an account, without the grant: nothing is opened, so no key is needed."""
        return _stored(self._read(account.casefold()))

    def swap(
        self,
        account: str,
        grant: Grant,
        *,
        read: int,
        now: float,
        ends_at: float | None = None,
        client_id: str = "",
        signed_in: bool = False,
        troubles: Mapping[str, Trouble] | None = None,
    ) -> bool:
        """Store a grant in place of the version that was read; False when somebody else stored one meanwhile.

        `now` is when the provider gave it; `ends_at` when its refresh token ends, if the provider said so. With
        `signed_in` a person has just given it. `troubles` are those that remain.
        """
        account = account.casefold()
        fields = {
            "blob": self._sealed(account, grant),
            "renewed_at": repr(now),
            "client_id": client_id,
            "ends_at": "" if ends_at is None else repr(ends_at),
            "troubles": _spelled(troubles or {}),
        }
        if signed_in:
            fields["signed_in_at"] = repr(now)
        return self._swap(account, read, fields)

    @staticmethod
    def outlasting(
        swap: Callable[[], bool], *, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> bool:
        """Swap through a Redis that restarts: the only copy of a rotated refresh token is in this process.

        Raises:
            RedisUnavailable: it stayed away for half a minute.
        """
        give_up = clock() + _PATIENCE_SECONDS
        while True:
            try:
                return swap()
            except RedisUnavailable:
                if clock() > give_up:
                    raise
            sleep(0.5)

    def note(self, account: str, troubles: Mapping[str, Trouble], *, read: int) -> None:
        """Note why the version that was read could not be renewed; a newer version is left alone."""
        self._client.register_script(state.NOTE_TOKEN_TROUBLES)(
            keys=[state.token_key(account.casefold())], args=[read, _spelled(troubles)]
        )

    def reseal(self, account: str) -> bool:
        """Seal a grant anew with the newest key; False when there is none, or somebody stored one meanwhile.

        Raises:
            TokensUnreadable: it cannot be opened.
        """
        account = account.casefold()
        stored = self.load(account)
        if stored.grant is None:
            return False
        blob = self._sealed(account, stored.grant)
        resealed = self._client.register_script(state.RESEAL_TOKEN)(
            keys=[state.token_key(account)], args=[stored.version, blob]
        )
        if resealed:
            self._copies.save(account, self._kept(account))
        return bool(resealed)

    def forget(self, account: str) -> bool:
        """Delete everything that is stored for an account; False when there was nothing."""
        account = account.casefold()
        known = bool(self._read(account).get("blob"))
        self._copies.forget(account)
        self._client.register_script(state.FORGET_TOKEN)(
            keys=[state.token_key(account)], args=[_FORGOTTEN_SECONDS]
        )
        return known

    def accounts(self) -> list[str]:
        """Every account that a grant is stored for, sorted."""
        prefix, suffix = state.token_key("\0").split("\0")
        found = cast("list[str]", list(self._client.scan_iter(f"{prefix}*", count=1000)))
        return sorted(
            key.removeprefix(prefix).removesuffix(suffix)
            for key in set(found)
            if self._client.hexists(key, "blob")
        )

    def _read(self, account: str) -> dict[str, str]:
        """An account's entry. Where the copy is newer, Redis was flushed, or lost its last second: it is put back."""
        fields = self._kept(account)
        copy = self._copies.load(account)
        version = fields.get("version", "0")
        if int(copy.pop("version", 0)) > int(version):
            self._swap(account, int(version), copy)
            fields = self._kept(account)
        return fields

    def _kept(self, account: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(state.token_key(account)))

    def _swap(self, account: str, read: int, fields: Mapping[str, str]) -> bool:
        pairs = [part for pair in fields.items() for part in pair]
        swapped = self._client.register_script(state.SWAP_TOKEN)(
            keys=[state.token_key(account)], args=[read, *pairs]
        )
        if int(swapped):
            self._copies.save(account, self._kept(account))
        return bool(int(swapped))

    def _sealed(self, account: str, grant: Grant) -> str:
        tokens = {
            scopes: [token.secret, token.expires_at, token.issued_at, token.forced]
            for scopes, token in grant.tokens.items()
        }
        return self._seal.seal(account, orjson.dumps({"cache": grant.cache, "tokens": tokens}).decode())


def _stored(fields: Mapping[str, str]) -> Stored:
    troubles = orjson.loads(fields.get("troubles") or "{}")
    return Stored(
        int(fields.get("version") or 0),
        signed_in_at=float(fields.get("signed_in_at") or 0),
        renewed_at=float(fields.get("renewed_at") or 0),
        ends_at=float(fields["ends_at"]) if fields.get("ends_at") else None,
        client_id=fields.get("client_id") or "",
        troubles={scopes: Trouble(**trouble) for scopes, trouble in troubles.items()},
    )


def _spelled(troubles: Mapping[str, Trouble]) -> str:
    return orjson.dumps({scopes: asdict(trouble) for scopes, trouble in troubles.items()}).decode()
