"""Reads reports about mail: what bounced, what is late, who complains, who has read it, and why.

Standard reports come first: delivery status (RFC 3464), disposition (RFC 8098), feedback (RFC 5965); then the texts of
mail servers that follow none. It finds kind, recipients, and what is known of the original message, and drops nothing.
Addresses that a sender had encoded into the return path (VERP, SRS) are not decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from pipelines.message import Message
from pipelines.part import Part
from pipelines.reports.original import read_original
from pipelines.reports.report import Recipient, Report
from pipelines.reports.standard import read_delivery_status, read_disposition, read_feedback
from pipelines.reports.wordings import read_wording
from pipelines.stage import Stage

READERS: dict[str, Callable[[Part], Report]] = {
    "message/delivery-status": read_delivery_status,
    "message/global-delivery-status": read_delivery_status,
    "message/disposition-notification": read_disposition,
    "message/global-disposition-notification": read_disposition,
    "message/feedback-report": read_feedback,
}
# Machine-readable parts that are tried before a message is taken for none of them.
_PARTS = 5


class BounceStage(Stage):
    """Adds what a report says, or that the message is none."""

    type_name: ClassVar[str] = "bounce"

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        return message.with_findings(self.name, read_report(message).to_dict())


def read_report(message: Message) -> Report:
    """Read a message as a report, by the standards and then by its words; its kind is none if it is none."""
    report = _standard(message)
    if report.kind == "none":
        report = read_wording(message)
    if report.kind == "none":
        return report
    returned = read_original(message.structure)
    if list(returned):
        report = dataclasses.replace(report, original=returned)
    if report.kind == "complaint" and not report.recipients:
        # Who complains is often struck out; whom the message went to is what a sender can act upon.
        addresses = report.original.addresses("To") or ()
        report = dataclasses.replace(
            report, recipients=tuple(Recipient(address=found.email) for found in addresses)
        )
    return report


def _standard(message: Message) -> Report:
    parts = [part for part in message.structure.walk() if part.type in READERS and part.sub_parts is None]
    reports = (READERS[part.type](part) for part in parts[:_PARTS])
    return next((report for report in reports if report.kind != "none"), Report())
