"""The promises of an output and of a stage as tests, for those that come with Mailquay and for yours.

Derive a test class from `OutputContract`, say how to make your output and how to read what its system holds, and run
pytest; each promise of `pipelines.output` that can be seen from outside is one test. It cannot see what survives a
power failure, and it does not know how your system fails: those tests are yours. `StageContract` is the same for a stage.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256

import orjson

from pipelines.message import Message, Source
from pipelines.options import describe
from pipelines.output import Accepted, Output, Receipt
from pipelines.parse import parse
from pipelines.stage import Stage

RAWS = (
    b"From: a@example.com\r\nTo: b@example.com\r\nSubject: plain\r\n\r\nHello.\r\n",
    b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\xc3\xbc\r\n",
    b"Subject: raw 8-bit \xe4\xf6\xfc and a NUL \0\n\nbare line feeds\nFrom here on \xff\xfe\0",
    b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000,
    b"\r\n\r\nno header at all",
    b"",
)


def sample_messages(count: int, *, mailbox: str = "contract") -> list[Message]:
    """Return `count` different messages, easy and nasty ones in turn, the same at every call."""
    return [
        parse(
            RAWS[number % len(RAWS)],
            id=sha256(f"{mailbox} {number}".encode()).hexdigest()[:32],
            mailbox=mailbox,
            source=Source(folder="INBOX", uidvalidity=1, uid=number + 1, uidl=None, flags=()),
            received_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
        )
        for number in range(count)
    ]


class OutputContract(ABC):
    """Tests that every output passes. Derive from it, name the class `Test…`, and define `make` and `read`.

    Each test starts with an empty downstream system; an autouse fixture of your class is the place to see to it.
    """

    @abstractmethod
    def make(self) -> Output:
        """Return a new instance, not opened, that delivers to the system that `read` reads."""

    @abstractmethod
    def read(self) -> Sequence[tuple[str, bytes]]:
        """Return what a user of the system sees: the id and the bytes of each message, in any order."""

    def expected(self, message: Message) -> bytes:
        """Return the bytes that the system holds for a message: its JSON, unless you say otherwise."""
        return message.to_json()

    @contextmanager
    def opened(self) -> Iterator[Output]:
        """Make an output, open it, and close it in the end."""
        output = self.make()
        try:
            output.open()
            yield output
        finally:
            output.close()

    def test_every_message_is_accepted_and_arrives_byte_for_byte(self) -> None:
        """One receipt for each message, and exactly the bytes that belong to its id."""
        messages = sample_messages(12)
        with self.opened() as output:
            receipts = output.deliver(messages)

        assert list(receipts) == [Accepted()] * len(messages)
        assert sorted(self.read()) == sorted((message.id, self.expected(message)) for message in messages)

    def test_a_repeated_message_is_accepted_and_recognisable(self) -> None:
        """A message that comes again carries the same id, and is seen once where the output says that it dedupes."""
        first, *others = sample_messages(4)
        with self.opened() as output:
            output.deliver([first])
            receipts = output.deliver([*others, first])

        self._assert_accepted(receipts, count=4)
        self._assert_seen([first, *others])

    def test_a_message_repeated_in_one_call_gets_its_receipts(self) -> None:
        """Also a repetition within one call has a receipt of its own."""
        first, second = sample_messages(2)
        with self.opened() as output:
            receipts = output.deliver([first, second, first])

        self._assert_accepted(receipts, count=3)
        self._assert_seen([first, second])

    def test_a_repetition_in_a_later_process_is_recognised(self) -> None:
        """What was delivered is known to the downstream system, not only to the instance that delivered it."""
        messages = sample_messages(6)
        with self.opened() as output:
            output.deliver(messages[:4])
        with self.opened() as output:
            receipts = output.deliver(messages)

        self._assert_accepted(receipts, count=6)
        self._assert_seen(messages)

    def test_two_instances_deliver_at_once(self) -> None:
        """Several processes deliver side by side, even the same messages, and none is lost or torn."""
        messages = sample_messages(48)
        with self.opened() as one, self.opened() as two, ThreadPoolExecutor(2) as threads:
            halves = threads.map(_deliver_singly, [one, two], [messages[:32], messages[16:]])
            receipts = [receipt for half in halves for receipt in half]

        self._assert_accepted(receipts, count=64)
        self._assert_seen(messages)

    def test_no_message_is_no_receipt(self) -> None:
        """An empty call is allowed and changes nothing."""
        with self.opened() as output:
            assert list(output.deliver([])) == []

        assert list(self.read()) == []

    def test_making_an_output_has_no_effect(self) -> None:
        """The configuration is checked by making outputs, so nothing may happen before `open`."""
        self.make()

        assert list(self.read()) == []

    def test_closing_what_was_never_opened_is_harmless(self) -> None:
        """`close` is called also when `open` failed."""
        self.make().close()

    def test_the_type_describes_itself(self) -> None:
        """Name, options and batch size are declared, so that settings and reference pages can be made from them."""
        type_ = type(self.make())

        assert type_.type_name.isidentifier()
        assert type_.batch_size >= 1
        assert all(option.description.endswith(".") for option in describe(type_.Options))

    def _assert_accepted(self, receipts: Sequence[Receipt], *, count: int) -> None:
        assert list(receipts) == [Accepted()] * count

    def _assert_seen(self, messages: Sequence[Message]) -> None:
        """Every message is there with its bytes; where the output dedupes, once."""
        expected = sorted((message.id, self.expected(message)) for message in messages)
        seen = sorted(self.read())

        assert sorted(set(seen)) == expected
        if self.make().dedupes:
            assert seen == expected


def _deliver_singly(output: Output, messages: Sequence[Message]) -> list[Receipt]:
    return [receipt for message in messages for receipt in output.deliver([message])]


class StageContract(ABC):
    """Tests that every stage passes. Derive from it, name the class `Test…`, and define `make`.

    They run over `messages`, which you may extend by what your stage is about.
    """

    # Seconds that one message may take, whatever it holds: a hundred times what an honest one takes.
    longest: float = 2.0

    @abstractmethod
    def make(self) -> Stage:
        """Return a new instance with options under which it reads as much of a message as it can."""

    def messages(self) -> Sequence[Message]:
        """Return the messages to try."""
        return sample_messages(len(RAWS))

    def check(self, message: Message) -> None:
        """Assert what holds for any message whatever."""
        name = self.make().name
        before = message.to_json()
        begun = time.process_time()
        changed = self.make().apply(message)
        took = time.process_time() - begun

        assert took < self.longest, f"{took:.1f} s"
        # The message that came in is as it was: someone else may hold it.
        assert orjson.dumps(message.to_dict()) == before
        # A retry finds the same, also in another process: nothing is remembered.
        again = self.make().apply(message)
        assert (changed is None) == (again is None)
        if changed is None or again is None:
            return
        assert changed.to_json() == again.to_json()
        assert (changed.id, changed.digest) == (message.id, message.digest)
        # Findings stand under the stage's own name, as JSON with text that any database takes.
        others = {key: found for key, found in changed.findings.items() if key != name}
        assert others == dict(message.findings)
        found = changed.findings.get(name)
        assert orjson.loads(orjson.dumps(found)) == found
        assert "\\u0000" not in orjson.dumps(found).decode("utf-8").replace("\\\\", "")

    def test_every_message_passes(self) -> None:
        """It raises for no message, changes none that came in, and finds the same again."""
        messages = self.messages()

        assert messages
        for message in messages:
            self.check(message)

    def test_making_a_stage_has_no_effect_and_its_name_is_its_own(self) -> None:
        """The configuration is checked by making stages; two of one type may stand side by side."""
        assert self.make().name == self.make().name

    def test_the_type_describes_itself(self) -> None:
        """Name and options are declared, so that settings and reference pages can be made from them."""
        type_ = type(self.make())

        assert type_.type_name.isidentifier()
        assert all(option.description.endswith(".") for option in describe(type_.Options))
