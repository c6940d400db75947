"""How accounts and the credentials of app registrations stand: who has lost access, and who will.

It reads the dates beside each stored grant, never the grant, so it needs no key; and the certificates' own dates. It asks
no provider, so what nobody has told or noted yet it does not know. `access` reads, everything else is a pure decision.
Times are Unix seconds. Nothing in here is a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from worker.errors import Misconfigured, NeedsSignIn
from worker.quay import Quay
from worker.signer import Signer
from worker.sources.providers import RegistrationName
from worker.tokens import Certificate, Credential, Registration, Secret, Stored
from worker.tokens.verdict import lasting, restored

Kind = Literal["secret", "certificate"]

OK, ENDING, ENDED, NEVER = "ok", "ending", "ended", "never signed in"

_DAY_SECONDS = 86400.0
_IDLE_SECONDS: Mapping[RegistrationName, float] = MappingProxyType(
    {
        # Microsoft, "Refresh tokens in the Microsoft identity platform": 90 days, and each use begins them anew.
        "entra": 90 * _DAY_SECONDS,
        # Google, "Using OAuth 2.0 to Access Google APIs": a refresh token that was not used for six months.
        "google": 180 * _DAY_SECONDS,
    }
)
"""For how long a sign-in may lie idle where the provider gives no date. Others say nothing about it."""


@dataclass(frozen=True, slots=True)
class AccountStanding:
    """An account as it stands; times are 0 for never.

    `state` is `ok`, `never signed in`, `ending`, or that of the error that waits for a person. `troubled` says that the
    last renewal failed, for whatever reason. `ends_at` is when the sign-in ends unless it is renewed; None when nobody
    knows, and for an application on its own.
    """

    account: str
    state: str
    sentence: str
    mailboxes: tuple[str, ...]
    signed_in_at: float
    renewed_at: float
    ends_at: float | None
    troubled: bool

    @property
    def lost(self) -> bool:
        """Whether there is no access until a person has done something."""
        return self.state not in {OK, ENDING}


@dataclass(frozen=True, slots=True)
class CredentialStanding:
    """The secret or certificate of an app registration, as it stands.

    `state` is `ok`, `ending`, `ended`, or `misconfigured` when its file cannot be read; then `ends_at` is None.
    """

    registration: RegistrationName
    client_id: str
    kind: Kind
    state: str
    sentence: str
    mailboxes: tuple[str, ...]
    ends_at: float | None

    @property
    def lost(self) -> bool:
        """Whether it is of no use until a person has done something."""
        return self.state not in {OK, ENDING}


@dataclass(frozen=True, slots=True)
class Access:
    """Everybody who signs in with OAuth 2.0, and what applications prove themselves with, as far as its end is known."""

    accounts: tuple[AccountStanding, ...]
    credentials: tuple[CredentialStanding, ...]


def access(quay: Quay) -> Access:
    """Read how all of them stand; one look into Redis an account.

    Raises:
        RedisUnavailable: Redis does not answer.
    """
    said, now = quay.settings, quay.clock()
    accounts: list[AccountStanding] = []
    used: dict[tuple[str, str, Credential], tuple[Registration, list[str]]] = {}
    for account, mailboxes in sorted(said.accounts().items()):
        stored = quay.token_store.glance(account)
        registration = said.registration(mailboxes[0])
        accounts.append(
            account_standing(account, mailboxes, stored, registration, days=said.alert.days, now=now)
        )
        for mailbox in mailboxes:
            registration = said.registration(mailbox)
            if credential := registration.credential:
                # One client may serve several tenants.
                key = (registration.name, registration.client_id, credential)
                used.setdefault(key, (registration, []))[1].append(mailbox.name)
    credentials = [_credential(quay, registration, sorted(names)) for registration, names in used.values()]
    return Access(tuple(accounts), tuple(found for found in credentials if found))


def _credential(
    quay: Quay, registration: Registration, mailboxes: Sequence[str]
) -> CredentialStanding | None:
    """How a credential stands; None when it has no end or nobody knows it. The file of a certificate is read."""
    said, now = quay.settings, quay.clock()
    kind: Kind = "secret"
    ends_at: float | None = None
    match registration.credential:
        case Certificate() as certificate:
            from worker.tokens import credential

            kind = "certificate"
            try:
                ends_at = credential.ends_at(certificate)
            except Misconfigured as error:
                unreadable = (error.state, error.sentence, tuple(mailboxes), None)
                return CredentialStanding(registration.name, registration.client_id, kind, *unreadable)
        case Secret():
            ends_at = registration.secret_ends_at
    if ends_at is None:
        return None
    return credential_standing(registration, kind, ends_at, mailboxes, days=said.alert.days, now=now)


def account_standing(
    account: str,
    mailboxes: Sequence[Signer],
    stored: Stored,
    registration: Registration,
    *,
    days: int,
    now: float,
) -> AccountStanding:
    """How an account stands by what is stored for it. An end `days` ahead or less is `ending`."""
    person = mailboxes[0].auth == "delegated"
    ends_at = _sign_in_ends_at(stored, registration) if person and stored.renewed_at else None
    state, sentence = OK, ""
    if person and not stored.renewed_at:
        state, sentence = NEVER, f"nobody has signed in as {account} yet. {_run_login(account)}"
    elif stored.renewed_at and stored.client_id != registration.client_id:
        state = NeedsSignIn.state
        sentence = (
            f"{account} signed in under another app registration than the one configured now. "
            f"{_run_login(account)}"
        )
    elif waiting := next(filter(lasting, stored.troubles.values()), None):
        error = restored(waiting, now)
        state, sentence = error.state, error.sentence
    elif ends_at is not None and ends_at <= now:
        state = NeedsSignIn.state
        sentence = f"the sign-in of {account} ended on {_day(ends_at)}. {_run_login(account)}"
    elif ends_at is not None and ends_at - now <= days * _DAY_SECONDS and not _prolonged_at_each_use(stored):
        state, sentence = ENDING, _ending(account, stored, ends_at)
    elif passing := next(iter(stored.troubles.values()), None):
        sentence = passing.sentence
    return AccountStanding(
        account,
        state,
        sentence,
        tuple(sorted(mailbox.name for mailbox in mailboxes)),
        stored.signed_in_at,
        stored.renewed_at,
        ends_at,
        bool(stored.troubles),
    )


def _sign_in_ends_at(stored: Stored, registration: Registration) -> float | None:
    """The provider's own word, else the known limit of a sign-in that nobody uses."""
    idle = _IDLE_SECONDS.get(registration.name)
    return stored.ends_at or (stored.renewed_at + idle if idle else None)


def _prolonged_at_each_use(stored: Stored) -> bool:
    """Whether a sign-in lives for hours from one renewal to the next: it is always about to end, and does not."""
    return stored.ends_at is not None and stored.ends_at - stored.renewed_at < _DAY_SECONDS


def _ending(account: str, stored: Stored, ends_at: float) -> str:
    if stored.ends_at is not None:
        return f"the provider ends the sign-in of {account} on {_day(ends_at)}. {_run_login(account)} before"
    return (
        f"{account} was not renewed since {_day(stored.renewed_at)}, and its provider forgets it on {_day(ends_at)}. "
        f"See that the workers run, or run `mailquay login {account}`"
    )


def credential_standing(
    registration: Registration,
    kind: Kind,
    ends_at: float,
    mailboxes: Sequence[str],
    *,
    days: int,
    now: float,
) -> CredentialStanding:
    """How a secret or certificate that ends at `ends_at` stands. An end `days` ahead or less is `ending`."""
    left = ends_at - now
    state = ENDED if left <= 0 else ENDING if left <= days * _DAY_SECONDS else OK
    prefix = f"{registration.name.upper()}__"
    remedy = (
        f"Upload a new one to the app registration and put it into {prefix}CERTIFICATE_FILE"
        if kind == "certificate"
        else f"Make a new one there, put it into {prefix}CLIENT_SECRET_FILE and set {prefix}CLIENT_SECRET_EXPIRES"
    )
    verb = "ended" if state == ENDED else "ends"
    what = f"the {kind} of the app registration {registration.client_id} {verb} on {_day(ends_at)}"
    return CredentialStanding(
        registration.name,
        registration.client_id,
        kind,
        state,
        "" if state == OK else f"{what}. {remedy}",
        tuple(mailboxes),
        ends_at,
    )


def _run_login(account: str) -> str:
    return f"Run `mailquay login {account}`"


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
