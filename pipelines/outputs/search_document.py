"""What a search engine is told of a message, and how it should index that.

The document is the JSON of the message and, as `text`, what a person reads. Only fields that are named here are indexed,
so no message can make a new field; the others are kept and shown, not searched. The mapping has no type that only one of
OpenSearch and Elasticsearch knows.
"""

from __future__ import annotations

from typing import Any

import orjson

from pipelines.message import Message
from pipelines.outputs.readable import readable_text

# Longer ones would be refused by Lucene (32,766 bytes of UTF-8); they are kept and not indexed.
_WORD = {"type": "keyword", "ignore_above": 8191}
_TEXT = {"type": "text"}
# A year of more or fewer than four digits, or a zone to the second, is no reason to refuse a message.
_DATE = {"type": "date", "ignore_malformed": True}
_PEOPLE = {"properties": {"name": _TEXT, "email": {**_WORD, "fields": {"text": _TEXT}}}}
_UNSEARCHED = {"type": "object", "enabled": False}

PROPERTIES: dict[str, Any] = {
    **dict.fromkeys(("id", "mailbox", "digest", "messageId", "inReplyTo", "references"), _WORD),
    **dict.fromkeys(("subject", "preview", "text"), _TEXT),
    **dict.fromkeys(("sender", "from", "to", "cc", "bcc", "replyTo"), _PEOPLE),
    **dict.fromkeys(("sentAt", "receivedAt"), _DATE),
    **dict.fromkeys(("findings", "bodyStructure", "bodyValues", "keywords"), _UNSEARCHED),
    "size": {"type": "long"},
    "version": {"type": "integer"},
    "hasAttachment": {"type": "boolean"},
    "source": {"properties": {"folder": _WORD}},
    "defects": {"properties": {"code": _WORD}},
    "attachments": {
        "properties": {"name": {**_TEXT, "fields": {"word": _WORD}}, "type": _WORD, "size": {"type": "long"}}
    },
}


def document(message: Message) -> bytes:
    """Return the document as one line of JSON, without a line end."""
    # Behind the first brace of the JSON that is there already.
    return b'{"text":' + orjson.dumps(readable_text(message)) + b"," + message.to_json()[1:]


def template(index_pattern: str) -> dict[str, Any]:
    """Return an index template (`PUT _index_template/…`) for indices whose name fits `index_pattern`."""
    return {
        "index_patterns": [index_pattern],
        # Above those that products bring along for everything (100), below what people write for themselves (500).
        "priority": 200,
        "template": {"mappings": {"dynamic": False, "properties": PROPERTIES}},
        "_meta": {"description": "Mail, as Mailquay delivers it"},
    }
