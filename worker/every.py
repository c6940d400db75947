"""How often a mailbox is pulled: after so many seconds, or at the times of a cron line.

A cron line is checked here to the last number, so that what `mailquay check` lets pass never stops the schedule. When a
mailbox is due is the business of `worker.schedule`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from pipelines.options import read_duration, write_duration

# The fields of a five-field cron line: what each may hold, and the words it knows beside numbers.
_CRON = (
    (range(60), ()),
    (range(24), ()),
    (range(1, 32), ()),
    (range(1, 13), ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    (range(7), ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Every:
    """How often a mailbox is pulled: every so many `seconds`, or at the times of a five-field `cron` line in UTC."""

    seconds: float | None = None
    cron: str | None = None


def read_every(value: object) -> object:
    """Turn a duration or a cron line into an Every; leave other types to pydantic.

    Raises:
        ValueError: it is neither, or the duration is shorter than a second.
    """
    if not isinstance(value, str):
        return value
    if len(fields := value.lower().split()) > 1:
        try:
            _, _, days, months, _ = (
                _cron_numbers(text, span, words) for text, (span, words) in zip(fields, _CRON, strict=True)
            )
        except ValueError:
            raise ValueError(
                "must be a duration such as 5m, or a cron line: minute hour day month weekday (0 to 6, 0 is Sunday)"
            ) from None
        if not any(min(days) <= _DAYS[month - 1] for month in months):
            raise ValueError("must name a day that one of its months has")
        return Every(cron=" ".join(fields))
    duration = read_duration(value)
    if not isinstance(duration, timedelta) or duration < timedelta(seconds=1):
        raise ValueError("must be at least 1s")
    return Every(seconds=duration.total_seconds())


def write_every(every: Every) -> str:
    """Write an Every the way it is read."""
    return every.cron or write_duration(timedelta(seconds=every.seconds or 0))


def _cron_numbers(text: str, span: range, words: tuple[str, ...]) -> set[int]:
    """The numbers that one field of a cron line stands for: `*`, `5`, `mon-fri`, `*/15`, `1-20/5` and lists of these."""

    def number(word: str) -> int:
        value = span.start + words.index(word) if word in words else int(word)
        if value not in span:
            raise ValueError("out of range")
        return value

    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(?:(\*)|([a-z]+|[0-9]+)-([a-z]+|[0-9]+))(?:/([0-9]+))?|([a-z]+|[0-9]+)", part)
        if match is None:
            raise ValueError("not a cron field")
        star, first, last, step, single = match.groups()
        if single:
            chosen.add(number(single))
            continue
        numbers = list(span)
        if not star:
            low, high = span.index(number(first)), span.index(number(last))
            # A range may wrap around, as in 22-2 for the hours of the night.
            numbers = numbers[low : high + 1] if low <= high else numbers[low:] + numbers[: high + 1]
        chosen.update(numbers[:: int(step or 1)])
    return chosen
