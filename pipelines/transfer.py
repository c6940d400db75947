"""Content-Transfer-Encoding (RFC 2045 section 6): from the bytes of a body to the octets it stands for.

Decoding never fails: what is not base64 is skipped, segments that were padded and joined are read one by one,
and a cut group gives what it holds. Sizes are counted without decoding, and large bodies are decoded window by
window, so that an attachment costs no memory until someone wants all of it at once.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines import uuencode

WINDOW = 1 << 20

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(set(range(256)) - set(_LETTERS + b"="))
# Beyond this many paddings they are taken for junk, so that decoding stays linear in practice.
_MOST_SEGMENTS = 10_000

_KNOWN = {
    "7bit": "7bit",
    "7bits": "7bit",
    "8bit": "8bit",
    "8bits": "8bit",
    "base64": "base64",
    "binary": "binary",
    "quotedprintable": "quoted-printable",
    **dict.fromkeys(("uuencode", "xuuencode", "uue", "xuue"), "x-uuencode"),
}
_SQUASH = re.compile(r"[^a-z0-9]+")
_SPACES_BEFORE_LINE_END = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n)")


class Transferred(NamedTuple):
    """Decoded octets, and whether something in their encoding was damaged."""

    data: bytes
    damaged: bool


class Measured(NamedTuple):
    """The number of octets that a body decodes to, and whether something in its encoding is damaged."""

    size: int
    damaged: bool


def known_encoding(value: str) -> str | None:
    """Return the encoding that a header's value means (`base64`, `quoted-printable`, `x-uuencode`, `7bit`...), or None."""
    return _KNOWN.get(_SQUASH.sub("", value.partition(";")[0].partition("(")[0].lower()))


def decode(content: memoryview, encoding: str) -> Transferred:
    """Decode a whole body; an encoding other than base64, quoted-printable and x-uuencode leaves it as it is."""
    if len(content) > WINDOW:
        return Transferred(b"".join(chunks(content, encoding)), measure(content, encoding).damaged)
    if encoding == "base64":
        return decode_base64(bytes(content))
    if encoding == "quoted-printable":
        return Transferred(_decode_quoted_printable(bytes(content).rstrip(b" \t")), damaged=False)
    if encoding == "x-uuencode":
        pieces = list(uuencode.decode_lines(content, window=WINDOW))
        return Transferred(b"".join(data for data, _ in pieces), any(damaged for _, damaged in pieces))
    return Transferred(bytes(content), damaged=False)


def measure(content: memoryview, encoding: str) -> Measured:
    """Count the octets that a body decodes to, without decoding base64."""
    if encoding == "base64":
        return _measure_base64(content)
    if encoding == "quoted-printable":
        return Measured(sum(map(len, chunks(content, encoding))), damaged=False)
    if encoding == "x-uuencode":
        pieces = [(len(data), damaged) for data, damaged in uuencode.decode_lines(content, window=WINDOW)]
        return Measured(sum(size for size, _ in pieces), any(damaged for _, damaged in pieces))
    return Measured(len(content), damaged=False)


def chunks(content: memoryview, encoding: str) -> Iterator[bytes]:
    """Decode a body window by window, in chunks of about `WINDOW` bytes at most."""
    if encoding == "base64":
        return _base64_chunks(content)
    if encoding == "quoted-printable":
        return _quoted_printable_chunks(content)
    if encoding == "x-uuencode":
        return (data for data, _ in uuencode.decode_lines(content, window=WINDOW))
    return _windows(content)


def decode_base64(data: bytes) -> Transferred:
    """Decode base64 (RFC 2045 section 6.8) and tell whether it was whole and nothing else."""
    kept = data.translate(None, _NOT_BASE64)
    letters = kept.rstrip(b"=")
    whole = len(kept) % 4 == 0 and len(kept) - len(letters) <= 2 and b"=" not in letters
    decoded = binascii.a2b_base64(kept) if whole else b"".join(map(_decode_segment, _segments(kept)))
    return Transferred(decoded, damaged=not whole or _holds_junk(data, kept))


def _measure_base64(content: memoryview) -> Measured:
    """Count letters and paddings; only padding amid letters, which is rare, makes decoding necessary."""
    count = paddings = 0
    junk = False
    for window in _windows(content):
        kept = window.translate(None, _NOT_BASE64)
        letters = kept.rstrip(b"=")
        if b"=" in letters or (paddings and letters):
            return Measured(sum(map(len, _base64_chunks(content))), damaged=True)
        count += len(letters)
        paddings += len(kept) - len(letters)
        junk = junk or _holds_junk(window, kept)
    size = count // 4 * 3 + (0, 0, 1, 2)[count % 4]
    return Measured(size, damaged=junk or paddings > 2 or (count + paddings) % 4 != 0)


def _holds_junk(data: bytes, kept: bytes) -> bool:
    """Whether something else than white space was left out."""
    left_out = len(data) - len(kept)
    if left_out == data.count(b"\n") + data.count(b"\r"):
        return False
    return left_out != sum(map(data.count, (b"\n", b"\r", b" ", b"\t")))


def _base64_chunks(content: memoryview) -> Iterator[bytes]:
    carry = b""
    for window in _windows(content):
        *closed, letters = _segments(carry + window.translate(None, _NOT_BASE64))
        groups = len(letters) // 4 * 4
        carry = letters[groups:]
        yield b"".join([*map(_decode_segment, closed), binascii.a2b_base64(letters[:groups])])
    if carry:
        yield _decode_segment(carry)


def _segments(kept: bytes) -> list[bytes]:
    """Split base64 where it was padded; some gateways join pieces that were encoded one by one."""
    if kept.count(b"=") > _MOST_SEGMENTS:
        return [kept.replace(b"=", b"")]
    return kept.split(b"=")


def _decode_segment(letters: bytes) -> bytes:
    """Decode letters without padding; a single letter too many stands for nothing."""
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def _quoted_printable_chunks(content: memoryview) -> Iterator[bytes]:
    """Decode whole lines, or where a window has none, up to a place that cuts no escape in two."""
    rest = b""
    for window in _windows(content):
        data = rest + window
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            # Spaces may turn out to stand at the end of a line; a window full of them is not waited with.
            end = len(data.rstrip(b" \t")) if len(data) <= 2 * WINDOW else len(data)
            escape = data.find(b"=", max(0, end - 2), end)
            cut = end if escape == -1 else escape
        rest = data[cut:]
        yield _decode_quoted_printable(data[:cut])
    yield _decode_quoted_printable(rest.rstrip(b" \t"))


def _decode_quoted_printable(data: bytes) -> bytes:
    """Decode quoted-printable after dropping white space at line ends, as RFC 2045 section 6.7 (3) asks."""
    if b" \n" in data or b" \r" in data or (b"\t" in data and (b"\t\n" in data or b"\t\r" in data)):
        data = _SPACES_BEFORE_LINE_END.sub(b"", data)
    return binascii.a2b_qp(data)


def _windows(content: memoryview) -> Iterator[bytes]:
    for start in range(0, len(content), WINDOW):
        yield bytes(content[start : start + WINDOW])
