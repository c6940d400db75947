"""Writes TNEF (MS-OXTNEF) as Outlook does, and as it should not: for tests, which need winmail.dat and own none."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

APPOINTMENT = UUID("00062002-0000-0000-c000-000000000046")
MEETING = UUID("6ed8da90-450b-101b-98da-00aa003f1305")
MESSAGE = UUID("00020307-0000-0000-c000-000000000046")

CODE_PAGE, CLASS, SUBJECT, BODY, PROPERTIES = 0x00069007, 0x00078008, 0x00018004, 0x0002800C, 0x00069003
NEW_ATTACHMENT, TITLE, DATA, ATTACHMENT_PROPERTIES = 0x00069002, 0x00018010, 0x0006800F, 0x00069005
BINARY, UNICODE, STRING8, OBJECT, LONG, BOOLEAN, TIME = 0x0102, 0x001F, 0x001E, 0x000D, 0x0003, 0x000B, 0x0040


def stream(*attributes: bytes) -> bytes:
    """A whole stream."""
    return b"\x78\x9f\x3e\x22\x01\x00" + b"".join(attributes)


def attribute(
    level: int, tag: int, data: bytes, *, length: int | None = None, checksum: int | None = None
) -> bytes:
    """One attribute; length and checksum tell the truth unless they are told not to."""
    total = sum(data) & 0xFFFF if checksum is None else checksum
    return (
        struct.pack("<BII", level, tag, len(data) if length is None else length)
        + data
        + struct.pack("<H", total)
    )


def text_attribute(level: int, tag: int, text: str, encoding: str = "cp1252") -> bytes:
    return attribute(level, tag, text.encode(encoding) + b"\0")


def property_list(*properties: bytes) -> bytes:
    return struct.pack("<I", len(properties)) + b"".join(properties)


def prop(
    number: int, kind: int, value: object, *, group: UUID | None = None, name: str | None = None
) -> bytes:
    """One property: a text, bytes, number or moment; in a group with its number, or with a name."""
    tag = struct.pack("<HH", kind, 0x8000 if group else number)
    if group is not None and name is not None:
        written = name.encode("utf-16-le") + b"\0\0"
        tag += group.bytes_le + struct.pack("<II", 1, len(written)) + padded(written)
    elif group is not None:
        tag += group.bytes_le + struct.pack("<II", 0, number)
    return tag + _value(kind, value)


def _value(kind: int, value: object) -> bytes:
    if isinstance(value, str):
        value = value.encode("utf-16-le") + b"\0\0" if kind == UNICODE else value.encode("cp1252") + b"\0"
    if isinstance(value, bytes):
        return struct.pack("<II", 1, len(value)) + padded(value)
    if isinstance(value, datetime):
        return struct.pack("<Q", int((value - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000)
    assert isinstance(value, int)
    return struct.pack("<I", value)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def attachment(content: bytes | None, *properties: bytes, title: str | None = "SHORT~1.TXT") -> bytes:
    """An attachment with its data in an attribute, as files have it."""
    return b"".join(
        [
            attribute(2, NEW_ATTACHMENT, bytes(14)),
            *([] if title is None else [text_attribute(2, TITLE, title)]),
            *([] if content is None else [attribute(2, DATA, content)]),
            *([attribute(2, ATTACHMENT_PROPERTIES, property_list(*properties))] if properties else []),
        ]
    )


def embedded(inner: bytes, *properties: bytes) -> bytes:
    """A message as an attachment."""
    found = (prop(0x3705, LONG, 5), prop(0x3701, OBJECT, MESSAGE.bytes_le + inner), *properties)
    return attachment(None, *found, title=None)


def compressed(rtf: bytes, beginning: bytes, *, crc: int | None = None) -> bytes:
    """RTF packed by MS-OXRTFCP: greedily, over the ring that begins with `beginning`."""
    out = beginning + rtf
    position = len(beginning)
    tokens: list[bytes] = []
    while position < len(out):
        length, at = _longest(out, position)
        if length >= 2:
            tokens.append(struct.pack(">H", (at % 4096) << 4 | (length - 2)))
            position += length
        else:
            tokens.append(out[position : position + 1])
            position += 1
    tokens.append(struct.pack(">H", (position % 4096) << 4))
    packed = b"".join(_run(tokens[start : start + 8]) for start in range(0, len(tokens), 8))
    sum_ = zlib.crc32(packed, 0xFFFFFFFF) ^ 0xFFFFFFFF if crc is None else crc
    return struct.pack("<IIII", len(packed) + 12, len(rtf), 0x75465A4C, sum_) + packed


def _longest(out: bytes, position: int) -> tuple[int, int]:
    for length in range(min(17, len(out) - position), 1, -1):
        at = out.find(out[position : position + length], max(0, position - 4000), position + length - 1)
        if at != -1:
            return length, at
    return 0, 0


def _run(tokens: Sequence[bytes]) -> bytes:
    return bytes([sum(1 << bit for bit, token in enumerate(tokens) if len(token) == 2)]) + b"".join(tokens)
