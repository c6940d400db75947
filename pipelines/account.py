"""How an output signs in to a mail server: which server, as whom, and with a password or an access token.

An output that declares `AccountOptions` may be lent access tokens: before `open` Mailquay sets its attribute `tokens`,
from the same app registration, sign-ins and store as the mailboxes'. Used without Mailquay's worker, whoever makes the
output sets it. Where tokens come from is not known here, and nothing here talks to a server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from pipelines.options import CaFile, Duration, Names
from pipelines.output import OutputOptions

Provider = Literal["microsoft365", "outlook", "gmail", "generic"]
MailProtocol = Literal["smtp", "imap"]
Tls = Literal["implicit", "starttls", "none"]
Auth = Literal["delegated", "app", "password", "none"]

_SERVERS: Mapping[tuple[Provider, MailProtocol], tuple[str, Tls]] = MappingProxyType(
    {
        ("microsoft365", "smtp"): ("smtp.office365.com", "starttls"),
        ("outlook", "smtp"): ("smtp-mail.outlook.com", "starttls"),
        ("gmail", "smtp"): ("smtp.gmail.com", "implicit"),
        ("microsoft365", "imap"): ("outlook.office365.com", "implicit"),
        ("outlook", "imap"): ("outlook.office365.com", "implicit"),
        ("gmail", "imap"): ("imap.gmail.com", "implicit"),
    }
)
# RFC 8314 section 7 for implicit TLS, RFC 6409 and RFC 3501 for the ports that begin in clear; 25 is a relay's.
_PORTS: Mapping[tuple[MailProtocol, Tls], int] = MappingProxyType(
    {
        ("smtp", "implicit"): 465,
        ("smtp", "starttls"): 587,
        ("smtp", "none"): 25,
        ("imap", "implicit"): 993,
        ("imap", "starttls"): 143,
    }
)


class NoToken(Exception):
    """There is no access token to be had; its text is a sentence that says who has to do what, and holds no secret."""


class CannotSignIn(Exception):
    """The server cannot be reached or does not let the output in; its text is a sentence for people, without a secret."""


class Tokens(Protocol):
    """Access tokens of one account, kept fresh by somebody else. Both raise `NoToken` when there are none."""

    def access(self) -> str:
        """A token that is good for some minutes."""
        ...

    def another(self, refused: str) -> str | None:
        """A token other than the one that a server has just refused; None when a new one would not help."""
        ...


@runtime_checkable
class SignsIn(Protocol):
    """An output that can be lent tokens, and that can try its sign-in without delivering anything."""

    tokens: Tokens | None

    def try_sign_in(self) -> None:
        """Sign in to the server and leave.

        Raises:
            CannotSignIn: it cannot be reached, or does not let this account in.
        """
        ...


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, so that nobody can listen on the way."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _plain(value: str) -> str:
    # A control character could end a protocol line, or a field of XOAUTH2, and begin another.
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value.strip()


Plain = Annotated[str, AfterValidator(_plain)]


class AccountOptions(OutputOptions):
    """Which mail server, and who signs in there. A subclass says which `protocol` it speaks."""

    protocol: ClassVar[MailProtocol]

    provider: Provider = Field(
        default="generic", description="Who runs the server; presets HOST, TLS and the token's permission.",
        examples=["microsoft365"],
    )  # fmt: skip
    host: Plain = Field(
        default="",
        validate_default=True,
        description="Mail server, without port. Unset: the provider's; required for generic.",
        examples=["mail.example.com"],
    )
    tls: Tls | None = Field(
        default=None,
        validate_default=True,
        description="TLS from the first byte, or begun by STARTTLS. `none` is for a server on this machine alone. Unset: what "
        "the provider has, else `implicit`.",
        examples=["starttls"],
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the server. Unset: the standard one for TLS.",
        examples=[587],
    )
    ca_file: CaFile = None
    account: Plain = Field(
        default="",
        description="Who signs in with OAuth 2.0, as for a mailbox: once, by `mailquay login ACCOUNT`.",
        examples=["robot@contoso.com"],
    )
    password: SecretStr | None = Field(
        default=None, description="Password for AUTH=password; better in a file named by PASSWORD_FILE."
    )
    auth: Auth | None = Field(
        default=None,
        validate_default=True,
        description="How it signs in: `delegated` is OAuth 2.0 as ACCOUNT, `app` is OAuth 2.0 as the application itself. "
        "Unset: `delegated` with ACCOUNT, `password` with PASSWORD, else `none`.",
        examples=["app"],
    )
    username: Plain = Field(
        default="",
        description="Name that the server is told at sign-in. Unset: ACCOUNT, else the address that mail is sent from.",
        examples=["robot"],
    )
    scopes: Names = Field(
        default=(),
        description="OAuth 2.0 scopes to ask for. Unset: what the provider needs.",
        examples=[("https://outlook.office.com/SMTP.Send",)],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long to wait for the connection and for each answer; a large message has longer.",
    )
    parallel: int = Field(
        default=1, ge=1, le=16, description="How many connections of one process are under way at once."
    )

    @property
    def server(self) -> tuple[str, int, Tls]:
        """Host, port and kind of encryption, from what was said and the provider's preset."""
        tls = self.tls or "implicit"
        return self.host, self.port or _PORTS[self.protocol, tls], tls

    @property
    def login_name(self) -> str:
        """The name that the server is told at sign-in."""
        return self.username or self.account

    @property
    def wants_tokens(self) -> bool:
        """Whether it signs in with OAuth 2.0."""
        return self.auth in {"delegated", "app"}

    @field_validator("host")
    @classmethod
    def _fill_host(cls, host: str, info: ValidationInfo) -> str:
        provider: Provider = info.data.get("provider", "generic")
        if not host and "provider" in info.data and provider == "generic":
            raise ValueError("is not set, and PROVIDER=generic has no server of its own")
        if re.search(r"[\s/@]", host) or host.count(":") == 1:
            raise ValueError("must be the name of a server alone; its port goes into PORT")
        return host or _SERVERS.get((provider, cls.protocol), ("", "implicit"))[0]

    @field_validator("tls")
    @classmethod
    def _fill_tls(cls, tls: Tls | None, info: ValidationInfo) -> Tls:
        if tls == "none" and (cls.protocol == "imap" or not is_loopback(info.data.get("host", "localhost"))):
            raise ValueError(
                "must be implicit or starttls; only a relay on this machine is spoken to in clear"
            )
        return tls or _SERVERS.get((info.data.get("provider", "generic"), cls.protocol), ("", "implicit"))[1]

    @field_validator("auth")
    @classmethod
    def _fill_auth(cls, auth: Auth | None, info: ValidationInfo) -> Auth:
        account, password = info.data.get("account"), info.data.get("password")
        if auth is None and account and password:
            raise ValueError("is not set, and both ACCOUNT and PASSWORD are; say which one signs in")
        found: Auth = auth or ("delegated" if account else "password" if password else "none")
        if found == "delegated" and not account:
            raise ValueError("`delegated` needs ACCOUNT, the person who signs in")
        if found == "password" and not password:
            raise ValueError("`password` needs PASSWORD; set it or PASSWORD_FILE")
        if found == "none" and info.data.get("provider", "generic") != "generic":
            raise ValueError("is not set, and this provider lets nobody in without signing in; set ACCOUNT")
        return found


def secret_of(options: AccountOptions, tokens: Tokens | None) -> str:
    """What the account signs in with: an access token, the password, or nothing.

    Raises:
        NoToken: there is no token to be had.
    """
    if not options.wants_tokens:
        return options.password.get_secret_value() if options.password else ""
    if tokens is None:
        raise NoToken("nobody lends this output access tokens; whoever makes it has to set `tokens`")
    return tokens.access()
