"""What the identity provider remembers between two requests: pending sign-ins, codes, and refresh tokens.

Plain records; `provider` decides what becomes of them. Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate

from worker.demo.identity.scopes import Scopes


@dataclass(frozen=True, slots=True)
class FederatedCredential:
    """Whose tokens an application may show instead of a secret: those of `issuer` that are about `subject`."""

    issuer: str
    subject: str
    public_key: RSAPublicKey
    audience: str = "api://AzureADTokenExchange"


@dataclass(frozen=True, slots=True)
class Application:
    """A registered application; it is confidential when it has a credential of any kind.

    `roles` are its application permissions, `mailboxes` those that an administrator granted to it for app-only access.
    """

    client_id: str
    secret: str | None = field(default=None, repr=False)
    secret_expires_at: float | None = None
    certificates: tuple[Certificate, ...] = ()
    federated: tuple[FederatedCredential, ...] = ()
    roles: tuple[str, ...] = ()
    mailboxes: frozenset[str] = frozenset()

    @property
    def confidential(self) -> bool:
        """Whether the application has to prove that it is itself."""
        return bool(self.secret or self.certificates or self.federated)


@dataclass(slots=True)
class DeviceSignIn:
    """A device-code sign-in that waits for a person. `upn` is set by consent, `declined` by refusal."""

    client_id: str
    scopes: Scopes
    user_code: str
    expires_at: float
    upn: str | None = None
    declined: bool = False


@dataclass(slots=True)
class Code:
    """An authorization code (RFC 6749 section 4.1.2) with its PKCE challenge (RFC 7636)."""

    client_id: str
    scopes: Scopes
    redirect_uri: str
    upn: str
    challenge: str
    nonce: str | None
    expires_at: float
    used: bool = False


@dataclass(slots=True)
class Session:
    """One sign-in of one person in one application, and the newest refresh token of it."""

    client_id: str
    upn: str
    scopes: Scopes
    newest: str = field(default="", repr=False)
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token: the session it continues, and when it dies of idleness."""

    session: Session
    expires_at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came in: when, at which endpoint, for which grant, by whom, and what it got."""

    at: float
    endpoint: str
    grant: str
    client_id: str
    outcome: str
