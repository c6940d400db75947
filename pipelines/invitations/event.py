"""One event of a calendar (RFC 5545 section 3.6.1) as JSON, every text bounded; what cannot be read is null and noted.

Words of the standard, such as ACCEPTED and REQ-PARTICIPANT, are kept in upper case, and its defaults are filled in.
Recurrences are told as the rule says them and not worked out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import islice

from icalendar.prop import vRecur

from pipelines.charset import clean
from pipelines.invitations.conference import find_conference
from pipelines.invitations.lines import Component, Property
from pipelines.invitations.times import Moment, Zones, read_duration, read_moment

DESCRIPTION_CHARACTERS = 16_000
TEXT_CHARACTERS = 1_000
ATTENDEES = 500
DATES = 100

_ESCAPED = re.compile(r"\\([nN\\;,:\"])")
_CONFERENCE_PROPERTIES = (
    "CONFERENCE",
    "X-MICROSOFT-SKYPETEAMSMEETINGURL",
    "X-MICROSOFT-ONLINEMEETINGCONFLINK",
    "X-GOOGLE-CONFERENCE",
)
_RULE_KEYS = {
    "BYSECOND": "bySecond",
    "BYMINUTE": "byMinute",
    "BYHOUR": "byHour",
    "BYDAY": "byDay",
    "BYMONTHDAY": "byMonthDay",
    "BYYEARDAY": "byYearDay",
    "BYWEEKNO": "byWeekNo",
    "BYMONTH": "byMonth",
    "BYSETPOS": "bySetPos",
    "WKST": "weekStart",
}


class EventReader:
    """Reads one event; `problems` are words like `start-unreadable`, in the order in which they were met."""

    def __init__(self, component: Component, zones: Zones) -> None:
        self.problems: dict[str, None] = {}
        self._component = component
        self._zones = zones

    def read(self) -> dict[str, object]:
        """Return the event as JSON; never raises."""
        start, end = self._moment("DTSTART", "start"), self._moment("DTEND", "end")
        duration = self._duration()
        if end is None and start is not None:
            end = _after(start, duration)
        if start is None and not self._component.lines.get("DTSTART"):
            self.problems["start-missing"] = None
        uid = self._text("UID")
        if uid is None:
            self.problems["uid-missing"] = None
        description = self._text("DESCRIPTION", DESCRIPTION_CHARACTERS + 1) or ""
        recurrence = self._moment("RECURRENCE-ID", "recurrence-id")
        all_day = self._word("X-MICROSOFT-CDO-ALLDAYEVENT") == "TRUE" or (start is not None and start.is_day)
        return {
            "method": self._component.method,
            "uid": uid,
            "sequence": self._sequence(),
            "recurrenceId": _moment_json(recurrence),
            "status": self._word("STATUS"),
            "summary": self._text("SUMMARY"),
            "description": description[:DESCRIPTION_CHARACTERS] or None,
            "isDescriptionTruncated": len(description) > DESCRIPTION_CHARACTERS,
            "location": self._text("LOCATION"),
            "start": _moment_json(start),
            "end": _moment_json(end),
            "isAllDay": all_day,
            "durationSeconds": self._seconds(start, end, duration),
            "recurrenceRule": self._rule(),
            "excludedDates": list(self._dates("EXDATE")),
            "additionalDates": list(self._dates("RDATE")),
            "organizer": next(self._people("ORGANIZER"), None),
            "attendees": self._attendees(),
            "url": self._text("URL"),
            "conference": self._conference(description),
        }

    def _text(self, name: str, most: int = TEXT_CHARACTERS) -> str | None:
        found = self._component.first(name)
        return None if found is None else _unescaped(found.value)[:most].strip() or None

    def _word(self, name: str) -> str | None:
        text = self._text(name, 60)
        return None if text is None else text.upper()

    def _sequence(self) -> int:
        text = self._text("SEQUENCE", 10) or "0"
        if text.isascii() and text.isdigit():
            return int(text)
        self.problems["sequence-unreadable"] = None
        return 0

    def _moment(self, name: str, called: str) -> Moment | None:
        found = self._component.first(name)
        if found is None:
            return None
        try:
            moment = read_moment(found, self._zones)
        except ValueError:
            self.problems[f"{called}-unreadable"] = None
            return None
        if moment.written is not None and moment.zone is None:
            self.problems["zone-unknown"] = None
        return moment

    def _duration(self) -> timedelta | None:
        found = self._component.first("DURATION")
        if found is None:
            return None
        try:
            return read_duration(found.value)
        except ValueError:
            self.problems["duration-unreadable"] = None
            return None

    def _seconds(self, start: Moment | None, end: Moment | None, duration: timedelta | None) -> int | None:
        took = _between(start, end)
        took = duration if took is None else took
        if took is not None and took < timedelta(0):
            self.problems["ends-before-start"] = None
        return None if took is None else int(took.total_seconds())

    def _rule(self) -> dict[str, object] | None:
        """Return the text of the RRULE, and its parts as `{"freq": "WEEKLY", "byDay": ["MO"]}`, null if unreadable."""
        found = self._component.first("RRULE")
        if found is None:
            return None
        text = found.value[:TEXT_CHARACTERS]
        try:
            parts = vRecur.from_ical(text if text == found.value else "")
            data = {_key(name): _rule_value(name, values) for name, values in parts.items()}
        except Exception:
            # The library raises more than it documents; whatever it was, the rule cannot be read.
            data = {}
        if "freq" not in data:
            self.problems["rule-unreadable"] = None
        return {"text": clean(text), "parts": data if "freq" in data else None}

    def _dates(self, name: str) -> Iterator[object]:
        values = (
            Property(found.parameters, value.strip())
            for found in self._component.properties(name)
            for value in found.value.split(",")
        )
        for value in islice(values, DATES):
            try:
                yield read_moment(value, self._zones).to_dict()
            except ValueError:
                self.problems[f"{name.lower()}-unreadable"] = None

    def _attendees(self) -> list[dict[str, object]]:
        if len(self._component.lines.get("ATTENDEE", ())) > ATTENDEES:
            self.problems["too-many-attendees"] = None
        return [
            person
            | {
                "participation": _parameter(found, "PARTSTAT", "NEEDS-ACTION"),
                "role": _parameter(found, "ROLE", "REQ-PARTICIPANT"),
                "kind": _parameter(found, "CUTYPE", "INDIVIDUAL"),
                "isReplyExpected": _parameter(found, "RSVP", "FALSE") == "TRUE",
                "delegatedTo": _addresses(found.parameters.get("DELEGATED-TO", "")),
                "delegatedFrom": _addresses(found.parameters.get("DELEGATED-FROM", "")),
            }
            for found, person in islice(
                zip(self._component.properties("ATTENDEE"), self._people("ATTENDEE"), strict=True), ATTENDEES
            )
        ]

    def _people(self, name: str) -> Iterator[dict[str, object]]:
        for found in self._component.properties(name):
            email = _address(found.value) or _address(found.parameters.get("EMAIL", ""))
            common_name = clean(found.parameters.get("CN", ""))[:TEXT_CHARACTERS]
            sent_by = _address(found.parameters.get("SENT-BY", ""))
            yield {"name": common_name or None, "email": email, "sentBy": sent_by}

    def _conference(self, description: str) -> dict[str, str] | None:
        declared = [
            _unescaped(found.value)
            for name in _CONFERENCE_PROPERTIES
            for found in islice(self._component.properties(name), 3)
        ]
        texts = (self._text(name, 4 * TEXT_CHARACTERS) or "" for name in ("URL", "LOCATION"))
        found = find_conference(declared, (*texts, description))
        return None if found is None else {key: clean(value) for key, value in found.items()}


def _unescaped(value: str) -> str:
    """Undo the escapes of a TEXT (RFC 5545 section 3.3.11)."""
    return clean(_ESCAPED.sub(lambda match: "\n" if match[1] in "nN" else match[1], value))


def _parameter(found: Property, name: str, default: str) -> str:
    return clean(found.parameters.get(name, default))[:60].upper() or default


def _address(text: str) -> str | None:
    """Return the address of a `mailto:` URI, also of one that lost its scheme."""
    scheme, _, rest = text.strip(" \t<>").partition(":")
    address = rest if scheme.lower() == "mailto" else text
    address = clean(address.strip(" \t<>"))[:TEXT_CHARACTERS]
    return address if "@" in address else None


def _addresses(text: str) -> list[str]:
    return list(filter(None, map(_address, text.split(",")[:20])))


def _moment_json(moment: Moment | None) -> dict[str, object] | None:
    return None if moment is None else moment.to_dict()


def _after(start: Moment, duration: timedelta | None) -> Moment | None:
    """Return when an event without DTEND ends (RFC 5545 section 3.6.1): a day lasts a day, a time takes none."""
    if duration is None:
        duration = timedelta(days=1 if start.is_day else 0)
    try:
        return start._replace(local=start.local + duration)
    except OverflowError:
        return None


def _between(start: Moment | None, end: Moment | None) -> timedelta | None:
    """Return how long it takes from start to end; without zones, what their clocks say."""
    if start is None or end is None or start.is_day != end.is_day:
        return None
    first, last = start.utc(), end.utc()
    if first is not None and last is not None:
        return last - first
    return end.local - start.local if start.written == end.written else None


def _key(name: str) -> str:
    """Return the name of a rule's part as JSON has it: BYMONTHDAY is byMonthDay, WKST is weekStart, COUNT is count."""
    return _RULE_KEYS.get(name.upper(), name.lower())


def _rule_value(name: str, values: object) -> object:
    """A BY… part is a list; of the others each has one value."""
    items = list(values) if isinstance(values, (list, tuple)) else [values]
    plain = [_plain(item) for item in items]
    return plain if name.upper().startswith("BY") else plain[0]


def _plain(item: object) -> object:
    if isinstance(item, datetime):
        return item.strftime("%Y-%m-%dT%H:%M:%S").zfill(19) + ("Z" if item.tzinfo is not None else "")
    if isinstance(item, date):
        return item.isoformat()
    return int(item) if isinstance(item, int) else clean(str(item))
