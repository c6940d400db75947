"""librdkafka's own mock of a Kafka cluster, on loopback: several brokers in this process that speak the real protocol.

It proves that what is produced arrives through real connections with its key, headers and body, and what becomes of errors
that a broker can answer and of brokers that are gone. It proves nothing of a real broker's disk and replicas, keeps
everything in memory, numbers no duplicates of an idempotent producer, and knows neither TLS nor SASL. There is no Kafka in
Debian's packages or as a wheel.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

# rd_kafka_resp_err_t and the keys of Kafka's requests (kafka.apache.org/protocol).
PRODUCE, INIT_PRODUCER_ID = 0, 22


@dataclass(frozen=True)
class Record:
    """One message of a topic, as a consumer sees it."""

    partition: int
    key: str
    headers: dict[str, str]
    value: bytes


class MockKafka:
    """A cluster of three brokers, for as long as its owner, a producer that produces nothing, lives."""

    def __init__(self, *, partitions: int = 4) -> None:
        self._owner = Producer({"test.mock.num.brokers": 3, "log_level": 0})
        self._library = library()
        handle = self._library.rd_kafka_handle_mock_cluster
        handle.restype, handle.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        self._cluster = ctypes.c_void_p(handle(handle_of(self._owner)))
        self.servers = ",".join(
            f"{broker.host}:{broker.port}" for broker in self._owner.list_topics(timeout=10).brokers.values()
        )
        self._partitions = partitions

    def make_topic(self, name: str) -> None:
        """Make a topic with its partitions."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), self._partitions, 3)

    def answer(self, request: int, *errors: int) -> None:
        """Let the next requests of this kind meet these errors, one each, 0 being none."""
        answers = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), answers
        )

    def set_down(self, down: bool) -> None:
        """Let all brokers refuse connections, or be back."""
        call = (
            self._library.rd_kafka_mock_broker_set_down if down else self._library.rd_kafka_mock_broker_set_up
        )
        for broker in (1, 2, 3):
            call(self._cluster, ctypes.c_int32(broker))

    def slow_down(self, milliseconds: int) -> None:
        """Let every answer take so long."""
        for broker in (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_rtt(
                self._cluster, ctypes.c_int32(broker), ctypes.c_int(milliseconds)
            )

    def records(self, topic: str) -> list[Record]:
        """All records of a topic that is there, by partition and in order."""
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "reader", "enable.partition.eof": False}
        )
        try:
            found = []
            for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
                place = TopicPartition(topic, partition, 0)
                try:
                    _, end = consumer.get_watermark_offsets(place, timeout=10)
                except KafkaException:
                    continue
                consumer.assign([place])
                for _ in range(end):
                    record = consumer.poll(10)
                    assert record is not None, "a record did not come within 10 s"
                    assert record.error() is None, record.error()
                    found.append(
                        Record(
                            partition=partition,
                            key=(record.key() or b"").decode(),
                            headers={name: value.decode() for name, value in record.headers() or ()},
                            value=record.value() or b"",
                        )
                    )
            return found
        finally:
            consumer.close()

    def close(self) -> None:
        """End the cluster: it goes with its owner."""
        del self._owner


def library() -> ctypes.CDLL:
    """The very librdkafka that the Python package has loaded."""
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return ctypes.CDLL(next(line.split()[-1] for line in mapped if "librdkafka" in line))


def handle_of(producer: Producer) -> ctypes.c_void_p:
    """The `rd_kafka_t` of a Python producer: the first field behind its object's head."""
    return ctypes.c_void_p(ctypes.c_void_p.from_address(id(producer) + object.__basicsize__).value)


def make_fatal(producer: Producer, error: int) -> None:
    """Let a producer meet an error after which it can do nothing more, as librdkafka's own tests do."""
    library().rd_kafka_test_fatal_error(handle_of(producer), ctypes.c_int(error), b"of a test")
