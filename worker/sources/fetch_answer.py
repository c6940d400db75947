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


_UID = re.compile(rb"[( ]UID (\d+)", re.IGNORECASE)
_SIZE = re.compile(rb"RFC822\.SIZE (\d+)", re.IGNORECASE)
_FLAGS = re.compile(rb"FLAGS \(([^)]*)\)", re.IGNORECASE)
_DATE = re.compile(rb'INTERNALDATE "([^"]*)"', re.IGNORECASE)
_SECTION = rb'BODY\[%s\](?:<\d+>)? (\0|NIL|"(?:[^"\\]|\\.)*")'
_BODY, _HEADER, _TEXT = (re.compile(_SECTION % name, re.IGNORECASE) for name in (b"", b"HEADER", b"TEXT"))


def fields(line: bytes, literals: tuple[bytes | bytearray, ...]) -> Answer | None:
    """Read `* n FETCH (...)` whose literals were taken out and replaced by NUL; None for any other line.

    A header and a text that were asked for apart are the message (RFC 3501 section 6.4.5), when neither is empty.
    """
    if not re.match(rb"\* \d+ FETCH ", line, re.IGNORECASE):
        return None
    uid, size = _UID.search(line), _SIZE.search(line)
    flags, received = _FLAGS.search(line), _DATE.search(line)
    raw = _section(_BODY, line, literals)
    header, text = (_section(section, line, literals) for section in (_HEADER, _TEXT))
    if raw is None and header and text:
        raw = bytes(header + text)
    return Answer(
        uid=int(uid.group(1)) if uid else None,
        size=int(size.group(1)) if size else 0,
        flags=tuple(flags.group(1).decode("latin-1").split()) if flags else (),
        internaldate=received.group(1).decode("latin-1") if received else "",
        body=None if raw is None else (raw,),
    )


def _section(
    section: re.Pattern[bytes], line: bytes, literals: tuple[bytes | bytearray, ...]
) -> bytes | bytearray | None:
    """A part of a message that an answer brings, as a literal or quoted; None for NIL, or when it is not there."""
    found = section.search(line)
    if found and found.group(1) == b"\0":
        return literals[line.count(b"\0", 0, found.start(1))]
    if found and found.group(1).startswith(b'"'):
        return re.sub(rb"\\(.)", rb"\1", found.group(1)[1:-1])
    return None
