"""What the webhook sends of a message: its JSON, its JSON with the contents of its attachments, or its bytes.

A body is made piece by piece, as often as it is asked for: once to sign and count it, once to send it. So an attachment is
decoded twice, and never whole in memory. What is sent follows from the message alone, and is the same at each repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import quote

import orjson
import pybase64

from pipelines.attachments import attachments
from pipelines.charset import clean
from pipelines.message import Message
from pipelines.part import Part

CONTENTS_KEY = b'"attachmentContents"'
_PIECE_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of one request, new at each call of `pieces`, and the headers that belong to them."""

    media_type: str
    pieces: Callable[[], Iterable[bytes]]
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(message: Message) -> Body:
    """The JSON of a message; attachments are described in it."""
    return Body("application/json", lambda: [message.to_json()])


def with_attachments(message: Message, *, max_size: int) -> Body:
    """The JSON of a message with one more key, `attachmentContents`: base64 by `partId`.

    It is null for a message of more than `max_size` bytes, so that nobody takes it for one without attachments.
    """
    if message.size > max_size:
        return Body("application/json", lambda: [message.to_json()[:-1], b",", CONTENTS_KEY, b":null}"])
    return Body("application/json", lambda: _json_with_contents(message))


def as_raw(message: Message) -> Body:
    """The message as its mail server sent it; where it came from stands in headers."""
    return Body("message/rfc822", lambda: _windows(message.raw), _origin(message))


def in_base64(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Encode what comes in pieces of any size, without line ends (RFC 4648 section 4)."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) // 3 * 3
        rest = data[whole:]
        yield pybase64.b64encode(memoryview(data)[:whole])
    yield pybase64.b64encode(rest)


def _json_with_contents(message: Message) -> Iterator[bytes]:
    # Behind all that is in the JSON already, before its last brace.
    yield message.to_json()[:-1]
    separator = b"," + CONTENTS_KEY + b":{"
    for part in attachments(message):
        if not _is_here(part):
            continue
        yield separator + orjson.dumps(part.part_id) + b':"'
        yield from in_base64(part.chunks())
        yield b'"'
        separator = b","
    yield b"}}" if separator == b"," else separator + b"}}"


def _is_here(part: Part) -> bool:
    """Whether the content is there: a stage may have taken it away."""
    return part.size == 0 or len(part.content) > 0


def _windows(raw: bytes | memoryview) -> Iterator[bytes]:
    view = memoryview(raw)
    for start in range(0, len(view), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def _origin(message: Message) -> dict[str, str]:
    """What is known of a message besides its bytes. Values are percent-encoded: a server may call a folder anything."""
    values = {
        "mailquay-mailbox": message.mailbox,
        "mailquay-folder": message.source.folder or "",
        "mailquay-digest": f"sha256:{message.digest}",
        "mailquay-received-at": _received(message),
    }
    return {name: quote(clean(value), safe="/:") for name, value in values.items() if value}


def _received(message: Message) -> str:
    # A server may claim a date at the end of the calendar.
    with suppress(OverflowError):
        if message.received_at is not None:
            return message.received_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""
