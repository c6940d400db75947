"""What a server's refusal means: text in, an error that says who must act out.

Servers answer NO, BAD, -ERR and BYE to the same effect and give their reasons in prose; the reasons read here are those
that real servers were seen to send. A text that says nothing known means that the server is unreachable for now.
"""

from __future__ import annotations

import re

from worker.errors import (
    LoginRefused,
    MailquayError,
    Misconfigured,
    NotConnected,
    SessionExpired,
    Throttled,
    Unreachable,
)
from worker.sources import Refused

_BACKOFF = re.compile(r"Suggested Backoff Time: (\d{1,15}) milliseconds", re.IGNORECASE)
_LONGEST_PARK_SECONDS = 3600.0
_CROWDED = (
    "too many simultaneous connections",
    "maximum number of connections",
    "[limit]",
    "[in-use]",
    "[inuse]",
)
_SLOW_DOWN = ("request is throttled", "[throttled]", "[login-delay]")
_USED_UP = ("[overquota]", "bandwidth limits")
"""Gmail locks a mailbox out for up to a day then (chatwoot#6082), and says not for how long."""
_BY_HAND = {
    "via your web browser": "Sign in to the account in a web browser once, and confirm there that it was you",
    "web login required": "Sign in to the account in a web browser once, and confirm there that it was you",
    "application-specific password required": (
        "The account has two-step verification: make an app password and set it as PASSWORD, or use AUTH=delegated"
    ),
}
"""What Gmail says when a person has to do something, and what that is."""
_ADDRESS = re.compile(r"https?://[^\s\]]+")
FETCHING = "fetching messages"
"""What was being done when a refusal may concern one message alone."""
SETTLING = "settling messages"
"""What was being done when a refusal does not end the session."""
_MISSING = ("[nonexistent]", "doesn't exist", "does not exist", "not found")
_FORBIDDEN = ("[read-only]", "[noperm]", "is read-only")
_PASSING = ("server unavailable", "[unavailable]", "[sys/temp]", "[tempfail]", "temporarily unavailable")


def meaning(text: str, *, host: str, during: str) -> MailquayError:
    """The error that a refusal stands for. `during` is what was being done, in words, as in "signing in"."""
    low = text.lower()
    said = f"{host} refused while {during}: {shown(text)}"
    if found := _BACKOFF.search(text):
        seconds = min(int(found.group(1)) / 1000, _LONGEST_PARK_SECONDS)
        return Throttled(
            f"{host} is throttling while {during}; it asked for {seconds:.0f} s", seconds=seconds
        )
    if "accesstokenexpired" in low or "session expired" in low:
        return SessionExpired(f"{host} ended the session because its access token ran out")
    if remedy := next((remedy for sign, remedy in _BY_HAND.items() if sign in low), None):
        # The address that Gmail adds may let whoever has it pass for the account's owner.
        words = shown(_ADDRESS.sub("...", text))
        return LoginRefused(f"{host} refused while {during}: {words}. {remedy}.")
    if any(sign in low for sign in _USED_UP):
        return Throttled(
            f"{said}. The mailbox is parked for five minutes, and for longer each time, up to an hour",
            seconds=300,
            longest=_LONGEST_PARK_SECONDS,
        )
    if any(sign in low for sign in _SLOW_DOWN):
        return Throttled(f"{said}. The mailbox is parked for five minutes", seconds=300)
    if any(sign in low for sign in _CROWDED):
        return Throttled(f"{said}. Too many connections at once; parked for a minute", seconds=60)
    if "authenticated but not connected" in low:
        return NotConnected(
            f"{host} took the token but does not open the mailbox ({shown(text)}). Check that ADDRESS is right, that "
            "the account has full access to it, that IMAP and POP are switched on for it, that it has a licence, and "
            "with AUTH=app that the service principal was made with the object id of the enterprise application."
        )
    if any(sign in low for sign in _PASSING):
        return Unreachable(f"{said}. It is tried again")
    if during == "signing in":
        return LoginRefused(
            f"{said}. The server gives no reason; check ADDRESS, the account's access to it, and that the protocol "
            "is switched on for the mailbox."
        )
    if during == SETTLING and any(sign in low for sign in _FORBIDDEN):
        return Misconfigured(f"{said}. Give the account more than reading, or set AFTER=keep")
    if during in {FETCHING, SETTLING}:
        return Refused(f"{said}. It is tried again")
    if any(sign in low for sign in _MISSING):
        return Misconfigured(f"{said}. Check FOLDERS")
    return Unreachable(f"{said}. It is tried again")


def shown(text: str) -> str:
    """A server's words, shortened and printable; addresses in them stay, there are no secrets in refusals."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
