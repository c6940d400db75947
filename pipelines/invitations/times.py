"""Times of iCalendar (RFC 5545 sections 3.3.4 to 3.3.6) and the zones they are in, as JSON.

A time keeps what was written: a day without a time, a time in no zone ("floating", the same on every clock), a time in UTC
or one in a named zone. Zones are looked up among the names of IANA, behind the prefixes of other programs, and among the
names of Windows, which Exchange writes; then the calendar's own definition counts. A time in a zone that nobody knows keeps its
zone's name and has no UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from icalendar.prop import vDDDTypes, vDuration
from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

from pipelines.charset import clean
from pipelines.invitations.lines import Component, Property
from pipelines.invitations.observances import read_zone

_WINDOWS = {name.lower(): zone for name, zone in WINDOWS_TO_OLSON.items()}
_UTC_NAMES = frozenset(
    {"utc", "gmt", "z", "etc/utc", "etc/gmt", "tzone://microsoft/utc", "greenwich mean time"}
)
_NAME = re.compile(r"[A-Za-z0-9_+./-]{1,60}")
_ZONE_CHARACTERS = 100
# Looking for a zone means looking at files.
_DIFFERENT_ZONES = 200


class Moment(NamedTuple):
    """A time that was read: `local` is a day, or a time without zone; `zone` its zone if one is known.

    `name` is the zone's name among those of IANA; `written` is the name that the calendar gives.
    """

    local: date
    zone: tzinfo | None = None
    name: str | None = None
    written: str | None = None

    @property
    def is_day(self) -> bool:
        """Whether it is a day without a time."""
        return not isinstance(self.local, datetime)

    def utc(self) -> datetime | None:
        """Return the moment in UTC, or None for a day, a floating time, or a zone nobody knows."""
        if self.zone is None or not isinstance(self.local, datetime):
            return None
        try:
            return self.local.replace(tzinfo=self.zone).astimezone(UTC)
        except (OverflowError, ValueError):
            return None

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON; `kind` is `day`, `floating`, `utc`, `zoned` or, for an unknown zone, `unknown-zone`."""
        utc = self.utc()
        if self.is_day:
            kind = "day"
        elif self.zone is UTC:
            kind = "utc"
        elif self.zone is not None:
            kind = "zoned"
        else:
            kind = "floating" if self.written is None else "unknown-zone"
        return {
            "kind": kind,
            "local": self.local.isoformat(),
            "zone": self.name,
            "zoneAsWritten": self.written,
            "utc": None if utc is None else utc.strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20),
        }


class Zones:
    """The zones of one text: those that everybody knows, and those that it defines itself."""

    def __init__(self, definitions: Iterable[Component]) -> None:
        self._defined: dict[str, Component] = {}
        for definition in definitions:
            name = definition.first("TZID")
            if name is not None:
                self._defined.setdefault(name.value.strip('"'), definition)
        self._known: dict[str, tuple[tzinfo | None, str | None]] = {}

    def find(self, written: str) -> tuple[tzinfo | None, str | None]:
        """Return the zone that a TZID means with its IANA name; None for what nobody knows."""
        if written not in self._known:
            if len(self._known) == _DIFFERENT_ZONES:
                return None, None
            self._known[written] = self._find(written)
        return self._known[written]

    def _find(self, written: str) -> tuple[tzinfo | None, str | None]:
        definition = self._defined.get(written)
        names = [written]
        if definition is not None:
            names += [found.value for found in definition.properties("X-LIC-LOCATION")][:1]
        for name in names:
            zone = _look_up(name)
            if zone is not None:
                return zone, "Etc/UTC" if zone is UTC else str(zone)
        return (None if definition is None else read_zone(definition)), None


def read_moment(found: Property, zones: Zones) -> Moment:
    """Read the value of a property like DTSTART.

    Raises:
        ValueError: The value is no day and no time.
    """
    value = _read(found.value)
    if not isinstance(value, datetime):
        return Moment(value)
    if value.tzinfo is not None:
        return Moment(value.replace(tzinfo=None), UTC, "Etc/UTC")
    written = clean(found.parameters.get("TZID", ""))[:_ZONE_CHARACTERS]
    if not written:
        return Moment(value)
    zone, name = zones.find(written)
    return Moment(value, zone, name, written)


def read_duration(text: str) -> timedelta:
    """Read a DURATION (RFC 5545 section 3.3.6).

    Raises:
        ValueError: The value is no duration.
    """
    try:
        found: timedelta = vDuration.from_ical(text[:100])  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError("no duration") from error
    return found


def _read(text: str) -> date:
    try:
        found: object = vDDDTypes.from_ical(text[:100])  # type: ignore[no-untyped-call]
    except Exception as error:
        # The library documents ValueError; whatever it raises, the value is none.
        raise ValueError("neither a day nor a time") from error
    if isinstance(found, date):
        return found
    raise ValueError("neither a day nor a time")


def _look_up(name: str) -> tzinfo | None:
    name = name.strip()
    if name.lower() in _UTC_NAMES:
        return UTC
    windows = _WINDOWS.get(name.lower())
    if windows is not None:
        return ZoneInfo(windows)
    if _NAME.fullmatch(name) is None:
        return None
    words = name.strip("/").split("/")
    # Other programs put a prefix before the name: /mozilla.org/20050126_1/Europe/Berlin, or with three words
    # America/Indiana/Knox. One word is a name only if it stands alone.
    for count in range(min(3, len(words)), min(1, len(words) - 1), -1):
        key = "/".join(words[-count:])
        try:
            # What the machine calls its own time is no name.
            return None if key in {"localtime", "posixrules"} else ZoneInfo(key)
        except (ValueError, OSError, LookupError):
            continue
    return None
