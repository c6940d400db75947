"""One mailbox as it is configured: where it is, who signs in, how often it is pulled, who gets its mail.

A value that cannot be true is refused where the mailbox is built, field by field, so that one look shows everything
that is wrong with it; no sentence shows a value. What an unsaid field becomes is decided here, with the provider's
preset. Where values come from, and what other mailboxes and outputs there are, is the business of `worker.settings`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from pipelines.options import FilePath, Flag, Form, Names, Options
from worker import env
from worker.every import Every, read_every, write_every
from worker.folders import choose, patterns, plain, spelled
from worker.sources import Endpoint
from worker.sources.providers import (
    CLOUDS,
    PORTS,
    PROVIDERS,
    Auth,
    Cloud,
    Protocol,
    ProviderName,
    RegistrationName,
    Tls,
)


@dataclass(frozen=True, slots=True)
class Since:
    """How far back a new mailbox begins."""

    kind: Literal["now", "all", "days", "date"]
    days: int | None = None
    day: date | None = None

    def start(self, now: datetime) -> datetime | None:
        """The moment (aware) from which mail counts, given `now` (aware); None when all mail does."""
        if self.days is not None:
            return now - timedelta(days=self.days)
        if self.day is not None:
            return datetime.combine(self.day, time(), UTC)
        return now if self.kind == "now" else None


@dataclass(frozen=True, slots=True)
class After:
    """What happens on the server to a message that was handed over; `folder` is where `move` puts it."""

    action: Literal["keep", "seen", "move", "delete"]
    folder: str | None = None


def read_since(value: object) -> object:
    """Turn `now`, `all`, `30d` or `2026-01-01` into a Since; leave other types to pydantic.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in {"now", "all"}:
        return Since("now" if text == "now" else "all")
    if match := re.fullmatch(r"([0-9]{1,5})d", text):
        return Since("days", days=int(match[1]))
    try:
        return Since("date", day=date.fromisoformat(text))
    except ValueError:
        raise ValueError(
            "must be now, all, a number of days such as 30d, or a date such as 2026-01-01"
        ) from None


def read_after(value: object) -> object:
    """Turn `keep`, `seen`, `delete` or `move:FOLDER` into an After; leave other types to pydantic.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(value, str):
        return value
    action, colon, folder = value.strip().partition(":")
    match action.lower(), folder.strip():
        case "move", name if name:
            return After("move", folder=name)
        case ("keep" | "seen" | "delete") as plain, _ if not colon:
            return After(plain)
    raise ValueError("must be keep, seen, delete, or move:FOLDER with the name of a folder")


def write_since(since: Since) -> str:
    """Write a Since the way it is read."""
    return f"{since.days}d" if since.kind == "days" else str(since.day or since.kind)


def write_after(after: After) -> str:
    """Write an After the way it is read."""
    return after.action if after.folder is None else f"{after.action}:{after.folder}"


def lower(value: object) -> object:
    """Let a choice between words be written in any case; leave other types to pydantic."""
    return value.strip().lower() if isinstance(value, str) else value


def _printable(value: str) -> str:
    # A control character could end a protocol line, or a field of XOAUTH2, and begin another.
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


def _tenant(value: str) -> str:
    # It becomes part of the address that passwords and tokens are sent to.
    if not re.fullmatch(r"[A-Za-z0-9.-]+", value):
        raise ValueError("must be a domain, such as contoso.onmicrosoft.com, or an id")
    return value


def _below(path: Path, info: ValidationInfo) -> Path:
    cwd: Path = (info.context or {}).get("cwd", Path())
    return cwd / path


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"the file it names {env.reason(error)}") from None
    return path


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_printable)]
Tenant = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_tenant)]
Unsaid = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_printable)]
LocalPath = Annotated[FilePath, AfterValidator(_below)]
LocalFile = Annotated[LocalPath, AfterValidator(_readable)]
_Every = Annotated[Every, BeforeValidator(read_every), Form("duration or cron line", write_every)]
_Since = Annotated[Since, BeforeValidator(read_since), Form("now, all, days or date", write_since)]
_After = Annotated[After, BeforeValidator(read_after), Form("keep, seen, move:FOLDER or delete", write_after)]


Day = Annotated[date, Form("date")]


def _expected_auth(data: Mapping[str, Any]) -> Auth:
    return PROVIDERS[data.get("provider", "generic")].auths[0]


def _issuer(url: str) -> str:
    address = urlsplit(url)
    if address.scheme != "https" or not address.netloc:
        raise ValueError("must be an https address, such as https://id.example.com/realms/mail")
    return url.rstrip("/").removesuffix("/.well-known/openid-configuration")


Issuer = Annotated[Text, AfterValidator(_issuer)]


def _cloud(info: ValidationInfo) -> Cloud:
    """Microsoft's cloud that ENTRA__CLOUD names."""
    return CLOUDS[(info.context or {}).get("cloud", "public")]


class Mailbox(Options):
    """One configured place that mail is pulled from; what was left unsaid is filled in."""

    name: str = Field(
        description="Key of the mailbox everywhere; part of the variable, or the name of its file."
    )
    provider: Annotated[ProviderName, BeforeValidator(lower)] = Field(
        default="generic",
        description="Who runs the mail server; presets HOST, TLS, AUTH and SCOPES.",
        examples=["microsoft365"],
    )
    auth: Annotated[Auth, BeforeValidator(lower)] = Field(
        default_factory=_expected_auth,
        validate_default=True,
        description="How it signs in: `delegated` is OAuth 2.0 as ACCOUNT, `app` is OAuth 2.0 as the application itself. "
        "Unset: what the provider expects; `password` for generic.",
        examples=["delegated"],
    )
    protocol: Annotated[Protocol, BeforeValidator(lower)] = Field(
        default="imap", description="How mail is pulled.", examples=["pop3"]
    )
    address: Text = Field(
        description="Mail address of the mailbox.",
        examples=["support@contoso.com"],
    )
    account: Unsaid = Field(
        default="",
        validate_default=True,
        description="Who signs in, when it is a shared mailbox. Unset: ADDRESS.",
        examples=["robot@contoso.com"],
    )
    username: Unsaid = Field(
        default="",
        validate_default=True,
        description="Login name at the mail server. Unset: ADDRESS.",
        examples=["support"],
    )
    password: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="Password for AUTH=password; better in a file named by PASSWORD_FILE.",
    )
    registration: RegistrationName | None = Field(
        default=None,
        validate_default=True,
        description="App registration that signs in for it. Unset: the provider's; for generic `oidc` when OIDC__ISSUER is "
        "set, else `entra`.",
        examples=["oidc"],
    )
    tenant: Tenant | None = Field(
        default=None,
        description="Entra tenant of this mailbox. Unset: ENTRA__TENANT; for outlook the tenant of personal accounts.",
        examples=["fabrikam.onmicrosoft.com"],
    )
    issuer: Issuer | None = Field(
        default=None,
        description="OpenID Connect provider of this mailbox. Unset: OIDC__ISSUER.",
        examples=["https://id.example.com/realms/mail"],
    )
    client_id: Text | None = Field(
        default=None,
        description="Application that signs in for this mailbox. Unset: CLIENT_ID of the app registration.",
        examples=["00000000-0000-0000-0000-000000000000"],
    )
    client_secret: SecretStr | None = Field(
        default=None,
        description="Secret of CLIENT_ID, when it has one; better in a file named by CLIENT_SECRET_FILE.",
    )
    client_secret_expires: Day | None = Field(
        default=None,
        description="Day on which CLIENT_SECRET ends, so that you are warned.",
        examples=["2027-06-30"],
    )
    scopes: Names = Field(
        default=(),
        validate_default=True,
        description="OAuth 2.0 scopes to ask for. Unset: what the provider needs for PROTOCOL.",
        examples=[("https://outlook.office.com/IMAP.AccessAsUser.All",)],
    )
    host: Text | None = Field(
        default=None,
        validate_default=True,
        description="Mail server, without port. Unset: the provider's; required for generic.",
        examples=["imap.example.com"],
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the mail server. Unset: the standard one for PROTOCOL and TLS (993, 143, 995, 110).",
        examples=[993],
    )
    tls: Annotated[Tls, BeforeValidator(lower)] = Field(
        default="implicit",
        description="TLS from the first byte, or begun by STARTTLS (STLS in POP3). There is no way without.",
        examples=["starttls"],
    )
    ca_file: LocalFile | None = Field(
        default=None,
        description="PEM file of certificates that the server is checked against, for a private authority.",
        examples=["/etc/ssl/certs/company-ca.pem"],
    )
    every: _Every = Field(
        default=Every(seconds=60),
        description="How often it is pulled: a duration of at least 1s, or a five-field cron line in UTC.",
        examples=["*/15 6-20 * * mon-fri"],
    )
    folders: Annotated[Names, Field(min_length=1)] = Field(
        default=("INBOX",),
        description="Folders that are pulled: names, patterns with `*` (any letters) and `%` (any but `/`), and "
        "exclusions with `!`; `/` parts levels. POP3 knows only INBOX.",
        examples=["INBOX,Projects/*,!Projects/Old"],
    )
    push: Flag = Field(
        default=False,
        description="`yes` keeps a connection in which the server announces new mail in the first of FOLDERS, so that it is "
        "pulled within a second; IMAP only. EVERY counts as before.",
        examples=["yes"],
    )
    keep_connection: Flag = Field(
        default=False,
        description="`yes` keeps the connection open from one pull to the next, so that a pull without news costs one "
        "command; IMAP only. Worth it for a short EVERY; each puller process keeps one of its own.",
        examples=["yes"],
    )
    since: _Since = Field(
        default=Since("now"),
        description="How far back a new mailbox begins.",
        examples=["30d"],
    )
    after: _After = Field(
        default=After("keep"),
        description="What happens on the server to a message that was handed over; POP3 can keep or delete.",
        examples=["move:Done"],
    )
    after_when: Annotated[Literal["delivered", "spooled"], BeforeValidator(lower)] = Field(
        default="delivered",
        description="When AFTER may be done: once every output has accepted the message, or with `spooled` as soon as it is "
        "durably in the spool. Then a batch that a bad disk damages cannot be pulled once more.",
        examples=["spooled"],
    )
    after_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description="For so many whole days a message stays as it is on the server before AFTER is done.",
        examples=[30],
    )
    recognize: Flag = Field(
        default=True,
        description="When the server gives all messages new numbers, pass over those that were handed over already, by "
        "their content. `no` delivers everything again under new ids, and keeps no digests.",
        examples=["no"],
    )
    outputs: Annotated[Names, Field(min_length=1)] = Field(
        description="Outputs that get every message.", examples=["crm,archive"]
    )
    fallback: str | None = Field(
        default=None,
        description="Output that gets what the others do not: what no WHEN lets through, and what an output refuses.",
        examples=["rest"],
    )
    stages: Names = Field(
        default=(), description="Stages that every message passes, in this order.", examples=["automatic"]
    )
    enabled: Flag = Field(
        default=True, description="`no` leaves the mailbox alone without forgetting it.", examples=["no"]
    )

    @property
    def endpoint(self) -> Endpoint:
        """Where the mailbox is reached, from its own words and the provider's preset."""
        return Endpoint(
            host=self.host or "",
            port=self.port or PORTS[self.protocol, self.tls],
            tls=self.tls,
            ca_file=None if self.ca_file is None else str(self.ca_file),
        )

    @field_validator("auth")
    @classmethod
    def _check_auth(cls, auth: Auth, info: ValidationInfo) -> Auth:
        offered = PROVIDERS[info.data.get("provider", "generic")].auths
        if auth not in offered:
            raise ValueError(
                f"this provider does not let a mailbox sign in this way; set {' or '.join(offered)}"
            )
        return auth

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", address):
            raise ValueError("must be a mail address, such as support@contoso.com")
        return address

    @field_validator("account", "username")
    @classmethod
    def _fill_with_address(cls, value: str, info: ValidationInfo) -> str:
        return value or info.data.get("address", "")

    @field_validator("password")
    @classmethod
    def _check_password(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        auth = info.data.get("auth")
        if auth == "password" and password is None:
            raise ValueError("is not set, and AUTH=password needs it; set it or PASSWORD_FILE")
        if auth == "delegated" and password is not None:
            raise ValueError("is not used with AUTH=delegated; remove it, then sign in with mailquay login")
        if auth == "app" and password is not None:
            raise ValueError("is not used with AUTH=app; remove it")
        return password

    @field_validator("registration")
    @classmethod
    def _fill_registration(
        cls, registration: RegistrationName | None, info: ValidationInfo
    ) -> RegistrationName:
        preset = PROVIDERS[info.data.get("provider", "generic")].registration
        return registration or preset or ("oidc" if (info.context or {}).get("oidc") else "entra")

    @field_validator("scopes")
    @classmethod
    def _fill_scopes(cls, scopes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        data = info.data
        if scopes or data.get("auth") == "password" or not {"provider", "auth", "protocol"} <= data.keys():
            return scopes
        if data.get("registration") == "entra":
            return _cloud(info).scopes(data["auth"], data["protocol"])
        # `email` makes a provider say who signed in; an application on its own is nobody.
        return PROVIDERS[data["provider"]].scopes or (("email",) if data["auth"] == "delegated" else ())

    @field_validator("host")
    @classmethod
    def _fill_host(cls, host: str | None, info: ValidationInfo) -> str:
        if "provider" not in info.data:
            # What is wrong with PROVIDER is said already.
            return host or ""
        provider = info.data["provider"]
        if host is None and provider == "generic":
            raise ValueError("is not set, and PROVIDER=generic has no server of its own")
        if host is None:
            return PROVIDERS[provider].hosts.get(info.data.get("protocol", "imap")) or _cloud(info).mail
        if re.search(r"[\s/@]", host) or host.count(":") == 1:
            raise ValueError("must be the name of a server alone; its port goes into PORT")
        return host

    @field_validator("folders")
    @classmethod
    def _check_folders(cls, folders: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("protocol") == "pop3" and [name.upper() for name in folders] != ["INBOX"]:
            raise ValueError("POP3 knows only INBOX; remove it, or set PROTOCOL=imap")
        if not (plain(folders) or patterns(folders)):
            raise ValueError("excludes folders and names none to pull; add one, or *")
        return tuple(dict.fromkeys(spelled(_printable(name)) for name in folders))

    @field_validator("push")
    @classmethod
    def _check_push(cls, push: bool, info: ValidationInfo) -> bool:
        if push and info.data.get("protocol") == "pop3":
            raise ValueError("POP3 cannot announce new mail; remove it, or set PROTOCOL=imap")
        return push

    @field_validator("keep_connection")
    @classmethod
    def _check_keep_connection(cls, keep: bool, info: ValidationInfo) -> bool:
        if keep and info.data.get("protocol") == "pop3":
            raise ValueError(
                "a POP3 session sees no mail that comes after it began; remove it, or set PROTOCOL=imap"
            )
        return keep

    @field_validator("after")
    @classmethod
    def _check_after(cls, after: After, info: ValidationInfo) -> After:
        if info.data.get("protocol") == "pop3" and after.action in {"seen", "move"}:
            raise ValueError("POP3 can only keep or delete")
        folders = info.data.get("folders", ())
        if after.folder and after.folder.lower() in map(str.lower, choose(folders, [spelled(after.folder)])):
            # Every moved message would be new again at the next pull, without an end.
            raise ValueError(
                "moves messages into a folder that is pulled; name another, or exclude it with !"
            )
        return after

    @field_validator("fallback")
    @classmethod
    def _check_fallback(cls, name: str | None, info: ValidationInfo) -> str | None:
        """A name that no OUTPUT__NAME__ declares."""
        if name and info.context is not None and name.lower() not in info.context["outputs"]:
            raise ValueError("is no configured output; declare it with OUTPUT__NAME__TYPE")
        return name and name.lower()

    @field_validator("outputs", "stages")
    @classmethod
    def _check_names(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Names that no OUTPUT__NAME__ or STAGE__NAME__ declares; `context` says what there is when it is known."""
        names = tuple(dict.fromkeys(name.lower() for name in names))
        if info.context is None:
            return names
        known, kind = info.context[info.field_name], str(info.field_name).removesuffix("s").upper()
        for position, name in enumerate(names, start=1):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"declare it with {kind}__NAME__TYPE"
                raise ValueError(f"name {position} of {len(names)} is not configured; {hint}")
        return names
