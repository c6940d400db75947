"""What a real RabbitMQ makes of what is published: confirms, returns, refusals, and a broker or a wire that fails."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.amqp import AmqpOptions, AmqpOutput
from pipelines.testing import sample_messages
from tests.bed.lossy import lossy
from tests.bed.processes import wait_until
from tests.bed.rabbitmq import RabbitMq
from worker.demo.certificates import write_certificates


@pytest.fixture
def queue(rabbitmq: RabbitMq) -> Iterator[str]:
    """A durable queue that is empty."""
    name = f"mail-{secrets.token_hex(4)}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False)
    yield name
    with rabbitmq.channel() as channel:
        channel.queue_delete(name)


@contextmanager
def publisher(url: str, **options: Any) -> Iterator[AmqpOutput]:
    output = AmqpOutput("bus", AmqpOptions.model_validate({"url": url, **options}))
    output.open()
    try:
        yield output
    finally:
        output.close()


def deliver(url: str, *messages: Message, **options: Any) -> list[Receipt]:
    with publisher(url, **options) as output:
        return list(output.deliver(messages or sample_messages(1)))


def reason(receipts: list[Receipt]) -> str:
    """What all of these receipts give as their reason, which has to be one."""
    assert all(isinstance(receipt, Retry) for receipt in receipts), receipts
    (told,) = {receipt.reason for receipt in receipts if isinstance(receipt, Retry)}
    return told


def via(rabbitmq: RabbitMq, port: int) -> str:
    return rabbitmq.url.replace(str(rabbitmq.port), str(port))


def large(message: Message, size: int) -> Message:
    """The message with a finding that makes its JSON larger."""
    return message.with_findings("padding", "x" * size)


def test_a_message_is_persistent_and_has_its_id(rabbitmq: RabbitMq, queue: str) -> None:
    """The consumer finds what it needs to drop a repetition without reading the body."""
    (message,) = sample_messages(1)

    assert deliver(rabbitmq.url, message, routing_key=queue) == [Accepted()]

    (found,) = rabbitmq.take(queue)
    assert found.body.encode() == message.to_json()
    assert found.properties["message_id"] == message.id
    assert found.properties["delivery_mode"] == 2
    assert found.properties["content_type"] == "application/json"
    assert found.headers["mailbox"] == "contract"


def test_the_routing_key_names_the_mailbox(rabbitmq: RabbitMq, queue: str) -> None:
    """A topic exchange sorts by mailbox."""
    with rabbitmq.channel() as channel:
        channel.exchange_declare(f"{queue}.topics", "topic", durable=True, auto_delete=False)
        channel.queue_bind(queue, f"{queue}.topics", "mail.contract")

    options = {"exchange": f"{queue}.topics", "routing_key": "mail.{mailbox}"}
    assert deliver(rabbitmq.url, **options) == [Accepted()]
    (other,) = sample_messages(1, mailbox="other")
    assert "has no queue for this message" in reason(deliver(rabbitmq.url, other, **options))

    assert len(rabbitmq.take(queue)) == 1


def test_what_reaches_no_queue_is_a_retry_for_it_alone(rabbitmq: RabbitMq, queue: str) -> None:
    """The broker would have thrown it away with a good answer, were it not for `mandatory`."""
    here, there = sample_messages(4, mailbox=queue), sample_messages(4, mailbox="nowhere")
    mixed = [message for pair in zip(here, there, strict=True) for message in pair]

    receipts = deliver(rabbitmq.url, *mixed, routing_key="{mailbox}")

    assert receipts[::2] == [Accepted()] * 4
    assert "check EXCHANGE, ROUTING_KEY, and the bindings there" in reason(receipts[1::2])
    assert [message.properties["message_id"] for message in rabbitmq.take(queue)] == [m.id for m in here]


def test_a_full_queue_is_a_retry_for_what_found_no_room(rabbitmq: RabbitMq) -> None:
    """`x-overflow=reject-publish`: the broker says no to each message for itself."""
    name = f"full-{secrets.token_hex(4)}"
    with rabbitmq.channel() as channel:
        arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)

    receipts = deliver(rabbitmq.url, *sample_messages(5), routing_key=name)

    assert receipts[:2] == [Accepted()] * 2
    assert "did not take the message: its queue is full" in reason(receipts[2:])
    assert len(rabbitmq.take(name)) == 2


def test_a_missing_exchange_is_a_retry_that_names_it(rabbitmq: RabbitMq) -> None:
    """Exchanges are not declared: their kind is the business of those who read."""
    receipts = deliver(rabbitmq.url, *sample_messages(3), exchange="missing")

    assert reason(receipts) == f"127.0.0.1:{rabbitmq.port} has no exchange missing"


def test_a_message_that_is_too_large_is_refused_and_the_others_arrive(rabbitmq: RabbitMq, queue: str) -> None:
    """The broker closes the channel and does not say over which message; those behind it are gone and come again."""
    messages = sample_messages(6)
    messages[2], messages[4] = large(messages[2], 1_000_000), large(messages[4], 2_000_000)

    receipts = deliver(rabbitmq.url, *messages, routing_key=queue)

    assert [type(receipt) for receipt in receipts] == [
        Accepted,
        Accepted,
        Refused,
        Accepted,
        Refused,
        Accepted,
    ]
    assert isinstance(receipts[2], Refused)
    assert "raise max_message_size there" in receipts[2].reason
    assert {message.properties["message_id"] for message in rabbitmq.take(queue)} == {
        messages[number].id for number in (0, 1, 3, 5)
    }


def test_many_large_messages_that_come_back_have_their_answers(rabbitmq: RabbitMq) -> None:
    """Returned messages come back whole, while we are still sending."""
    messages = [large(message, 300_000) for message in sample_messages(64)]

    receipts = deliver(rabbitmq.url, *messages, routing_key="nowhere-at-all", timeout="60s")

    assert "has no queue for this message" in reason(receipts)


def test_not_all_of_a_call_is_sent_to_a_broker_that_does_not_confirm(rabbitmq: RabbitMq, queue: str) -> None:
    """A quarter of a megabyte is under way at most, or one message: the broker has to hold what we do not read."""
    messages = [large(message, 100_000) for message in sample_messages(64)]
    with lossy(rabbitmq.port) as wire, publisher(
        rabbitmq.url.replace(str(rabbitmq.port), str(wire.port)), routing_key=queue, timeout="2s"
    ) as output:  # fmt: skip
        assert output.deliver(messages[:1]) == [Accepted()]
        before = wire.carried
        wire.answers = "lose"
        assert "did not confirm within 2s" in reason(list(output.deliver(messages)))
        assert 100_000 < wire.carried - before < 400_000
        wire.answers = "pass"


def test_a_wrong_password_is_a_retry_that_does_not_show_it(rabbitmq: RabbitMq, queue: str) -> None:
    """Somebody can put it right, and the mail is still there. PASSWORD is used when URL has none."""
    bare = f"amqp://robot@127.0.0.1:{rabbitmq.port}"

    told = reason(deliver(bare, password="swordfish-swordfish", routing_key=queue))

    assert "does not let us in (AccessRefused): check user, password and virtual host" in told
    assert "swordfish" not in told
    assert deliver(bare, password=rabbitmq.password, routing_key=queue) == [Accepted()]


def test_a_missing_virtual_host_is_a_retry(rabbitmq: RabbitMq) -> None:
    """It is the path of the URL."""
    told = reason(deliver(rabbitmq.url[:-1] + "elsewhere"))

    assert "check user, password and virtual host in URL" in told


def test_a_broker_that_is_down_is_a_retry_that_names_it(rabbitmq: RabbitMq) -> None:
    """Host and port, and not the password that is in the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    told = reason(deliver(f"amqp://robot:swordfish@127.0.0.1:{port}", *sample_messages(3)))

    assert told == f"127.0.0.1:{port} cannot be reached, or broke off (ConnectionRefusedError)"


def test_a_broker_that_hangs_is_a_retry_in_time(rabbitmq: RabbitMq, queue: str) -> None:
    """With its connections open: nothing is refused, nothing is confirmed."""
    with publisher(rabbitmq.url, routing_key=queue, timeout="1s") as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        rabbitmq.freeze()
        try:
            began = time.monotonic()
            told = reason(list(output.deliver(sample_messages(3))))
            assert time.monotonic() - began < 4
        finally:
            rabbitmq.thaw()
        assert told == f"127.0.0.1:{rabbitmq.port} did not confirm within 1s"
        assert output.deliver(sample_messages(3)) == [Accepted()] * 3


def test_nobody_who_answers_is_a_retry_in_time(rabbitmq: RabbitMq) -> None:
    """A port that takes the connection and says nothing, with TLS and without."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for scheme in ("amqp", "amqps"):
            began = time.monotonic()
            told = reason(deliver(f"{scheme}://127.0.0.1:{server.getsockname()[1]}", timeout="500ms"))
            assert "cannot be reached, or broke off (TimeoutError)" in told
            assert time.monotonic() - began < 3


def test_a_confirm_that_gets_lost_is_a_retry_with_the_same_id(rabbitmq: RabbitMq, queue: str) -> None:
    """The message is in the queue twice then, and the consumer can see it."""
    (message,) = sample_messages(1)
    with (
        lossy(rabbitmq.port) as wire,
        publisher(via(rabbitmq, wire.port), routing_key=queue, timeout="1s") as output,
    ):
        assert output.deliver([message]) == [Accepted()]
        wire.answers = "lose"
        assert "did not confirm within 1s" in reason(list(output.deliver([message])))
        wire.answers = "pass"
        assert output.deliver([message]) == [Accepted()]

    # The broker takes what was on its way also from a connection that is gone.
    with rabbitmq.channel() as channel:
        wait_until(
            lambda: channel.queue_declare(queue, passive=True).message_count == 3, timeout=5, what="all three"
        )
    assert [found.properties["message_id"] for found in rabbitmq.take(queue)] == [message.id] * 3


def test_a_kept_connection_that_is_gone_is_made_anew(rabbitmq: RabbitMq, queue: str) -> None:
    """A connection that something on the way has cut costs no retry."""
    with lossy(rabbitmq.port) as wire, publisher(via(rabbitmq, wire.port), routing_key=queue) as output:
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2
        wire.cut()
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2
        assert wire.connections == 2


def test_a_connection_is_kept_for_half_a_minute(rabbitmq: RabbitMq, queue: str) -> None:
    """One for many calls; but nobody relies on one that was silent for long."""
    now = 1000.0
    options = AmqpOptions.model_validate({"url": rabbitmq.url, "routing_key": queue})
    with lossy(rabbitmq.port) as wire:
        options = options.model_copy(update={"url": pydantic.SecretStr(via(rabbitmq, wire.port))})
        output = AmqpOutput("bus", options, clock=lambda: now)
        try:
            for pause, connections in ((0, 1), (29, 1), (31, 2)):
                now += pause
                assert output.deliver(sample_messages(1)) == [Accepted()]
                assert wire.connections == connections
        finally:
            output.close()


def test_what_was_accepted_survives_a_killed_broker(rabbitmq: RabbitMq, queue: str) -> None:
    """A confirm comes after the disk: kill -9 the moment we have it, start again, read everything."""
    messages = sample_messages(40)
    with publisher(rabbitmq.url, routing_key=queue) as output:
        assert output.deliver(messages) == [Accepted()] * 40
        rabbitmq.kill9()
        try:
            assert "cannot be reached" in reason(list(output.deliver(messages[:2])))
        finally:
            rabbitmq.start()

    assert [found.properties["message_id"] for found in rabbitmq.take(queue)] == [m.id for m in messages]


def test_tls_is_verified_against_the_named_authority(rabbitmq: RabbitMq, queue: str, tmp_path: Path) -> None:
    """`amqps://` speaks verified TLS or not at all."""
    other = write_certificates(tmp_path / "other")
    for trusted in ({}, {"ca_file": other.ca_file}):
        told = reason(deliver(rabbitmq.tls_url, routing_key=queue, **trusted))
        assert (
            told
            == f"localhost:{rabbitmq.tls_port} cannot be reached, or broke off (SSLCertVerificationError)"
        )

    assert rabbitmq.take(queue) == []
    assert deliver(rabbitmq.tls_url, routing_key=queue, ca_file=rabbitmq.authority) == [Accepted()]


def test_a_certificate_for_another_name_is_a_retry(rabbitmq: RabbitMq, queue: str) -> None:
    """A certificate of the right authority for another host proves nothing."""
    url = rabbitmq.tls_url.replace("localhost", "127.0.0.2")

    told = reason(deliver(url, routing_key=queue, ca_file=rabbitmq.authority))

    assert "cannot be reached, or broke off" in told


@pytest.mark.parametrize(
    "url", ["", "http://h", "amqp://", "amqp://h:port", "amqp://h/?heartbeat=0", "redis://h"]
)
def test_an_address_that_is_none_is_a_problem_of_the_configuration(url: str) -> None:
    """Found by `mailquay check`, and not at the first message."""
    with pytest.raises(pydantic.ValidationError, match="write a whole address"):
        AmqpOptions.model_validate({"url": url})


@pytest.mark.parametrize("key", ["mail.{folder}", "mail.{", "mail}", "a\nb"])
def test_a_routing_key_with_other_words_in_braces_is_a_problem(key: str) -> None:
    """Else mail would go to a queue with braces in its name."""
    with pytest.raises(pydantic.ValidationError, match=r"\{mailbox\} is all that may stand in braces"):
        AmqpOptions.model_validate({"url": "amqp://h", "routing_key": key})


def test_a_message_twice_in_one_call_has_two_fates(rabbitmq: RabbitMq, queue: str) -> None:
    """Returned messages are told apart by id; two of one id are returned alike."""
    (message,) = sample_messages(1)
    twin = replace(message)

    assert deliver(rabbitmq.url, message, twin, routing_key=queue) == [Accepted()] * 2
    assert "has no queue" in reason(deliver(rabbitmq.url, message, twin, routing_key="nowhere-at-all"))
