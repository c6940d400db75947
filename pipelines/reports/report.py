"""What a report says: its kind, whom it is about, and which message it answers.

Plain data with its JSON; reading it from mail is the business of the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipelines.charset import clean
from pipelines.dates import to_json
from pipelines.headers import Headers
from pipelines.reports.status import is_permanent, reason

Kind = Literal["bounce", "delay", "complaint", "receipt", "none"]

# How much of one report is kept.
RECIPIENTS = 200
TEXT_CHARACTERS = 2_000
ORIGINAL_ADDRESSES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One recipient of the original message; `says_permanent` is what words say where no code does."""

    address: str | None = None
    original_address: str | None = None
    action: str | None = None
    status: str | None = None
    smtp_code: int | None = None
    diagnostic: str | None = None
    remote_mta: str | None = None
    says_permanent: bool | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the recipient as JSON values."""
        permanent = is_permanent(
            action=self.action, status=self.status, smtp_code=self.smtp_code, words=self.says_permanent
        )
        return {
            "address": _short(self.address),
            "originalAddress": _short(self.original_address),
            "action": _short(self.action),
            "status": self.status,
            "smtpCode": self.smtp_code,
            "isPermanent": permanent,
            "reason": reason(self.status) if self.action in {"failed", "delayed"} else None,
            "diagnostic": _short(self.diagnostic),
            "remoteMta": _short(self.remote_mta),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report in whatever form it came; `form` names it, `feedback_type` only for complaints."""

    kind: Kind = "none"
    form: str | None = None
    recipients: tuple[Recipient, ...] = ()
    reporting_mta: str | None = None
    feedback_type: str | None = None
    source_ip: str | None = None
    # The original's own id as the report's fields give it, where its header is not returned.
    original_id: str | None = None
    original: Headers = field(default_factory=Headers.empty)

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values, the same keys for every kind."""
        return {
            "kind": self.kind,
            "form": self.form,
            "recipients": [recipient.to_dict() for recipient in self.recipients[:RECIPIENTS]],
            "reportingMta": _short(self.reporting_mta),
            "feedbackType": _short(self.feedback_type),
            "sourceIp": _short(self.source_ip),
            "original": None if self.kind == "none" else self._original(),
        }

    def _original(self) -> dict[str, object] | None:
        """What is known of the message that the report is about, with JMAP's names."""
        ids = self.original.message_ids("Message-ID")
        message_id = ids[0] if ids else self.original_id
        sent = self.original.date("Date")
        found: dict[str, object] = {
            "messageId": _short(message_id),
            "subject": _short(self.original.text("Subject")),
            "from": _addresses(self.original, "From"),
            "to": _addresses(self.original, "To"),
            "sentAt": None if sent is None else to_json(sent),
        }
        return found if any(value is not None for value in found.values()) else None


def _addresses(headers: Headers, name: str) -> Sequence[object] | None:
    addresses = headers.addresses(name)
    if addresses is None:
        return None
    return [
        {"name": _short(found), "email": _short(email)} for found, email in addresses[:ORIGINAL_ADDRESSES]
    ]


def _short(text: str | None) -> str | None:
    """Bound a text that came from a report, with white space collapsed."""
    if text is None:
        return None
    return clean(" ".join(text[: 4 * TEXT_CHARACTERS].split())[:TEXT_CHARACTERS]) or None
