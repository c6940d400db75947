"""Enhanced status codes (RFC 3463, RFC 5248) and replies of SMTP servers: found in text, and what they mean.

The class of a code says whether a failure is permanent, with a few exceptions that practice knows: a full mailbox is
announced as permanent and is empty next week. Nothing here raises.
"""

from __future__ import annotations

import re

# A reply with both codes, as in `550 5.1.1 …` or `550-5.1.1`; Exchange writes #5.1.1 in its old reports.
_BOTH = re.compile(r"(?<![\w.:-])([45][0-5]\d)[ -]#?(([245])\.(\d{1,3})\.(\d{1,3}))(?!\.?\d)")
_ENHANCED = re.compile(r"(?<![\w.:-])(([245])\.(\d{1,3})\.(\d{1,3}))(?!\.?\d)")
_REPLY = re.compile(r"(?<![\w.:#-])([45][0-5]\d)(?=[ :-])")

# Subject and detail of RFC 3463, for both classes. Exchange uses X.1.10 for an unknown recipient.
_REASONS = {
    "1.1": "no-such-mailbox", "1.6": "no-such-mailbox", "1.10": "no-such-mailbox",
    "1.2": "no-such-domain", "4.4": "no-such-domain", "4.310": "no-such-domain",
    "2.1": "mailbox-disabled", "2.2": "mailbox-full", "3.1": "server-full",
    "2.3": "too-large", "3.4": "too-large",
    "4.1": "unreachable", "4.2": "unreachable", "4.3": "unreachable", "4.5": "unreachable",
    "4.6": "loop", "4.7": "expired",
}  # fmt: skip
_SUBJECTS = {
    "1": "bad-address",
    "2": "mailbox",
    "3": "server",
    "4": "unreachable",
    "5": "protocol",
    "6": "content",
    "7": "policy",
}
# Full mailboxes and servers, congestion, expired: announced with 5.x.x too, and gone after a while.
_PASSING = frozenset({"2.2", "3.1", "4.5", "4.7"})


def find_codes(text: str) -> tuple[int | None, str | None]:
    """Return the reply code and the enhanced status code that a diagnostic text holds, each None without one."""
    both = _BOTH.search(text)
    if both is not None:
        return int(both[1]), both[2]
    enhanced, reply = _ENHANCED.search(text), _REPLY.search(text)
    status = enhanced[1] if enhanced else None
    code = int(reply[1]) if reply else None
    return code, status


def read_status(text: str | None) -> str | None:
    """Return the code of a Status field, which may have a comment behind it (RFC 3464 section 2.3.4)."""
    found = _ENHANCED.match((text or "").strip().lstrip("#"))
    return found[1] if found else None


def more_precise(declared: str | None, found: str | None) -> str | None:
    """Prefer the declared code, unless it is a mere `5.0.0` and the diagnostic text knows more of the same class."""
    if declared is None or (declared.endswith(".0.0") and found is not None and found[0] == declared[0]):
        return found or declared
    return declared


def reason(status: str | None) -> str:
    """Return why in one word: `no-such-mailbox`, `mailbox-full`, `policy` …, `other` without a code that says it."""
    _, _, detail = (status or "").partition(".")
    return _REASONS.get(detail) or _SUBJECTS.get(detail.partition(".")[0]) or "other"


def is_permanent(
    *, action: str | None, status: str | None, smtp_code: int | None, words: bool | None
) -> bool | None:
    """Return whether the recipient should be given up; None if nobody says so, or if nothing failed."""
    if action == "delayed":
        return False
    if action != "failed":
        return None
    if status is not None:
        return status[0] == "5" and status.partition(".")[2] not in _PASSING
    return smtp_code >= 500 if smtp_code is not None else words
