"""What a producer makes of the answers and faults of brokers: librdkafka's mock cluster, see tests/bed/kafka.py."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic
import pytest
from confluent_kafka import KafkaError

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.kafka import KafkaOptions, KafkaOutput
from pipelines.testing import sample_messages
from tests.bed.kafka import PRODUCE, MockKafka, make_fatal


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    cluster = MockKafka()
    cluster.make_topic("mailquay")
    yield cluster
    cluster.close()


@contextmanager
def producing(servers: str, **options: Any) -> Iterator[KafkaOutput]:
    output = KafkaOutput("bus", KafkaOptions.model_validate({"servers": servers, **options}))
    try:
        output.open()
        yield output
    finally:
        output.close()


def deliver(servers: str, *messages: Message, **options: Any) -> list[Receipt]:
    with producing(servers, **options) as output:
        return list(output.deliver(messages or sample_messages(1)))


def reason(receipts: list[Receipt]) -> str:
    """What all of these receipts give as their reason, which has to be one."""
    assert all(isinstance(receipt, Retry) for receipt in receipts), receipts
    (told,) = {receipt.reason for receipt in receipts if isinstance(receipt, Retry)}
    return told


def test_a_record_has_the_id_as_key_and_header(kafka: MockKafka) -> None:
    """A consumer drops a repetition without reading the body; a compacted topic does it by itself."""
    messages = sample_messages(20)

    assert deliver(kafka.servers, *messages) == [Accepted()] * 20

    records = kafka.records("mailquay")
    assert {(record.key, record.value) for record in records} == {(m.id, m.to_json()) for m in messages}
    assert all(record.headers == {"id": record.key, "mailbox": "contract"} for record in records)
    assert len({record.partition for record in records}) > 1


def test_with_the_mailbox_as_key_its_messages_stay_in_order(kafka: MockKafka) -> None:
    """One partition a mailbox, in the order of the call."""
    messages = sample_messages(20)

    assert deliver(kafka.servers, *messages, key="mailbox") == [Accepted()] * 20

    records = kafka.records("mailquay")
    assert [record.headers["id"] for record in records] == [message.id for message in messages]
    assert {record.key for record in records} == {"contract"}


def test_the_producer_is_idempotent_and_waits_for_all_replicas() -> None:
    """Nobody can set it otherwise by SETTINGS."""
    settings = KafkaOutput("bus", KafkaOptions.model_validate({"servers": "h:9092"}))._settings()
    assert (settings["enable.idempotence"], settings["acks"]) == (True, "all")
    for name in ("acks", "enable.idempotence", "delivery.timeout.ms", "bootstrap.servers"):
        with pytest.raises(pydantic.ValidationError, match=f"{name} is set by Mailquay"):
            KafkaOptions.model_validate({"servers": "h:9092", "settings": f"linger.ms=1, {name}=1"})


def test_an_error_that_passes_is_dealt_with_in_the_call(kafka: MockKafka) -> None:
    """librdkafka asks again, under the same number, when the leader has changed or replicas lag behind."""
    kafka.answer(PRODUCE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NOT_ENOUGH_REPLICAS)

    assert deliver(kafka.servers, *sample_messages(5)) == [Accepted()] * 5

    assert len(kafka.records("mailquay")) == 5


def test_a_message_that_the_client_finds_too_large_is_refused_for_itself(kafka: MockKafka) -> None:
    """The client knows message.max.bytes, and does not even send it."""
    messages = sample_messages(3)
    messages[1] = messages[1].with_findings("padding", "x" * 1_100_000)

    receipts = deliver(kafka.servers, *messages)

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Accepted]
    assert isinstance(receipts[1], Refused)
    assert "is larger than it takes: raise message.max.bytes" in receipts[1].reason
    assert deliver(kafka.servers, messages[1], settings="message.max.bytes=2000000") == [Accepted()]


def test_what_a_broker_refuses_together_is_asked_for_alone(kafka: MockKafka) -> None:
    """It refuses a request as a whole: one message that is too large must not take its neighbours with it."""
    messages = sample_messages(4)
    # The first request has all four; of those that follow, each with one, the second is the culprit.
    too_large = KafkaError.MSG_SIZE_TOO_LARGE
    kafka.answer(PRODUCE, too_large, 0, too_large, 0, 0)

    receipts = deliver(kafka.servers, *messages, key="mailbox", settings="linger.ms=200")

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Accepted, Accepted]
    assert [record.headers["id"] for record in kafka.records("mailquay")] == [
        messages[n].id for n in (0, 2, 3)
    ]


def test_a_topic_that_is_forbidden_is_a_retry(kafka: MockKafka) -> None:
    """Somebody can put it right."""
    kafka.answer(PRODUCE, KafkaError.TOPIC_AUTHORIZATION_FAILED)

    assert "this user may not write to the topic" in reason(deliver(kafka.servers))


def test_brokers_that_are_down_are_a_retry_in_time() -> None:
    """The reason says that nobody is there, and not only that it took too long."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()

    told = reason(deliver(f"127.0.0.1:{port}", *sample_messages(3), timeout="2s"))

    assert told == f"127.0.0.1:{port} did not confirm within 2s: no broker can be reached"
    assert time.monotonic() - began < 6


def test_brokers_that_hang_are_a_retry_in_time_and_the_same_producer_goes_on(kafka: MockKafka) -> None:
    """Nothing that was given up is sent later behind our back."""
    messages = sample_messages(3)
    with producing(kafka.servers, timeout="2s", key="mailbox") as output:
        assert output.deliver(messages[:1]) == [Accepted()]
        kafka.slow_down(10_000)
        began = time.monotonic()
        assert "did not confirm within 2s" in reason(list(output.deliver(messages[1:])))
        assert time.monotonic() - began < 7
        kafka.slow_down(0)
        receipts: list[Receipt] = []
        deadline = time.monotonic() + 30
        while receipts != [Accepted()] * 2 and time.monotonic() < deadline:
            receipts = list(output.deliver(messages[1:]))
        assert receipts == [Accepted()] * 2

    assert {record.headers["id"] for record in kafka.records("mailquay")} == {
        message.id for message in messages
    }


def test_brokers_that_come_back_are_found_again(kafka: MockKafka) -> None:
    """One producer for the life of the process, whatever happens to the cluster."""
    with producing(kafka.servers, timeout="1s") as output:
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2
        kafka.set_down(True)
        assert "did not confirm within 1s" in reason(list(output.deliver(sample_messages(2))))
        kafka.set_down(False)
        deadline = time.monotonic() + 30
        while (receipts := output.deliver(sample_messages(2))) != [
            Accepted()
        ] * 2 and time.monotonic() < deadline:
            pass
        assert receipts == [Accepted()] * 2


def test_a_fatal_error_ends_the_producer_and_a_new_one_goes_on(kafka: MockKafka) -> None:
    """An exception makes the worker open the output anew; this one would never produce again."""
    with producing(kafka.servers) as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        assert output._producer is not None
        make_fatal(output._producer, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        with pytest.raises(RuntimeError, match=r"the producer for .* is at its end"):
            output.deliver(sample_messages(2))
        output.close()
        output.open()
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2


def test_tls_to_a_broker_without_is_a_retry_in_time(kafka: MockKafka, tmp_path: Path) -> None:
    """TLS=yes speaks TLS or not at all."""
    assert "did not confirm within 2s" in reason(deliver(kafka.servers, tls=True, timeout="2s"))
    assert kafka.records("mailquay") == []


def test_sasl_and_tls_are_what_librdkafka_is_told() -> None:
    """The mock knows neither, so what can be seen is the settings; librdkafka takes them."""
    password = secrets.token_urlsafe(16)
    options = KafkaOptions.model_validate(
        {"servers": "h:9093", "tls": True, "sasl": "SCRAM-SHA-512", "username": "robot", "password": password}
    )
    output = KafkaOutput("bus", options)
    settings = output._settings()

    assert settings["security.protocol"] == "SASL_SSL"
    assert (settings["sasl.mechanism"], settings["sasl.username"]) == ("SCRAM-SHA-512", "robot")
    assert settings["sasl.password"] == password
    output.open()
    output.close()


def test_settings_that_librdkafka_does_not_know_are_an_error_that_names_them() -> None:
    """By name, without values: one may be a password."""
    with pytest.raises(ValueError, match=r"does not take no\.such\.thing: check SETTINGS and CA_FILE"), producing(
        "h:9092", settings="no.such.thing=swordfish"
    ):  # fmt: skip
        pass
    with pytest.raises(ValueError, match=r"does not take compression") as caught, producing(
        "h:9092", settings="compression.type=swordfish"
    ):  # fmt: skip
        pass

    assert "swordfish" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("settings", ["linger.ms", "=1", "a=1,b"])
def test_settings_of_another_shape_are_a_problem_of_the_configuration(settings: str) -> None:
    """Found by `mailquay check`."""
    with pytest.raises(pydantic.ValidationError, match="write name=value"):
        KafkaOptions.model_validate({"servers": "h:9092", "settings": settings})


def test_certificates_without_tls_are_a_problem_of_the_configuration(tmp_path: Path) -> None:
    """Whoever names an authority believes that it is asked."""
    with pytest.raises(pydantic.ValidationError, match="there is no TLS without TLS=yes"):
        KafkaOptions.model_validate({"servers": "h:9092", "ca_file": tmp_path / "ca.pem"})
