"""What is known of mail providers: servers, scopes, ways to sign in. Data only.

A preset fills what a mailbox leaves unsaid; whatever a mailbox says itself wins. Nothing here talks to a server, and
nothing here decides: `worker.settings` compares a mailbox with its provider.
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

# RFC 8314 section 7 for implicit TLS, RFC 9051 and RFC 1939 for the ports that begin in clear and switch.
PORTS: Mapping[tuple[Protocol, Tls], int] = MappingProxyType(
    {
        ("imap", "implicit"): 993,
        ("imap", "starttls"): 143,
        ("pop3", "implicit"): 995,
        ("pop3", "starttls"): 110,
    }
)

# The full resource address is needed: the short names mean Microsoft Graph, whose tokens the mail servers refuse.
# MSAL adds offline_access by itself and rejects it in a list of scopes.
MICROSOFT_SCOPES: Mapping[Protocol, tuple[str, ...]] = MappingProxyType(
    {
        "imap": ("https://outlook.office.com/IMAP.AccessAsUser.All",),
        "pop3": ("https://outlook.office.com/POP.AccessAsUser.All",),
    }
)


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider's preset.

    `auths` are the ways it lets a mailbox sign in, the default first; those in `planned` are not built yet. `authority`
    has a place for the tenant, and `tenant` is the one that its accounts live in, when that is always the same.
    """

    name: ProviderName
    auths: tuple[Auth, ...]
    planned: frozenset[Auth] = frozenset()
    hosts: Mapping[Protocol, str] = field(default_factory=dict)
    scopes: Mapping[Protocol, tuple[str, ...]] = field(default_factory=lambda: MICROSOFT_SCOPES)
    authority: str = "https://login.microsoftonline.com/{tenant}"
    tenant: str | None = None
    sasl: Literal["xoauth2"] = "xoauth2"
    tls: Tls = "implicit"


_OUTLOOK: Mapping[Protocol, str] = MappingProxyType(
    {"imap": "outlook.office365.com", "pop3": "outlook.office365.com"}
)

PROVIDERS: Mapping[ProviderName, Provider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            # Exchange Online has taken no passwords over IMAP and POP3 since January 2023.
            Provider("microsoft365", auths=("delegated", "app"), planned=frozenset({"app"}), hosts=_OUTLOOK),
            # Outlook.com, Hotmail, Live: personal accounts; no passwords since September 2024.
            Provider("outlook", auths=("delegated",), hosts=_OUTLOOK, tenant="consumers"),
            # Until Google's own sign-in is built: an app password, which needs two-step verification.
            Provider(
                "gmail",
                auths=("delegated", "password"),
                planned=frozenset({"delegated"}),
                hosts=MappingProxyType({"imap": "imap.gmail.com", "pop3": "pop.gmail.com"}),
                scopes=MappingProxyType({}),
            ),
            # Any other server. Delegated sign-in goes to the registration of ENTRA__*, with Microsoft's scopes.
            Provider("generic", auths=("password", "delegated", "app"), planned=frozenset({"app"})),
        )
    }
)
