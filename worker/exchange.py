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
from worker.signer import OutputSigner, Signer
from worker.sources.providers import PERMISSIONS, CloudName, Protocol
from worker.tokens import Registration

_ENVIRONMENTS: Mapping[CloudName, str] = MappingProxyType(
    {"gcc-high": "O365USGovGCCHigh", "dod": "O365USGovDoD", "china": "O365China"}
)
_SPELLED: Mapping[Protocol, str] = MappingProxyType({"imap": "Imap", "pop3": "Pop"})
_SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        "imap": "-ImapEnabled $true",
        "pop3": "-PopEnabled $true",
        "smtp": "-SmtpClientAuthenticationDisabled $false",
    }
)
_ANY_TENANT = {"organizations", "common", "consumers"}
_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
"""PowerShell takes typographic quotes for plain ones."""


def access_lines(
    signers: Iterable[Signer], registration: Callable[[Signer], Registration], *, cloud: CloudName
) -> list[str]:
    """The lines for all Microsoft 365 mailboxes and outputs that need somebody's permission; none when there are none.

    Those are the mailboxes that the application opens on its own, those that an account opens beside its own one, and those
    that mail is sent from.
    """
    tenants: dict[str, list[Signer]] = {}
    for signer in sorted(signers, key=lambda one: one.name):
        shared = signer.auth == "delegated" and signer.account.casefold() != _mailbox(signer).casefold()
        sends = isinstance(signer, OutputSigner) and signer.protocol == "smtp"
        if signer.provider == "microsoft365" and (signer.auth == "app" or shared or sends):
            tenant = registration(signer).authority.rpartition("/")[2]
            tenants.setdefault(tenant, []).append(signer)
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
    signers: Sequence[Signer],
    registration: Callable[[Signer], Registration],
    environment: str | None,
) -> Iterator[str]:
    organization = "" if tenant in _ANY_TENANT else f" -Organization {_quoted(tenant)}"
    cloud = f" -ExchangeEnvironmentName {environment}" if environment else ""
    yield f"Connect-ExchangeOnline{organization}{cloud}"
    applications: dict[str, list[Signer]] = {}
    people: list[str] = []
    for signer in signers:
        if signer.auth == "app":
            applications.setdefault(registration(signer).client_id, []).append(signer)
        elif isinstance(signer, OutputSigner) and signer.protocol == "smtp":
            people += [*_sending(signer, _quoted(signer.account)), _switch(signer)]
        else:
            people.append(_permission(signer, _quoted(signer.account)))
    yield from dict.fromkeys(people)
    for client_id, theirs in applications.items():
        # The same mailbox may be pulled twice.
        yield from dict.fromkeys(_of_application(client_id, theirs))


def _of_application(client_id: str, signers: Sequence[Signer]) -> Iterator[str]:
    wanted = sorted({PERMISSIONS["app", signer.protocol] for signer in signers})
    to_send = PERMISSIONS["app", "smtp"]
    yield (
        f"# The application {client_id} needs, with an administrator's consent, the application permissions "
        f"{' and '.join(wanted)} of Office 365 Exchange Online{'' if to_send in wanted else f' (and {to_send} to send)'}."
    )
    yield "$ObjectId = '<object id of the ENTERPRISE application, not of the app registration>'"
    yield f'New-ServicePrincipal -AppId {_quoted(client_id)} -ObjectId $ObjectId -DisplayName "Mailquay"'
    for signer in signers:
        yield _permission(signer, "$ObjectId")
        if isinstance(signer, OutputSigner) and signer.protocol == "smtp":
            yield from _sending(signer, "$ObjectId")
        yield _switch(signer)


def _mailbox(signer: Signer) -> str:
    """Whose mailbox is signed in to."""
    return signer.login if isinstance(signer, OutputSigner) else signer.address


def _permission(signer: Signer, user: str) -> str:
    return (
        f"Add-MailboxPermission -Identity {_quoted(_mailbox(signer))} -User {user} -AccessRights FullAccess"
    )


def _sending(signer: OutputSigner, trustee: str) -> Iterator[str]:
    """The right to send as somebody else than the mailbox that is signed in to."""
    if signer.address.casefold() != signer.login.casefold():
        yield f"Add-RecipientPermission -Identity {_quoted(signer.address)} -Trustee {trustee} -AccessRights SendAs"


def _switch(signer: Signer) -> str:
    return f"Set-CASMailbox -Identity {_quoted(_mailbox(signer))} {_SWITCHES[signer.protocol]}"


def _quoted(text: str) -> str:
    """A word for PowerShell: as it is when nothing in it means anything, else in single quotes."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", text):
        return text
    doubled = _QUOTES.sub(r"\1\1", text)
    return f"'{doubled}'"
