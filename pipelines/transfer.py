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

import pybase64

from pipelines import uuencode

# What is decoded at a time; such windows and what comes of them stay in the processor's cache.
WINDOW = 128 << 10

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
_COMMENT = re.compile(r"\([^()]*+\)")
# Words, which base64 does not consist of.
_WORDS = re.compile(rb"[\w+/][ \t]+[\w+/]|[^\w+/= \t\r\n]|_")
_LONGEST_FOOTER = 4 << 10
# What no text holds but for NULs, which stand in UTF-16.
_CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
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
    if "(" in value:
        value = _COMMENT.sub("", value).partition("(")[0]
    return _KNOWN.get(_SQUASH.sub("", value.partition(";")[0].lower()))


def is_plain_text(content: memoryview) -> bool:
    """Whether a text that is labelled base64 is none: its first line has other letters, and what it decodes to is no text."""
    beginning = bytes(content[:_LONGEST_FOOTER]).strip()
    line, _, rest = beginning.partition(b"\n")
    if b"=" in beginning or not (
        line.rstrip().translate(None, _LETTERS) or (not rest and len(line) % 4 == 1)
    ):
        return False
    return _CONTROLS.search(decode_base64(beginning).data) is not None


def decode(content: memoryview, encoding: str) -> Transferred:
    """Decode a whole body; an encoding other than base64, quoted-printable and x-uuencode leaves it as it is."""
    if encoding == "base64" and len(content) > WINDOW:
        return Transferred(b"".join(_base64_chunks(content)), _measure_base64(content).damaged)
    if encoding == "base64":
        return decode_base64(bytes(content))
    if encoding == "quoted-printable" and len(content) > WINDOW:
        return Transferred(b"".join(_quoted_printable_chunks(content)), damaged=False)
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
    decoded = pybase64.b64decode(kept, validate=True) if whole else _decode_end(data)
    return Transferred(decoded, damaged=not whole or _is_junk(data.translate(None, _LETTERS)))


def _measure_base64(content: memoryview) -> Measured:
    """Count letters and paddings; only padding amid letters, which is rare, makes decoding necessary."""
    count = paddings = 0
    junk = False
    for window in _windows(content):
        others = window.translate(None, _LETTERS)
        padding = window.find(b"=") if b"=" in others else len(window)
        if _holds_letters(window if paddings else window[padding:]):
            return Measured(sum(map(len, _base64_chunks(content))), damaged=True)
        count += len(window) - len(others)
        paddings += others.count(b"=")
        junk = junk or _is_junk(others)
    size = count // 4 * 3 + (0, 0, 1, 2)[count % 4]
    return Measured(size, damaged=junk or paddings > 2 or (count + paddings) % 4 != 0)


def _holds_letters(data: bytes) -> bool:
    return len(data.translate(None, _LETTERS)) < len(data)


def _is_junk(others: bytes) -> bool:
    """Whether what is no letter is something else than white space and padding."""
    return bool(others.strip(b" \t\r\n="))


def _base64_chunks(content: memoryview) -> Iterator[bytes]:
    carry, position = b"", 0
    for window in _windows(content):
        data, position = carry + window, position + len(window)
        lines = data[: data.rfind(b"\n") + 1]
        decoded = _decode_lines(lines)
        if decoded is not None:
            carry = data[len(lines) :]
            yield decoded
            continue
        if position == len(content):
            carry = data
            break
        *closed, letters = _segments(data.translate(None, _NOT_BASE64))
        groups = len(letters) // 4 * 4
        carry = letters[groups:]
        yield b"".join([*map(_decode_segment, closed), pybase64.b64decode(letters[:groups], validate=True)])
    if carry:
        yield _decode_end(carry)


def _decode_lines(lines: bytes) -> bytes | None:
    """Decode lines of whole groups in one go, which is the usual case, or return None if they are none."""
    if not lines or b"=" in lines:
        return None
    try:
        return pybase64.b64decode(lines)
    except binascii.Error:
        return None


def _segments(kept: bytes) -> list[bytes]:
    """Split base64 where it was padded; some gateways join pieces that were encoded one by one."""
    if b"=" not in kept:
        return [kept]
    if kept.count(b"=") > _MOST_SEGMENTS:
        return [kept.replace(b"=", b"")]
    return kept.split(b"=")


def _decode_end(data: bytes) -> bytes:
    """Decode the last of a body, with paddings anywhere."""
    kept = _without_footer(data).translate(None, _NOT_BASE64)
    return b"".join(map(_decode_segment, _segments(kept)))


def _without_footer(data: bytes) -> bytes:
    """Cut off words that a gateway wrote below base64 that was padded; further base64 stays."""
    padding = data.find(b"=")
    footer = data[padding:].lstrip(b"= \t\r\n") if padding != -1 else b""
    if not footer or len(footer) > _LONGEST_FOOTER:
        return data
    letters = len(data[:padding].translate(None, _NOT_BASE64))
    is_base64 = len(footer.translate(None, _NOT_BASE64)) % 4 == 0 and _WORDS.search(footer) is None
    return data if is_base64 or letters % 4 < 2 else data[: -len(footer)]


def _decode_segment(letters: bytes) -> bytes:
    """Decode letters without padding; a single letter too many stands for nothing."""
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return pybase64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)


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
    if b"==" in data:
        # The first of two equals signs is no escape and stands for itself; `binascii` would drop it.
        data = data.replace(b"==", b"=3D=").replace(b"==", b"=3D=")
    return binascii.a2b_qp(data)


def _windows(content: memoryview) -> Iterator[bytes]:
    for start in range(0, len(content), WINDOW):
        yield bytes(content[start : start + WINDOW])
