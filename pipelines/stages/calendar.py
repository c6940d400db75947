"""Reads invitations (iCalendar, RFC 5545, and what RFC 5546 does with it) as data.

It reads parts of type text/calendar and files that are called .ics, and finds `{"events": […], "problems": […]}`. An event
that stands in several parts, as most do, is one event. What cannot be read is null and noted as a problem. The stage answers
nobody, works out no recurrences, and changes nothing else of the message.
"""

from __future__ import annotations

from typing import ClassVar

from pipelines import charset
from pipelines.invitations.event import EventReader
from pipelines.invitations.lines import read
from pipelines.invitations.times import Zones
from pipelines.message import Message
from pipelines.part import Part
from pipelines.stage import Stage

TYPES = frozenset({"text/calendar", "application/ics", "application/calendar", "text/x-vcalendar"})

# How much is read of one message: parts, bytes in all, events, problems.
PARTS = 20
BYTES = 1 << 20
EVENTS = 100
PROBLEMS = 50


class CalendarStage(Stage):
    """Adds the events of a message's invitations."""

    type_name: ClassVar[str] = "calendar"

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        events: list[dict[str, object]] = []
        problems: list[dict[str, object]] = []
        left = BYTES
        parts = calendar_parts(message)
        for part in parts[:PARTS]:
            text, size, is_whole = beginning(part, left)
            left -= size
            calendars = read(text, most_events=EVENTS - len(events))
            words = ([] if is_whole else ["too-large"]) + list(calendars.problems)
            problems += [problem(word, part) for word in words]
            zones = Zones(calendars.zones)
            for component in calendars.events:
                component.method = component.method or declared_method(part)
                reader = EventReader(component, zones)
                number = add(events, reader.read(), str(part.part_id))
                problems += [problem(word, part, event=number) for word in reader.problems]
        if len(parts) > PARTS:
            problems.insert(0, problem("too-many-parts", parts[PARTS]))
        return message.with_findings(self.name, {"events": events, "problems": problems[:PROBLEMS]})


def calendar_parts(message: Message) -> list[Part]:
    """Return the parts that hold a calendar, those that other stages unpacked among them."""
    parts = {part.part_id: part for part in (*message.structure.walk(), *message.attachments)}
    return [
        part
        for part in parts.values()
        if part.sub_parts is None and (part.type in TYPES or (part.name or "").lower().endswith(".ics"))
    ]


def declared_method(part: Part) -> str | None:
    """Return the method in the Content-Type of a part (RFC 6047 section 2.4), for calendars that do not say it."""
    content_type = part.headers.parameterized("Content-Type")
    method = None if content_type is None else content_type.parameters.get("method")
    return None if method is None else charset.clean(method).strip().upper()[:40] or None


def beginning(part: Part, most: int) -> tuple[str, int, bool]:
    """Return up to `most` bytes of a part as text, how many bytes these were, and whether that is the whole."""
    pieces: list[bytes] = []
    size = 0
    for chunk in part.chunks():
        pieces.append(chunk[: most + 1 - size])
        size += len(pieces[-1])
        if size > most:
            break
    data = b"".join(pieces)[:most]
    # RFC 5545 section 3.1.4: UTF-8, unless the part says otherwise.
    decoded = charset.decode(data, part.declared_charset(), partial=size > most)
    return decoded.text, len(data), size <= most


def problem(word: str, part: Part, *, event: int | None = None) -> dict[str, object]:
    """Return a problem; `event` is the place in `events` of the one that it is about, from 0, null for the whole part."""
    return {"problem": word, "partId": part.part_id, "event": event}


def add(events: list[dict[str, object]], event: dict[str, object], part_id: str) -> int:
    """Add an event, or to the same one of another part this part too; return its place in `events`."""
    for place, known in enumerate(events):
        part_ids = known["partIds"]
        if known["uid"] == event["uid"] and known == {"partIds": part_ids, **event}:
            assert isinstance(part_ids, list)
            if part_id not in part_ids:
                part_ids.append(part_id)
            return place
    events.append({"partIds": [part_id], **event})
    return len(events) - 1
