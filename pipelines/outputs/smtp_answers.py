"""What the answers of an SMTP server mean for a message. Pure: an answer in, a receipt out.

Temporary is temporary. A permanent answer is the message's own fault only where the server judges the message; at sign-in, at sender
and recipients it speaks of the configuration, which a person can mend, so the mail waits. Exchange Online and Gmail say "may
not send as" and "too much today" with permanent codes after the message: those are known here by their codes and words.
Reasons show numbers and our own words, never the server's, which may repeat what was sent.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.smtp_session import Reply

_HOUR = timedelta(hours=1)
_SWITCHED_ON = "Set-CASMailbox -Identity ACCOUNT -SmtpClientAuthenticationDisabled $false"
_MAY_NOT_SEND_AS = (
    "the account may not send as this sender. Give it the right (Add-RecipientPermission -Identity FROM -Trustee ACCOUNT "
    "-AccessRights SendAs), or set FROM to its own address. With MODE=redirect the sender is whoever wrote the mail, and this "
    "server does not allow that: set MODE=forward, or another HOST"
)

# What is known by codes (RFC 3463) or words, and what there is to do; the first that fits counts. Sources: Microsoft's pages on
# SMTP AUTH, on sending limits and on non-delivery reports; Google's page on SMTP error messages.
_KNOWN: tuple[tuple[re.Pattern[str], str, timedelta | None], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), sentence, pause)
    for pattern, sentence, pause in (
        (
            r"SmtpClientAuthentication is disabled",
            f"SMTP AUTH is switched off for this mailbox or its tenant. An Exchange administrator switches it on: {_SWITCHED_ON}",
            None,
        ),
        (
            r"5\.7\.139\b.*(basic authentication is disabled|security defaults)",
            "it takes no passwords; set ACCOUNT and sign in with `mailquay login ACCOUNT`",
            None,
        ),
        (
            r"5\.7\.139\b",
            f"the sign-in was blocked; look at the account's sign-in log, and whether it may send at all: {_SWITCHED_ON}",
            None,
        ),
        (
            r"(4\.3\.2|STOREDRV\.ClientSubmit).*(thread|connections?) limit|concurrent connections? limit",
            "Exchange Online takes three connections of one mailbox at a time; lower PARALLEL, or the number of workers",
            None,
        ),
        (
            r"SubmissionQuotaExceeded|5\.1\.90\b|5\.2\.121\b|5\.4\.5\b|daily (user )?sending (limit|quota)",
            "the account has sent too much; it is tried again every hour",
            _HOUR,
        ),
        (
            r"SendAsDenied|5\.2\.252\b|5\.7\.60\b|not allowed to send as|permissions? to send (as|on behalf)",
            _MAY_NOT_SEND_AS,
            None,
        ),
        (
            r"5\.7\.57\b|client was not authenticated|authentication required",
            "it takes mail from those who sign in; set ACCOUNT, or USERNAME and PASSWORD_FILE",
            None,
        ),
        (r"5\.2\.2\b", "a recipient's mailbox is full", None),
        (r"must issue a STARTTLS", "it wants TLS; set TLS=starttls", None),
        (
            r"5\.7\.(50[1-3]|70[58]|23[0-3])\b|5\.1\.8\b",
            "the account or its tenant is blocked from sending; an administrator has to look",
            _HOUR,
        ),
        (
            r"web ?login|log ?in via your web browser|application-specific password",
            "the account wants a person: sign in to it in a web browser, or make an app password",
            None,
        ),
    )
)
_TOO_LARGE = ("5.3.4", "5.2.3")


def judge(reply: Reply, *, server: str, now: datetime) -> Receipt:
    """Turn the answer that decided about a message into its receipt. `now` is aware; `server` is host and port."""
    if reply.good and reply.stage == "data":
        return Accepted()
    said = f"{server} answered {reply.shown}{_DOING[reply.stage]}"
    for pattern, sentence, pause in _KNOWN:
        if pattern.search(reply.text):
            return Retry(f"{said}: {sentence}", not_before=None if pause is None else now + pause)
    if reply.code < 500:
        return Retry(f"{said}; it is tried again")
    too_large = reply.enhanced in _TOO_LARGE or (reply.code == 552 and not reply.enhanced)
    if reply.stage in {"sender", "data"} and too_large:
        return Refused(f"{said}: the message is too large")
    if reply.stage == "data":
        return Refused(f"{said}: it does not want this message")
    return Retry(f"{said}: {_CHECK[reply.stage]}")


_DOING = {
    "greeting": "",
    "sign-in": " to the sign-in",
    "sender": " to the sender",
    "recipient": " to a recipient",
    "data": " to the message",
}
_CHECK = {
    "greeting": "check HOST, PORT and TLS",
    "sign-in": "check the account, its rights, and that the server lets it send; a sign-in from before this output was configured "
    "lacks the permission to send: `mailquay login ACCOUNT`",
    "sender": "check FROM, and whether the account may send as it",
    "recipient": "check TO; it was sent to no recipient at all",
}
