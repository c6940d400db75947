"""Stages run in order; the first that drops or fails ends the way of its message."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.errors import StageFailed
from pipelines.message import Message
from pipelines.pipeline import Pipeline
from pipelines.stage import Stage, StageOptions
from pipelines.testing import sample_messages


class Doing(Stage):
    """Does what a test says."""

    type_name = "doing"

    def __init__(self, name: str, action: Callable[[Message], Message | None]) -> None:
        super().__init__(name, StageOptions())
        self.action = action

    def apply(self, message: Message) -> Message | None:
        return self.action(message)


def noting(name: str) -> Doing:
    """A stage that finds how many stages were there before it."""
    return Doing(name, lambda message: message.with_findings(name, len(message.findings)))


def test_stages_run_in_order_and_each_sees_what_the_former_found() -> None:
    """The order is the one that the mailbox names."""
    changed = Pipeline([noting("one"), noting("two"), noting("three")]).run(sample_messages(1)[0])

    assert changed is not None
    assert changed.findings == {"one": 0, "two": 1, "three": 2}


def test_without_stages_a_message_passes_unchanged() -> None:
    """The very same message."""
    message = sample_messages(1)[0]

    assert Pipeline([]).run(message) is message


def test_a_dropped_message_meets_no_further_stage() -> None:
    """None is a decision, not a failure, and whoever asked is told whose."""
    seen: list[str] = []
    told: list[str] = []
    last = Doing("last", lambda message: seen.append(message.id))
    pipeline = Pipeline([noting("one"), Doing("drop", lambda message: None), last])

    assert pipeline.run(sample_messages(1)[0], dropped=told.append) is None
    assert (seen, told) == ([], ["drop"])
    assert pipeline.run(sample_messages(1)[0]) is None


def test_a_stage_that_fails_stops_its_message_and_is_named() -> None:
    """Strict: nothing half done flows on. The error does not repeat what the stage said."""
    message = sample_messages(1)[0]

    def fail(message: Message) -> Message:
        raise ValueError(message.subject)

    with pytest.raises(StageFailed, match="'parse-invoice'") as caught:
        Pipeline([Doing("parse-invoice", fail)]).run(message)

    assert message.id in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)
    assert message.subject
    assert message.subject not in str(caught.value)


def test_a_finding_that_is_no_json_value_fails_the_stage_that_found_it() -> None:
    """Found here, it stops one message; in an output it would stop all that travel with it."""
    bad = Doing("bad", lambda message: message.with_findings("bad", {"value": object()}))

    with pytest.raises(StageFailed, match="'bad'"):
        Pipeline([noting("good"), bad]).run(sample_messages(1)[0])
