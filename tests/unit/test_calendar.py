"""The calendar stage tells what an invitation says: who, when in which zone, where, and what is wrong with it."""

from __future__ import annotations

import sys
import time
from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.invitations.observances import Yearly
from pipelines.parse import parse
from pipelines.registry import MissingExtra, load_stage
from pipelines.stage import StageOptions
from pipelines.stages.calendar import CalendarStage
from tests.bed.patience import BUSY

START = "DTSTART:20261123T100000Z"


def calendar(*lines: str, method: str = "REQUEST", zones: str = "") -> str:
    """One event of these lines in a calendar."""
    event = ["BEGIN:VEVENT", "UID:u@example.org", *lines, "END:VEVENT"]
    return "\r\n".join(
        [
            "BEGIN:VCALENDAR",
            "VERSION:2.0",
            f"METHOD:{method}",
            *zones.split("\n"),
            *event,
            "END:VCALENDAR",
            "",
        ]
    )


def found_in(raw: bytes) -> Any:
    """What the stage finds in a message, as a downstream system reads it."""
    changed = CalendarStage("calendar", StageOptions()).apply(parse(raw))
    return orjson.loads(changed.to_json())["findings"]["calendar"]


def found(text: str | bytes) -> Any:
    """What the stage finds in one calendar."""
    body = text.encode() if isinstance(text, str) else text
    return found_in(b"Content-Type: text/calendar; charset=utf-8\r\n\r\n" + body)


def event(*lines: str, **more: str) -> Any:
    """What the stage finds of an event with these lines, which has no problem."""
    result = found(calendar(*lines, **more))
    assert result["problems"] == []
    return result["events"][0]


def problems(text: str | bytes) -> list[str]:
    return [problem["problem"] for problem in found(text)["problems"]]


@pytest.mark.parametrize(
    "method", ["REQUEST", "REPLY", "CANCEL", "COUNTER", "PUBLISH", "REFRESH", "ADD", "DECLINECOUNTER"]
)
def test_the_method_says_what_is_asked(method: str) -> None:
    """RFC 5546 section 1.4; in the calendar it stands before its events, and behind them it counts too."""
    assert event(START, method=method)["method"] == method
    moved = (
        calendar(START)
        .replace("METHOD:REQUEST\r\n", "")
        .replace("END:VCALENDAR", f"METHOD:{method}\r\nEND:VCALENDAR")
    )
    assert found(moved)["events"][0]["method"] == method


def test_the_method_of_the_part_counts_where_the_calendar_has_none() -> None:
    """RFC 6047 section 2.4: both say the same, or should."""
    for inside, method in (("", "CANCEL"), ("METHOD:REPLY\r\n", "REPLY")):
        body = calendar(START).replace("METHOD:REQUEST\r\n", inside).encode()
        raw = b"Content-Type: text/calendar; method=cancel\r\n\r\n" + body
        assert found_in(raw)["events"][0]["method"] == method


def test_an_invitation_is_told_whole() -> None:
    """Texts with their escapes and folds undone, in any script."""
    got = event(
        START, "DTEND:20261123T113000Z", "SEQUENCE:3", "STATUS:confirmed", "SUMMARY;LANGUAGE=de:Frühstück\\, früh",
        "DESCRIPTION:one\\ntwo\\; thr", " ee\\\\n", "LOCATION:Room 1", "URL:https://example.org/e", "X-OTHER:1",
        "RECURRENCE-ID:20261123T090000Z",
    )  # fmt: skip

    assert (got["summary"], got["description"], got["location"]) == (
        "Frühstück, früh",
        "one\ntwo; three\\n",
        "Room 1",
    )
    assert (got["uid"], got["sequence"], got["status"], got["url"]) == (
        "u@example.org",
        3,
        "CONFIRMED",
        "https://example.org/e",
    )
    assert (got["durationSeconds"], got["recurrenceId"]["utc"]) == (5400, "2026-11-23T09:00:00Z")
    assert (got["partIds"], got["isAllDay"], got["isDescriptionTruncated"]) == (["1"], False, False)


@pytest.mark.parametrize(
    ("line", "kind", "zone", "utc"),
    [
        ("DTSTART:20260706T100000Z", "utc", "Etc/UTC", "2026-07-06T10:00:00Z"),
        ("DTSTART:20260706T100000", "floating", None, None),
        ("DTSTART;TZID=Europe/Berlin:20260706T100000", "zoned", "Europe/Berlin", "2026-07-06T08:00:00Z"),
        # What Exchange writes, quoted and not, with a colon and a comma that should have been quoted.
        ("DTSTART;TZID=W. Europe Standard Time:20260706T100000", "zoned", "Europe/Berlin", "2026-07-06T08:00:00Z"),
        ('DTSTART;TZID="Pacific Standard Time":20260706T100000', "zoned", "America/Los_Angeles", "2026-07-06T17:00:00Z"),
        ("DTSTART;TZID=UTC:20260706T100000", "utc", "Etc/UTC", "2026-07-06T10:00:00Z"),
        # What Mozilla and Evolution put before it.
        ("DTSTART;TZID=/mozilla.org/20050126_1/Europe/Berlin:20260706T100000", "zoned", "Europe/Berlin", "2026-07-06T08:00:00Z"),
        ("DTSTART;TZID=America/Indiana/Knox:20260706T100000", "zoned", "America/Indiana/Knox", "2026-07-06T15:00:00Z"),
    ],
)  # fmt: skip
def test_a_time_keeps_its_zone(line: str, kind: str, zone: str | None, utc: str | None) -> None:
    """The names of Windows are mapped to those of IANA; a floating time is in no zone and has no UTC."""
    start = event(line)["start"]
    assert (start["kind"], start["local"], start["zone"], start["utc"]) == (
        kind,
        "2026-07-06T10:00:00",
        zone,
        utc,
    )


def test_a_day_is_no_midnight() -> None:
    """It lasts a day unless it says otherwise (RFC 5545 section 3.6.1)."""
    got = event("DTSTART;VALUE=DATE:20261224")
    assert got["start"] == {
        "kind": "day",
        "local": "2026-12-24",
        "zone": None,
        "zoneAsWritten": None,
        "utc": None,
    }
    assert (got["end"]["local"], got["isAllDay"], got["durationSeconds"]) == ("2026-12-25", True, 86400)


def test_an_end_is_worked_out_from_the_duration() -> None:
    """Across the end of summer time in the time of clocks."""
    got = event("DTSTART;TZID=Europe/Berlin:20261024T120000", "DURATION:P1D")
    assert got["end"]["local"] == "2026-10-25T12:00:00"
    assert event(START)["durationSeconds"] == 0


# As Exchange writes a zone of one's own; here with the rules of Berlin.
CUSTOM = """BEGIN:VTIMEZONE
TZID:{name}
BEGIN:STANDARD
DTSTART:16010101T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;INTERVAL=1;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
RRULE:FREQ=YEARLY;INTERVAL=1;BYDAY={day};BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE"""
OWN = "(UTC+01:00) Here, there"


def test_a_zone_that_only_the_calendar_knows_is_read_there() -> None:
    """Times in winter and summer, and about the change, as in the zone that has the same rules."""
    zone = CUSTOM.format(name=OWN, day="-1SU")
    moments = [
        "20260101T000000",
        "20260329T015959",
        "20260329T030000",
        "20260706T100000",
        "20261025T030000",
        "20261231T235959",
    ]
    for moment in moments:
        start = event(f"DTSTART;TZID={OWN}:{moment}", zones=zone)["start"]
        assert (start["kind"], start["zone"], start["zoneAsWritten"]) == ("zoned", None, OWN)
        assert start["utc"] == event(f"DTSTART;TZID=Europe/Berlin:{moment}")["start"]["utc"]


@pytest.mark.parametrize("day", ["1SU,2SU", "SU", "6SU", "", "1SU;BYMONTHDAY=8"])
def test_a_zone_that_nobody_can_read_is_told_as_it_was_written(day: str) -> None:
    """A wrong time is worse than none."""
    for zone in ("", CUSTOM.format(name=OWN, day=day)):
        got = found(calendar(f"DTSTART;TZID={OWN}:20260706T100000", zones=zone))
        start = got["events"][0]["start"]
        assert (start["kind"], start["local"], start["utc"]) == ("unknown-zone", "2026-07-06T10:00:00", None)
        assert got["problems"] == [{"problem": "zone-unknown", "partId": "1", "event": 0}]


def test_a_day_of_a_month_is_counted_from_both_ends() -> None:
    """The second and the last but one, in any month, and none that is not there."""
    assert Yearly(3, 2, 6, 9999).day(2026).isoformat() == "2026-03-08T00:00:00"
    assert Yearly(12, -2, 0, 9999).day(2026).isoformat() == "2026-12-21T00:00:00"
    with pytest.raises(ValueError, match="no such day"):
        Yearly(2, 5, 0, 9999).day(2026)


def test_people_are_told_with_their_part() -> None:
    """With the defaults of RFC 5545 section 3.2 filled in, and names that were written as Outlook writes them."""
    got = event(
        START,
        'ORGANIZER;CN="Ann, Boss";SENT-BY="mailto:sec@example.org":MAILTO:ann@example.org',
        "ATTENDEE;PARTSTAT=accepted;ROLE=OPT-PARTICIPANT;RSVP=TRUE;CN=Bee: Bob, Dr.:mailto:bob@example.net",
        'ATTENDEE;CN="Cy ^\'C^\'";CUTYPE=ROOM;DELEGATED-TO="mailto:d@example.net","mailto:e@example.net":cy@example.net',
        'ATTENDEE;CN="Di \\"x";RSVP=TRUE:mailto:di@example.net',
        "ATTENDEE;CN=Nobody:invalid:nomail",
    )

    assert got["organizer"] == {"name": "Ann, Boss", "email": "ann@example.org", "sentBy": "sec@example.org"}
    bob, cy, di, nobody = got["attendees"]
    assert bob == {
        "name": "Bee: Bob, Dr.", "email": "bob@example.net", "sentBy": None, "participation": "ACCEPTED",
        "role": "OPT-PARTICIPANT", "kind": "INDIVIDUAL", "isReplyExpected": True, "delegatedTo": [], "delegatedFrom": [],
    }  # fmt: skip
    assert (cy["email"], cy["kind"], cy["participation"], cy["isReplyExpected"]) == (
        "cy@example.net",
        "ROOM",
        "NEEDS-ACTION",
        False,
    )
    assert (cy["name"], cy["delegatedTo"], di["email"]) == (
        'Cy "C"',
        ["d@example.net", "e@example.net"],
        "di@example.net",
    )
    assert (nobody["name"], nobody["email"]) == ("Nobody", None)


def test_a_recurrence_is_told_as_text_and_as_data() -> None:
    """Nothing is worked out."""
    got = event(
        START,
        "RRULE:FREQ=MONTHLY;INTERVAL=2;COUNT=5;BYDAY=-1MO,TU;WKST=SU",
        "EXDATE:20270123T100000Z,20270323T100000Z",
    )
    assert got["recurrenceRule"]["text"] == "FREQ=MONTHLY;INTERVAL=2;COUNT=5;BYDAY=-1MO,TU;WKST=SU"
    assert got["recurrenceRule"]["parts"] == {
        "freq": "MONTHLY",
        "interval": 2,
        "count": 5,
        "byDay": ["-1MO", "TU"],
        "weekStart": "SU",
    }
    assert [day["local"] for day in got["excludedDates"]] == ["2027-01-23T10:00:00", "2027-03-23T10:00:00"]


@pytest.mark.parametrize(
    ("line", "service"),
    [
        ("DESCRIPTION:Join <https://teams.microsoft.com/l/meetup-join/19%3ax/0?context=%7b%7d>", "teams"),
        ("LOCATION:https://example.zoom.us/j/123?pwd=abc", "zoom"),
        ("X-GOOGLE-CONFERENCE:https://meet.google.com/abc-defg-hij", "meet"),
        ("X-MICROSOFT-SKYPETEAMSMEETINGURL:https://teams.microsoft.com/l/meetup-join/x", "teams"),
        ("CONFERENCE;VALUE=URI;FEATURE=VIDEO:https://video.example.org/r/1", "other"),
        (
            "DESCRIPTION:https://teams.microsoft.com@example.org/l/meetup-join/x https://zoom.us.example.org/j/1",
            None,
        ),
        ("DESCRIPTION:https://teams.microsoft.com/ https://[/ https://example.org/", None),
    ],
)
def test_the_link_to_the_meeting_is_found(line: str, service: str | None) -> None:
    """By the host as a whole, so that a link that looks like one is none."""
    conference = event(START, line)["conference"]
    assert (conference or {}).get("service") == service
    if conference:
        assert conference["url"] in line


def test_an_event_in_two_parts_is_one_event() -> None:
    """Most invitations come as an alternative and as a file, in base64 or not, called by type or by name only."""
    text = calendar(START).encode()
    got = found_in(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/calendar\r\n\r\n" + text
        + b"\r\n--b\r\nContent-Type: application/octet-stream; name=Invite.ICS\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + b64encode(text) + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nBEGIN:VCALENDAR\r\n--b--\r\n"
    )  # fmt: skip

    assert [one["partIds"] for one in got["events"]] == [["1", "2"]]
    assert got["problems"] == []


def test_alarms_and_tasks_are_left_out() -> None:
    """What they say is not what the event says."""
    alarm = ["BEGIN:VALARM", "DESCRIPTION:Reminder", "DURATION:PT5M", "END:VALARM"]
    assert event(START, *alarm, "SUMMARY:after")["description"] is None
    assert event(START, *alarm, "SUMMARY:after")["summary"] == "after"
    task = "BEGIN:VTODO\r\nSUMMARY:task\r\nMETHOD:X\r\nEND:VTODO\r\n"
    got = found(calendar(START).replace("BEGIN:VEVENT", task + "BEGIN:VEVENT"))
    assert [(one["summary"], one["method"]) for one in got["events"]] == [(None, "REQUEST")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no-event"]),
        ("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", ["no-event"]),
        (calendar(START).partition("END:VEVENT")[0], ["end-missing"]),
        (calendar(START).replace("END:VEVENT\r\n", ""), ["end-missing"]),
        (calendar(START, "no content line"), ["line-unreadable"]),
        (calendar("DTSTART:tomorrow"), ["start-unreadable"]),
        (calendar("DTSTART:20261399T990000"), ["start-unreadable"]),
        (calendar(START, "DTEND:-"), ["end-unreadable"]),
        (calendar(START, "DURATION:long"), ["duration-unreadable"]),
        (calendar(START, "RRULE:FREQ=NEVER"), ["rule-unreadable"]),
        (calendar(START, "RRULE:COUNT=2"), ["rule-unreadable"]),
        (calendar(START, "SEQUENCE:-1"), ["sequence-unreadable"]),
        (calendar(START, "EXDATE:x"), ["exdate-unreadable"]),
        (calendar(START, "DTEND:20261122T100000Z"), ["ends-before-start"]),
        (calendar("SUMMARY:x"), ["start-missing"]),
        (calendar(START).replace("UID", "NO"), ["uid-missing"]),
        (calendar(START, *["ATTENDEE:a@example.org"] * 501), ["too-many-attendees"]),
        ("BEGIN:VEVENT\r\nUID:1\r\nDTSTART:20260101\r\nEND:VEVENT\r\n", ["end-missing"]),
    ],
)
def test_broken_calendars_give_what_they_hold_and_a_note(text: str, words: list[str]) -> None:
    """Nothing raises; the rest of the event is there."""
    got = found(text)
    assert [problem["problem"] for problem in got["problems"]] == words
    assert len(got["events"]) == ("no-event" not in words)
    if got["events"] and "DTSTART:20261123T100000Z" in text:
        assert got["events"][0]["start"]["utc"] == "2026-11-23T10:00:00Z"


def test_latin_1_and_line_feeds_are_read() -> None:
    """Charsets are found out as for any text."""
    text = calendar(START, "SUMMARY:Frühstück").replace("\r\n", "\n").encode("latin-1")
    assert found(text)["events"][0]["summary"] == "Frühstück"


EVENTS = "".join(
    f"BEGIN:VEVENT\r\nUID:{n}\r\n{START}\r\n" + "ATTENDEE:a@b.example\r\n" * 400 + "END:VEVENT\r\n"
    for n in range(90)
)
LARGE = {
    "events": ("BEGIN:VCALENDAR\r\n" + f"BEGIN:VEVENT\r\nUID:1\r\n{START}\r\nEND:VEVENT\r\n" * 30_000, "too-many-events"),
    "lines": ("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n" + "A:\r\n" * 100_000, "too-many-lines"),
    "bytes": ("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDESCRIPTION:" + "x" * 5_000_000, "too-large"),
    "people": ("BEGIN:VCALENDAR\r\n" + EVENTS + "END:VCALENDAR\r\n", None),
    "zones": (calendar(*(f"EXDATE;TZID=/a/b/Europe/X{n}:20260101T000000" for n in range(20_000)), START), None),
    "observances": (
        calendar(zones=CUSTOM.format(name="X", day="-1SU"))
        + "".join(f"BEGIN:VEVENT\r\nUID:{n}\r\n" + "EXDATE;TZID=X:20260101T000000\r\n" * 250 + "END:VEVENT\r\n" for n in range(90)),
        None,
    ),
    "links": (calendar(START, "DESCRIPTION:" + "https://a " * 60_000), None),
    "quotes": (calendar(START, 'ATTENDEE;CN="' * 60_000), None),
    "parameters": (calendar(START, "ATTENDEE" + ";A=b" * 200_000 + ":mailto:a@b.example"), None),
    "rules": (calendar(START, "RRULE:FREQ=DAILY;BYDAY=" + "MO," * 300_000), "rule-unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_no_calendar_costs_more_than_a_second(name: str) -> None:
    """Limits are noted, and what lies within them is there."""
    text, word = LARGE[name]
    begun = time.process_time()
    got = found(text)
    assert time.process_time() - begun < 1.0 * BUSY
    assert word is None or word in [problem["problem"] for problem in got["problems"]]
    assert got["events"]
    assert len(orjson.dumps(got)) < 20 << 20


def test_texts_are_bounded_and_have_no_nul() -> None:
    """A description says when it was cut."""
    got = event(START, "DESCRIPTION:" + "x" * 20_000, "SUMMARY:" + "y" * 20_000)
    assert (len(got["description"]), got["isDescriptionTruncated"], len(got["summary"])) == (
        16_000,
        True,
        1_000,
    )
    assert event(START, "SUMMARY:a\0b")["summary"] == "ab"


PIECES = st.sampled_from(
    [
        *("\r\n", "\n ", ":", ";", ",", '"', "\\", "=", "Z", "\0", "ü", "\ud800", "99999999999", "-", "BEGIN:", "END:", "VCALENDAR\r\n"),
        *("VEVENT\r\n", "VTIMEZONE\r\n", "VALARM\r\n", "STANDARD\r\n", "DTSTART", "DTEND", "DURATION:", "P1D", "PT1H", "-P9W", ";TZID="),
        *("Europe/Berlin", "../../etc/passwd", "localtime", "/", ":20261123T100000", ":20261123", "00010101T000000", "99991231T235959Z"),
        *("\r\nRRULE:", "FREQ=DAILY", ";UNTIL=", ";BYDAY=", "MO", "\r\nATTENDEE", ";CN=", ":mailto:", "a@b", "\r\nMETHOD:", "REPLY"),
        *("\r\nEXDATE:", "\r\nSEQUENCE:", "\r\nUID:", "\r\nTZID:", "\r\nTZOFFSETTO:", "+9999", "+0100", "BEGIN:STANDARD\r\n", "\r\nDESCRIPTION:", "https://", "[", "zoom.us/j/1"),
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40))
def test_pieces_of_calendars_in_any_order_stop_nothing(pieces: list[str]) -> None:
    """Whatever they make, it is JSON."""
    text = "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n" + "".join(pieces)
    got = found(text.encode("utf-8", "surrogatepass"))
    assert orjson.loads(orjson.dumps(got)) == got


def test_without_its_library_the_stage_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is called like the stage."""
    for name in [
        name
        for name in sys.modules
        if name.startswith(("pipelines.invitations", "pipelines.stages.calendar", "icalendar"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "icalendar", None)

    with pytest.raises(MissingExtra, match=r"pip install 'mailquay\[calendar\]'"):
        load_stage("calendar")
