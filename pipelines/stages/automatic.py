"""Says whether a machine sent a message, so that nobody answers a machine.

It reads header fields only: Auto-Submitted (RFC 3834, RFC 5436), the List fields (RFC 2369, RFC 2919), reports (RFC 6522),
the null return path (RFC 5321 section 4.5.5), and Precedence and X-Auto-Response-Suppress, which no standard knows and
everybody uses. It finds `{"automatic": bool, "kind": …, "evidence": [header names]}` and drops nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pipelines.message import Message
from pipelines.stage import Stage

Kind = Literal["report", "auto-reply", "list", "bulk", "none"]

# The heaviest first: a report that came through a list is a report.
KINDS: tuple[Kind, ...] = ("report", "auto-reply", "list", "bulk")
REPORT_TYPES = frozenset({"multipart/report", "message/delivery-status", "message/disposition-notification"})
PRECEDENCES: dict[str, Kind] = {"list": "list", "bulk": "bulk", "junk": "bulk", "auto_reply": "auto-reply"}
# Newsletters have List-Unsubscribe and no List-Id: they are no list that one could write to.
LIST_FIELDS: dict[str, Kind] = {"List-Id": "list", "List-Post": "list", "List-Unsubscribe": "bulk"}
# Of the words in MS-OXCMAIL's X-Auto-Response-Suppress, those that forbid replies and not just receipts.
SUPPRESSED = frozenset({"all", "oof", "autoreply"})


class AutomaticStage(Stage):
    """Adds what kind of automatic mail a message is, or `none`."""

    type_name: ClassVar[str] = "automatic"

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        signs = read_signs(message)
        kind = weigh(signs)
        found = {"automatic": kind != "none", "kind": kind, "evidence": list(signs)}
        return message.with_findings(self.name, found)


def read_signs(message: Message) -> dict[str, Kind]:
    """Return the header fields by which a machine shows, each with the kind of mail that it speaks for."""
    signs: dict[str, Kind] = {}
    if _first_word(message, "Content-Type") in REPORT_TYPES:
        signs["Content-Type"] = "report"
    submitted = _first_word(message, "Auto-Submitted")
    if submitted not in {"", "no"}:
        # RFC 3834 section 5: all but "no" is automatic, and only auto-replied answers another message.
        signs["Auto-Submitted"] = "auto-reply" if submitted == "auto-replied" else "bulk"
    precedence = _first_word(message, "Precedence")
    if precedence in PRECEDENCES:
        signs["Precedence"] = PRECEDENCES[precedence]
    signs |= {name: kind for name, kind in LIST_FIELDS.items() if message.header(name)}
    suppressed = (message.header("X-Auto-Response-Suppress") or "").lower().split(",")
    if SUPPRESSED & {word.strip() for word in suppressed}:
        signs["X-Auto-Response-Suppress"] = "bulk"
    if (message.header("Return-Path") or "").strip() == "<>":
        # Reports and automatic replies have it alike, so it speaks for what the other fields say.
        kind = weigh(signs)
        signs["Return-Path"] = "report" if kind == "none" else kind
    return signs


def weigh(signs: Mapping[str, Kind]) -> Kind:
    """Return the heaviest kind among the signs, `none` without any."""
    return next((kind for kind in KINDS if kind in signs.values()), "none")


def _first_word(message: Message, name: str) -> str:
    """Return the value of a header field in lower case, without parameters and comments."""
    return re.split(r"[;(\s]", (message.header(name) or "").strip().lower(), maxsplit=1)[0]
