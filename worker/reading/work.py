"""What is done with each message, in this process or in another: read, parsed, through the stages, described.

Nothing is raised for one message: what goes wrong with it is its outcome, and others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import StageFailed
from pipelines.message import Message
from worker.reading.outline import Outline, outline
from worker.reading.place import Place, Trouble, read, unreadable

Form = Literal["json", "tree", "structure"]
"""`structure` is the tree without the words of the sender."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to make of messages: the stages, as they were named, and how a message is shown."""

    stages: tuple[str, ...] = ()
    form: Form = "json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one message of `size` bytes: lines to print, or its outline, or a stage dropped it on purpose.

    `trouble` is a sentence; it may stand beside the rest.
    """

    label: str
    size: int = 0
    lines: tuple[bytes, ...] = ()
    outline: Outline | None = None
    trouble: str | None = None
    is_dropped: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A message as it came out of the stages, or None when one of them dropped it; or what went wrong."""

    size: int = 0
    message: Message | None = None
    trouble: str | None = None


def do(task: Task, places: Sequence[Place | Trouble]) -> list[Outcome]:
    """Do the task with each message, one after the other."""
    return [_outcome(task, place) for place in places]


def take(stages: tuple[str, ...], place: Place | Trouble) -> Taken:
    """Read, parse and run the stages; never raises for what a message or a stage does."""
    if isinstance(place, Trouble):
        return Taken(trouble=place.sentence)
    try:
        message = read(place)
    except OSError as error:
        return Taken(trouble=unreadable(place.label, error).sentence)
    trouble = None
    if place.sha256 not in {None, message.digest}:
        trouble = "its bytes are not those that were written; check the disk"
    if not stages:
        return Taken(message.size, message, trouble)
    from worker.reading.stages import pipeline

    size = message.size
    try:
        return Taken(size, pipeline(stages).run(message), trouble)
    except StageFailed as failed:
        return Taken(size, trouble=_why(failed))


def _outcome(task: Task, place: Place | Trouble) -> Outcome:
    taken = take(task.stages, place)
    message = taken.message
    if message is None:
        return Outcome(place.label, taken.size, trouble=taken.trouble, is_dropped=taken.trouble is None)
    if task.form != "json":
        drawn = outline(message, words=task.form == "tree")
        return Outcome(place.label, taken.size, outline=drawn, trouble=taken.trouble)
    return Outcome(place.label, taken.size, lines=(message.to_json(),), trouble=taken.trouble)


def _why(failed: StageFailed) -> str:
    """Name the stage and the kind of error; its own words only where they say what to install."""
    from pipelines.registry import PluginError

    cause = failed.__cause__
    said = f": {cause}" if isinstance(cause, PluginError) else ""
    return f"the stage {failed.stage} failed with {type(cause).__name__}{said}"
