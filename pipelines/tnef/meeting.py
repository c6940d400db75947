"""The invitation that a TNEF message is: what is asked, when, where and by whom (MS-OXOCAL), as JSON.

Recurrences and attendees are not read: they are in structures of their own, and Exchange sends an iCalendar part beside
them to everyone outside.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pipelines.dates import to_json
from pipelines.tnef.properties import Key, Properties

_APPOINTMENT = UUID("00062002-0000-0000-c000-000000000046").bytes_le
_COMMON = UUID("00062008-0000-0000-c000-000000000046").bytes_le
_MEETING = UUID("6ed8da90-450b-101b-98da-00aa003f1305").bytes_le

_SUBJECT, _START, _END = 0x0037, 0x0060, 0x0061
_NAME, _ADDRESS, _SMTP_ADDRESS = 0x0042, 0x0065, 0x5D02
_LOCATION: tuple[Key, ...] = ((_APPOINTMENT, 0x8208), (_MEETING, 0x0002))
_STARTS: tuple[Key, ...] = ((_APPOINTMENT, 0x820D), (_COMMON, 0x8516), _START)
_ENDS: tuple[Key, ...] = ((_APPOINTMENT, 0x820E), (_COMMON, 0x8517), _END)

# How message classes end, and what they are in iTIP (RFC 5546): the method, and how an attendee answers.
_CLASSES = {
    "ipm.schedule.meeting.request": ("REQUEST", None),
    "ipm.schedule.meeting.canceled": ("CANCEL", None),
    "ipm.schedule.meeting.resp.pos": ("REPLY", "ACCEPTED"),
    "ipm.schedule.meeting.resp.neg": ("REPLY", "DECLINED"),
    "ipm.schedule.meeting.resp.tent": ("REPLY", "TENTATIVE"),
}
# The names that the attribute idMessageClass has for them (MS-OXTNEF section 2.1.3.2, appendix).
_OLD_CLASSES = {
    "ipm.microsoft mail.note": "IPM.Note",
    "ipm.microsoft mail.read receipt": "Report.IPM.Note.IPNRN",
    "ipm.microsoft mail.non-delivery": "Report.IPM.Note.NDR",
    "ipm.microsoft schedule.mtgreq": "IPM.Schedule.Meeting.Request",
    "ipm.microsoft schedule.mtgcncl": "IPM.Schedule.Meeting.Canceled",
    "ipm.microsoft schedule.mtgrespp": "IPM.Schedule.Meeting.Resp.Pos",
    "ipm.microsoft schedule.mtgrespn": "IPM.Schedule.Meeting.Resp.Neg",
    "ipm.microsoft schedule.mtgrespa": "IPM.Schedule.Meeting.Resp.Tent",
}


def current_class(written: str) -> str:
    """Return today's name of a message class."""
    return _OLD_CLASSES.get(written.lower(), written)


def read_meeting(message_class: str, properties: Properties) -> dict[str, object] | None:
    """Return what a message of this class invites to, or None if it is no invitation and no appointment."""
    lower = message_class.lower()
    if not lower.startswith(("ipm.schedule.meeting.", "ipm.appointment")):
        return None
    method, participation = next(
        (found for name, found in _CLASSES.items() if lower.startswith(name)), (None, None)
    )
    uid = properties.data((_MEETING, 0x0003))
    return {
        "class": message_class,
        "method": method,
        "participation": participation,
        "subject": _bounded(properties.text(_SUBJECT)),
        "start": _json(properties.moment(*_STARTS)),
        "end": _json(properties.moment(*_ENDS)),
        "location": _bounded(properties.text(*_LOCATION)),
        "zoneAsWritten": _bounded(properties.text((_APPOINTMENT, 0x8234))),
        "isAllDay": bool(properties.number((_APPOINTMENT, 0x8215))),
        "isRecurring": bool(properties.number((_APPOINTMENT, 0x8223))),
        "sequence": properties.number((_APPOINTMENT, 0x8201)) or 0,
        "uid": None if uid is None else bytes(uid[:500]).hex().upper(),
        "organizer": {
            "name": _bounded(properties.text(_NAME)),
            "email": _address(properties),
        },
    }


def _address(properties: Properties) -> str | None:
    """Return an address of the Internet; those of Exchange itself mean nothing outside."""
    found = (properties.text(key) for key in (_SMTP_ADDRESS, _ADDRESS))
    return next((text[:1000] for text in found if text is not None and "@" in text), None)


def _bounded(text: str | None) -> str | None:
    return None if text is None else text.strip()[:1000] or None


def _json(moment: datetime | None) -> str | None:
    return None if moment is None else to_json(moment)
