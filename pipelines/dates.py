"""Dates of headers (RFC 5322 section 3.3), and what else mail has in their place.

Python's `email` package reads them, since it knows the obsolete forms too; ISO 8601 is added. No input raises.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_tz

from pipelines.comments import without_comments

_ISO8601 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
# Obsolete white space within the time (RFC 5322 section 4.3).
_LOOSE_COLON = re.compile(r"\s*+:\s*+")
# What stands in the place of a zone such as +0200: +02:00, +02, GMT+0200, EDT-0400.
_LOOSE_ZONE = re.compile(r"(?:\s[A-Z]{2,4}|(?<=[\d\s]))([+-]\d\d):?(\d\d)?$", re.IGNORECASE)
# Twelve hours: 4:44:14 PM.
_HALF_OF_DAY = re.compile(r"\b(0?[1-9]|1[0-2])(:\d\d(?::\d\d)?)\s?([AP])\.?M\b\.?", re.IGNORECASE)
# A month as a number, in the order of RFC 5322: 17-6-2008.
_NUMBER_OF_MONTH = re.compile(r"^(\d{1,2})[-.\s]++(\d{1,2})[-.\s]++(?=(?:\d{4}|\d\d)\s++\d{1,2}:)")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
# A day without a time of day, or with one that is none, such as 25:00:00.
_DAY = re.compile(
    r"(?P<day>(?:[a-z]{3,9},?\s+)?(?:\d{1,2}[ -][a-z]{3,9}[ -]\d{4}|[a-z]{3,9}\s\d{1,2},?\s\d{4}|\d{4}\s[a-z]{3,9}\s\d{1,2}))"
    r"(?:\s+[\d:]{1,9}(?P<zone>\s\S+)?)?",
    re.IGNORECASE,
)
# Zones by name that RFC 5322 does not have and that mean one thing only.
_ZONES = {"JST": "+0900", "EST5EDT": "-0500", "CST6CDT": "-0600", "MST7MDT": "-0700", "PST8PDT": "-0800"}
_DAY_SECONDS = 86_400
_LONGEST = 2_000


def parse_date(text: str) -> datetime | None:
    """Return an aware moment in the zone that the header names, or None if nobody can read it.

    A missing, unknown or impossible zone (`-0000`, RFC 5322 section 3.3) counts as UTC, and so does a missing or
    impossible time of day as midnight. ISO 8601 is accepted too, and a date behind a semicolon, as in Received.
    """
    text = without_comments(text[:_LONGEST], " ").strip(" \t;").rpartition(";")[2].strip()
    text = _HALF_OF_DAY.sub(_of_whole_day, _LOOSE_COLON.sub(":", text[:200]))
    text = _NUMBER_OF_MONTH.sub(_with_name_of_month, text)
    day = _DAY.fullmatch(text)
    return _read(text) or (_read(f"{day['day']} 00:00:00{day['zone'] or ''}") if day is not None else None)


def to_json(moment: datetime) -> str:
    """Write a moment as RFC 8621's Date (section 4.1.2.6): whole seconds with its zone, Z for UTC."""
    text = moment.isoformat(timespec="seconds")
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def _read(text: str) -> datetime | None:
    try:
        return _from_rfc5322(text) or _from_iso8601(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _with_name_of_month(date: re.Match[str]) -> str:
    month = int(date[2])
    return f"{date[1]} {_MONTHS[month - 1]} " if 1 <= month <= len(_MONTHS) else date[0]


def _of_whole_day(time: re.Match[str]) -> str:
    return f"{int(time[1]) % 12 + 12 * (time[3] in 'pP'):02}{time[2]}"


def _from_rfc5322(text: str) -> datetime | None:
    before, _, zone = text.rpartition(" ")
    if zone.upper() in _ZONES:
        text = f"{before} {_ZONES[zone.upper()]}"
    fields = parsedate_tz(_LOOSE_ZONE.sub(lambda zone: f" {zone[1]}{zone[2] or '00'}", text))
    if fields is None:
        return None
    year, month, day, hour, minute, second = fields[:6]
    if year < 1000 or (year >= 2050 and str(year) not in text):
        # Three digits count from 1900, and two from 50 on are of the last century (RFC 5322 section 4.3).
        year += 1900 if year < 1000 else -100
    moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    offset = fields[9] or 0
    return (
        moment.replace(tzinfo=timezone(timedelta(seconds=offset))) if abs(offset) < _DAY_SECONDS else moment
    )


def _from_iso8601(text: str) -> datetime | None:
    if _ISO8601.match(text) is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
