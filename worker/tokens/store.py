"""Grants in Redis: sealed, versioned, written by compare and set only.

One blob an account. The version tells everybody that somebody signed in or refreshed; a writer that read an older
version writes nothing. Versions follow the server's clock, so that none comes twice, not even after `forget` or a flush.
What is in MSAL's cache is the provider's business (`entra`).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import cast

import orjson

from worker import state
from worker.tokens import AccessToken, Grant, Stored, Trouble
from worker.tokens.seal import Seal

_FIELDS = ("version", "blob", "signed_in_at", "renewed_at", "ends_at", "client_id", "trouble")


class TokenStore:
    """The grants of all accounts. Accounts are compared without regard to case, as providers do."""

    def __init__(self, client: state.Client, seal: Seal) -> None:
        self._client = client
        self._seal = seal

    def load(self, account: str) -> Stored:
        """What is stored for an account, opened.

        Raises:
            TokensUnreadable: it cannot be opened.
        """
        account = account.casefold()
        stored, blob = self._read(account)
        if blob is None:
            return stored
        found = orjson.loads(self._seal.open(account, blob))
        tokens = {scopes: AccessToken(*token) for scopes, token in found["tokens"].items()}
        return replace(stored, grant=Grant(found["cache"], tokens))

    def glance(self, account: str) -> Stored:
        """What is stored for an account, without the grant: nothing is opened, so no key is needed."""
        return self._read(account.casefold())[0]

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
    ) -> bool:
        """Store a grant in place of the version that was read; False when somebody else stored one meanwhile.

        `now` is when the provider gave it; `ends_at` when its refresh token ends, if the provider said so. With
        `signed_in` a person has just given it. A trouble of the version before is forgotten.
        """
        account = account.casefold()
        fields: list[str | float] = ["renewed_at", now, "client_id", client_id]
        fields += ["ends_at", "" if ends_at is None else ends_at]
        fields += ["signed_in_at", now] if signed_in else []
        swapped = self._client.register_script(state.SWAP_TOKEN)(
            keys=[state.token_key(account)],
            args=[read, self._sealed(account, grant), *fields],
        )
        return bool(int(swapped))

    def note(self, account: str, trouble: Trouble | None, *, read: int) -> None:
        """Note why the version that was read could not be renewed; a newer version is left alone."""
        spelled = "" if trouble is None else orjson.dumps(asdict(trouble)).decode()
        self._client.register_script(state.NOTE_TOKEN_TROUBLE)(
            keys=[state.token_key(account.casefold())], args=[read, spelled]
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
        resealed = self._client.register_script(state.RESEAL_TOKEN)(
            keys=[state.token_key(account)], args=[stored.version, self._sealed(account, stored.grant)]
        )
        return bool(resealed)

    def forget(self, account: str) -> bool:
        """Delete everything that is stored for an account; False when there was nothing."""
        return bool(self._client.delete(state.token_key(account.casefold())))

    def accounts(self) -> list[str]:
        """Every account that something is stored for, sorted."""
        prefix, suffix = state.token_key("\0").split("\0")
        found = cast("list[str]", list(self._client.scan_iter(f"{prefix}*", count=1000)))
        return sorted({key.removeprefix(prefix).removesuffix(suffix) for key in found})

    def _sealed(self, account: str, grant: Grant) -> str:
        tokens = {
            scopes: [token.secret, token.expires_at, token.issued_at]
            for scopes, token in grant.tokens.items()
        }
        return self._seal.seal(account, orjson.dumps({"cache": grant.cache, "tokens": tokens}).decode())

    def _read(self, account: str) -> tuple[Stored, str | None]:
        found = cast("list[str | None]", self._client.hmget(state.token_key(account), list(_FIELDS)))
        said = dict(zip(_FIELDS, found, strict=True))
        stored = Stored(
            int(said["version"] or 0),
            signed_in_at=float(said["signed_in_at"] or 0),
            renewed_at=float(said["renewed_at"] or 0),
            ends_at=float(said["ends_at"]) if said["ends_at"] else None,
            client_id=said["client_id"] or "",
            trouble=Trouble(**orjson.loads(said["trouble"])) if said["trouble"] else None,
        )
        return stored, said["blob"]
