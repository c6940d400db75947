"""Produces each message to a Kafka topic with an idempotent producer, and waits until all in-sync replicas have it.

The producer numbers what it sends, so a broker drops what librdkafka sends twice. A message that Mailquay delivers again
is a new one for Kafka: it has the same id in its header `id`, and as its key with KEY=id, so that a compacted topic keeps
one of them in the end. Each message has its own delivery report, which becomes its receipt. Topics are not made here.
What "in sync" is worth is what the topic is worth: `min.insync.replicas`, and brokers that leave the disk to the system.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import ClassVar, Literal

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Report
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipelines.message import Message
from pipelines.options import Duration, FilePath, Flag, Names, read_names, write_duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry

# How long librdkafka may take to report what it has given up, beyond TIMEOUT.
REPORT_SECONDS = 5.0
# What these say, the promises of this output lean on.
FIXED = frozenset(
    {"acks", "request.required.acks", "enable.idempotence", "bootstrap.servers", "metadata.broker.list", "transactional.id",
     "delivery.timeout.ms", "message.timeout.ms", "delivery.report.only.error", "security.protocol"}
)  # fmt: skip
# Errors that the same message would meet again, whenever it came. A broker says them of all that came in one request.
HOPELESS = {
    KafkaError.MSG_SIZE_TOO_LARGE: "is larger than it takes: raise message.max.bytes of broker and topic, and in SETTINGS",
    KafkaError.INVALID_RECORD: "is not what the topic takes (INVALID_RECORD)",
}
# What somebody has to put right.
HINTS = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "there is no such topic: make it, or set TOPIC",
    KafkaError._UNKNOWN_TOPIC: "there is no such topic: make it, or set TOPIC",  # noqa: SLF001 - the library's name
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this user may not write to the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "this user may not write idempotently (IdempotentWrite)",
    KafkaError.NOT_ENOUGH_REPLICAS: "too few replicas of the topic are in sync (min.insync.replicas)",
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: "too few replicas of the topic are in sync (min.insync.replicas)",
    KafkaError._AUTHENTICATION: "the brokers do not let us in: check SASL, USERNAME and PASSWORD",  # noqa: SLF001
    KafkaError._SSL: "TLS fails: check TLS and CA_FILE",  # noqa: SLF001
    KafkaError._ALL_BROKERS_DOWN: "no broker can be reached",  # noqa: SLF001
    KafkaError._TRANSPORT: "no broker can be reached",  # noqa: SLF001
    KafkaError._RESOLVE: "no broker of that name is known",  # noqa: SLF001
}


class KafkaOptions(OutputOptions):
    """Which cluster, and which topic."""

    servers: Names = Field(
        min_length=1,
        description="Brokers to begin with, each as host and port.",
        examples=["kafka-1:9092,kafka-2:9092"],
    )
    topic: str = Field(
        default="mailquay",
        pattern=r"^[A-Za-z0-9._-]{1,249}$",
        description="Topic to produce to; it has to be there, or the brokers make it.",
    )
    key: Literal["id", "mailbox"] = Field(
        default="id",
        description="Key of a message: its `id` spreads messages over all partitions; its `mailbox` keeps those of a mailbox "
        "in one.",
    )
    tls: Flag = Field(default=False, description="Whether to speak TLS, always verified.")
    ca_file: FilePath | None = Field(
        default=None,
        description="Certificates (PEM) that brokers are verified against, instead of those of the system; needs TLS.",
        examples=["/etc/mailquay/ca.pem"],
    )
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to sign in. Without it, nobody signs in."
    )
    username: str | None = Field(
        default=None, description="User to sign in as; needs SASL.", examples=["mailquay"]
    )
    password: SecretStr | None = Field(default=None, description="Password of USERNAME.")
    settings: SecretStr | None = Field(
        default=None,
        description="More settings of librdkafka, `name=value`, separated by commas.",
        examples=["compression.type=zstd,message.max.bytes=5000000"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long to wait until a message is confirmed, with all that it takes.",
    )

    @field_validator("settings")
    @classmethod
    def _are_settings(cls, settings: SecretStr | None) -> SecretStr | None:
        read_settings(settings)
        return settings

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: object, info: ValidationInfo) -> object:
        if ca_file is not None and not info.data.get("tls"):
            raise PydanticCustomError("trust", "there is no TLS without TLS=yes")
        return ca_file


def read_settings(settings: SecretStr | None) -> dict[str, str]:
    """Read SETTINGS.

    Raises:
        PydanticCustomError: it is no list of names and values, or has one that this output sets itself; no value is shown.
    """
    words = read_names("" if settings is None else settings.get_secret_value())
    assert isinstance(words, tuple)
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise PydanticCustomError("settings", "write name=value, separated by commas")
        if name.strip() in FIXED:
            raise PydanticCustomError("settings", "{name} is set by Mailquay", {"name": name.strip()})
        found[name.strip()] = value.strip()
    return found


class KafkaOutput(Output):
    """Produces messages to TOPIC; librdkafka puts those of a call together."""

    type_name: ClassVar[str] = "kafka"
    Options: ClassVar[type[OutputOptions]] = KafkaOptions

    options: KafkaOptions

    def __init__(self, name: str, options: KafkaOptions) -> None:
        """Remember the options."""
        super().__init__(name, options)
        self._servers = ",".join(options.servers)
        self._producer: Producer | None = None
        # What is wrong as a whole, and whether the producer can go on.
        self._trouble: KafkaError | None = None
        self._fatal: KafkaError | None = None

    def open(self) -> None:
        """Make the producer, which connects in threads of its own.

        Raises:
            ValueError: librdkafka does not take the settings; the sentence names what it names, without values.
        """
        try:
            self._producer = Producer(self._settings(), logger=logging.getLogger(__name__))
        except KafkaException as error:
            # Its words may quote a value, its names do not.
            named = re.search(r'property:? "([\w.]+)"|: ([\w.]+) failed', str(error))
            name = "these settings" if named is None else named[1] or named[2]
            raise ValueError(f"librdkafka does not take {name}: check SETTINGS and CA_FILE") from None

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Produce the messages and wait for the report of each.

        Raises:
            RuntimeError: the producer has met an error after which it can do nothing more; a new one can.
        """
        receipts: dict[int, Receipt] = {}
        self._trouble = None
        self._produce(messages, range(len(messages)), receipts)
        for number in [number for number, receipt in receipts.items() if isinstance(receipt, Refused)]:
            # The broker refuses what came together as a whole. Now each is asked for alone.
            if len(messages) > 1:
                self._produce(messages, [number], receipts)
        if self._fatal is not None and Accepted() not in receipts.values():
            raise RuntimeError(f"the producer for {self._servers} is at its end ({self._fatal.name()})")
        lost = Retry(f"{self._servers} did not answer")
        return [receipts.get(number, lost) for number in range(len(messages))]

    def close(self) -> None:
        """Let the producer go. Nothing is under way: each call has waited for its reports."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(REPORT_SECONDS)

    def _produce(
        self, messages: Sequence[Message], numbers: Iterable[int], receipts: dict[int, Receipt]
    ) -> None:
        """Produce some of the messages together, and fill in their receipts."""
        assert self._producer is not None
        for number in numbers:
            message = messages[number]
            try:
                self._producer.produce(
                    self.options.topic,
                    value=message.to_json(),
                    key=message.id if self.options.key == "id" else message.mailbox,
                    headers=[("id", message.id.encode()), ("mailbox", message.mailbox.encode())],
                    on_delivery=partial(self._reported, receipts, number),
                )
            except BufferError:
                receipts[number] = Retry(
                    "librdkafka's queue is full: raise queue.buffering.max.kbytes in SETTINGS"
                )
            except KafkaException as error:
                receipts[number] = self._judge(error.args[0])
        # Every message has its own deadline in librdkafka, which comes first.
        try:
            self._producer.flush(self.options.timeout.total_seconds() + REPORT_SECONDS)
        except KafkaException as error:
            # It raises what ends the producer.
            self._fatal = error.args[0]

    def _reported(
        self, receipts: dict[int, Receipt], number: int, error: KafkaError | None, _report: Report
    ) -> None:
        receipts[number] = Accepted() if error is None else self._judge(error)

    def _heard(self, error: KafkaError) -> None:
        """Note what is wrong as a whole: a message itself only says that its time is over."""
        self._trouble = error
        if error.fatal():
            self._fatal = error

    def _judge(self, error: KafkaError) -> Receipt:
        """Turn an error into a receipt. What librdkafka says in words is not shown: it may quote settings."""
        if error.code() in HOPELESS:
            return Refused(f"{self._servers}: the message {HOPELESS[error.code()]}")
        if error.fatal():
            self._fatal = error
        if error.code() == KafkaError._MSG_TIMED_OUT:  # noqa: SLF001 - the library's name
            hint = HINTS.get(self._trouble.code(), self._trouble.name()) if self._trouble else "no answer"
            return Retry(
                f"{self._servers} did not confirm within {write_duration(self.options.timeout)}: {hint}"
            )
        return Retry(
            f"{self._servers} did not take the message ({error.name()}): {HINTS.get(error.code(), 'see its log')}"
        )

    def _settings(self) -> dict[str, object]:
        options = self.options
        milliseconds = round(options.timeout.total_seconds() * 1000)
        settings: dict[str, object] = {
            **read_settings(options.settings),
            "bootstrap.servers": self._servers,
            "enable.idempotence": True,
            "acks": "all",
            "delivery.timeout.ms": milliseconds,
            "security.protocol": ("SASL_" if options.sasl else "") + ("SSL" if options.tls else "PLAINTEXT"),
            "error_cb": self._heard,
        }
        # A broker that hangs is found out before the message's own time is over.
        settings.setdefault("socket.timeout.ms", max(min(milliseconds, 60_000) // 2, 500))
        settings.setdefault("client.id", "mailquay")
        if options.ca_file is not None:
            settings["ssl.ca.location"] = str(options.ca_file)
        if options.sasl is not None:
            settings["sasl.mechanism"] = options.sasl
            settings["sasl.username"] = options.username or ""
            settings["sasl.password"] = (
                "" if options.password is None else options.password.get_secret_value()
            )
        return settings
