"""The app registrations of the configuration, and which one signs in for a mailbox.

Three kinds, by who runs the identity provider: `ENTRA__` for Microsoft, `GOOGLE__`, and `OIDC__` for any provider with an
OpenID Connect discovery address. A mailbox may name a client, a tenant or an issuer of its own. Nothing is asked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from pipelines.options import Options
from worker.errors import Misconfigured, Problem
from worker.mailbox import Day, Issuer, LocalFile, LocalPath, Tenant, Text, lower
from worker.signer import OutputSigner, Signer
from worker.sources.providers import CLOUDS, PROVIDERS, CloudName, RegistrationName
from worker.tokens import Certificate, Credential, Federated, Registration, Secret


def _authority(url: str) -> str:
    address = urlsplit(url)
    if address.scheme != "https" or not address.netloc or not address.path.strip("/"):
        raise ValueError(
            "must be a whole address with its tenant, such as https://login.microsoftonline.com/TENANT"
        )
    return url.rstrip("/")


def midnight(day: date | None) -> float | None:
    """The beginning of a day in UTC, in Unix seconds."""
    return None if day is None else datetime.combine(day, time(), UTC).timestamp()


class AppRegistration(Options):
    """What every kind of registration has."""

    name: ClassVar[RegistrationName]

    client_id: Text | None = Field(
        default=None,
        description="Application (client) id of the app registration.",
        examples=["00000000-0000-0000-0000-000000000000"],
    )
    client_secret: SecretStr | None = Field(
        default=None,
        description="Secret of a confidential client; better in a file named by CLIENT_SECRET_FILE.",
    )
    client_secret_expires: Day | None = Field(
        default=None,
        description="Day on which the secret ends, so that you are warned; no provider tells it.",
        examples=["2027-06-30"],
    )
    ca_file: LocalFile | None = Field(
        default=None,
        description="PEM file of certificates that the identity provider is checked against.",
        examples=["/etc/ssl/certs/company-ca.pem"],
    )

    @property
    def credential(self) -> Credential | None:
        """What the application proves itself with; None for a public client."""
        return None if self.client_secret is None else Secret(self.client_secret.get_secret_value())


class Entra(AppRegistration):
    """The app registration of every Microsoft mailbox that names no other."""

    name = "entra"

    tenant: Tenant = Field(
        default="organizations",
        description="Tenant that accounts sign in to: a domain, an id, or `organizations` for any work account.",
        examples=["contoso.onmicrosoft.com"],
    )
    cloud: Annotated[CloudName, BeforeValidator(lower)] = Field(
        default="public",
        description="Microsoft's cloud that the tenant is in; presets addresses, hosts and scopes.",
        examples=["gcc-high"],
    )
    authority: Annotated[Text, AfterValidator(_authority)] | None = Field(
        default=None,
        description="Whole address of the identity provider, tenant included; beats CLOUD and every TENANT.",
        examples=["https://login.microsoftonline.com/contoso.onmicrosoft.com"],
    )
    certificate_file: LocalFile | None = Field(
        default=None,
        description="PEM file with private key and certificate, or PFX file, instead of a secret.",
        examples=["/run/secrets/mailquay.pem"],
    )
    certificate_password: SecretStr | None = Field(
        default=None, description="Password of CERTIFICATE_FILE, when it is encrypted."
    )
    federated_token_file: LocalPath | None = Field(
        default=None,
        validate_default=True,
        description="File in which the platform keeps a token for this workload, instead of a secret.",
        examples=["/var/run/secrets/azure/tokens/azure-identity-token"],
    )

    @property
    def credential(self) -> Credential | None:
        """Secret, certificate or federated token; None for a public client."""
        if self.certificate_file is not None:
            password = self.certificate_password
            return Certificate(
                str(self.certificate_file), None if password is None else password.get_secret_value()
            )
        if self.federated_token_file is not None:
            return Federated(str(self.federated_token_file))
        return super().credential

    @field_validator("federated_token_file")
    @classmethod
    def _check_one_credential(cls, path: object, info: ValidationInfo) -> object:
        given = [name for name in ("client_secret", "certificate_file") if info.data.get(name)]
        if len(given) + (path is not None) > 1:
            raise ValueError(
                "only one of CLIENT_SECRET, CERTIFICATE_FILE and FEDERATED_TOKEN_FILE may be set"
            )
        return path


class Google(AppRegistration):
    """The OAuth client of every Gmail mailbox that names no other."""

    name = "google"

    issuer: Issuer = Field(
        default="https://accounts.google.com", description="Address of Google's discovery document."
    )


class Oidc(AppRegistration):
    """The client at any other provider with OpenID Connect discovery."""

    name = "oidc"

    issuer: Issuer | None = Field(
        default=None,
        description="Address of the provider; its discovery document lies below it, at /.well-known/.",
        examples=["https://id.example.com/realms/mail"],
    )
    username_claim: Text = Field(
        default="email",
        description="Claim of the id token that has to equal ACCOUNT: one that the provider vouches for.",
        examples=["preferred_username"],
    )


def registration_for(mailbox: Signer, *, entra: Entra, google: Google, oidc: Oidc) -> Registration:
    """Say which application signs in for a mailbox or an output, where, and with what.

    Raises:
        Misconfigured: no application is named, it has no credential where one is needed, or there is no issuer.
    """
    sections: dict[RegistrationName, Entra | Google | Oidc] = {"entra": entra, "google": google, "oidc": oidc}
    section = sections[mailbox.registration or "entra"]
    prefix = f"{section.name.upper()}__"
    client_id = mailbox.client_id or section.client_id
    if client_id is None:
        raise Misconfigured(
            f"no app registration signs in for it: neither its own CLIENT_ID nor {prefix}CLIENT_ID is set",
            mailbox=mailbox.name,
        )
    credential: Credential | None = None
    ends_at: float | None = None
    if mailbox.client_secret is not None:
        credential = Secret(mailbox.client_secret.get_secret_value())
        ends_at = midnight(mailbox.client_secret_expires)
    elif client_id == section.client_id:
        # The section's credential belongs to the section's client.
        credential, ends_at = section.credential, midnight(section.client_secret_expires)
    if credential is None and (mailbox.auth == "app" or section.name == "google"):
        what = "Google" if section.name == "google" else "AUTH=app"
        raise Misconfigured(
            f"its app registration has no secret or certificate, and {what} needs one; set {prefix}CLIENT_SECRET_FILE",
            mailbox=mailbox.name,
        )
    match section:
        case Entra():
            tenant = mailbox.tenant or PROVIDERS[mailbox.provider].tenant or section.tenant
            authority = section.authority or f"https://{CLOUDS[section.cloud].login}/{tenant}"
            claims: tuple[str, ...] = ("upn", "preferred_username")
        case Google():
            authority, claims = mailbox.issuer or section.issuer, ("email",)
        case Oidc():
            issuer = mailbox.issuer or section.issuer
            if issuer is None:
                raise Misconfigured(
                    "no identity provider is named; set ISSUER or OIDC__ISSUER", mailbox=mailbox.name
                )
            authority, claims = issuer, (section.username_claim,)
    ca_file = None if section.ca_file is None else str(section.ca_file)
    return Registration(section.name, client_id, authority, claims, credential, ca_file, ends_at)


def registration_problems(
    signers: Iterable[Signer], *, entra: Entra, google: Google, oidc: Oidc
) -> Iterator[Problem]:
    """Mailboxes and outputs for which no application can sign in, and accounts that would have to sign in twice."""
    seen: dict[str, tuple[str, Registration]] = {}
    proven: dict[tuple[str, str], tuple[str, Registration]] = {}
    for signer in signers:
        if signer.auth == "password":
            continue
        name = signer.name if isinstance(signer, OutputSigner) else f"mailbox {signer.name}"
        kind, _, key = name.upper().partition(" ")
        # An output has no application of its own: it has that of its account's mailbox, or its provider's.
        variable = f"{kind}__{key}__{'AUTH' if isinstance(signer, OutputSigner) else 'CLIENT_ID'}"
        try:
            registration = registration_for(signer, entra=entra, google=google, oidc=oidc)
        except Misconfigured as error:
            yield Problem(variable, error.sentence)
            continue
        other, theirs = proven.setdefault(
            (registration.client_id, registration.authority), (name, registration)
        )
        if theirs.credential != registration.credential:
            # A wrong one would be tried with the right one's account, and stop the mailboxes of both.
            yield Problem(
                f"{kind}__{key}__CLIENT_SECRET",
                f"is not what the {other} proves the same application with; let both use one",
            )
        if signer.auth == "app":
            continue
        other, theirs = seen.setdefault(signer.account.casefold(), (name, registration))
        if (theirs.client_id, theirs.authority) != (registration.client_id, registration.authority):
            # Tokens are kept per account: the two would take turns in throwing each other's sign-in away.
            yield Problem(
                variable,
                f"signs its account in under another app registration than the {other} does; let both use one",
            )
