"""What is known of mail providers: servers, scopes, permissions, clouds, ways to sign in. Data only.

A preset fills what a mailbox leaves unsaid; whatever a mailbox says itself wins. Nothing here talks to a server, and
nothing here decides: `worker.mailbox` and `worker.registration` compare a mailbox with its provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

ProviderName = Literal["microsoft365", "outlook", "gmail", "generic"]
Protocol = Literal["imap", "pop3"]
Tls = Literal["implicit", "starttls"]
Auth = Literal["delegated", "app", "password"]
CloudName = Literal["public", "gcc-high", "dod", "china"]
RegistrationName = Literal["entra", "google", "oidc"]

# RFC 8314 section 7 for implicit TLS, RFC 9051 and RFC 1939 for the ports that begin in clear and switch.
PORTS: Mapping[tuple[Protocol, Tls], int] = MappingProxyType(
    {
        ("imap", "implicit"): 993,
        ("imap", "starttls"): 143,
        ("pop3", "implicit"): 995,
        ("pop3", "starttls"): 110,
    }
)

PERMISSIONS: Mapping[tuple[Auth, Literal["imap", "pop3", "smtp"]], str] = MappingProxyType(
    {
        ("delegated", "imap"): "IMAP.AccessAsUser.All",
        ("delegated", "pop3"): "POP.AccessAsUser.All",
        ("delegated", "smtp"): "SMTP.Send",
        ("app", "imap"): "IMAP.AccessAsApp",
        ("app", "pop3"): "POP.AccessAsApp",
        ("app", "smtp"): "SMTP.SendAsApp",
    }
)
"""What Exchange Online wants to find in a token: in `scp` for a person, in `roles` for an application."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """One of Microsoft's clouds: where people sign in, where mail is, and what tokens for it are for.

    `resource` is what delegated scopes begin with, `app_resource` what an application on its own asks for.
    """

    name: CloudName
    login: str
    mail: str
    resource: str
    app_resource: str

    def scopes(self, auth: Auth, protocol: Protocol | Literal["smtp"]) -> tuple[str, ...]:
        """The scopes to ask for.

        The full resource address is needed: the short names mean Microsoft Graph, whose tokens the mail servers refuse. MSAL
        adds offline_access by itself and rejects it in a list of scopes.
        """
        if auth == "app":
            return (f"{self.app_resource}/.default",)
        return (f"{self.resource}/{PERMISSIONS[auth, protocol]}",)


# As Microsoft's pages on Exchange Online and on national clouds have them; nobody here has tried the national ones.
CLOUDS: Mapping[CloudName, Cloud] = MappingProxyType(
    {
        cloud.name: cloud
        for cloud in (
            Cloud(
                "public",
                login="login.microsoftonline.com",
                mail="outlook.office365.com",
                resource="https://outlook.office.com",
                app_resource="https://outlook.office365.com",
            ),
            Cloud(
                "gcc-high",
                login="login.microsoftonline.us",
                mail="outlook.office365.us",
                resource="https://outlook.office365.us",
                app_resource="https://outlook.office365.us",
            ),
            Cloud(
                "dod",
                login="login.microsoftonline.us",
                mail="outlook-dod.office365.us",
                resource="https://outlook-dod.office365.us",
                app_resource="https://outlook-dod.office365.us",
            ),
            Cloud(
                "china",
                login="login.partner.microsoftonline.cn",
                mail="partner.outlook.cn",
                resource="https://partner.outlook.cn",
                app_resource="https://partner.outlook.cn",
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider's preset.

    `auths` are the ways it lets a mailbox sign in, the default first. `hosts` and `scopes` are empty where the cloud says
    them, or the mailbox has to. `tenant` is the one that its accounts live in, when that is always the same.
    """

    name: ProviderName
    auths: tuple[Auth, ...]
    registration: RegistrationName | None = None
    hosts: Mapping[Protocol, str] = field(default_factory=dict)
    scopes: tuple[str, ...] = ()
    tenant: str | None = None


PROVIDERS: Mapping[ProviderName, Provider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            # Exchange Online has taken no passwords over IMAP and POP3 since January 2023.
            Provider("microsoft365", auths=("delegated", "app"), registration="entra"),
            # Outlook.com, Hotmail, Live: personal accounts; no passwords since September 2024.
            Provider("outlook", auths=("delegated",), registration="entra", tenant="consumers"),
            # A password here is an app password, which needs two-step verification.
            Provider(
                "gmail",
                auths=("delegated", "password"),
                registration="google",
                hosts=MappingProxyType({"imap": "imap.gmail.com", "pop3": "pop.gmail.com"}),
                # The only scope that opens IMAP and POP3; `email` makes Google say who signed in.
                scopes=("https://mail.google.com/", "email"),
            ),
            # Any other server.
            Provider("generic", auths=("password", "delegated", "app")),
        )
    }
)
