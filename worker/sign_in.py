"""Signing an account in, so that a program can do it too: ask for a code, show it, wait, store what came.

Tokens are kept per account: one sign-in serves every mailbox that names it. Mailboxes that were parked for want of a
sign-in are due again at once.
"""

from __future__ import annotations

from collections.abc import Callable

from worker.errors import Misconfigured
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.timetable import pull_entry


def mailboxes_of(quay: Quay, account: str) -> list[Mailbox]:
    """The mailboxes that sign in as this account, without regard to case."""
    return [
        mailbox
        for mailbox in quay.settings.mailboxes.values()
        if mailbox.auth == "delegated" and mailbox.account.casefold() == account.casefold()
    ]


def by_device_code(
    quay: Quay,
    account: str,
    *,
    show: Callable[[str, str], None],
    give_up: Callable[[], bool] = lambda: False,
) -> None:
    """Sign in by device code; `show` gets the address and the code that the person needs.

    Raises:
        Misconfigured: no mailbox signs in as this account, or the provider refuses the app registration.
        NeedsSignIn: declined, too late, or somebody else signed in; nothing was stored.
        Unreachable: the provider does not answer.
    """
    mailboxes = mailboxes_of(quay, account)
    if not mailboxes:
        raise Misconfigured(f"no configured mailbox signs in as {account}; check ACCOUNT and ADDRESS")
    entra = quay.entra(mailboxes[0])
    scopes = sorted({scope for mailbox in mailboxes for scope in mailbox.scopes})
    flow = entra.begin_device_flow(scopes)
    show(str(flow["verification_uri"]), str(flow["user_code"]))
    entra.finish_device_flow(flow, account, give_up=give_up)
    for mailbox in mailboxes:
        quay.timetable.park(pull_entry(mailbox.name), quay.clock())
