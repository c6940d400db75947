"""How IMAP spells folder names, strings and dates, for sources and outputs alike: pure functions."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta, timezone

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_INTERNALDATE = re.compile(r"(\d{1,2})-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_SHIFTED = re.compile(r"&([^-]*)-")


def is_quotable(text: str) -> bool:
    """Whether a quoted string can hold a text wherever it stands (RFC 3501 section 4.3: 7-bit, no line ends)."""
    return text.isascii() and not any(letter in text for letter in "\r\n\0")


def quoted(text: str) -> str:
    """A quoted string (RFC 3501 section 4.3) of a text that is quotable."""
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


def date_time(moment: datetime) -> str:
    """A moment (aware) as APPEND and INTERNALDATE have it (RFC 3501), in UTC, such as ` 1-Feb-2026 08:08:07 +0000`."""
    utc = moment.astimezone(UTC)
    return f"{utc.day:2d}-{MONTHS[utc.month - 1]}-{utc.year:04d} {utc:%H:%M:%S} +0000"


def instant(text: str) -> datetime | None:
    """An INTERNALDATE such as ` 1-Feb-2026 09:08:07 +0100` (RFC 3501 date-time), or None when it is none."""
    found = _INTERNALDATE.fullmatch(text.strip())
    if not found:
        return None
    day, month, year, hour, minute, second, sign, hours, minutes = found.groups()
    try:
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
        return datetime(
            int(year), MONTHS.index(month.title()) + 1, int(day),
            int(hour), int(minute), int(second), tzinfo=timezone(offset),
        )  # fmt: skip
    except ValueError:
        return None
