"""iCalendar text cut into calendars, events and zones (RFC 5545 sections 3.1, 3.4 and 3.6), before anything is understood.

Any text can be cut: a component without an end goes on until another begins or the text ends, and a line that is no
content line is skipped; both are noted. Alarms and all other components within an event are left out. Lines are split more
leniently than the `icalendar` library does, which refuses what Outlook and others write: a quote within a name, or a
colon or comma in a parameter without quotes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

# Lines that are looked at in one text, and characters of one line.
LINES = 50_000
LINE_CHARACTERS = 64 << 10

_FOLD = re.compile(r"\n[ \t]")
_NAME = re.compile(r"[ \t]*+([A-Za-z0-9-]{1,60}+)[ \t]*+(?=[;:])")
_UP_TO_VALUE = re.compile(r"(?:[^\":]++|\"[^\"]*+\")*+(?=:)")
# Where a value has a form of its own, it is found from the end of the line, whatever stands in the parameters.
_VALUES_WITH_FORM = re.compile(
    r":[ \t]*+((?:mailto:)?+[^\s:;,\"@]{1,100}+@[^\s:;,\"@]{1,255}+|[0-9]{8}(?:T[0-9]{6}Z?)?+)[ \t]*+$",
    re.IGNORECASE,
)
_HAVE_FORM = frozenset({"ATTENDEE", "ORGANIZER", "DTSTART", "DTEND", "RECURRENCE-ID"})
_LONGEST_VALUE_WITH_FORM = 400
_PARAMETER = re.compile(r";[ \t]*+([A-Za-z0-9-]{1,60}+)[ \t]*+=((?:\"[^\"]*+\"|[^;\"]++|\")*+)")
# RFC 6868: what cannot stand in a quoted parameter.
_CARET = re.compile(r"\^([n'^])")
_CARETS = {"n": "\n", "'": '"', "^": "^"}


@dataclass(frozen=True, slots=True)
class Property:
    """A content line: its parameters by name in upper case, and its value, still escaped."""

    parameters: dict[str, str]
    value: str


@dataclass(slots=True)
class Component:
    """The lines of one component by the name of their property, in upper case; `method` is its calendar's.

    `children` are the observances of a zone.
    """

    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    method: str | None = None
    children: list[Component] = field(default_factory=list)

    def properties(self, name: str) -> Iterator[Property]:
        """Yield every property of that name in its order."""
        for line in self.lines.get(name, ()):
            yield split(name, line)

    def first(self, name: str) -> Property | None:
        """Return the first property of that name, or None."""
        return next(self.properties(name), None)


@dataclass(slots=True)
class Calendars:
    """What one text holds: events, zones, and the words for what is wrong with it."""

    events: list[Component] = field(default_factory=list)
    zones: list[Component] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)


def read(text: str, *, most_events: int) -> Calendars:
    """Cut a text that holds one calendar or several, up to `most_events` events; never raises."""
    cutter = _Cutter(most_events)
    lines = _FOLD.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    for line in lines[:LINES]:
        cutter.take(line[:LINE_CHARACTERS])
    if len(lines) > LINES:
        cutter.found.problems["too-many-lines"] = None
    if cutter.open:
        cutter.found.problems["end-missing"] = None
    if not cutter.found.events:
        cutter.found.problems["no-event"] = None
    return cutter.found


class _Cutter:
    """Takes line after line and knows in which component it is."""

    def __init__(self, most_events: int) -> None:
        self.found = Calendars()
        self.open = False
        self._most_events = most_events
        self._method: str | None = None
        self._current: Component | None = None
        self._zone: Component | None = None
        # The component whose lines are left out, such as an alarm or a task.
        self._left_out = ""
        self._calendar_begins_at = 0

    def take(self, line: str) -> None:
        match = _NAME.match(line)
        if match is None:
            if self.open and line.strip():
                self.found.problems["line-unreadable"] = None
            return
        name, rest = match[1].upper(), line[match.end() :]
        if name == "BEGIN":
            self._begin(rest[1:].strip().upper())
        elif name == "END":
            self._end(rest[1:].strip().upper())
        elif self._left_out:
            return
        elif self._current is not None:
            self._current.lines[name].append(rest)
        elif name == "METHOD":
            self._method = rest.rpartition(":")[2].strip().upper()[:40] or None
            # It should stand before the events and counts for all of them.
            for event in self.found.events[self._calendar_begins_at :]:
                event.method = self._method

    def _begin(self, component: str) -> None:
        if component == "VCALENDAR":
            self._note_open(self.open)
            self.open, self._method, self._current, self._zone, self._left_out = True, None, None, None, ""
            self._calendar_begins_at = len(self.found.events)
        elif component in {"VEVENT", "VTIMEZONE"}:
            self._note_open(self._current is not None)
            self._left_out = ""
            self._current = Component(method=self._method)
            self._zone = self._current if component == "VTIMEZONE" else None
            self.open = True
            if component == "VTIMEZONE":
                self.found.zones.append(self._current)
            elif len(self.found.events) < self._most_events:
                self.found.events.append(self._current)
            else:
                self.found.problems["too-many-events"] = None
        elif component in {"STANDARD", "DAYLIGHT"} and self._zone is not None:
            self._current = Component()
            self._zone.children.append(self._current)
        else:
            self._left_out = self._left_out or component

    def _end(self, component: str) -> None:
        if component == "VCALENDAR":
            self._note_open(self._current is not None)
            self.open, self._current, self._zone, self._left_out = False, None, None, ""
        elif component in {"VEVENT", "VTIMEZONE"}:
            self._current, self._zone, self._left_out = None, None, ""
        elif component in {"STANDARD", "DAYLIGHT"} and self._zone is not None:
            self._current = self._zone
        elif component == self._left_out:
            self._left_out = ""

    def _note_open(self, is_open: bool) -> None:
        if is_open:
            self.found.problems["end-missing"] = None


def split(name: str, line: str) -> Property:
    """Split what follows a property's name into parameters and value."""
    with_form = None
    if name in _HAVE_FORM:
        begins = max(0, len(line) - _LONGEST_VALUE_WITH_FORM)
        with_form = _VALUES_WITH_FORM.search(line, begins)
    if with_form is not None:
        end, value = with_form.start(), with_form[1]
    else:
        up_to_value = _UP_TO_VALUE.match(line)
        end = len(line.partition(":")[0]) if up_to_value is None else up_to_value.end()
        value = line[end + 1 :].strip()
    parameters: dict[str, str] = {}
    for found in _PARAMETER.finditer(line, 0, end):
        text = _CARET.sub(lambda caret: _CARETS[caret[1]], found[2].replace('"', "")).strip()
        if text:
            parameters.setdefault(found[1].upper(), text)
    return Property(parameters, value)
