"""What the tables of the sql output hold of a message.

Every text can be stored by any database: NULs are left out and lone surrogates are U+FFFD, as in the JSON. What is longer
than a column that is looked up is cut and ends in `…`; a date before the year 1001 or after 9998 is left out. The JSON
beside it holds both whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from pipelines.addresses import Address
from pipelines.charset import clean
from pipelines.message import Message, Part
from pipelines.outputs.sql_tables import EMAIL_LENGTH, ID_LENGTH, NAME_LENGTH

# An escaped NUL, and not a backslash that happens to stand before `u0000`.
_JSON_NUL = re.compile(rb"(?<!\\)((?:\\\\)*+)\\u0000")
# MySQL begins with the year 1000 (its DATETIME), and Python ends with 9999, in any zone.
_FIRST_YEAR, _LAST_YEAR = 1001, 9998

Row = dict[str, object]


def message_row(message: Message, *, stored_at: datetime, raw: bool) -> Row:
    """Return the row of `messages`; `stored_at` is aware, and `raw` says whether the message itself is in it.

    Raises:
        TypeError: The findings of a stage are no JSON.
    """
    senders = message.from_ or ()
    own, answered, thread = (
        _first(ids) for ids in (message.message_id, message.in_reply_to, message.references)
    )
    return {
        "id": message.id,
        "mailbox": _cut(message.mailbox, NAME_LENGTH),
        "folder": _clean(message.source.folder),
        "message_id": _cut(own, ID_LENGTH),
        "in_reply_to": _cut(answered, ID_LENGTH),
        "thread_id": _cut(thread or answered or own, ID_LENGTH),
        "subject": _clean(message.subject),
        "from_name": _clean(senders[0].name) if senders else None,
        "from_email": _email(senders[0]) if senders else None,
        "sent_at": _utc(message.sent_at),
        "received_at": _utc(message.received_at),
        "stored_at": stored_at.replace(microsecond=0),
        "size": message.size,
        "digest": message.digest,
        "has_attachment": message.has_attachment,
        "preview": clean(message.preview),
        "text": _text(message, message.text_body, html=False),
        "html": _text(message, message.html_body, html=True),
        "json": _JSON_NUL.sub(rb"\1\\ufffd", message.to_json()).decode(),
        "raw": bytes(message.raw) if raw else None,
    }  # fmt: skip


def address_rows(message: Message) -> Iterator[Row]:
    """Yield the rows of `addresses`."""
    fields: Mapping[str, tuple[Address, ...] | None] = {
        "from": message.from_,
        "to": message.to,
        "cc": message.cc,
        "bcc": message.bcc,
        "sender": message.sender,
        "replyTo": message.reply_to,
    }
    for field, addresses in fields.items():
        for position, address in enumerate(addresses or (), 1):
            yield {
                "message": message.id,
                "field": field,
                "position": position,
                "name": _clean(address.name),
                "email": _email(address),
            }


def attachment_rows(message: Message, *, content: bool) -> Iterator[Row]:
    """Yield the rows of `attachments`, one attachment decoded at a time; `content` says whether their bytes are in them."""
    for position, part in enumerate(message.attachments, 1):
        yield {
            "message": message.id,
            "position": position,
            "part_id": None if part.part_id is None else _cut(part.part_id, NAME_LENGTH),
            "name": _clean(part.name),
            "type": clean(part.type),
            "disposition": _clean(part.disposition),
            "cid": _clean(part.cid),
            "size": part.size,
            "sha256": part.sha256(),
            "content": part.decode() if content else None,
        }


def _text(message: Message, parts: tuple[Part, ...], *, html: bool) -> str | None:
    """Return the text of those parts that are HTML, or that are not; None when there are none."""
    shown = (part.part_id for part in parts if part.part_id and (part.type == "text/html") == html)
    values = [message.body_values[part_id].value for part_id in shown if part_id in message.body_values]
    return clean("\n".join(values)) if values else None


def _first(ids: tuple[str, ...] | None) -> str | None:
    return ids[0] if ids else None


def _clean(value: str | None) -> str | None:
    return None if value is None else clean(value)


def _cut(value: str | None, length: int) -> str | None:
    if value is None:
        return None
    value = clean(value)
    return value if len(value) <= length else f"{value[: length - 1]}…"


def _email(address: Address) -> str | None:
    """Return an address as it is looked up: in lower case."""
    return _cut(address.email.lower(), EMAIL_LENGTH)


def _utc(moment: datetime | None) -> datetime | None:
    """Return the moment in UTC, or None outside the years that every database and every reader's time zone has."""
    return moment.astimezone(UTC) if moment is not None and _FIRST_YEAR <= moment.year <= _LAST_YEAR else None
