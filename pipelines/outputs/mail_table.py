"""One row a message: the columns of the parquet output, with types, and beside them the whole JSON.

The columns are the same in every file, whatever is wanted; what is not wanted is null. Dates are instants in UTC; one
that no calendar of UTC has is null, and stands in the JSON.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa

from pipelines.attachments import attachments
from pipelines.charset import clean
from pipelines.message import Message
from pipelines.outputs.readable import readable_text

_STRINGS = pa.list_(pa.string())
_INSTANT = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "mailbox": pa.string(),
        "folder": pa.string(),
        "message_id": _STRINGS,
        "in_reply_to": _STRINGS,
        "references": _STRINGS,
        "subject": pa.string(),
        "from_name": pa.string(),
        "from_email": pa.string(),
        "to": _STRINGS,
        "cc": _STRINGS,
        "bcc": _STRINGS,
        "reply_to": _STRINGS,
        "sent_at": _INSTANT,
        "received_at": _INSTANT,
        "size": pa.int64(),
        "digest": pa.string(),
        "has_attachment": pa.bool_(),
        "preview": pa.string(),
        # The large ones count beyond 2 GiB in one piece.
        "text": pa.large_string(),
        "attachments": pa.list_(
            pa.struct(
                {
                    "part_id": pa.string(),
                    "name": pa.string(),
                    "type": pa.string(),
                    "size": pa.int64(),
                    "content": pa.large_binary(),
                }
            )
        ),
        "raw": pa.large_binary(),
        "json": pa.large_string(),
    }
)


def row(message: Message, *, raw: bool, contents: bool) -> dict[str, Any]:
    """Return the values of a message, with its bytes and with the contents of its attachments when they are wanted."""
    json = message.to_json()
    # Read from the JSON, whose texts any program can take, so that columns and JSON never differ.
    told: dict[str, Any] = orjson.loads(json)
    author = (told["from"] or [{}])[0]
    return {
        "id": told["id"],
        "mailbox": told["mailbox"],
        "folder": told["source"]["folder"],
        "message_id": told["messageId"],
        "in_reply_to": told["inReplyTo"],
        "references": told["references"],
        "subject": told["subject"],
        "from_name": author.get("name"),
        "from_email": author.get("email"),
        **{name: _emails(told[key]) for name, key in _RECIPIENTS.items()},
        "sent_at": _instant(message.sent_at),
        "received_at": _instant(message.received_at),
        "size": told["size"],
        "digest": told["digest"],
        "has_attachment": told["hasAttachment"],
        "preview": told["preview"],
        "text": readable_text(message),
        "attachments": [
            {
                "part_id": part.part_id,
                "name": None if part.name is None else clean(part.name),
                "type": clean(part.type),
                "size": part.size,
                "content": part.decode() if contents else None,
            }
            for part in attachments(message)
        ],
        "raw": bytes(message.raw) if raw else None,
        "json": json.decode(),
    }


_RECIPIENTS = {"to": "to", "cc": "cc", "bcc": "bcc", "reply_to": "replyTo"}


def _emails(people: list[dict[str, str]] | None) -> list[str] | None:
    return None if people is None else [person["email"] for person in people]


def _instant(moment: datetime | None) -> datetime | None:
    """Return a moment in UTC, unless that lies outside of the years 1 to 9999."""
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        return None
