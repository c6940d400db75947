"""Keeps accounts alive that nobody pulls with: a refresh token dies when it is not used for 90 days.

An account whose token was not renewed for a week is renewed, whether or not its mailboxes are enabled or parked. What a
provider refuses is reported and left as it is; the mailboxes' own pulls say what a person has to do.
"""

from __future__ import annotations

import structlog

from worker.errors import MailquayError
from worker.quay import Quay
from worker.timetable import KEEP_ALIVE

log = structlog.get_logger("keep_alive")

IDLE_SECONDS = 7 * 86400.0


def keep_alive(quay: Quay) -> list[str]:
    """Renew the token of every account that was idle for a week; the accounts that were renewed."""
    renewed: list[str] = []
    accounts = {
        mailbox.account.casefold(): mailbox
        for mailbox in quay.settings.mailboxes.values()
        if mailbox.auth == "delegated"
    }
    for account, mailbox in sorted(accounts.items()):
        stored_at = quay.token_store.stored_at(account)
        if not stored_at or quay.clock() - stored_at < IDLE_SECONDS:
            continue
        try:
            quay.tokens(mailbox).access(mailbox.account, mailbox.scopes, renewed=True)
        except MailquayError as error:
            log.warning("account.not_renewed", account=account, state=error.state, reason=error.sentence)
        else:
            renewed.append(account)
    quay.timetable.answered(KEEP_ALIVE)
    log.info("keep_alive.finished", renewed=len(renewed))
    return renewed
