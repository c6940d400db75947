"""How a source spells strings, sets of uids, and days to an IMAP server (RFC 3501): what `pipelines.imap_text` has not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from pipelines.imap_text import MONTHS
from worker.errors import Misconfigured

_LONGEST_SET = 7_000
"""Octets of uids in one command; servers have to take lines of 8192 (RFC 7162 section 4)."""


def quoted(text: str) -> str:
    """A quoted string (RFC 3501 section 4.3).

    Raises:
        Misconfigured: it holds what no quoted string can.
    """
    if any(letter in text for letter in "\r\n\0"):
        raise Misconfigured("a name or password with a line break cannot be sent to an IMAP server")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def uid_sets(uids: Iterable[int]) -> Iterator[str]:
    """Uids as sequence sets with ranges, ascending, each short enough for one command."""
    parts: list[str] = []
    length = 0
    for first, last in _ranges(sorted(uids)):
        part = str(first) if first == last else f"{first}:{last}"
        if parts and length + len(part) >= _LONGEST_SET:
            yield ",".join(parts)
            parts, length = [], 0
        parts.append(part)
        length += len(part) + 1
    if parts:
        yield ",".join(parts)


def day(moment: date) -> str:
    """A day as SEARCH wants it, such as `1-Feb-2026`."""
    return f"{moment.day}-{MONTHS[moment.month - 1]}-{moment.year}"


def _ranges(uids: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for index in range(1, len(uids) + 1):
        if index == len(uids) or uids[index] > uids[index - 1] + 1:
            yield uids[start], uids[index - 1]
            start = index
