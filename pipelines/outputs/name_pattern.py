"""Makes names out of what is known of a message before it was parsed: `{mailbox}/{received:%Y/%m/%d}/{id}`.

What a stranger wrote is no part of it, so the name is the same at each repetition and nobody outside can choose it. Days
are those of UTC. A message whose server did not say when it was received is `undated`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime

from pydantic_core import PydanticCustomError

from pipelines.message import Message

UNDATED = "undated"

_FIELD = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
# Numbers only: names of months and days would depend on the language of the machine.
_MOMENT = re.compile(r"(?:%[YmdHjGV]|[\w./-])*")
_UNSAFE = re.compile(r"[^\w.@+-]", re.ASCII)


def check_pattern(pattern: str, *, needed: Collection[str] = ()) -> str:
    """Return a pattern that `expand` can work with and that has all the `needed` fields.

    Raises:
        PydanticCustomError: it has a field that is not known, one is missing, or it leads out of its folder.
    """
    found = {match[1]: match[2] for match in _FIELD.finditer(pattern)}
    rest = _FIELD.sub("", pattern)
    if not found.keys() <= {"id", "mailbox", "received"} or "{" in rest or "}" in rest:
        raise PydanticCustomError("pattern", "write only the fields {id}, {mailbox} and {received:%Y/%m/%d}")
    if not all(_MOMENT.fullmatch(format_ or "") for format_ in found.values()):
        raise PydanticCustomError("pattern", "write dates with %Y, %m, %d, %H, %j, %G and %V only")
    if any(format_ for name, format_ in found.items() if name != "received"):
        raise PydanticCustomError("pattern", "give no field but received a form")
    if not set(needed) <= found.keys():
        fields = " and ".join(f"{{{name}}}" for name in needed)
        raise PydanticCustomError("pattern", "write a pattern with {fields} in it", {"fields": fields})
    # The form of a date may hold steps of its own.
    steps = f"/{_FIELD.sub(lambda match: match[2] or match[1], pattern)}/".replace("//", "/./")
    if "/./" in steps or "/../" in steps or "\0" in pattern:
        raise PydanticCustomError("pattern", "write no empty step, no . and no .., and begin with no /")
    return pattern


def expand(pattern: str, message: Message) -> str:
    """Return the name that a checked pattern gives to a message."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "received":
            return _moment(message.received_at, match[2] or "%Y-%m-%d")
        return _safe(message.id if match[1] == "id" else message.mailbox)

    return _FIELD.sub(value, pattern)


def _safe(word: str) -> str:
    """Return a word that is one step of a path and leads nowhere."""
    return _UNSAFE.sub("_", word).strip(".") or "_"


def _moment(received_at: datetime | None, format_: str) -> str:
    if received_at is None:
        return UNDATED
    try:
        return received_at.astimezone(UTC).strftime(format_)
    except OverflowError:
        # A server may claim a date at the end of the calendar.
        return UNDATED
