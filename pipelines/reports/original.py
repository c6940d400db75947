"""The header of the message that a report is about, wherever the report returns it.

It is read from a message/rfc822 or text/rfc822-headers part, or from a copy in a text. Only the head is read, and only
its beginning: a returned message may be as large as the one that was sent.
"""

from __future__ import annotations

from pipelines.defects import Defects
from pipelines.fields import read_head
from pipelines.headers import Headers
from pipelines.octets import Octets
from pipelines.part import Part

HEAD_BYTES = 128 << 10
TYPES = frozenset(
    {"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers", "message/partial"}
)


def read_original(structure: Part) -> Headers:
    """Return the header of the first part that returns one, or an empty one."""
    for part in structure.walk():
        if part.type in TYPES and part.sub_parts is None:
            with part.open() as content:
                return _headers(content.read(HEAD_BYTES))
    return Headers.empty()


def read_head_of(text: str) -> Headers:
    """Return the header at the beginning of a text, behind blank lines."""
    return _headers(text[:HEAD_BYTES].lstrip("\n \t").encode("utf-8", "replace"))


def _headers(data: bytes) -> Headers:
    defects = Defects()
    return Headers(read_head(Octets(data), 0, len(data), defects=defects).fields, defects=defects)
