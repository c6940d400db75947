"""Undoes the compression of RTF in MAPI (MS-OXRTFCP): LZ77 over a ring of 4,096 bytes that begins with frequent words.

It never raises and gives no more than it is asked for; of damaged data it gives what comes before the damage.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

_HEAD = struct.Struct("<IIII")
_COMPRESSED, _PLAIN = 0x75465A4C, 0x414C454D
_RING = 4096
# MS-OXRTFCP section 2.1.2.1.
_BEGINNING = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans "
    b"SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"
)


class Rtf(NamedTuple):
    """RTF, and whether all of it is there and as it was sent."""

    data: bytes
    is_whole: bool


def decompress(content: memoryview, *, most: int) -> Rtf:
    """Return up to `most` bytes of RTF."""
    if len(content) < _HEAD.size:
        return Rtf(b"", is_whole=False)
    size, raw_size, kind, crc = _HEAD.unpack_from(content)
    # The size counts all that follows it.
    packed = bytes(content[_HEAD.size : size + 4])
    if kind == _PLAIN:
        data = packed[: min(raw_size, most)]
        return Rtf(data, is_whole=len(data) == raw_size)
    if kind != _COMPRESSED:
        return Rtf(b"", is_whole=False)
    data = _unpack(packed, min(raw_size, most))
    intact = zlib.crc32(packed, 0xFFFFFFFF) ^ 0xFFFFFFFF == crc
    return Rtf(data, is_whole=intact and len(data) == raw_size)


def _unpack(packed: bytes, most: int) -> bytes:
    out = bytearray(_BEGINNING)
    wanted = len(_BEGINNING) + most
    position, end = 0, len(packed)
    while position < end and len(out) < wanted:
        control = packed[position]
        position += 1
        if not control:
            out += packed[position : position + 8]
            position += 8
            continue
        for bit in range(8):
            if not control >> bit & 1:
                out += packed[position : position + 1]
                position += 1
                continue
            reference = int.from_bytes(packed[position : position + 2], "big")
            distance = (len(out) - (reference >> 4)) % _RING
            # A reference to the place that is written next is the end; what lies before the beginning is damage.
            if position + 2 > end or not distance or distance > len(out):
                position = end
                break
            position += 2
            length = (reference & 0xF) + 2
            start = len(out) - distance
            source = out[start : start + length]
            out += source if len(source) == length else (source * length)[:length]
    return bytes(out[len(_BEGINNING) : wanted])
