"""What an administrator of Exchange Online has to type so that the configured mailboxes can be opened. Text only.

The lines are PowerShell for the module ExchangeOnlineManagement, as Microsoft's page "Authenticate an IMAP, POP or SMTP
connection using OAuth" has them; what is to be read and not run is a comment, so that all of it can be pasted. Nothing is
asked and nothing is run here: whether somebody has done it already, nobody here knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from worker.mailbox import Mailbox
from worker.sources.providers import PERMISSIONS, CloudName, Protocol
from worker.tokens import Registration

_ENVIRONMENTS: Mapping[CloudName, str] = MappingProxyType(
    {"gcc-high": "O365USGovGCCHigh", "dod": "O365USGovDoD", "china": "O365China"}
)
_SPELLED: Mapping[Protocol, str] = MappingProxyType({"imap": "Imap", "pop3": "Pop"})
_SWITCHES: Mapping[Protocol, str] = MappingProxyType({"imap": "-ImapEnabled", "pop3": "-PopEnabled"})
_ANY_TENANT = {"organizations", "common", "consumers"}
_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
"""PowerShell takes typographic quotes for plain ones."""


def access_lines(
    mailboxes: Iterable[Mailbox], registration: Callable[[Mailbox], Registration], *, cloud: CloudName
) -> list[str]:
    """The lines for all Microsoft 365 mailboxes that need somebody's permission; none when there are none.

    Those are the mailboxes that the application opens on its own, and those that an account opens beside its own one.
    """
    tenants: dict[str, list[Mailbox]] = {}
    for mailbox in sorted(mailboxes, key=lambda one: one.name):
        shared = mailbox.auth == "delegated" and mailbox.account.casefold() != mailbox.address.casefold()
        if mailbox.provider == "microsoft365" and (mailbox.auth == "app" or shared):
            tenant = registration(mailbox).authority.rpartition("/")[2]
            tenants.setdefault(tenant, []).append(mailbox)
    return [
        line
        for tenant, theirs in tenants.items()
        for line in _of_tenant(tenant, theirs, registration, _ENVIRONMENTS.get(cloud))
    ]


def advice_lines(mailboxes: Iterable[Mailbox]) -> list[str]:
    """What is worth setting for Microsoft 365 mailboxes, whoever opens them; none when there are none.

    By default Exchange turns meeting requests into links, and may answer a read receipt when a message is merely pulled
    (Microsoft's page on Set-CASMailbox).
    """
    found = {
        (mailbox.address, mailbox.protocol) for mailbox in mailboxes if mailbox.provider == "microsoft365"
    }
    return [
        f"Set-CASMailbox -Identity {_quoted(address)} -{kind}UseProtocolDefaults $false "
        f"-{kind}ForceICalForCalendarRetrievalOption $true -{kind}SuppressReadReceipt $true"
        for address, protocol in sorted(found)
        for kind in [_SPELLED[protocol]]
    ]


def _of_tenant(
    tenant: str,
    mailboxes: Sequence[Mailbox],
    registration: Callable[[Mailbox], Registration],
    environment: str | None,
) -> Iterator[str]:
    organization = "" if tenant in _ANY_TENANT else f" -Organization {_quoted(tenant)}"
    cloud = f" -ExchangeEnvironmentName {environment}" if environment else ""
    yield f"Connect-ExchangeOnline{organization}{cloud}"
    applications: dict[str, list[Mailbox]] = {}
    for mailbox in mailboxes:
        if mailbox.auth == "app":
            applications.setdefault(registration(mailbox).client_id, []).append(mailbox)
        else:
            yield _permission(mailbox, _quoted(mailbox.account))
    for client_id, theirs in applications.items():
        # The same mailbox may be pulled twice.
        yield from dict.fromkeys(_of_application(client_id, theirs))


def _of_application(client_id: str, mailboxes: Sequence[Mailbox]) -> Iterator[str]:
    wanted = sorted({PERMISSIONS["app", mailbox.protocol] for mailbox in mailboxes})
    yield (
        f"# The application {client_id} needs, with an administrator's consent, the application permissions "
        f"{' and '.join(wanted)} of Office 365 Exchange Online (and {PERMISSIONS['app', 'smtp']} to send)."
    )
    yield "$ObjectId = '<object id of the ENTERPRISE application, not of the app registration>'"
    yield f'New-ServicePrincipal -AppId {_quoted(client_id)} -ObjectId $ObjectId -DisplayName "Mailquay"'
    for mailbox in mailboxes:
        yield _permission(mailbox, "$ObjectId")
        yield f"Set-CASMailbox -Identity {_quoted(mailbox.address)} {_SWITCHES[mailbox.protocol]} $true"


def _permission(mailbox: Mailbox, user: str) -> str:
    return f"Add-MailboxPermission -Identity {_quoted(mailbox.address)} -User {user} -AccessRights FullAccess"


def _quoted(text: str) -> str:
    """A word for PowerShell: as it is when nothing in it means anything, else in single quotes."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", text):
        return text
    doubled = _QUOTES.sub(r"\1\1", text)
    return f"'{doubled}'"
