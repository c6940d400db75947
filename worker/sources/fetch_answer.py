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
_BODY = re.compile(rb'BODY\[\](?:<\d+>)? (\0|NIL|"(?:[^"\\]|\\.)*")', re.IGNORECASE)


def fields(line: bytes, literals: tuple[bytes | bytearray, ...]) -> Answer | None:
    """Read `* n FETCH (...)` whose literals were taken out and replaced by NUL; None for any other line."""
    if not re.match(rb"\* \d+ FETCH ", line, re.IGNORECASE):
        return None
    uid, size = _UID.search(line), _SIZE.search(line)
    flags, received, body = _FLAGS.search(line), _DATE.search(line), _BODY.search(line)
    raw: Iterable[bytes | bytearray] | None = None
    if body and body.group(1) == b"\0":
        raw = (literals[line.count(b"\0", 0, body.start(1))],)
    elif body and body.group(1).startswith(b'"'):
        raw = (re.sub(rb"\\(.)", rb"\1", body.group(1)[1:-1]),)
    return Answer(
        uid=int(uid.group(1)) if uid else None,
        size=int(size.group(1)) if size else 0,
        flags=tuple(flags.group(1).decode("latin-1").split()) if flags else (),
        internaldate=received.group(1).decode("latin-1") if received else "",
        body=raw,
    )
