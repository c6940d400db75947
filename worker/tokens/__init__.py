"""Tokens: what a source signs in with, kept fresh for an account however many mailboxes use it.

The store's promise: reload under the lock, refresh, compare and set before use. So of many processes exactly one
refreshes, and the newest refresh token is the stored one before anybody uses what came with it. Callers import only
this module; `entra` is the only part that knows MSAL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token and the Unix time at which it ends. It never shows in a repr."""

    secret: str = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True)
class Registration:
    """The app registration under which accounts sign in. `authority` is a whole https address with the tenant."""

    client_id: str
    authority: str
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A sealed cache as it was read: its version, and its text when there is one."""

    version: int
    cache: str | None = field(repr=False)


Lock = Callable[[str], AbstractContextManager[object | None]]
"""Gives exclusive work on a named thing across processes: enters with something, or with None when it is taken."""


class Tokens(Protocol):
    """Where access tokens come from."""

    def access(self, account: str, scopes: Sequence[str], *, renewed: bool = False) -> AccessToken:
        """A token good for at least five minutes; `renewed` asks for one that was never used before.

        Raises:
            NeedsSignIn: nobody signed in, or the provider wants the owner again.
            NeedsAdmin, Misconfigured: the provider says that somebody else has to act.
            Unreachable: the provider does not answer; tried again.
            TokensUnreadable: the stored token cannot be opened with the keys at hand.
        """
        ...
