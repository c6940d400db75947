"""Who may open which mailbox with which token: the rules of Exchange Online, as one pure decision.

A delegated token opens its owner's mailbox and every mailbox the owner has Full Access to; an app-only token opens
the mailboxes granted to the application. Both need the permission of the protocol, and an Exchange audience.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

EXCHANGE = frozenset({"https://outlook.office.com", "https://outlook.office365.com"})
DELEGATED = {"imap": "IMAP.AccessAsUser.All", "pop3": "POP.AccessAsUser.All", "smtp": "SMTP.Send"}
APP_ONLY = {"imap": "IMAP.AccessAsApp", "pop3": "POP.AccessAsApp", "smtp": "SMTP.SendAsApp"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a token opens a mailbox, and why not. Clients of the mail servers never see the reason."""

    active: bool
    reason: str = ""


def judge(
    claims: Mapping[str, Any] | None,
    *,
    mailbox: str,
    service: str,
    now: float,
    full_access: Mapping[str, Collection[str]],
    app_mailboxes: Mapping[str, Collection[str]],
) -> Verdict:
    """Decide whether a token opens a mailbox.

    Args:
        claims: The token's claims, its signature already checked; None when it is no token of this provider.
        mailbox: The address that the client named at sign-in; case does not matter.
        service: `imap`, `pop3` or `smtp`.
        now: Seconds since the epoch.
        full_access: For each mailbox, in lower case, the user principal names that may open it.
        app_mailboxes: For each application's id the mailboxes, in lower case, granted to it.
    """
    objection = "not a token of this provider"
    if claims is not None and claims.get("idtyp") == "app":
        granted = app_mailboxes.get(str(claims.get("appid")), ())
        objection = _common_objection(claims, now=now) or _app_objection(
            claims, mailbox.lower(), service, granted
        )
    elif claims is not None:
        users = full_access.get(mailbox.lower(), ())
        objection = _common_objection(claims, now=now) or _user_objection(claims, service, users)
    return Verdict(active=not objection, reason=objection)


def _common_objection(claims: Mapping[str, Any], *, now: float) -> str:
    """Why a token of any kind is not good, or an empty text."""
    if claims.get("exp", 0) <= now:
        return "the token has expired"
    if claims.get("aud") not in EXCHANGE:
        return "the token is for another audience"
    return ""


def _user_objection(claims: Mapping[str, Any], service: str, users: Collection[str]) -> str:
    """Why a person's token is not good for a mailbox that `users` may open, or an empty text."""
    if DELEGATED.get(service) not in str(claims.get("scp", "")).split():
        return f"the token lacks the permission for {service}"
    if claims.get("upn") not in users:
        return "the user has no access to the mailbox"
    return ""


def _app_objection(claims: Mapping[str, Any], mailbox: str, service: str, granted: Collection[str]) -> str:
    """Why an app-only token is not good for a mailbox, or an empty text."""
    if APP_ONLY.get(service) not in claims.get("roles", ()):
        return f"the application lacks the role for {service}"
    if mailbox not in granted:
        return "the mailbox is not granted to the application"
    return ""
