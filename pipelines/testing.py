"""The promises of an output and of a stage as tests, for those that come with Mailquay and for yours.

Derive a test class from `OutputContract`, say how to make your output and how to read what its system holds, and run
pytest; each promise of `pipelines.output` that can be seen from outside is one test. It cannot see what survives a
power failure, and of how your system fails it knows what `out_of_reach` shows it: those tests are yours. `StageContract`
is the same for a stage.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import orjson
from pydantic import SecretStr

from pipelines.message import Message
from pipelines.options import describe
from pipelines.output import Accepted, Output, Receipt, Refused, Retry
from pipelines.samples import HOSTILE, RAWS, TELLTALE, hostile_messages, sample_messages, small_messages
from pipelines.stage import Stage

__all__ = [
    "HOSTILE",
    "TELLTALE",
    "OutputContract",
    "StageContract",
    "hostile_messages",
    "sample_messages",
    "small_messages",
]

# Words that make an option a secret.
_SECRET_WORDS = {"password", "passphrase", "secret", "token"}


class OutputContract(ABC):
    """Tests that every output passes. Derive from it, name the class `Test…`, and define `make` and `read`.

    Each test starts with an empty downstream system; an autouse fixture of your class is the place to see to it. Where
    a system can be out of reach, define `out_of_reach` as well.
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

    def out_of_reach(self) -> Output | None:
        """Return an output, not opened, whose system is not there; None if there is no such thing.

        Set its secrets, each with TELLTALE in it: then also a part of one is seen where it must not be.
        """
        return None

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
            receipts = _deliver(output, messages)

        assert receipts == [Accepted()] * len(messages)
        assert sorted(self.read()) == sorted((message.id, self.expected(message)) for message in messages)

    def test_a_repeated_message_is_accepted_and_recognisable(self) -> None:
        """A message that comes again carries the same id, and is seen once where the output says that it dedupes."""
        first, *others = sample_messages(4)
        with self.opened() as output:
            output.deliver([first])
            receipts = _deliver(output, [*others, first])

        self._assert_accepted(receipts, count=4)
        self._assert_seen([first, *others])

    def test_a_message_repeated_in_one_call_gets_its_receipts(self) -> None:
        """Also a repetition within one call, where calls have more than one message, has a receipt of its own."""
        first, second = sample_messages(2)
        with self.opened() as output:
            receipts = _deliver(output, [first, second, first])

        self._assert_accepted(receipts, count=3)
        self._assert_seen([first, second])

    def test_a_repetition_in_a_later_process_is_recognised(self) -> None:
        """What was delivered is known to the downstream system, not only to the instance that delivered it."""
        messages = sample_messages(6)
        with self.opened() as output:
            _deliver(output, messages[:4])
        with self.opened() as output:
            receipts = _deliver(output, messages)

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

    def test_as_many_calls_overlap_as_are_declared(self) -> None:
        """`parallel` calls on one instance, each in a thread of its own, and every message arrives."""
        with self.opened() as output:
            count = output.parallel
            messages = sample_messages(6 * count)
            together = threading.Barrier(count, timeout=30)

            def deliver(start: int) -> list[Receipt]:
                together.wait()
                return _deliver(output, messages[start::count], most=2)

            with ThreadPoolExecutor(count) as threads:
                receipts = [receipt for part in threads.map(deliver, range(count)) for receipt in part]

        self._assert_accepted(receipts, count=6 * count)
        self._assert_seen(messages)

    def test_a_call_has_as_many_messages_as_are_declared(self) -> None:
        """`batch_size` messages at once, a thousand at most here, are no more trouble than one."""
        with self.opened() as output:
            count = min(output.batch_size, 1000)
            messages = small_messages(count)
            receipts = output.deliver(messages)

        self._assert_accepted(receipts, count=count)
        self._assert_seen(messages)

    def test_a_hostile_message_is_accepted_or_refused(self) -> None:
        """Whatever somebody sends, nothing is raised, no reason repeats it, and mail behind it arrives."""
        hostile, (first, second) = hostile_messages(), sample_messages(2)
        with self.opened() as output:
            alone = [receipt for message in hostile for receipt in output.deliver([message])]
            behind = output.deliver([first])
            together = _deliver(output, [*hostile, second])

        for name, receipt in zip([*HOSTILE, *HOSTILE], [*alone, *together[:-1]], strict=True):
            assert isinstance(receipt, Accepted | Refused), name
            self._assert_discreet(output, receipt)
        assert [*behind, together[-1]] == [Accepted()] * 2
        held = list(self.read())
        assert all((message.id, self.expected(message)) in held for message in (first, second))

    def test_an_output_that_was_closed_can_be_opened_again(self) -> None:
        """Nothing of the first time is in the way, and closing twice is harmless."""
        messages = sample_messages(2)
        output = self.make()
        try:
            for message in messages:
                output.open()
                assert list(output.deliver([message])) == [Accepted()]
                output.close()
        finally:
            output.close()

        self._assert_seen(messages)

    def test_a_system_out_of_reach_is_a_retry_that_shows_no_secret(self) -> None:
        """Nothing is accepted or given up; what people read of it holds no secret, no subject and no body."""
        output = self.out_of_reach()
        if output is None:
            return
        try:
            output.open()
            receipts = _deliver(output, hostile_messages()[:2])
        except Exception as error:
            # What Mailquay makes of it.
            what = error.strerror if isinstance(error, OSError) else ""
            receipts = [Retry(f"{type(error).__name__} {what}")]
        finally:
            output.close()

        assert {type(receipt) for receipt in receipts} == {Retry}
        for receipt in receipts:
            self._assert_discreet(output, receipt)

    def test_secrets_are_not_shown(self) -> None:
        """Neither the output nor its options name one, and an option that is a secret is declared as one."""
        output = self.out_of_reach() or self.make()
        shown = f"{output!r} {output} {output.options!r} {output.options}"

        assert not [secret for secret in _secrets(output) if secret in shown]
        for option in describe(output.Options):
            assert option.secret or not _SECRET_WORDS & set(option.name.lower().split("_")), option.name

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
        """Name, options, batch size and parallelism are declared: settings and reference pages are made from them."""
        output = self.make()
        type_ = type(output)

        assert type_.type_name.isidentifier()
        assert isinstance(type_.dedupes, bool)
        assert output.batch_size >= 1
        assert output.parallel == getattr(output.options, "parallel", output.parallel) >= 1
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

    def _assert_discreet(self, output: Output, receipt: Receipt) -> None:
        """A reason is one line for people, without a secret and without a word of the mail."""
        if not isinstance(receipt, Accepted):
            assert receipt.reason.isprintable()
            assert receipt.reason
            assert TELLTALE not in receipt.reason
            # Without saying which: the failure is printed.
            assert not any(secret in receipt.reason for secret in _secrets(output))


def _secrets(output: Output) -> Iterator[str]:
    """Yield the options that are secret."""
    for _, value in output.options:
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield value.get_secret_value()


def _deliver(output: Output, messages: Sequence[Message], *, most: int = 64) -> list[Receipt]:
    """Deliver in calls of at most as many messages as the output declares."""
    size = min(output.batch_size, most)
    calls = [messages[start : start + size] for start in range(0, len(messages), size)]
    return [receipt for call in calls for receipt in output.deliver(call)]


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
