"""What servers say when they refuse, and who has to act then."""

from __future__ import annotations

import pytest

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
from worker.sources.refusal import meaning, shown


def said(text: str, during: str = "fetching messages") -> MailquayError:
    return meaning(text, host="mail.example.com", during=during)


@pytest.mark.parametrize(
    ("text", "during", "expected"),
    [
        ("AUTHENTICATE failed.", "signing in", LoginRefused),
        ("[AUTHENTICATIONFAILED] Authentication failed.", "signing in", LoginRefused),
        ("Logon failure: unknown user name or bad password.", "signing in", LoginRefused),
        ("User is authenticated but not connected.", "opening the folder INBOX", NotConnected),
        ("Session expired, please login again.", "talking to it", SessionExpired),
        ("Connection closed. AccessTokenExpired", "talking to it", SessionExpired),
        ("[UNAVAILABLE] Temporary authentication failure.", "signing in", Unreachable),
        ("[SYS/TEMP] Server busy", "signing in", Unreachable),
        ("Server Unavailable. 15", "talking to it", Unreachable),
        ("[NONEXISTENT] Mailbox doesn't exist: Junk", "opening the folder Junk", Misconfigured),
        ("Junk doesn't exist.", "opening the folder Junk", Misconfigured),
        ("Command Error. 12", "fetching messages", Refused),
        ("[SERVERBUG] FETCH Server error while fetching messages", "fetching messages", Refused),
        ("[NONEXISTENT] Message not found", "fetching messages", Refused),
        ("Server Unavailable. 15", "fetching messages", Unreachable),
        ("Command Error. 12", "listing messages", Unreachable),
        ("", "talking to it", Unreachable),
    ],
)
def test_the_class_says_who_has_to_act(text: str, during: str, expected: type[MailquayError]) -> None:
    """Texts of Exchange Online, Gmail and Dovecot as they were seen."""
    error = said(text, during)

    assert type(error) is expected
    assert "mail.example.com" in error.sentence


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Request is throttled. Suggested Backoff Time: 299904 milliseconds", 299.904),
        ("Request is throttled. Suggested Backoff Time: 999999999 milliseconds", 3600),
        ("Request is throttled.", 300),
        ("[THROTTLED]", 300),
        ("Account exceeded command or bandwidth limits. (Failure)", 300),
        ("[OVERQUOTA] too much", 300),
        ("[LOGIN-DELAY] minimum time between mail checks violation", 300),
        ("Too many simultaneous connections. (Failure)", 60),
        ("[LIMIT] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)", 60),
        ("[IN-USE] Do you have another POP session running?", 60),
    ],
)
def test_a_throttling_server_says_for_how_long_to_leave_it_alone(text: str, seconds: float) -> None:
    """What it asks for is done, up to an hour; what it does not say is guessed with patience."""
    error = said(text, "signing in")

    assert isinstance(error, Throttled)
    assert error.seconds == seconds


def test_a_servers_words_are_shown_short_and_printable() -> None:
    """A hostile server writes no control characters into anybody's terminal or log."""
    assert shown("no\x1b[31m\r\nway\x00" + "x" * 500) == "no?[31m??way?" + "x" * 187
