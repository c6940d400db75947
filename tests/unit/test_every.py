"""How often a mailbox is pulled, as people write it."""

from __future__ import annotations

import pytest
from celery.schedules import crontab

from worker.every import _CRON, Every, _cron_numbers, read_every, write_every


@pytest.mark.parametrize(
    "line",
    [
        "* * * * *",
        "*/15 6-20 * * mon-fri",
        "0 22-2 1,15 jan,jul 0",
        "5-50/9 */2 29 feb *",
        "7 4 1-31/2 11-1 6",
    ],
)
def test_a_cron_line_means_to_celery_what_it_means_here(line: str) -> None:
    """The schedule is Celery's: what passes here is understood there, number by number."""
    minute, hour, day, month, weekday = line.split()
    celery = crontab(minute=minute, hour=hour, day_of_month=day, month_of_year=month, day_of_week=weekday)

    assert read_every(f" {line.upper()} ") == Every(cron=line)
    assert [
        _cron_numbers(text, span, words) for text, (span, words) in zip(line.split(), _CRON, strict=True)
    ] == [
        celery.minute,
        celery.hour,
        celery.day_of_month,
        celery.month_of_year,
        celery.day_of_week,
    ]


@pytest.mark.parametrize(
    "line",
    """
    * * * *|* * * * * *|60 * * * *|* 24 * * *|* * 0 * *|* * * 13 *|* * * * 7|a * * * *|*/0 * * * *|*/ * * * *|
    1- * * * *|-1 * * * *|5/10 * * * *|, * * * *|* * 31 feb,apr *|* * * mon *|١ * * * *|every 5 minutes
    """.replace("\n", "")
    .strip()
    .split("|"),
)
def test_a_line_that_is_no_cron_line_is_refused(line: str) -> None:
    """A schedule that never comes, or that Celery would refuse, does not pass."""
    with pytest.raises(ValueError, match="must"):
        read_every(line)


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("90s", 90), ("1.5h", 5400), ("3d", 259200)])
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    """A duration is written with its unit."""
    assert read_every(text) == Every(seconds=seconds)


@pytest.mark.parametrize("text", ["0s", "999ms", "5", "soon", ""])
def test_what_is_no_duration_of_at_least_a_second_is_refused(text: str) -> None:
    """A mailbox is not polled without a pause."""
    with pytest.raises(ValueError, match=r"1s|write a number"):
        read_every(text)


@pytest.mark.parametrize("text", ["90s", "1m", "0 6 * * mon"])
def test_it_is_written_the_way_it_is_read(text: str) -> None:
    """Generated documents show what may be copied."""
    every = read_every(text)

    assert isinstance(every, Every)
    assert write_every(every) == text
