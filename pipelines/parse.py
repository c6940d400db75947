"""From raw bytes to a `Message`: every message, once, whatever its bytes are.

`parse` raises for no input and changes no byte. It reads the head, cuts the body into parts, decodes the text
that the JSON shows, and leaves attachments alone. Its work and memory are bounded by `pipelines.limits`.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TypedDict

from pipelines.addresses import Address
from pipelines.body import arrange, read_values
from pipelines.defects import Code, Defects
from pipelines.fields import read_head
from pipelines.headers import Headers
from pipelines.message import Message, Source
from pipelines.octets import Octets
from pipelines.preview import preview
from pipelines.structure import Structure

_BLOB_DIGITS = 32


class _Envelope(TypedDict):
    message_id: tuple[str, ...] | None
    in_reply_to: tuple[str, ...] | None
    references: tuple[str, ...] | None
    sender: tuple[Address, ...] | None
    from_: tuple[Address, ...] | None
    to: tuple[Address, ...] | None
    cc: tuple[Address, ...] | None
    bcc: tuple[Address, ...] | None
    reply_to: tuple[Address, ...] | None
    subject: str | None
    sent_at: datetime | None


def parse(
    raw: bytes | memoryview,
    *,
    id: str | None = None,  # noqa: A002  the message's own word
    mailbox: str = "",
    source: Source | None = None,
    received_at: datetime | None = None,
) -> Message:
    """Read one message (RFC 5322, MIME); never raises, for any bytes.

    Without an `id` it is the first 128 bits of the SHA-256 of `raw`, in hex. A `received_at` without a zone is
    taken for UTC. `raw` is kept as it is and must not change afterwards; the parts of the message are slices of
    it. What is wrong with the message stands in its `defects`.
    """
    octets = Octets(raw)
    digest = hashlib.sha256(octets.view(0, len(octets))).hexdigest()
    if received_at is not None and received_at.tzinfo is None:
        received_at = received_at.replace(tzinfo=UTC)
    defects = Defects()
    known = _Known(
        id=digest[:32] if id is None else id,
        mailbox=mailbox,
        source=source or Source(),
        raw=raw,
        digest=digest,
        size=len(octets),
        received_at=received_at,
    )
    try:
        return _read(_readable(octets, defects), known, defects)
    except Exception as error:  # The promise of this module.
        defects.add(Code.PARSER_FAILED, f"{type(error).__name__}: only the raw message is to be had")
        return Message(**known, defects=defects.found())


class _Known(TypedDict):
    """What is known of a message before it is read."""

    id: str
    mailbox: str
    source: Source
    raw: bytes | memoryview
    digest: str
    size: int
    received_at: datetime | None


def _read(octets: Octets, known: _Known, defects: Defects) -> Message:
    if not len(octets):
        defects.add(Code.EMPTY_MESSAGE, "message: it has no byte")
    head = read_head(octets, 0, len(octets), defects=defects)
    headers = Headers(head.fields, defects=defects)
    structure = Structure(octets, blob_prefix=known["digest"][:_BLOB_DIGITS], defects=defects)
    root = structure.read(headers, head.body, len(octets))
    body = arrange(root)
    headers.assume_charset(next((part.declared_charset() for part in body.text), None))
    values = read_values(body, decoded=structure.decoded, defects=defects)
    envelope = _envelope(headers)
    return Message(
        **known,
        **envelope,
        defects=defects.found(),
        headers=headers,
        structure=root,
        preview=preview((*body.text, *body.html), values),
        body_values=values,
        text_body=body.text,
        html_body=body.html,
        attachments=body.attachments,
    )


def _readable(octets: Octets, defects: Defects) -> Octets:
    """Return the bytes to read; of a message that ends all its lines with a lone CR, a copy with LF instead."""
    if octets.find(b"\n", 0, len(octets)) == -1 and octets.find(b"\r", 0, len(octets)) != -1:
        defects.add(Code.MIXED_LINE_ENDS, "message: all lines end with a lone CR")
        return Octets(octets.take(0, len(octets)).replace(b"\r", b"\n"))
    return octets


def _envelope(headers: Headers) -> _Envelope:
    """Read the header properties of RFC 8621's Email object (section 4.1.3)."""
    return {
        "message_id": headers.message_ids("Message-ID"),
        "in_reply_to": headers.message_ids("In-Reply-To"),
        "references": headers.message_ids("References"),
        "sender": headers.addresses("Sender"),
        "from_": headers.addresses("From"),
        "to": headers.addresses("To"),
        "cc": headers.addresses("Cc"),
        "bcc": headers.addresses("Bcc"),
        "reply_to": headers.addresses("Reply-To"),
        "subject": headers.text("Subject"),
        "sent_at": headers.date("Date"),
    }
