"""IMAP's FETCH answers as data: pure functions over bytes that a server sent.

Lenient: items come in any order, with or without the ones that were asked for, and what is not understood is passed
over. Nothing here reads from a connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What one FETCH answer said; what it did not say has its default."""

    uid: int | None = None
    size: int = 0
    flags: tuple[str, ...] = ()
    internaldate: str = ""
    body: Iterable[bytes | bytearray] | None = None


_FETCH = re.compile(rb"\* \d{1,10} FETCH ", re.IGNORECASE)
# One way through the line finds every item, in whatever order. No number is read at any length: one of thousands of digits is
# an attack, or nonsense.
_ITEM = re.compile(
    rb"[( ](?:"
    rb"UID (?P<uid>\d{1,10})(?!\d)"
    rb"|RFC822\.SIZE (?P<size>\d{1,18})(?!\d)"
    rb"|FLAGS \((?P<flags>[^)]*)\)"
    rb'|INTERNALDATE "(?P<date>[^"]*)"'
    rb"|BODY\[(?P<section>|HEADER|TEXT)\](?:<\d+>)?"
    rb' (?P<content>\0|NIL|"(?:[^"\\]|\\.)*"))',
    re.IGNORECASE,
)


def fields(line: bytes, literals: tuple[bytes | bytearray, ...]) -> Answer | None:
    """Read `* n FETCH (...)` whose literals were taken out and replaced by NUL; None for any other line.

    A header and a text that were asked for apart are the message (RFC 3501 section 6.4.5), when neither is empty.
    """
    if not _FETCH.match(line):
        return None
    found: dict[str, bytes] = {}
    sections: dict[bytes, bytes | bytearray | None] = {}
    for item in _ITEM.finditer(line):
        name = str(item.lastgroup)
        if name == "content":
            sections.setdefault(item["section"].upper(), _content(item[name], line, item.end(), literals))
        else:
            found.setdefault(name, item[name])
    raw, header, text = (sections.get(name) for name in (b"", b"HEADER", b"TEXT"))
    if raw is None and header and text:
        raw = bytes(header + text)
    return Answer(
        uid=int(found["uid"]) if "uid" in found else None,
        size=int(found.get("size", 0)),
        flags=tuple(found.get("flags", b"").decode("latin-1").split()),
        internaldate=found.get("date", b"").decode("latin-1"),
        body=None if raw is None else (raw,),
    )


def _content(
    value: bytes, line: bytes, end: int, literals: tuple[bytes | bytearray, ...]
) -> bytes | bytearray | None:
    """A part of a message that an answer brings, as a literal or quoted, which ends at `end` of the line; None for NIL."""
    if value == b"\0":
        place = line.count(b"\0", 0, end - 1)
        # Some other NUL is the server's own.
        return literals[place] if place < len(literals) else None
    if value.startswith(b'"'):
        return re.sub(rb"\\(.)", rb"\1", value[1:-1])
    return None
