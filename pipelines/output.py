"""The contract between Mailquay and a downstream system.

An output gets messages and answers with one receipt for each: accepted, retry, or refused for good. Mailquay keeps a
message until every output it owes has accepted it, so an answer of `Accepted` has to be true even if the power fails
in the next instant. A message may come again with the same id, after a crash or a lost answer; an output passes the
id on as the downstream system's own key against duplicates. An output does not retry, count or wait: that is done for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from pipelines.message import Message
from pipelines.options import Options


@dataclass(frozen=True, slots=True)
class Accepted:
    """The downstream system holds the message durably, now or from an earlier delivery of the same id."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now. Mailquay asks again, later than `not_before` (aware) when the downstream system named a time.

    `reason` is read by people, in logs and in `failed`: what happened, where, and what to do. It never holds a secret,
    a subject or a body.
    """

    reason: str
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Never: asking again cannot help. The message waits in `failed` for a person. `reason` as in `Retry`."""

    reason: str


Receipt = Accepted | Retry | Refused


class OutputOptions(Options):
    """What an output can be told; each output declares its own fields."""


class Output(ABC):
    """Hands messages to one downstream system.

    Mailquay makes one instance in each process that delivers, calls `open` before the first delivery and `close` at the
    end. No more than `parallel` calls on one instance overlap; instances in several processes work side by side on the
    same system.
    """

    # The word that names this output in OUTPUT__X__TYPE.
    type_name: ClassVar[str]
    Options: ClassVar[type[OutputOptions]] = OutputOptions
    # Whether the downstream system shows a message once however often it is delivered, thanks to its id.
    dedupes: ClassVar[bool] = False
    # The largest number of messages in one call of `deliver`.
    batch_size: int = 64
    # How many calls of `deliver` may be under way at once, each in a thread of its own. An output that says more than one
    # lets a person say how many, as PARALLEL, and sets this in `__init__`.
    parallel: int = 1

    options: OutputOptions

    def __init__(self, name: str, options: OutputOptions) -> None:
        """Remember `name` (from OUTPUT__NAME__…) and checked options. Without effects: also `mailquay check` does this."""
        self.name = name
        self.options = options

    def open(self) -> None:
        """Make clients and folders. Called once, in the process that delivers; an exception means retry for all."""
        return

    @abstractmethod
    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Hand over messages and return one receipt for each, in the same order.

        An exception means retry for all of them, so it is the right answer to whatever concerns no single message.
        """

    def close(self) -> None:
        """Let clients go. Called once after the last delivery; also when `open` failed."""
        return
