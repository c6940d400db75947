"""What an IMAP server's refusals mean for a message that was to be added. Pure: an answer in, a receipt out.

A refusal is the message's own fault where the server says so: too large, or not to be read. All else waits: quota, rights and folders
can be mended by a person, and a throttled server asks for time. Exchange and Gmail say these things in codes and words of their
own, which are known here. Reasons show status and code, never the server's words, which may repeat what was sent.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.imap_session import Answer

_BACKOFF = re.compile(r"Suggested Backoff Time: (\d{1,15}) milliseconds", re.IGNORECASE)
_PATIENCE = timedelta(hours=1)
# [TOOBIG] is RFC 4469's; Gmail sends it with NO and with BAD. The words are those of other servers.
_TOO_LARGE = re.compile(
    r"\[TOOBIG\]|message (is )?too (large|big)|(maximum|max) message size|message size exceed|literal size too large",
    re.IGNORECASE,
)
# [OVERQUOTA] is RFC 5530's; the words are Exchange's and others'.
_FULL = re.compile(r"\[OVERQUOTA\]|quota|storage limit|mailbox (is )?full|insufficient space", re.IGNORECASE)
# Exchange's words for a message that it cannot take in, whatever the true reason (imapsync's FAQ on Exchange).
_UNREADABLE = re.compile(
    r"Command (Argument )?Error\. 1\d\b|unable to parse message|line length|command line limit|contains (bare|nul)|"
    r"invalid (argument|message)",
    re.IGNORECASE,
)
_AWAY = re.compile(
    r"\[(UNAVAILABLE|INUSE|LIMIT|SERVERBUG|ALERT)\]|throttled|unavailable|try again", re.IGNORECASE
)


def judge(answer: Answer, *, server: str, now: datetime) -> Receipt:
    """Turn the answer to APPEND into a receipt. `now` is aware; `server` is host and port."""
    if answer.good:
        return Accepted()
    said = f"{server} answered {answer.shown} to the message"
    if found := _BACKOFF.search(answer.text):
        pause = min(timedelta(milliseconds=int(found[1])), _PATIENCE)
        return Retry(f"{said}: it is throttling", not_before=now + pause)
    if _TOO_LARGE.search(answer.text):
        return Refused(f"{said}: the message is too large")
    if _FULL.search(answer.text):
        return Retry(f"{said}: the mailbox is full; make room, or give it more")
    if answer.code in {"TRYCREATE", "NONEXISTENT"}:
        return Retry(f"{said}: the folder has gone; it is made anew")
    if answer.code in {"NOPERM", "READ-ONLY"}:
        return Retry(f"{said}: the account may not write to FOLDER; give it the right")
    if _AWAY.search(answer.text):
        return Retry(f"{said}; it is tried again")
    if _UNREADABLE.search(answer.text) or answer.status == "BAD":
        return Refused(f"{said}: it cannot take this message in")
    return Retry(f"{said}; it is tried again")


def judge_sign_in(answer: Answer, *, server: str, now: datetime) -> Retry:
    """Say why nobody is let in. A sign-in is the account's matter and never a message's, so it is tried again."""
    said = f"{server} answered {answer.shown} to the sign-in"
    if found := _BACKOFF.search(answer.text):
        pause = min(timedelta(milliseconds=int(found[1])), _PATIENCE)
        return Retry(f"{said}: it is throttling", not_before=now + pause)
    return Retry(
        f"{said}: check USERNAME, the account's access to that mailbox, and that IMAP is switched on for it; a sign-in from before "
        "this output was configured may lack the permission: `mailquay login ACCOUNT`"
    )
