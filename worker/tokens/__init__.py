"""Tokens: what a source signs in with, kept fresh for an account however many mailboxes use it.

The promise: reload under the lock, refresh, compare and set before use. So of many processes exactly one refreshes, and
the newest refresh token is the stored one before anybody uses what came with it. Callers import only this module.
`keeper` decides when to ask a provider, `entra` asks it and is the only part that knows MSAL, `verdict` says what an
answer means, `claims` reads what a token says, `store` and `seal` keep it all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token and the Unix times at which it was issued and ends. It never shows in a repr.

    `forced`: it was asked for because a server had refused the one before.
    """

    secret: str = field(repr=False)
    expires_at: float
    issued_at: float = 0.0
    forced: bool = False

    def good(self, now: float, *, margin: float) -> bool:
        """Whether it lives `margin` seconds longer, or a quarter of its life where that is less.

        A provider whose tokens live for five minutes would otherwise be asked at every poll (AADSTS50196 LoopDetected).
        """
        return self.expires_at > now + min(margin, (self.expires_at - self.issued_at) / 4)


@dataclass(frozen=True, slots=True)
class Secret:
    """A client secret (RFC 6749 section 2.3.1)."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its private key: a PEM file with both, or a PFX file. The key never leaves the machine."""

    file: str
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Federated:
    """A file in which a platform keeps a fresh token for this workload (workload identity federation, RFC 7523)."""

    token_file: str


Credential = Secret | Certificate | Federated


@dataclass(frozen=True, slots=True)
class Registration:
    """The app registration under which accounts sign in.

    `authority` is a whole https address: for `entra` with the tenant, else the issuer, below which OpenID Connect discovery
    finds the rest. `secret_ends_at` (Unix seconds) is what the operator said. `username_claims` are the claims of an id token in which the provider vouches for a name. Without a
    `credential` it is a public client.
    """

    name: Literal["entra", "google", "oidc"]
    client_id: str
    authority: str
    username_claims: tuple[str, ...]
    credential: Credential | None = None
    ca_file: str | None = None
    secret_ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a provider has granted to an account: MSAL's cache with the refresh token, and the access tokens.

    Access tokens are kept under the scopes that were asked for, because a provider may name others in its answer.
    """

    cache: str = field(repr=False)
    tokens: Mapping[str, AccessToken] = field(default_factory=dict, repr=False)

    def token(self, scopes: Sequence[str]) -> AccessToken | None:
        """The access token for these scopes, or for these and more, that lives longest; good or not."""
        wanted = set(scopes)
        fitting = [token for asked, token in self.tokens.items() if wanted <= set(asked.split())]
        return max(fitting, key=lambda token: token.expires_at, default=None)


def spelled(scopes: Sequence[str]) -> str:
    """Scopes in the one order under which their token is kept."""
    return " ".join(sorted(scopes))


@dataclass(frozen=True, slots=True)
class Granted:
    """What a provider gave: the new grant, the token for the scopes that were asked for, and when the grant ends if it said.

    `rotated`: a new refresh token was among it.
    """

    grant: Grant
    token: AccessToken
    ends_at: float | None = None
    rotated: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an account's grant could not be renewed, kept for all processes. Times are Unix seconds.

    `kind` is the name of an error class, `tries` how often the provider was asked in vain, `again_at` before when nobody
    asks it again. `refused_since` is when it said no for the first time: an outage in between does not begin that anew.
    """

    kind: str
    sentence: str
    tries: int
    again_at: float
    refused_since: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored for an account. Version 0 and no grant for one that never signed in. Times are Unix seconds.

    `renewed_at` is the last sign-in or refresh, `ends_at` when the provider said that its refresh token ends, if it did.
    """

    version: int
    grant: Grant | None = None
    signed_in_at: float = 0.0
    renewed_at: float = 0.0
    ends_at: float | None = None
    client_id: str = ""
    troubles: Mapping[str, Trouble] = field(default_factory=dict)

    def trouble(self, scopes: Sequence[str]) -> Trouble | None:
        """Why these scopes could not be had. Consent may be missing for one protocol and not for another."""
        return self.troubles.get(spelled(scopes))


class Held(Protocol):
    """Exclusive work on something, as long as `check` does not raise."""

    def check(self) -> None:
        """Return while it is held.

        Raises:
            LeaseLost: somebody else may have it by now.
        """
        ...


Lock = Callable[[str], AbstractContextManager[Held | None]]
"""Gives exclusive work on a named thing across processes: enters with it, or with None when it is taken."""
