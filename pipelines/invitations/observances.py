"""A zone as a calendar defines it itself (VTIMEZONE, RFC 5545 section 3.6.5), for zones that nobody else knows.

It reads what Exchange and Outlook write: observances that begin once, or each year on a certain weekday of a month. A
zone with anything else in it is not read, since a wrong time is worse than none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from pipelines.invitations.lines import Component

# An honest zone has two; some list how it was before.
OBSERVANCES = 10

_OFFSET = re.compile(r"([+-])([0-9]{2})([0-5][0-9])(?:[0-5][0-9])?")
_START = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})")
_DAY = re.compile(r"([+-]?[1-5])(MO|TU|WE|TH|FR|SA|SU)")
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_RULE_PARTS = frozenset({"FREQ", "INTERVAL", "BYMONTH", "BYDAY", "UNTIL", "WKST"})


@dataclass(frozen=True, slots=True)
class Yearly:
    """The `week`th `weekday` (0 is Monday) of a month, counted from its end if negative, up to a year."""

    month: int
    week: int
    weekday: int
    last_year: int

    def day(self, year: int) -> datetime:
        """Return that day.

        Raises:
            ValueError: The month has no such day, or there is no such year.
        """
        if self.week > 0:
            first = datetime(year, self.month, 1)  # noqa: DTZ001  A time of clocks has no zone.
            found = first + timedelta((self.weekday - first.weekday()) % 7 + 7 * (self.week - 1))
        else:
            last = datetime(year + self.month // 12, self.month % 12 + 1, 1) - timedelta(1)  # noqa: DTZ001
            found = last - timedelta((last.weekday() - self.weekday) % 7 + 7 * (-self.week - 1))
        if found.month != self.month:
            raise ValueError("no such day")
        return found


@dataclass(frozen=True, slots=True)
class Observance:
    """An offset from UTC, and the time of clocks at which it begins, once or each year."""

    offset: timedelta
    start: datetime
    rule: Yearly | None

    def begins_before(self, moment: datetime) -> datetime | None:
        """Return when it last began until `moment`, or None if it had not begun."""
        if self.rule is None:
            return self.start if self.start <= moment else None
        for year in (min(moment.year, self.rule.last_year), min(moment.year - 1, self.rule.last_year)):
            try:
                begins = datetime.combine(self.rule.day(year), self.start.time())
            except (ValueError, OverflowError):
                continue
            if self.start.year <= year and begins <= moment:
                return begins
        return None


class DefinedZone(tzinfo):
    """The zone that observances make; it answers for times of clocks and knows no names."""

    def __init__(self, observances: list[Observance]) -> None:
        self._observances = observances

    def utcoffset(self, moment: datetime | None) -> timedelta:
        """Return the offset at a time of clocks: that of the observance that began last."""
        first = min(self._observances, key=lambda observance: observance.start)
        if moment is None:
            return first.offset
        begun = [
            (begins, observance.offset)
            for observance in self._observances
            if (begins := observance.begins_before(moment.replace(tzinfo=None))) is not None
        ]
        return max(begun)[1] if begun else first.offset

    def dst(self, moment: datetime | None) -> None:
        """Return nothing: which of the observances is the summer's makes no difference."""

    def tzname(self, moment: datetime | None) -> None:
        """Return nothing: the calendar's name for the zone stands beside the time."""


def read_zone(definition: Component) -> DefinedZone | None:
    """Return the zone, or None if something in it cannot be read."""
    if not 0 < len(definition.children) <= OBSERVANCES:
        return None
    try:
        return DefinedZone([_observance(child) for child in definition.children])
    except (ValueError, OverflowError):
        return None


def _observance(component: Component) -> Observance:
    offset = _OFFSET.fullmatch(_value(component, "TZOFFSETTO"))
    start = _START.fullmatch(_value(component, "DTSTART"))
    if offset is None or start is None or component.lines.get("RDATE"):
        raise ValueError("no observance that can be read")
    size = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    if size >= timedelta(days=1):
        raise ValueError("no offset")
    begins = datetime(*map(int, start.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
    return Observance(-size if offset[1] == "-" else size, begins, _rule(_value(component, "RRULE")))


def _rule(text: str) -> Yearly | None:
    if not text:
        return None
    parts = dict(part.upper().partition("=")[::2] for part in text[:200].split(";") if part)
    day = _DAY.fullmatch(parts.get("BYDAY", ""))
    if (
        parts.get("FREQ") != "YEARLY"
        or parts.get("INTERVAL", "1") != "1"
        or day is None
        or parts.keys() - _RULE_PARTS
    ):
        raise ValueError("a rule of another kind")
    month = int(parts.get("BYMONTH", ""))
    if not 1 <= month <= 12:
        raise ValueError("no month")
    return Yearly(month, int(day[1]), _WEEKDAYS.index(day[2]), int(parts.get("UNTIL", "9999")[:4]))


def _value(component: Component, name: str) -> str:
    found = component.first(name)
    return "" if found is None else found.value
