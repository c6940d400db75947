"""The contract tests are worth something: each output here breaks one promise, and the test of that promise fails."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from pydantic import Field, SecretStr

from pipelines.message import Message
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.testing import TELLTALE, OutputContract


class BoxOptions(OutputOptions):
    password: SecretStr | None = Field(default=None, description="What the box is locked with.")
    parallel: int = Field(default=3, description="How many hands reach into it.")


class Box(Output):
    """Keeps every promise, in memory; `shelf` outlives instances."""

    type_name: ClassVar[str] = "box"
    Options: ClassVar[type[OutputOptions]] = BoxOptions
    dedupes: ClassVar[bool] = True
    batch_size = 5

    options: BoxOptions
    shelf: dict[str, bytes]

    def __init__(self, name: str, options: BoxOptions) -> None:
        super().__init__(name, options)
        self.parallel = options.parallel

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        assert len(messages) <= self.batch_size
        return [self.put(message) for message in messages]

    def put(self, message: Message) -> Receipt:
        self.shelf.setdefault(message.id, message.to_json())
        return Accepted()


class Raises(Box):
    def put(self, message: Message) -> Receipt:
        (message.subject or "").encode("ascii")
        return super().put(message)


class Hesitates(Box):
    """For a message that will never be any different."""

    def put(self, message: Message) -> Receipt:
        return Retry("too long") if len(message.subject or "") > 10_000 else super().put(message)


class Tells(Box):
    """The subject, to whoever reads the log."""

    def put(self, message: Message) -> Receipt:
        if len(message.subject or "") > 10_000:
            return Refused(f"the subject is too long: {message.subject}")
        return super().put(message)


class Rambles(Box):
    """In lines, which in a log are events of their own."""

    def put(self, message: Message) -> Receipt:
        return Refused("no\nno") if len(message.subject or "") > 10_000 else super().put(message)


class Jams(Box):
    """After what it did not like."""

    jammed = False

    def put(self, message: Message) -> Receipt:
        self.jammed = self.jammed or message.size > 500_000
        return Refused("jammed") if self.jammed else super().put(message)


class OneHand(Box):
    """Though it says three."""

    def __init__(self, name: str, options: BoxOptions) -> None:
        super().__init__(name, options)
        self._hand = threading.Lock()
        self._calls = itertools.count()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        # The first waits until another one comes, and finds it with its hand in the box.
        if not self._hand.acquire(blocking=False):
            return [Retry("somebody else is at it")] * len(messages)
        try:
            if not next(self._calls):
                threading.Event().wait(0.5)
            return super().deliver(messages)
        finally:
            self._hand.release()


class Deaf(Box):
    """To what a person said of PARALLEL."""

    def __init__(self, name: str, options: BoxOptions) -> None:
        super().__init__(name, options)
        self.parallel = 2


class Small(Box):
    """It declares five at once, and loses the fifth."""

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        return [*super().deliver(messages[:4]), *[Accepted()] * len(messages[4:])]


class Once(Box):
    """Then it stays closed."""

    closed = False

    def open(self) -> None:
        if self.closed:
            raise ValueError

    def close(self) -> None:
        self.closed = True


class Shows(Box):
    def __repr__(self) -> str:
        return f"a box with {self.options.password and self.options.password.get_secret_value()}"


class Open(Box):
    """Its password is text."""

    class Options(OutputOptions):  # type: ignore[assignment]
        password: str = Field(default="", description="What the box is locked with.")
        parallel: int = Field(default=1, description="How many hands reach into it.")


class Betrays(Box):
    """What it is locked with, when it cannot be opened."""

    def put(self, message: Message) -> Receipt:
        assert self.options.password
        return Retry(f"{self.options.password.get_secret_value()} does not open it")


class Forsakes(Box):
    """Mail, because of a system that is away."""

    def put(self, message: Message) -> Receipt:
        return Refused("it is not there")


class BoxContract(OutputContract):
    """Not collected by itself: its name does not begin with Test."""

    def __init__(self, kind: type[Box]) -> None:
        self.kind, self.shelf = kind, dict[str, bytes]()

    def make(self) -> Box:
        made = self.kind("box", self.kind.Options.model_validate({}))  # type: ignore[arg-type]
        made.shelf = self.shelf
        return made

    def out_of_reach(self) -> Box:
        made = self.kind("box", self.kind.Options.model_validate({"password": f"{TELLTALE}!"}))  # type: ignore[arg-type]
        made.shelf = self.shelf
        return made

    def read(self) -> list[tuple[str, bytes]]:
        return list(self.shelf.items())


HOSTILE = "test_a_hostile_message_is_accepted_or_refused"
REACH = "test_a_system_out_of_reach_is_a_retry_that_shows_no_secret"
SHOWN = "test_secrets_are_not_shown"
PROMISES = sorted(name for name in vars(OutputContract) if name.startswith("test_"))


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (Raises, HOSTILE),
        (Hesitates, HOSTILE),
        (Tells, HOSTILE),
        (Rambles, HOSTILE),
        (Jams, HOSTILE),
        (OneHand, "test_as_many_calls_overlap_as_are_declared"),
        (Deaf, "test_the_type_describes_itself"),
        (Small, "test_a_call_has_as_many_messages_as_are_declared"),
        (Once, "test_an_output_that_was_closed_can_be_opened_again"),
        (Shows, SHOWN),
        (Open, SHOWN),
        (Betrays, REACH),
        (Forsakes, REACH),
    ],
)
def test_a_broken_promise_is_seen(kind: type[Box], promise: str) -> None:
    """The test that is named after the promise fails, for whatever reason."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - an output may break in any way
        getattr(BoxContract(kind), promise)()


@pytest.mark.parametrize("promise", [name for name in PROMISES if name != REACH])
def test_an_output_that_keeps_its_promises_passes(promise: str) -> None:
    """So it was the promise that failed above, and not the tests."""
    getattr(BoxContract(Box), promise)()


def test_an_output_out_of_reach_that_keeps_its_promises_passes() -> None:
    """Also when it raises, which is the right answer to trouble that concerns no single message."""

    class Away(Box):
        def open(self) -> None:
            raise ConnectionRefusedError(111, "Connection refused")

    getattr(BoxContract(Away), REACH)()


def test_an_output_without_a_system_to_be_out_of_reach_passes() -> None:
    """Nobody has to define it."""

    class Here(BoxContract):
        def out_of_reach(self) -> Any:
            return None

    getattr(Here(Box), REACH)()
