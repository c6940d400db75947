"""Bounces that follow no standard: known by the words of the mail server that wrote them.

Read are the texts of qmail, Postfix, Exim, sendmail, Exchange, Gmail, Yahoo and Domino, which come without a
machine-readable part, or lost it on the way. Each names its recipients on lines of their own and says why behind
them. Only mail that a machine sent is looked at: a person who quotes a bounce has not sent one.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from pipelines.headers import Headers
from pipelines.message import Message
from pipelines.reports.original import read_head_of
from pipelines.reports.report import RECIPIENTS, Recipient, Report
from pipelines.reports.status import find_codes

TEXT_CHARACTERS = 64 << 10

_ADDRESS = r"[^\s<>()\[\]:;,\"'@]{1,64}@[^\s<>()\[\]:;,\"'@]{1,255}"
# `<a@example.com>:` at the beginning of a line, with the reason behind it: qmail, Postfix, Yahoo.
_ANGLES = re.compile(rf"^<({_ADDRESS})>(?: \(expanded from <{_ADDRESS}>\))?:?(.*)$", re.MULTILINE)
# Two spaces, and the reason on deeper lines: Exim.
_TWO_SPACES = re.compile(rf"^  ({_ADDRESS})[ \t]*()$", re.MULTILINE)
# An address on a line of its own, as it stands, in quotes or brackets, with a date or itself in brackets behind it.
_ALONE = re.compile(
    rf"^[ \t]{{0,12}}(?:[^\s<>()@:][^<>()@:\n]{{0,80}} \(|['\"<])?({_ADDRESS})['\">)]{{0,2}}"
    rf"(?:<mailto:{_ADDRESS}>|[ \t]*\(\1\)(?:<mailto:\1>)?)?[ \t]*((?:on \d[^\n]{{0,40}})?)$",
    re.MULTILINE,
)


class Dialect(NamedTuple):
    """How one mail server writes: its beginning, which may name the server, and how recipients stand."""

    form: str
    intro: re.Pattern[str]
    recipients: re.Pattern[str]


def _intro(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


DIALECTS = (
    Dialect("qmail", _intro(r"this is the qmail-send program at (?P<mta>[^\s,]{1,255}?)\.?$"), _ANGLES),
    Dialect("postfix", _intro(r"this is the (?:mail system|postfix program) at host (?P<mta>[^\s,]{1,255}?)\.?$"),
            _ANGLES),
    Dialect("exim", _intro(r"created automatically by mail delivery software"), _TWO_SPACES),
    Dialect("gmail", _intro(r"^delivery to the following recipients? (?:failed|has been delayed)"), _ALONE),
    Dialect("exchange", _intro(r"delivery (?:has failed|is delayed) to these recipients or (?:groups|distribution lists)"
                               r"|did not reach some or all of the intended recipients"), _ALONE),
    Dialect("domino", _intro(r"^was not delivered to:"), _ALONE),
    Dialect("yahoo", _intro(r"unable to deliver your message to the following address"), _ANGLES),
    Dialect("sendmail", _intro(r"(?<!-)-{3,}+ the following addresses had "), _ALONE),
)  # fmt: skip

# Gmail's newer text names its recipient in a sentence.
_SENTENCE = re.compile(
    rf"^Your message (wasn't delivered|couldn't be delivered|has been delayed) to ({_ADDRESS}) (because [^\n]{{1,500}})",
    re.IGNORECASE | re.MULTILINE,
)
_DELAYED = re.compile(
    r"this is a warning only|has not yet been delivered|has been delayed|is delayed to|transient non-fatal errors"
    r"|no action is required on your part|still being retried",
    re.IGNORECASE,
)
_PERMANENT = re.compile(
    r"permanent(?:ly)?\b|given up|user unknown|no such user|not listed in|doesn't have an? |could ?n[o']t be found",
    re.IGNORECASE,
)
# Where the returned message begins.
_COPY = re.compile(
    r"^[ \t]{0,8}(?:-{2,}[ ]?(?:Below this line is a copy|This is a copy of|Original message|Returned message|Undelivered message"
    r"|Unsent message|The headers? of|End of message)[^\n]*|Original message headers:[ \t]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_MACHINES = re.compile(
    r"(?:mailer-?daemon|mail-daemon|postmaster|mdaemon|microsoftexchange\w*)@", re.IGNORECASE
)


def is_from_machine(message: Message) -> bool:
    """Whether the envelope or the header say that no person wrote this (RFC 3834, RFC 5321 section 4.5.5)."""
    if (message.header("Return-Path") or "").strip() == "<>" or "X-Failed-Recipients" in message.headers:
        return True
    if (message.header("Auto-Submitted") or "no").strip().lower().startswith("auto-"):
        return True
    senders = (message.from_ or ()) + (message.sender or ())
    return any(_MACHINES.match(f"{address.email}@") for address in senders[:10])


def read_wording(message: Message) -> Report:
    """Read a bounce by its words; the report's kind is none if they are not known."""
    if not is_from_machine(message):
        return Report()
    text = _text(message)
    copy = _COPY.search(text)
    said = text[: copy.start()] if copy else text
    original = read_head_of(text[copy.end() :]) if copy else Headers.empty()
    for dialect in DIALECTS:
        intro = dialect.intro.search(said)
        if intro is not None:
            recipients = _recipients(dialect.recipients, said, intro.end())
            if recipients:
                return _report(dialect.form, recipients, original, mta=intro.groupdict().get("mta"))
    sentence = _SENTENCE.search(said)
    if sentence is not None:
        delayed = "delayed" in sentence[1].lower()
        recipients = (_recipient(sentence[2], said[sentence.start(3) :], delayed=delayed, permanent=None),)
        return _report("gmail", recipients, original)
    return _by_header(message, said, original)


def _by_header(message: Message, said: str, original: Headers) -> Report:
    """Take the recipients from X-Failed-Recipients (Exim, Gmail), where the words are in no known language."""
    addresses = re.findall(_ADDRESS, (message.header("X-Failed-Recipients") or "")[:TEXT_CHARACTERS])
    code, status = find_codes(said)
    recipients = tuple(
        Recipient(address=address, action="failed", status=status, smtp_code=code)
        for address in dict.fromkeys(addresses[:RECIPIENTS])
    )
    return _report("x-failed-recipients", recipients, original) if recipients else Report()


def _report(
    form: str, recipients: tuple[Recipient, ...], original: Headers, *, mta: str | None = None
) -> Report:
    failed = any(recipient.action == "failed" for recipient in recipients)
    return Report(
        kind="bounce" if failed else "delay",
        form=form,
        recipients=recipients,
        reporting_mta=mta,
        original=original,
    )


def _recipients(pattern: re.Pattern[str], text: str, start: int) -> tuple[Recipient, ...]:
    """Cut the text at the lines that name a recipient; what follows each is why. Repeated ones are joined."""
    reasons: dict[str, list[str]] = {}
    found = list(islice(pattern.finditer(text, start), 2 * RECIPIENTS))
    ends = [*(match.start() for match in found[1:]), len(text)]
    for match, end in zip(found, ends, strict=False):
        why = (
            f"{match[2]} {text[match.end() : end]}"
            if not match[2].startswith("on ")
            else text[match.end() : end]
        )
        reasons.setdefault(match[1], []).append(why)
    whys = {address: "\n".join(texts).strip(" \n\t:") for address, texts in reasons.items()}
    # Gmail and sendmail list the recipients first, and say why once for all of them.
    last = next(reversed(whys.values()), "")
    delayed = bool(_DELAYED.search(text))
    permanent = True if _PERMANENT.search(text) else None
    return tuple(
        _recipient(address, why or last, delayed=delayed, permanent=permanent)
        for address, why in list(whys.items())[:RECIPIENTS]
    )


def _recipient(address: str, why: str, *, delayed: bool, permanent: bool | None) -> Recipient:
    code, status = find_codes(why)
    return Recipient(
        address=address,
        action="delayed" if delayed else "failed",
        status=status,
        smtp_code=code,
        diagnostic=why,
        says_permanent=permanent,
    )


def _text(message: Message) -> str:
    """The first plain text of the message, as far as a report goes, with straight apostrophes."""
    values = (
        message.body_values.get(part.part_id or "") for part in message.text_body if part.type == "text/plain"
    )
    text = next((value.value for value in values if value is not None), "")[:TEXT_CHARACTERS]
    return text.replace("\u2019", "'").replace("\r", "\n")
