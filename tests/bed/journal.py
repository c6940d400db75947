"""Reads Valkey's append-only file: every value that was ever written, also what has expired or was deleted since.

The file holds commands as clients send them, as RESP arrays of bulk strings: `*3`, then `$3`, `SET`, `$5`, `berth` and so
on, each with CRLF behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken

_LENGTH = re.compile(rb"\$(\d+)\r\n")
_SEALED = re.compile(rb"gAAAAA[\w-]{60,}={0,2}")
# A token in MSAL's cache, however often the JSON around it was written into JSON again.
_TOKEN = re.compile(rb'"secret\\*":\s*\\*"([\w.~+/=-]+)')


@dataclass(frozen=True, slots=True)
class Written:
    """One argument of a command, with the command and its key; all empty where that cannot be told."""

    command: str = ""
    key: str = ""
    value: bytes = b""


def written_at(data: bytes, offset: int) -> Written:
    """The argument that covers this offset of the file, or of a part of it."""
    at = data.rfind(b"*", 0, offset)
    while at >= 0 and not re.match(rb"\*\d+\r\n\$", data[at : at + 20]):
        at = data.rfind(b"*", 0, at)
    at = data.find(b"\n", max(at, 0)) + 1
    words: list[bytes] = []
    while length := _LENGTH.match(data, at):
        begin, end = length.end(), length.end() + int(length[1])
        words.append(data[begin:end])
        if offset < end:
            command, key = (word.decode(errors="replace") for word in (*words, b"")[:2])
            return Written(command, key, words[-1])
        at = end + len("\r\n")
    return Written()


def tokens_sealed_in(data: bytes, keys: Iterable[bytes]) -> Iterator[bytes]:
    """Every token of an MSAL cache that stands in `data`, sealed with one of these Fernet keys."""
    seals = []
    for key in keys:
        # A test may call anything a key.
        with suppress(ValueError):
            seals.append(Fernet(key))
    for blob in set(_SEALED.findall(data)):
        for seal in seals:
            with suppress(InvalidToken):
                yield from _TOKEN.findall(seal.decrypt(blob))
