"""What tests of faults look at: the events that Mailquay logs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.bed.forks import Forks
from tests.bed.installation import Installation, number_of

Events = list[dict[str, Any]]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Where children come from that may be killed."""
    forks = Forks()
    forks.start("tests.faults.hazard")
    yield forks
    forks.stop()


@pytest.fixture
def events() -> Iterator[Events]:
    """Every event that is logged during the test."""
    with capture_logs() as captured:
        yield captured


def of(events: Events, event: str) -> list[dict[str, Any]]:
    """The events of one name."""
    return [found for found in events if found["event"] == event]


def delivered_once(installation: Installation, numbers: range, *, mailbox: str | None = None) -> bool:
    """Whether both outputs show each number exactly once, and JSONL under as many different ids."""
    lines = [line for line in installation.lines() if mailbox in {None, line["mailbox"]}]
    ids = {line["id"] for line in lines}
    posted = [number_of(raw) for name, raw in installation.posted().items() if name.partition(".")[0] in ids]
    return len(lines) == len(ids) == len(numbers) and sorted(posted) == list(numbers)
