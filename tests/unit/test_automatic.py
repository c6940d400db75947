"""The automatic stage tells machines from people by the header fields that machines leave."""

from __future__ import annotations

import pytest

from pipelines.parse import parse
from pipelines.stage import StageOptions
from pipelines.stages.automatic import AutomaticStage


def found(*fields: str) -> object:
    """What the stage finds in a message with these header fields."""
    raw = "\r\n".join(("From: a@example.com", *fields, "", "Hello.", "")).encode()
    return AutomaticStage("robots", StageOptions()).apply(parse(raw)).findings["robots"]


@pytest.mark.parametrize(
    ("fields", "kind", "evidence"),
    [
        # RFC 3834 section 5.
        (["Auto-Submitted: auto-replied"], "auto-reply", ["Auto-Submitted"]),
        (["auto-submitted: AUTO-REPLIED (vacation)"], "auto-reply", ["Auto-Submitted"]),
        (["Auto-Submitted: auto-generated"], "bulk", ["Auto-Submitted"]),
        (["Auto-Submitted: auto-replied; type=vacation"], "auto-reply", ["Auto-Submitted"]),
        # RFC 5436, with a parameter.
        (["Auto-Submitted: auto-notified; owner-email=a@example.com"], "bulk", ["Auto-Submitted"]),
        # RFC 2919 and RFC 2369.
        (["List-Id: Staff <staff.example.com>"], "list", ["List-Id"]),
        (["List-Post: <mailto:staff@example.com>"], "list", ["List-Post"]),
        # A newsletter: nobody can write to it.
        (["List-Unsubscribe: <https://example.com/u>"], "bulk", ["List-Unsubscribe"]),
        (["Precedence: bulk"], "bulk", ["Precedence"]),
        (["Precedence: junk"], "bulk", ["Precedence"]),
        (["Precedence: list"], "list", ["Precedence"]),
        (["Precedence: auto_reply"], "auto-reply", ["Precedence"]),
        # What Exchange and many senders of notifications write.
        (["X-Auto-Response-Suppress: All"], "bulk", ["X-Auto-Response-Suppress"]),
        (["X-Auto-Response-Suppress: DR, OOF, AutoReply"], "bulk", ["X-Auto-Response-Suppress"]),
        # RFC 6522: delivery and other reports.
        (
            ["Content-Type: multipart/report; report-type=delivery-status; boundary=b"],
            "report",
            ["Content-Type"],
        ),
        (["Content-Type: message/delivery-status"], "report", ["Content-Type"]),
        # RFC 5321 section 4.5.5: nobody answers to nobody.
        (["Return-Path: <>"], "report", ["Return-Path"]),
        # The null return path of an automatic reply does not make it a report.
        (
            ["Return-Path: <>", "Auto-Submitted: auto-replied"],
            "auto-reply",
            ["Auto-Submitted", "Return-Path"],
        ),
        # A report that came through a list is a report.
        (
            ["List-Id: <l.example.com>", "Content-Type: multipart/report; boundary=b"],
            "report",
            ["Content-Type", "List-Id"],
        ),
    ],
)
def test_a_machine_is_recognised(fields: list[str], kind: str, evidence: list[str]) -> None:
    """By any one of its traces; the heaviest names the kind, all are shown."""
    assert found(*fields) == {"automatic": True, "kind": kind, "evidence": evidence}


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["Auto-Submitted: no"],
        ["Auto-Submitted: No (really)"],
        ["Auto-Submitted: no(really)"],
        ["Auto-Submitted:"],
        ["Precedence: first-class"],
        # Only receipts are suppressed, so a reply is welcome.
        ["X-Auto-Response-Suppress: DR, RN, NRN"],
        ["Return-Path: <a@example.com>"],
        ["Content-Type: text/plain; name=multipart/report"],
        ["Subject: Auto-Submitted: auto-replied"],
    ],
)
def test_a_person_is_not_taken_for_a_machine(fields: list[str]) -> None:
    """Without a clear trace, a message is a person's."""
    assert found(*fields) == {"automatic": False, "kind": "none", "evidence": []}
