"""Reports as standards have them: delivery status (RFC 3464, RFC 6533), disposition (RFC 8098), feedback (RFC 5965).

Read from the machine-readable part, whatever the parts around it are called. Fields that are missing, lack their
type or stand in one group with others are read all the same.
"""

from __future__ import annotations

import re

from pipelines import charset
from pipelines.part import Part
from pipelines.reports.report import RECIPIENTS, Kind, Recipient, Report
from pipelines.reports.status import find_codes, more_precise, read_status

# How much of a machine-readable part is read, in bytes; a hundred recipients have some 30 kB.
PART_BYTES = 256 << 10

_FIELD = re.compile(r"([!-9;-~]{1,80})[ \t]*:[ \t]*(.*)", re.DOTALL)
# RFC 6533 section 3: characters of internationalized addresses in utf-8-addr-xtext.
_XTEXT = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_ACTIONS = frozenset({"failed", "delayed", "delivered", "relayed", "expanded"})
# What has come to its end, beside failures and delays (RFC 3464 section 2.3.3).
_BY_CLASS = {"2": "delivered", "4": "delayed", "5": "failed"}

Group = dict[str, str]


def read_part(part: Part) -> str:
    """Return the beginning of a part as text with LF line ends."""
    with part.open() as content:
        data = content.read(PART_BYTES)
    text = charset.decode(data, part.declared_charset(), partial=True).text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_groups(text: str) -> list[Group]:
    """Return the groups of fields that blank lines separate, by lower-case name, unfolded; the first of a name counts.

    A recipient that begins within a group begins one of its own, since some writers forget the blank line.
    """
    groups: list[Group] = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\t", " ")):
        group: Group = {}
        for line in re.split(r"\n(?! )", block):
            match = _FIELD.match(line)
            if match is None:
                continue
            name = match[1].lower()
            if name in {"final-recipient", "original-recipient"} and (
                name in group or (groups == [] and "reporting-mta" in group and "action" not in group)
            ):
                groups.append(group)
                group = {}
            group.setdefault(name, " ".join(match[2].split()))
        if group:
            groups.append(group)
    return groups


def read_delivery_status(part: Part) -> Report:
    """Read a message/delivery-status part; without any recipient its kind is none."""
    groups = read_groups(read_part(part))
    recipients = tuple(
        recipient for group in groups[: RECIPIENTS + 1] if (recipient := _recipient(group)) is not None
    )
    reporting = next((group["reporting-mta"] for group in groups if "reporting-mta" in group), None)
    actions = {recipient.action for recipient in recipients}
    kind: Kind = "none"
    if recipients:
        kind = "bounce" if "failed" in actions else "delay" if "delayed" in actions else "receipt"
    return Report(kind=kind, form="delivery-status", recipients=recipients, reporting_mta=_typed(reporting))


def _recipient(group: Group) -> Recipient | None:
    final = _address(group.get("final-recipient")) or _address(group.get("x-actual-recipient"))
    original = _address(group.get("original-recipient"))
    if final is None and original is None:
        return None
    diagnostic = _typed(group.get("diagnostic-code"))
    smtp_code, found = find_codes(diagnostic or "")
    status = more_precise(read_status(group.get("status")), found)
    action = re.split(r"[\s(;]", group.get("action", "").lower(), maxsplit=1)[0]
    if action not in _ACTIONS:
        action = _BY_CLASS[status[0]] if status else "failed"
    return Recipient(
        address=final or original,
        original_address=original,
        action=action,
        status=status,
        smtp_code=smtp_code,
        diagnostic=diagnostic,
        remote_mta=_typed(group.get("remote-mta")),
    )


def read_disposition(part: Part) -> Report:
    """Read a message/disposition-notification part: what became of a message that was delivered."""
    groups = read_groups(read_part(part))
    fields: Group = {name: value for group in reversed(groups) for name, value in group.items()}
    if "disposition" not in fields and "final-recipient" not in fields:
        return Report()
    # `manual-action/MDN-sent-manually; displayed/error`: the type behind the modes, without its modifiers.
    disposition = fields.get("disposition", "").lower().rpartition(";")[2].partition("/")[0].strip()
    recipient = Recipient(
        address=_address(fields.get("final-recipient")) or _address(fields.get("original-recipient")),
        original_address=_address(fields.get("original-recipient")),
        action=disposition or None,
        diagnostic=fields.get("failure") or fields.get("error"),
    )
    return Report(
        kind="receipt",
        form="disposition-notification",
        recipients=(recipient,),
        reporting_mta=_typed(fields.get("reporting-ua"), keep_first=True),
        original_id=fields.get("original-message-id", "").strip("<> ") or None,
    )


def read_feedback(part: Part) -> Report:
    """Read a message/feedback-report part: somebody complains about a message (Abuse Reporting Format)."""
    text = read_part(part)
    groups = read_groups(text)
    fields: Group = {name: value for group in reversed(groups) for name, value in group.items()}
    if "feedback-type" not in fields:
        return Report()
    addresses = re.findall(r"^Original-Rcpt-To[ \t]*:[ \t]*(\S[^\n]*)", text, re.MULTILINE | re.IGNORECASE)
    return Report(
        kind="complaint",
        form="feedback-report",
        recipients=tuple(Recipient(address=_address(address)) for address in addresses[:RECIPIENTS]),
        reporting_mta=_typed(fields.get("reporting-mta")) or fields.get("user-agent"),
        feedback_type=fields["feedback-type"].lower(),
        source_ip=fields.get("source-ip"),
    )


def _typed(value: str | None, *, keep_first: bool = False) -> str | None:
    """Return what stands behind the type, as in `dns; mx.example.com`; a user agent's name stands before it."""
    if value is None:
        return None
    first, semicolon, rest = value.partition(";")
    if keep_first:
        return first.strip() or None
    return (rest if semicolon and " " not in first.strip() else value).strip() or None


def _address(value: str | None) -> str | None:
    if value is None:
        return None
    address = (_typed(value) or "").strip().removeprefix("<").removesuffix(">")
    return _XTEXT.sub(_character, address).strip() or None


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else match[0]
