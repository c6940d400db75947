"""Cuts an mbox into its messages (RFC 4155), without copying it and without holding more than places in it.

Understood are mboxo and mboxrd, what Thunderbird writes, and CRLF line ends. A line of mboxcl2, which quotes nothing and
counts bytes instead, is taken for a new message when it looks like the beginning of one.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE_BYTES = 500
# A time and a year behind a weekday, in the orders of asctime and of RFC 5322: plain words at the beginning of a line of
# text have none.
_DATED = re.compile(
    rb"From [^\n]*?\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? (?=[^\n]{0,40}?\d?\d:\d\d)[^\n]{0,40}?\b(?:19|20)\d\d\b"
)
# Thunderbird writes the word alone; what follows has to be a header then.
_BARE = re.compile(rb"From (?:- ?)?\r?\n[!-9;-~]{1,80}:")
_QUOTED = re.compile(rb"^>(?=>*From )", re.MULTILINE)


class Slice(NamedTuple):
    """The bytes of one message: `size` of them from `start` on, without the From line and the blank line at the end."""

    start: int
    size: int


def begins_mbox(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an mbox; a few hundred of them are enough."""
    return _begins(head, 0)


def cut(octets: bytes | mmap.mmap) -> Iterator[Slice]:
    """Yield the messages of an mbox in their order; without a From line at its beginning there is none."""
    if not _begins(octets, 0):
        return
    line = 0
    while line != -1:
        end_of_line = octets.find(b"\n", line)
        start = len(octets) if end_of_line == -1 else end_of_line + 1
        # The line end before a From line belongs to the message.
        line = _next(octets, start)
        yield Slice(start, _end(octets, start, len(octets) if line == -1 else line) - start)


def unquoted(raw: bytes | memoryview) -> bytes | memoryview:
    """Take one `>` from each line that begins with any number of them and `From `, as mboxrd put it there.

    mboxo quotes only the lines that begin with `From `: those come out right as well.
    """
    return raw if _QUOTED.search(raw) is None else _QUOTED.sub(b"", raw)


def _next(octets: bytes | mmap.mmap, start: int) -> int:
    """Where the next From line begins, or -1."""
    # One byte earlier: a message may have no byte at all.
    found = octets.find(b"\nFrom ", start - 1)
    while found != -1 and not _begins(octets, found + 1):
        found = octets.find(b"\nFrom ", found + 1)
    return -1 if found == -1 else found + 1


def _begins(octets: bytes | mmap.mmap, at: int) -> bool:
    line = octets[at : at + _LINE_BYTES]
    if _DATED.match(line) is not None:
        return True
    before = octets[max(0, at - 4) : at]
    return _BARE.match(line) is not None and (not at or before.endswith((b"\n\n", b"\n\r\n")))


def _end(octets: bytes | mmap.mmap, start: int, end: int) -> int:
    """Leave the blank line out that parts a message from the next From line."""
    tail = octets[max(start, end - 4) : end]
    if tail.endswith(b"\n\r\n"):
        return end - 2
    return end - 1 if tail.endswith(b"\n\n") or tail == b"\n" else end
