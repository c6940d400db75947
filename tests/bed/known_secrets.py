"""Every secret that the tests know of, and a fast search for any of them in any bytes.

A secret is also found in base64, whatever stood in front of it, quoted for a URL, in hex, and cut off behind its first 16
characters. Tokens, private keys and SASL lines are found by their shape as well, so that those of a process that nobody
looks into count too. A secret of fewer than 15 octets is not searched for: it would be found where it is not.
"""

from __future__ import annotations

import binascii
import re
import sys
from array import array
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LONGEST = 16
"""So many octets of a form are searched for."""
_WINDOW = 8
FEWEST = 6
"""What has fewer different characters than this is filling that a test calls a secret, and stands everywhere."""
SHORTEST = 2 * _WINDOW - 1
"""Data are looked at in steps of eight octets; a needle that is this long always fills one of them."""

SHAPES = {
    "a token (by its shape)": (b".eyJ", re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}")),
    "a private key (by its shape)": (b"PRIVATE KEY", re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
}
"""Kind -> what its data always hold, and what it looks like: a JSON Web Token (RFC 7519), a PEM key (RFC 7468)."""
SASL = b"\x01auth=Bearer "
"""The middle of an XOAUTH2 response, which is the same for every user and token."""


@dataclass(frozen=True, slots=True)
class Found:
    """A secret of this kind begins at this offset. What it is, is not said."""

    kind: str
    offset: int


class Secrets:
    """What is secret. Looking costs about as much as reading, however many secrets there are."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        # What stands in a window -> the needles that have it there. Windows are numbers, which are found faster.
        self._windows: dict[int, dict[bytes, str]] = {}
        for form in _in_base64(SASL):
            self._search_for("a SASL line with a token (by its shape)", form)

    def __len__(self) -> int:
        """How many secrets are known."""
        return len(self._known)

    def add(self, kind: str, value: str | bytes) -> None:
        """Let `value` be secret; `kind` is what reports call it."""
        raw = value.encode() if isinstance(value, str) else value
        if raw.startswith(b"eyJ") and raw.count(b".") >= 2:
            # What tokens begin with, many tokens have in common. The signature is this one's own.
            raw = raw.rpartition(b".")[2]
        if raw in self._known:
            return
        self._known.add(raw)
        for form in _forms(raw):
            self._search_for(kind, form)

    def add_private_key(self, kind: str, pem: bytes) -> None:
        """Let those parts of a PEM file's lines be secret that hold nothing but digits of the private numbers."""
        key = load_pem_private_key(pem, None)
        numbers = [part.to_bytes((part.bit_length() + 7) // 8) for part in _private_numbers(key)]
        for line in pem.splitlines():
            # Twelve octets are sixteen characters, and lines of PEM begin anew with an octet.
            for group in (line[at : at + LONGEST] for at in range(0, len(line), LONGEST)):
                if len(group) == LONGEST and b"-" not in group and _holds(numbers, group):
                    self._search_for(kind, group)

    def find(self, data: bytes) -> Iterator[Found]:
        """Every place in `data` where a secret begins."""
        numbers = array("Q")
        numbers.frombytes(memoryview(data)[: len(data) - len(data) % _WINDOW])
        for window in self._windows.keys() & numbers:
            for needle, kind in list(self._windows[window].items()):
                for match in re.finditer(re.escape(needle), data):
                    yield Found(kind, match.start())
        for kind, (sign, shape) in SHAPES.items():
            if sign in data:
                yield from (Found(kind, match.start()) for match in shape.finditer(data))

    def _search_for(self, kind: str, form: bytes) -> None:
        needle = form[:LONGEST]
        if len(needle) < SHORTEST or len(set(needle)) < FEWEST:
            return
        for at in range(_WINDOW):
            number = int.from_bytes(needle[at : at + _WINDOW], sys.byteorder)
            self._windows.setdefault(number, {}).setdefault(needle, kind)


def _forms(raw: bytes) -> set[bytes]:
    """How a secret may be written."""
    quoted = {quote(raw, safe="").encode(), quote_plus(raw).encode()}
    return {raw, raw.hex().encode(), *quoted, *_in_base64(raw)}


def _in_base64(raw: bytes) -> Iterator[bytes]:
    """What base64 of any text with `raw` in it must contain: one form for each place in a group of three octets."""
    for before in range(3):
        # The first and the last character also carry bits of the neighbours.
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(before) + raw)[first:last]


def _private_numbers(key: object) -> Iterator[int]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        yield key.private_numbers().private_value
    elif isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        yield from (numbers.d, numbers.p, numbers.q)
    else:
        msg = f"nobody has said which part of a {type(key).__name__} is private"
        raise TypeError(msg)


def _holds(numbers: list[bytes], group: bytes) -> bool:
    try:
        digits = binascii.a2b_base64(group)
    except binascii.Error:
        return False
    return any(digits in number for number in numbers)
