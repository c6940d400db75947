"""The contract of a stage: one message in; the same, a changed one or none out.

Stages run between parsing and the outputs, in the order that a mailbox names them. A stage does not talk to
downstream systems and keeps nothing between messages, because the same message may pass it again after a crash and has
to come out the same. It never touches the raw bytes: those are kept as the server sent them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pipelines.message import Message
from pipelines.options import Options


class StageOptions(Options):
    """What a stage can be told; each stage declares its own fields."""


class Stage(ABC):
    """Turns one message into one, none or a changed one."""

    # The word that names this stage in STAGE__X__TYPE.
    type_name: ClassVar[str]
    Options: ClassVar[type[StageOptions]] = StageOptions

    options: StageOptions

    def __init__(self, name: str, options: StageOptions) -> None:
        """Remember `name`, under which findings are kept, and checked options. Without effects."""
        self.name = name
        self.options = options

    @abstractmethod
    def apply(self, message: Message) -> Message | None:
        """Return the message, a changed copy (`message.with_findings(self.name, found)`), or None to drop it on purpose.

        An exception stops this message, visibly, for a retry; it never flows on half done.
        """
