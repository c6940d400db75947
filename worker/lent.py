"""Access tokens lent to an output: the keeper's, in the words that outputs know (`pipelines.account.Tokens`).

An output gets a token that is fresh, and another one after a refusal, as a pull does. Why there is none is told in the error's
sentence. Nothing is kept here but which token was lent last, so that a refused one can be told from a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

from pipelines.account import NoToken
from worker.errors import MailquayError
from worker.tokens import AccessToken

_REMEMBERED = 8


class Keeps(Protocol):
    """What is needed of a keeper of tokens."""

    def access(self, account: str, scopes: Sequence[str]) -> AccessToken:
        """A token that is good for some minutes."""
        ...

    def another(self, account: str, scopes: Sequence[str], refused: AccessToken) -> AccessToken | None:
        """A token other than one that was refused, if that may help."""
        ...


class Lent:
    """Tokens of one account for one output. `make` gives the keeper when the first token is asked for."""

    def __init__(self, make: Callable[[], Keeps], account: str, scopes: Sequence[str]) -> None:
        self._make = make
        self._account = account
        self._scopes = scopes
        self._lent: list[AccessToken] = []

    @cached_property
    def _keeper(self) -> Keeps:
        return self._make()

    def access(self) -> str:
        """A token that is good for some minutes.

        Raises:
            NoToken: there is none, and the sentence says who must act.
        """
        try:
            return self._noted(self._keeper.access(self._account, self._scopes))
        except MailquayError as error:
            raise NoToken(error.sentence) from error

    def another(self, refused: str) -> str | None:
        """A token other than one that a server refused; None when a new one would not help. Raises as `access`."""
        lent = next((token for token in self._lent if token.secret == refused), None)
        if lent is None:
            return None
        try:
            token = self._keeper.another(self._account, self._scopes, lent)
        except MailquayError as error:
            raise NoToken(error.sentence) from error
        return None if token is None else self._noted(token)

    def _noted(self, token: AccessToken) -> str:
        if token not in self._lent:
            # A new list, for other threads may be looking at the old one.
            self._lent = [*self._lent, token][-_REMEMBERED:]
        return token.secret
