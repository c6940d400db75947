"""Outputs that fail one call in ten, in every way there is: at once, after a while, and after they have done what was asked."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import ClassVar

from pipelines.message import Message
from pipelines.output import Receipt, Refused
from pipelines.outputs.jsonl import JsonlOutput
from pipelines.outputs.maildir import MaildirOutput
from tests.contract.receiver import Answer, Call
from tests.faults.plugins import Recorder

SHARE = 0.1
HANGS_SECONDS = 0.5
WAYS = ("raises", "hangs", "loses its answer", "refuses")


def mood() -> str:
    """How the next call goes. Each process throws its own dice: a seed would repeat with each that is started anew."""
    return random.choice(WAYS) if random.random() < SHARE else "well"


class Moody:
    """Comes before the output whose calls it spoils."""

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        match mood():
            case "raises":
                raise ConnectionRefusedError
            case "hangs":
                time.sleep(HANGS_SECONDS)
                raise TimeoutError
            case "loses its answer":
                super().deliver(messages)  # type: ignore[misc]
                raise ConnectionResetError
            case "refuses":
                taken: Sequence[Receipt] = super().deliver(messages[1:])  # type: ignore[misc]
                return [Refused("it does not like the first"), *taken]
        found: Sequence[Receipt] = super().deliver(messages)  # type: ignore[misc]
        return found


class MoodyLines(Moody, JsonlOutput):
    """JSON lines."""

    type_name: ClassVar[str] = "moody_lines"


class MoodyPost(Moody, MaildirOutput):
    """A Maildir."""

    type_name: ClassVar[str] = "moody_post"


class MoodyRecorder(Moody, Recorder):
    """One that dedupes nothing."""

    type_name: ClassVar[str] = "moody_recorder"


class MoodyReceiver:
    """What a webhook's receiver answers; what it has taken it has taken, whatever it says."""

    def __init__(self) -> None:
        self.taken: dict[str, set[bytes]] = {}

    def __call__(self, call: Call) -> Answer:
        """Take it, or not, and say so, or not."""
        match mood():
            case "raises":
                return Answer(503)
            case "hangs":
                time.sleep(3 * HANGS_SECONDS)
                return Answer(broken=True)
            case "loses its answer":
                self.taken.setdefault(call.headers["webhook-id"], set()).add(call.body)
                return Answer(broken=True)
            case "refuses":
                return Answer(422)
        self.taken.setdefault(call.headers["webhook-id"], set()).add(call.body)
        return Answer()
