"""How IMAP spells strings, folder names, sets of uids, and dates (RFC 3501): pure functions in both directions."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, timezone

from worker.errors import Misconfigured

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_INTERNALDATE = re.compile(r"(\d{1,2})-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_SHIFTED = re.compile(r"&([^-]*)-")
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


def mutf7(name: str) -> str:
    """A folder's name in IMAP's modified UTF-7 (RFC 3501 section 5.1.3)."""
    parts: list[str] = []
    for run in re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]+", name):
        if run.isascii() and run.isprintable():
            parts.append(run.replace("&", "&-"))
        else:
            text = base64.b64encode(run.encode("utf-16-be")).decode().rstrip("=").replace("/", ",")
            parts.append(f"&{text}-")
    return "".join(parts)


def from_mutf7(name: str) -> str:
    """What a name in modified UTF-7 says; one that is none, as careless servers send, is taken by the letter."""
    try:
        return _SHIFTED.sub(_unshifted, name)
    except ValueError:
        return name


def _unshifted(run: re.Match[str]) -> str:
    if run[1] == "":
        return "&"
    octets = base64.b64decode(run[1] + "=" * (-len(run[1]) % 4), altchars=b"+,", validate=True)
    return octets.decode("utf-16-be")


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
    return f"{moment.day}-{_MONTHS[moment.month - 1]}-{moment.year}"


def instant(text: str) -> datetime | None:
    """An INTERNALDATE such as ` 1-Feb-2026 09:08:07 +0100` (RFC 3501 date-time), or None when it is none."""
    found = _INTERNALDATE.fullmatch(text.strip())
    if not found:
        return None
    day, month, year, hour, minute, second, sign, hours, minutes = found.groups()
    try:
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
        return datetime(
            int(year), _MONTHS.index(month.title()) + 1, int(day),
            int(hour), int(minute), int(second), tzinfo=timezone(offset),
        )  # fmt: skip
    except ValueError:
        return None


def _ranges(uids: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for index in range(1, len(uids) + 1):
        if index == len(uids) or uids[index] > uids[index - 1] + 1:
            yield uids[start], uids[index - 1]
            start = index
