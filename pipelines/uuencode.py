"""Uuencode as a transfer encoding (`x-uuencode`), the way of old mail programs from before MIME (POSIX `uuencode`).

Reads line by line from `begin` to `end` and never fails: a line that is none of uuencode is skipped. The name and the mode
after `begin` are the sender's and are not used. Linear, in memory for one window.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

_BEGIN = re.compile(rb"(?:^|[\r\n])begin [0-7]{3,4} [^\r\n]*+\r?\n")
_BEGINS_WITHIN = 64 << 10
# An honest line has 62 characters; one that does not end is not waited for.
_LONGEST_LINE = 1024


def decode_lines(content: memoryview, *, window: int) -> Iterator[tuple[bytes, bool]]:
    """Yield what the lines of each window of `content` decode to, and whether something was damaged.

    Content without a `begin` line is handed on as it is, and is damaged.
    """
    begin = _BEGIN.search(bytes(content[:_BEGINS_WITHIN]))
    if begin is None:
        for start in range(0, len(content), window):
            yield bytes(content[start : start + window]), True
        return
    rest = b""
    for start in range(begin.end(), len(content), window):
        *lines, rest = (rest + bytes(content[start : start + window])).split(b"\n")
        decoded: list[bytes] = []
        damaged = ended = False
        for line in lines:
            ended = line.rstrip() == b"end"
            if ended:
                break
            data = _decode_line(line)
            damaged = damaged or data is None
            decoded.append(data or b"")
        if len(rest) > _LONGEST_LINE:
            rest, damaged = b"", True
        yield b"".join(decoded), damaged
        if ended:
            return
    if rest.rstrip() != b"end":
        yield _decode_line(rest) or b"", True


def _decode_line(line: bytes) -> bytes | None:
    """Decode one line without its LF, or return None if it is none of uuencode."""
    line = line.rstrip(b"\r")
    if not line.strip(b" `"):
        return b""
    try:
        return binascii.a2b_uu(line)
    except binascii.Error:
        # Some encoders write more characters than the length in front says; the length counts.
        if not 32 <= line[0] <= 96:
            return None
        try:
            return binascii.a2b_uu(line[: ((line[0] - 32 & 63) * 4 + 5) // 3])
        except binascii.Error:
            return None
