"""One message, parsed: what stages change and outputs deliver.

A `Message` is immutable; a stage answers with a changed copy. Its JSON has Mailquay's own fields first, then
the properties of the Email object of RFC 8621 (JMAP) section 4.1. The raw bytes are kept exactly as the server
sent them and are not part of the JSON. Reading bytes is the business of `pipelines.parse`, not of this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import orjson

from pipelines.addresses import Address
from pipelines.body import BodyValue
from pipelines.charset import clean
from pipelines.dates import to_json
from pipelines.defects import Code, Defect
from pipelines.header_forms import header_property
from pipelines.headers import Headers
from pipelines.part import Part

# Which schema the JSON follows (`pipelines.schema`): raised when a field goes away or changes its meaning, and not
# when one is added.
VERSION = 1

__all__ = ["VERSION", "Address", "BodyValue", "Code", "Defect", "Headers", "Message", "Part", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where on the server a message was found: folder and UID for IMAP, UIDL for POP3, with its IMAP flags."""

    folder: str | None = None
    uidvalidity: int | None = None
    uid: int | None = None
    uidl: str | None = None
    flags: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the source as JSON values, every text encodable as UTF-8."""
        return {
            "folder": _clean(self.folder),
            "uidvalidity": self.uidvalidity,
            "uid": self.uid,
            "uidl": _clean(self.uidl),
            "flags": [clean(flag) for flag in self.flags],
        }

    def keywords(self) -> dict[str, bool]:
        r"""Return the flags as JMAP keywords (RFC 8621 section 4.1.1): `\Seen` is `$seen`, and so on.

        `\Recent` and `\Deleted` have no keyword; a server's own keywords are passed on in lower case.
        """
        names = (clean(flag).lower() for flag in self.flags)
        return {
            "$" + name[1:] if name.startswith("\\") else name: True
            for name in names
            if name and name not in {"\\recent", "\\deleted", "\\*"}
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message with everything that was read from it.

    `id` has 32 hex digits and is the same whenever this message is delivered again; `digest` is the SHA-256 of
    `raw` in hex; `size` counts the bytes of `raw`; `received_at` is aware; `findings` holds what stages found,
    by the stage's name. The remaining attributes are the properties of RFC 8621's Email object under Python's
    names (`from_` because `from` is a keyword of the language), None where the header is missing.
    """

    id: str
    mailbox: str
    source: Source
    raw: bytes | memoryview
    digest: str
    size: int
    received_at: datetime | None = None
    defects: tuple[Defect, ...] = ()
    findings: Mapping[str, object] = field(default_factory=dict)
    headers: Headers = field(default_factory=Headers.empty)
    message_id: tuple[str, ...] | None = None
    in_reply_to: tuple[str, ...] | None = None
    references: tuple[str, ...] | None = None
    sender: tuple[Address, ...] | None = None
    from_: tuple[Address, ...] | None = None
    to: tuple[Address, ...] | None = None
    cc: tuple[Address, ...] | None = None
    bcc: tuple[Address, ...] | None = None
    reply_to: tuple[Address, ...] | None = None
    subject: str | None = None
    sent_at: datetime | None = None
    preview: str = ""
    structure: Part = field(default_factory=Part)
    body_values: Mapping[str, BodyValue] = field(default_factory=dict)
    text_body: tuple[Part, ...] = ()
    html_body: tuple[Part, ...] = ()
    attachments: tuple[Part, ...] = ()
    _json: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        """Name the message without a word of its content, so that it is safe in a log or a traceback."""
        return f"<Message {self.id} of mailbox {self.mailbox!r}, {self.size} bytes>"

    @property
    def keywords(self) -> Mapping[str, bool]:
        """The JMAP keywords that the IMAP flags stand for."""
        return self.source.keywords()

    @property
    def has_attachment(self) -> bool:
        """Whether an attachment is there that a reader should be offered (RFC 8621 section 4.1.4)."""
        return any(part.disposition != "inline" for part in self.attachments)

    def header(self, name: str) -> str | None:
        """Return the decoded text of the last header field of that name, in any case, or None without one."""
        return self.headers.text(name)

    def with_findings(self, stage: str, found: object) -> Message:
        """Return a copy that also holds what `stage` found; `found` is made of JSON values."""
        return dataclasses.replace(self, findings=MappingProxyType({**self.findings, stage: found}))

    def to_dict(self, *, properties: Iterable[str] = (), sha256: bool = True) -> dict[str, object]:
        """Return the JSON object: Mailquay's fields, then those of RFC 8621's Email object, new at each call.

        Attachments are described and not contained. Every text can be encoded as UTF-8 and has no NUL. `properties`
        adds header fields under JMAP's names (`header:List-Post:asURLs`, see `pipelines.header_forms`). Without
        `sha256` the hashes of attachments are left out, for which all of them have to be decoded.

        Raises:
            ValueError: One of `properties` is no header property.
        """
        shown = self.body_values
        return {
            "id": self.id,
            "version": VERSION,
            "mailbox": clean(self.mailbox),
            "source": self.source.to_dict(),
            "digest": f"sha256:{self.digest}",
            "size": self.size,
            "receivedAt": _utc(self.received_at),
            "defects": [{"code": str(defect.code), "detail": defect.detail} for defect in self.defects],
            "findings": dict(self.findings),
            "messageId": _list(self.message_id),
            "inReplyTo": _list(self.in_reply_to),
            "references": _list(self.references),
            "sender": _addresses(self.sender),
            "from": _addresses(self.from_),
            "to": _addresses(self.to),
            "cc": _addresses(self.cc),
            "bcc": _addresses(self.bcc),
            "replyTo": _addresses(self.reply_to),
            "subject": self.subject,
            "sentAt": _zoned(self.sent_at),
            "keywords": self.keywords,
            "hasAttachment": self.has_attachment,
            "preview": self.preview,
            "bodyStructure": self.structure.to_dict(shown=shown, sha256=sha256),
            "bodyValues": {part_id: value.to_dict() for part_id, value in self.body_values.items()},
            "textBody": [part.to_dict(shown=shown, sha256=sha256) for part in self.text_body],
            "htmlBody": [part.to_dict(shown=shown, sha256=sha256) for part in self.html_body],
            "attachments": [part.to_dict(shown=shown, sha256=sha256) for part in self.attachments],
            **{name: header_property(self.headers, name) for name in properties},
        }

    def to_json(self) -> bytes:
        """Return `to_dict()` as JSON in UTF-8, without a line end; made once and kept.

        Raises:
            orjson.JSONEncodeError: A stage's findings hold something that is no JSON value.
        """
        if self._json is None:
            object.__setattr__(self, "_json", orjson.dumps(self.to_dict()))
        assert self._json is not None
        return self._json


def _clean(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _list(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def _addresses(addresses: tuple[Address, ...] | None) -> list[dict[str, Any]] | None:
    return None if addresses is None else [{"name": name, "email": email} for name, email in addresses]


def _utc(moment: datetime | None) -> str | None:
    """Write a moment as RFC 8621's UTCDate: seconds, and always Z; None if that is beyond the calendar (year 9999)."""
    try:
        return None if moment is None else _zoned(moment.astimezone(UTC))
    except OverflowError:
        # A server may claim a date at the end of the calendar.
        return None


def _zoned(moment: datetime | None) -> str | None:
    return None if moment is None else to_json(moment)
