"""The hash of a body as DKIM wants it (RFC 6376 section 3.4 and 3.7), window by window, in flat memory.

Lines may end with LF alone, as some stores keep them: they are hashed as CRLF, which is what was signed. White space
in any amount costs linear time.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from pipelines.octets import WINDOW

_SPACES = re.compile(rb"[ \t]++")
_LINE_ENDS = b"\r\n" * 4096


class BodyHash(NamedTuple):
    """The digest, the length of the canonical body, and how much of it was hashed."""

    digest: bytes
    length: int
    hashed: int


def hash_body(body: memoryview, *, relaxed: bool, algorithm: str, limit: int | None = None) -> BodyHash:
    """Hash a body in its canonical form, simple or relaxed, up to `limit` octets of it (the tag `l=`)."""
    canonical = _Canonical(relaxed=relaxed, algorithm=algorithm, limit=limit)
    for start in range(0, len(body), WINDOW):
        canonical.feed(bytes(body[start : start + WINDOW]))
    return canonical.finish()


class _Canonical:
    """Takes a body in pieces; line ends at its end, and what a line end may follow, wait for the next piece."""

    def __init__(self, *, relaxed: bool, algorithm: str, limit: int | None) -> None:
        self._relaxed = relaxed
        self._hash = hashlib.new(algorithm)
        self._limit = limit
        self._length = 0
        self._hashed = 0
        self._line_ends = 0
        self._held = b""

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        data = self._held + piece
        self._held = b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        data = data.replace(b"\r\n", b"\n")
        if self._relaxed:
            data = _SPACES.sub(b" ", data).replace(b" \n", b"\n")
            if data.endswith(b" "):
                data, self._held = data[:-1], b" " + self._held
        self._take(data)

    def finish(self) -> BodyHash:
        """Take what was held back, and end the body with the one line end that it has."""
        held = self._held.rstrip(b" ") if self._relaxed else self._held
        self._take(held)
        if self._length or not self._relaxed:
            self._update(b"\r\n")
        return BodyHash(self._hash.digest(), self._length, self._hashed)

    def _take(self, data: bytes) -> None:
        text = data.rstrip(b"\n")
        if text:
            while self._line_ends:
                count = min(self._line_ends, len(_LINE_ENDS) // 2)
                self._update(_LINE_ENDS[: 2 * count])
                self._line_ends -= count
            self._update(text.replace(b"\n", b"\r\n"))
        self._line_ends += len(data) - len(text)

    def _update(self, data: bytes) -> None:
        self._length += len(data)
        if self._limit is not None:
            data = data[: max(0, self._limit - self._hashed)]
        self._hashed += len(data)
        self._hash.update(data)
