"""Keeps accounts alive that nobody pulls with: a refresh token dies when it is not used for 90 days.

An account whose token was not renewed for KEEP_ALIVE_AFTER is renewed, whether or not its mailboxes are enabled or parked. What a
provider refuses is reported and left as it is; the mailboxes' own pulls say what a person has to do.
"""

from __future__ import annotations

import structlog

from worker.errors import MailquayError
from worker.quay import Quay
from worker.timetable import KEEP_ALIVE
from worker.tokens import Stored

log = structlog.get_logger("keep_alive")


def keep_alive(quay: Quay) -> list[str]:
    """Renew the token of every account that was idle for KEEP_ALIVE_AFTER; the accounts that were renewed."""
    renewed: list[str] = []
    for account, mailboxes in sorted(quay.settings.accounts().items()):
        stored = quay.token_store.glance(account)
        if mailboxes[0].auth == "app" or not _idle(quay, stored):
            continue
        try:
            quay.keeper(mailboxes[0]).renew(account, mailboxes[0].scopes)
        except MailquayError as error:
            log.warning("account.not_renewed", account=account, state=error.state, reason=error.sentence)
        else:
            renewed.append(account)
    quay.timetable.answered(KEEP_ALIVE)
    log.info("keep_alive.finished", renewed=len(renewed))
    return renewed


def _idle(quay: Quay, stored: Stored) -> bool:
    """Whether a sign-in was left alone for KEEP_ALIVE_AFTER, or for half of its life where its provider told an end."""
    longest = quay.settings.keep_alive_after.total_seconds()
    if stored.ends_at:
        longest = min(longest, (stored.ends_at - stored.renewed_at) / 2)
    return bool(stored.renewed_at) and quay.clock() - stored.renewed_at >= longest
