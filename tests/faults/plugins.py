"""Outputs and stages that misbehave, named as `TYPE=tests.faults.plugins:Killer` and so on."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.stage import Stage

# Bound here, so that whoever counts the worker's own steps does not count these.
_write, _fsync = os.write, os.fsync

MARK = b"X-Deadly: yes"
"""A raw message with this header line is the one that plugins here choke on."""


class PathOptions(OutputOptions):
    """Where to write."""

    path: Path = Field(description="File that gets a line a message.")


class Recorder(Output):
    """Appends id and number of every message as it comes, also when it comes again."""

    type_name: ClassVar[str] = "recorder"
    Options: ClassVar[type[OutputOptions]] = PathOptions
    options: PathOptions

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        # A newline in front, so that a line that a dead process left torn spoils no other.
        text = "".join(f"\n{message.id} {message.digest}" for message in messages)
        file = os.open(self.options.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _write(file, text.encode())
            _fsync(file)
        finally:
            os.close(file)
        return [Accepted()] * len(messages)


def recorded(path: Path) -> dict[str, set[str]]:
    """What a recorder got: digest of a message -> the ids under which it came."""
    seen: dict[str, set[str]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        id_, _, digest = line.partition(" ")
        if len(digest) == 64:
            seen.setdefault(digest, set()).add(id_)
    return seen


class Killer(Recorder):
    """Takes its process down when it meets the marked message, as a parser in C may."""

    type_name: ClassVar[str] = "killer"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        if any(MARK in bytes(message.raw) for message in messages):
            os._exit(139)
        return super().deliver(messages)


class Sulker(Recorder):
    """Raises while the file `PATH.sulk` exists, and raises again when it is closed."""

    type_name: ClassVar[str] = "sulker"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        if self.options.path.with_suffix(".sulk").exists():
            raise RuntimeError("not today")
        return super().deliver(messages)

    def close(self) -> None:
        if self.options.path.with_suffix(".sulk").exists():
            raise RuntimeError("not even that")


class Refuser(Recorder):
    """Wants none of the messages."""

    type_name: ClassVar[str] = "refuser"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        return [Refused("it wants nothing")] * len(messages)


class Slowpoke(Recorder):
    """Takes two seconds a call."""

    type_name: ClassVar[str] = "slowpoke"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        time.sleep(2)
        return super().deliver(messages)


class Picky(Stage):
    """Raises on the marked message."""

    type_name: ClassVar[str] = "picky"

    def apply(self, message: Message) -> Message | None:
        if MARK in bytes(message.raw):
            raise LookupError("a word from the body that no log may show")
        return message


class Latecomer(Recorder):
    """Wants every message later when it first sees it, and takes it the second time."""

    type_name: ClassVar[str] = "latecomer"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        seen = self.options.path.with_suffix(".seen")
        known = set(seen.read_text().split()) if seen.exists() else set()
        with seen.open("a") as file:
            file.writelines(f"{message.id}\n" for message in messages)
        ready = [message for message in messages if message.id in known]
        super().deliver(ready)
        return [Accepted() if message in ready else Retry("later") for message in messages]
