"""Runs the stages of a mailbox over one message, in order, and stops at the first that fails or drops it.

A stage that fails stops its message, visibly, so that nothing half done reaches an output; other messages are not
touched by it. A pipeline keeps no state and delivers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from pipelines.errors import StageFailed
from pipelines.message import Message
from pipelines.stage import Stage


class Pipeline:
    """The stages of one mailbox."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        """Remember the stages in the order in which they run."""
        self.stages = tuple(stages)

    def run(self, message: Message, *, dropped: Callable[[str], None] = lambda _: None) -> Message | None:
        """Return what the stages made of the message, or None when one dropped it on purpose: `dropped` gets its name.

        Raises:
            StageFailed: a stage raised, or found something that is no JSON value; the message is to be retried.
        """
        for stage in self.stages:
            try:
                changed = stage.apply(message)
                if changed is not None:
                    # Checked here, where the stage is known, and not in an output among other messages.
                    orjson.dumps(changed.findings.get(stage.name))
            except Exception as error:
                raise StageFailed(
                    stage=stage.name, message_id=message.id, mailbox=message.mailbox, cause=error
                ) from error
            if changed is None:
                dropped(stage.name)
                return None
            message = changed
        return message
