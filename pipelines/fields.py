"""Splitting the head of a message or a part into header fields (RFC 5322 section 2.2), however broken it is.

One pass over the bytes: names and raw values, nothing decoded. Where the head ends is decided here too: at the
first blank line, or where the lines stop being headers. Decoding values is the business of `pipelines.headers`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines import limits
from pipelines.defects import Code, Defects
from pipelines.octets import Octets

# Nearly every head ends within this many bytes.
_USUAL_HEAD = 32 << 10

_FIELD = re.compile(rb"^([!-9;-~]+)([ \t]*):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_LINE_END = re.compile(rb"(?>\r{0,3}\n|\r)")
_BLANK_LINE = re.compile(rb"(?>\r{0,3}\n|\r)(?>\r{0,3}\n|\r)")
# Spaces, blank lines, a byte order mark and an mbox separator that stand before the first header.
_JUNK = re.compile(rb"(?:\xef\xbb\xbf)?\s*+(?:>?From (?![ \t]*:)[^\r\n]*+\s*+)?")
# What certainly is a header, so that broken lines before it are no body.
_WELL_KNOWN = re.compile(
    rb"^(?:from|to|cc|bcc|subject|date|sender|reply-to|message-id|in-reply-to|references|received|return-path|"
    rb"mime-version|content-(?:type|transfer-encoding|disposition|id)|delivered-to|dkim-signature|x-[\w-]+)[ \t]*:",
    re.MULTILINE | re.IGNORECASE,
)


# Lines that are header fields but for a name with bytes beyond ASCII.
_ODD_FIELDS = re.compile(rb"(?:[^\s:]++[ \t]*+:.*+(?:\n[ \t].*+)*+\n?+)++")

# A header field: its name as it stands, and its raw value, whose folds are LF and white space.
Field = tuple[str, bytes]


class Head(NamedTuple):
    """The fields of a message or a part, and where its body begins."""

    fields: list[Field]
    body: int


def read_head(octets: Octets, start: int, end: int, *, defects: Defects, part_id: str | None = None) -> Head:
    """Read the header fields that begin at `start`; `part_id` is None for the message itself."""
    where = "message" if part_id is None else f"part {part_id}"
    first = octets.take(start, min(end, start + 2))
    if part_id is None:
        start = _skip_junk(octets, start, end, defects=defects)
    elif first[:1] == b"\n" or first == b"\r\n":
        return Head([], start + (1 if first[:1] == b"\n" else 2))
    for size in (_USUAL_HEAD, limits.HEADER_BYTES):
        block = octets.take(start, min(end, start + size))
        length, body = _end_of_head(block)
        if length != -1 or start + size >= end:
            break
    else:
        length, body = _end_of_huge_head(octets, start, end, block=block, where=where, defects=defects)
    if length == -1:
        length = body = len(block)
    return _split(block[:length], start=start, body=start + body, where=where, defects=defects)


def _skip_junk(octets: Octets, start: int, end: int, *, defects: Defects) -> int:
    """Return where the first header stands, if only junk stands before it."""
    block = octets.take(start, min(end, start + _USUAL_HEAD))
    junk = _JUNK.match(block)
    if junk is None or junk.end() == 0 or _FIELD.match(block[junk.end() :]) is None:
        return start
    defects.add(Code.JUNK_BEFORE_HEADERS, f"message: {junk.end()} bytes before the first header were skipped")
    return start + junk.end()


def _end_of_head(block: bytes) -> tuple[int, int]:
    """Find the blank line: the length of the head without it, and where the body begins; -1 without one."""
    crlf = block.find(b"\n\r\n")
    lf = block.find(b"\n\n", 0, crlf if crlf != -1 else len(block))
    length, body = (lf, lf + 2) if lf != -1 else (crlf, crlf + 3)
    head = block[:length] if length != -1 else block
    if head.count(b"\r") != head.count(b"\r\n") + (head[-1:] == b"\r"):
        found = _BLANK_LINE.search(block)
        return (found.start(), found.end()) if found else (-1, len(block))
    return length, body


def _end_of_huge_head(
    octets: Octets, start: int, end: int, *, block: bytes, where: str, defects: Defects
) -> tuple[int, int]:
    """Cut a head beyond the limit after its last whole line, and find its end all the same."""
    defects.add(Code.LIMIT_HEADER_BYTES, f"{where}: headers beyond {limits.HEADER_BYTES} bytes were not read")
    ends = [
        found + len(blank) - start
        for blank in (b"\n\r\n", b"\n\n")
        if (found := octets.find(blank, start + len(block) - 2, end)) != -1
    ]
    return max(block.rfind(b"\n"), 0) or len(block), min(ends, default=end - start)


def _split(block: bytes, *, start: int, body: int, where: str, defects: Defects) -> Head:
    """Split a head into fields, and find out whether the body has begun before the blank line."""
    text = block
    if b"\r" in block:
        text = block.replace(b"\r\n", b"\n")
        if b"\r" in text.rstrip(b"\r"):
            text = _LINE_END.sub(b"\n", block)
            defects.add(Code.MIXED_LINE_ENDS, f"{where}: a lone CR among the headers was read as a line end")
        text = text.rstrip(b"\r")
    fields: list[Field] = []
    expected, last_known = 0, -1
    for match in _FIELD.finditer(text):
        if match.start() > expected:
            if last_known == -1:
                last_known = max((found.start() for found in _WELL_KNOWN.finditer(text)), default=0)
            junk = text[expected : match.start()]
            # A line like a delimiter of MIME shows that the body has begun, whatever comes after it.
            is_body = last_known < expected and _ODD_FIELDS.fullmatch(junk) is None
            if is_body or junk.startswith(b"--") or b"\n--" in junk:
                break
            defects.add(Code.JUNK_IN_HEADERS, f"{where}: lines among the headers that are none were skipped")
        if len(fields) == limits.HEADER_COUNT:
            detail = f"{where}: headers beyond the first {limits.HEADER_COUNT} were not read"
            defects.add(Code.LIMIT_HEADER_COUNT, detail)
            return Head(fields, body)
        name, space, value = match.groups()
        if space:
            defects.add(Code.SPACE_BEFORE_COLON, f"{where}: header {name[:60].decode('ascii')}")
        fields.append((name.decode("ascii"), value))
        expected = match.end() + 1
    if expected < len(text):
        defects.add(Code.NO_BLANK_LINE, f"{where}: the body begins where the lines stop being headers")
        return Head(fields, start + _offset_of_line(block, text.count(b"\n", 0, expected)))
    return Head(fields, body)


def _offset_of_line(block: bytes, number: int) -> int:
    """Return where in the raw block a line begins, counted from 0."""
    for index, match in enumerate(_LINE_END.finditer(block), start=1):
        if index == number:
            return match.end()
    return 0
