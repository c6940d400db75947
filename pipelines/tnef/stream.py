"""A TNEF stream cut into attributes (MS-OXTNEF section 2.1.3): level, id, data and checksum, one behind the other.

Cutting never raises and copies nothing. A length that lies gives what is there, a checksum that is wrong is noted, and
what follows something that is no attribute is not read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x78\x9f\x3e\x22"

# Attributes of one stream; an honest one has a handful and about six for each attachment.
ATTRIBUTES = 10_000

_HEAD = struct.Struct("<BII")
_CHECKSUM = struct.Struct("<H")
_LEVELS = frozenset({1, 2})
_BLOCK = 256


class Attribute(NamedTuple):
    """An attribute: `id` in all 32 bits, as MS-OXTNEF section 2.1.3.2 lists them, with its type in the upper half."""

    id: int
    data: memoryview


def cut(content: memoryview, problems: dict[str, None]) -> Iterator[Attribute]:
    """Yield the attributes of a stream in their order; what is wrong is added to `problems`, a word each."""
    if bytes(content[:4]) != SIGNATURE:
        problems["signature-missing"] = None
        return
    # A key of two bytes follows, which means nothing.
    position = 6
    for _ in range(ATTRIBUTES):
        rest = len(content) - position
        if rest <= 0:
            return
        if rest < _HEAD.size:
            problems["cut-short"] = None
            return
        level, id_, length = _HEAD.unpack_from(content, position)
        if level not in _LEVELS:
            problems["attribute-unreadable"] = None
            return
        position += _HEAD.size
        data = content[position : position + length]
        position += length
        if len(data) < length or len(content) < position + _CHECKSUM.size:
            problems["cut-short"] = None
        elif checksum(data) != _CHECKSUM.unpack_from(content, position)[0]:
            problems["checksum-wrong"] = None
        position += _CHECKSUM.size
        yield Attribute(id_, data)
    problems["too-many-attributes"] = None


def checksum(data: memoryview) -> int:
    """Return the sum of all bytes modulo 65,536 (MS-OXTNEF section 2.1.3.3)."""
    # The lower half of Adler-32 is one more than the sum of the bytes as long as that stays below 65,521.
    blocks = (data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK))
    return sum((zlib.adler32(block) & 0xFFFF) - 1 for block in blocks) & 0xFFFF
