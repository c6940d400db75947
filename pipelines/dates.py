"""Dates of headers (RFC 5322 section 3.3), and what else mail has in their place.

Python's `email` package reads them, since it knows the obsolete forms too; ISO 8601 is added. No input raises.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_tz

_ISO8601 = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_COMMENT = re.compile(r"\([^()]*+\)")


def parse_date(text: str) -> datetime | None:
    """Return an aware moment in the zone that the header names, or None if nobody can read it.

    A missing or unknown zone (`-0000`, RFC 5322 section 3.3) counts as UTC. ISO 8601 is accepted too.
    """
    text = _COMMENT.sub(" ", text[:200]).strip()
    try:
        return _from_rfc5322(text) or _from_iso8601(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _from_rfc5322(text: str) -> datetime | None:
    fields = parsedate_tz(text)
    if fields is None:
        return None
    year, month, day, hour, minute, second = fields[:6]
    moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    return moment.replace(tzinfo=timezone(timedelta(seconds=fields[9]))) if fields[9] else moment


def _from_iso8601(text: str) -> datetime | None:
    if _ISO8601.match(text) is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
