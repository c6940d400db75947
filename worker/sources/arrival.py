"""When a message arrived, by its own head: for POP3, which tells no dates.

The topmost `Received` is written by the server that keeps the message; `Date` is what the sender claimed, and is taken
only where there is no other. Nothing here reads from a connection.
"""

from __future__ import annotations

import re
from datetime import datetime

from pipelines.dates import parse_date

_FIELD = re.compile(rb"^(Received|Date):[ \t]*((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE)


def arrival(head: bytes) -> datetime | None:
    """The moment (aware) at which a message with this head arrived; None when nobody can tell."""
    sent: datetime | None = None
    for field in _FIELD.finditer(head):
        text = re.sub(r"\s+", " ", field[2].decode("latin-1"))
        if field[1].lower() == b"date":
            sent = sent or parse_date(text)
        elif moment := parse_date(text.rpartition(";")[2]):
            return moment
    return sent
