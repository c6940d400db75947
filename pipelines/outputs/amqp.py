"""Publishes each message to an AMQP 0-9-1 broker (RabbitMQ), persistent, and waits until the broker has confirmed it.

A message is published as mandatory: one that reaches no queue is returned by the broker and is tried again, because an
exchange, a queue or a binding is missing. A confirm of RabbitMQ means that a persistent message is on the disk of a
durable queue, or on a majority's of a quorum queue. AMQP knows no duplicates: `message_id` is the message's id, and the
consumer has to drop repetitions. Nothing is declared: exchanges and queues belong to those who read them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import amqp
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from pipelines.message import Message
from pipelines.options import CaFile, Duration, write_duration
from pipelines.output import Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.amqp_channel import ConfirmedChannel, connect, hang_up
from pipelines.outputs.destination import check_route, check_trust, check_url, host_and_port, route_of

# So much is published before the broker's confirms are waited for. A broker that returns messages sends them back whole,
# and holds what we have not read yet.
UNCONFIRMED_BYTES = 256 << 10
# A connection that has been idle for longer may be gone without a word; a new one costs a few milliseconds.
KEEP_ALIVE_SECONDS = 30.0
# AMQP 0-9-1 section 4.2.5.5 counts a short string's octets in one octet.
SHORT_STRING = 255


class AmqpOptions(OutputOptions):
    """Which broker, and by what exchange and routing key."""

    url: SecretStr = Field(
        description="Address of the broker: `amqp://` or, with TLS, `amqps://`, then user, host, port and virtual host.",
        examples=["amqps://mailquay@rabbit.example/mail"],
    )
    password: SecretStr | None = Field(default=None, description="Password, if it is not in URL.")
    exchange: str = Field(
        default="",
        max_length=SHORT_STRING,
        description="Exchange to publish to; without one, the default exchange, where ROUTING_KEY is the name of a queue.",
        examples=["mail"],
    )
    routing_key: str = Field(
        default="mailquay",
        max_length=SHORT_STRING,
        description="Routing key; `{mailbox}` becomes the name of the message's mailbox.",
        examples=["mail.{mailbox}"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=1),
        description="How long to wait for the connection, and for the confirms of one call.",
    )
    ca_file: CaFile = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretStr) -> SecretStr:
        return check_url(url, schemes={"amqp", "amqps"})

    @field_validator("routing_key")
    @classmethod
    def _is_route(cls, routing_key: str) -> str:
        return check_route(routing_key)

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: Path | None, info: ValidationInfo) -> Path | None:
        return check_trust(ca_file, info, tls="amqps")


class AmqpOutput(Output):
    """Publishes messages to EXCHANGE over one channel."""

    type_name: ClassVar[str] = "amqp"
    Options: ClassVar[type[OutputOptions]] = AmqpOptions

    options: AmqpOptions

    def __init__(
        self, name: str, options: AmqpOptions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember the options; `clock`, in seconds, tells how long a connection was idle and when TIMEOUT is over."""
        super().__init__(name, options)
        self._clock = clock
        tls = urlsplit(options.url.get_secret_value()).scheme == "amqps"
        self._server = host_and_port(options.url, port=5671 if tls else 5672)
        self._connection: Any = None
        self._channel: ConfirmedChannel | None = None
        self._used = 0.0

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Publish the messages and wait until each is confirmed, returned or rejected."""
        deadline = self._clock() + self.options.timeout.total_seconds()
        if self._clock() - self._used > KEEP_ALIVE_SECONDS:
            self.close()
        receipts: dict[int, Receipt] = {}
        reason = ""
        try:
            self._deliver(messages, receipts, deadline)
        except _Broken as broken:
            reason = str(broken)
        self._used = self._clock()
        return [receipts.get(number) or Retry(reason) for number in range(len(messages))]

    def close(self) -> None:
        """Take leave of the broker, or hang up when it does not answer."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.close()
            except (OSError, amqp.AMQPError):
                hang_up(connection)

    def _deliver(self, messages: Sequence[Message], receipts: dict[int, Receipt], deadline: float) -> None:
        everything, kept = range(len(messages)), self._channel is not None
        try:
            try:
                self._publish(messages, everything, receipts, deadline)
            except _Gone:
                if not kept:
                    raise
                # The kept connection was no more. What arrived over it all the same comes again, under the same id.
                self._publish(messages, everything, receipts, deadline)
        except _TooLarge:
            # The broker does not say which it was, and drops what is behind it: now each waits for the one before.
            for number in everything:
                try:
                    self._publish(messages, [number], receipts, deadline)
                except _TooLarge:
                    size = len(messages[number].to_json())
                    receipts[number] = Refused(
                        f"{self._server} takes no message of {size} bytes: raise max_message_size there"
                    )

    def _publish(
        self,
        messages: Sequence[Message],
        numbers: Sequence[int],
        receipts: dict[int, Receipt],
        deadline: float,
    ) -> None:
        """Publish those that have no receipt yet, and wait until they have.

        Raises:
            _Broken: something concerns all that have no receipt.
            _TooLarge: one of them is larger than the broker takes.
        """
        try:
            channel = self._ready()
            for number in numbers:
                if number in receipts:
                    continue
                size = len(messages[number].to_json())
                while not channel.idle and channel.unconfirmed_bytes + size > UNCONFIRMED_BYTES:
                    self._hear(deadline)
                channel.publish(
                    messages[number],
                    exchange=self.options.exchange,
                    routing_key=route_of(messages[number], self.options.routing_key),
                    seconds=self._left(deadline),
                    told=partial(receipts.__setitem__, number),
                )
            while not channel.idle:
                self._hear(deadline)
        except (OSError, amqp.AMQPError) as error:
            verdict = self._judge(error, connected=self._channel is not None)
            if self._connection is not None:
                hang_up(self._connection)
            self._connection = self._channel = None
            raise verdict from error

    def _ready(self) -> ConfirmedChannel:
        if self._channel is None:
            self._connection = connect(
                self.options.url,
                server=self._server,
                password=self.options.password,
                ca_file=self.options.ca_file,
                seconds=self.options.timeout.total_seconds(),
            )
            self._channel = ConfirmedChannel(self._connection, server=self._server)
        return self._channel

    def _hear(self, deadline: float) -> None:
        self._connection.drain_events(timeout=self._left(deadline))

    def _left(self, deadline: float) -> float:
        left = deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left

    def _judge(self, error: Exception, *, connected: bool) -> Exception:
        """Say what an error of the connection means. The broker's own words are not shown."""
        name = type(error).__name__
        if isinstance(error, TimeoutError) and connected:
            return _Broken(f"{self._server} did not confirm within {write_duration(self.options.timeout)}")
        if isinstance(error, OSError | amqp.RecoverableConnectionError):
            return _Gone(f"{self._server} cannot be reached, or broke off ({name})")
        if not connected:
            return _Broken(
                f"{self._server} does not let us in ({name}): check user, password and virtual host in URL"
            )
        if isinstance(error, amqp.NotFound):
            return _Broken(f"{self._server} has no exchange {self.options.exchange}")
        if isinstance(error, amqp.AccessRefused):
            return _Broken(f"{self._server} does not let this user publish to EXCHANGE")
        if isinstance(error, amqp.PreconditionFailed) and "larger than" in str(error):
            return _TooLarge()
        return _Broken(f"{self._server} ended the channel ({name}); see its log")


class _Broken(Exception):
    """What prevented all that has no receipt, as a reason for people."""


class _Gone(_Broken):
    """The connection was lost: a new one may be good."""


class _TooLarge(Exception):
    """One of several messages is larger than the broker takes."""
