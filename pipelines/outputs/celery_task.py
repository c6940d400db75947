"""Sends a task to a downstream Celery application for each message, by the task's name, through that application's broker.

The task's only argument is the message's JSON, its id is the message's id. Celery does not recognise a task that comes again:
the task has to, by that id. Accepted means that the broker has the task: RabbitMQ has confirmed it, for a queue that is
there; Redis has it in its list, as durably as it keeps lists. Nothing is declared and no result is asked for. The Celery
application that sends is one of its own, which knows nothing of Mailquay's: neither its broker nor its settings, nor any
environment variable of Celery's.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import orjson
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipelines.message import Message
from pipelines.options import CaFile, Duration, Parallel, write_duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.destination import check_url, host_and_port

PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}
# A connection that has been idle for longer may be gone without a word; a new one costs a few milliseconds.
KEEP_ALIVE_SECONDS = 30.0
# The reply code of AMQP 0-9-1 for a message that reaches no queue.
NO_ROUTE = 312


class CeleryOptions(OutputOptions):
    """Which application: its broker, its task, its queue."""

    broker_url: SecretStr = Field(
        description="Broker of the downstream application: `redis://` or `amqp://`, with TLS `rediss://` or `amqps://`, then "
        "host, port, and database or virtual host.",
        examples=["redis://redis:6379/3"],
    )
    password: SecretStr | None = Field(
        default=None, description="Password of the broker, if it is not in BROKER_URL."
    )
    task: str = Field(
        min_length=1,
        description="Name of the task there; its one argument is the JSON.",
        examples=["crm.tasks.take_mail"],
    )
    queue: str = Field(
        default="celery", min_length=1, description="Queue that the application's workers listen to."
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10),
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=1),
        description="How long to wait for the connection and for each answer of the broker.",
    )
    parallel: Parallel = 4
    ca_file: CaFile = None

    @field_validator("broker_url")
    @classmethod
    def _is_address(cls, url: SecretStr) -> SecretStr:
        return check_url(url, schemes=PORTS)

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: Path | None, info: ValidationInfo) -> Path | None:
        url = info.data.get("broker_url")
        if ca_file is not None and url is not None and not _has_tls(url):
            raise PydanticCustomError("trust", "there is no TLS without rediss:// or amqps:// in BROKER_URL")
        return ca_file


@dataclass
class _Line:
    """A connection to the broker, with what publishes over it; `used` is when it last was, in seconds."""

    connection: Any
    producer: Any
    used: float


class CeleryOutput(Output):
    """Sends tasks, each over a connection that no other is using."""

    type_name: ClassVar[str] = "celery"
    Options: ClassVar[type[OutputOptions]] = CeleryOptions
    batch_size = 1

    options: CeleryOptions

    def __init__(
        self, name: str, options: CeleryOptions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember the options; `clock`, in seconds, tells how long a connection was idle."""
        super().__init__(name, options)
        self.parallel = options.parallel
        self._clock = clock
        self._server = host_and_port(
            options.broker_url, port=PORTS[urlsplit(options.broker_url.get_secret_value()).scheme]
        )
        self._app: Any = None
        self._idle: deque[_Line] = deque()

    def open(self) -> None:
        """Make the application that sends; it connects when there is something to send."""
        # Not the current one, which is Mailquay's own.
        self._app = Celery(
            f"output-{self.name}",
            set_as_current=False,
            loader="celery.loaders.app:AppLoader",
            fixups=[],
            changes={"task_serializer": "json", "task_send_sent_event": False, "enable_utc": True},
        )
        # Set here, because an argument gives way to CELERY_RESULT_BACKEND.
        self._app.backend_cls = "disabled"

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Send a task for each message and wait until the broker has it."""
        return [self._deliver(message) for message in messages]

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            _hang_up(self._idle.pop())
        if self._app is not None:
            self._app.close()
            self._app = None

    def _deliver(self, message: Message) -> Receipt:
        line = self._kept()
        kept = line is not None
        while True:
            try:
                line = line or self._connect()
                self._send(message, line)
            except Exception as error:
                # What else the broker had to say on this connection must not be taken for an answer to another task.
                if line is not None:
                    _hang_up(line)
                cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ else error
                if kept and not _is_late(cause):
                    # A kept connection that was gone; what it carried all the same comes again, under the same id.
                    line, kept = None, False
                    continue
                return self._judge(cause)
            line.used = self._clock()
            self._idle.append(line)
            return Accepted()

    def _kept(self) -> _Line | None:
        """Take a connection that was used a moment ago; older ones are closed."""
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                break
            if self._clock() - line.used <= KEEP_ALIVE_SECONDS:
                return line
            _hang_up(line)
        return None

    def _connect(self) -> _Line:
        seconds = self.options.timeout.total_seconds()
        password = self.options.password
        connection = self._app.connection_for_write(
            self.options.broker_url.get_secret_value(),
            password=None if password is None else password.get_secret_value(),
            ssl=self._trust(),
            connect_timeout=seconds,
            # A heartbeat would have to be sent between calls, when nobody is here to send it.
            heartbeat=0,
            transport_options=self._transport_options(seconds),
        )
        line = _Line(connection, None, self._clock())
        try:
            # Kombu tries for ever unless it is told not to.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=seconds)
            line.producer = self._app.amqp.Producer(connection, auto_declare=False)
        except BaseException:
            _hang_up(line)
            raise
        return line

    def _send(self, message: Message, line: _Line) -> None:
        seconds = self.options.timeout.total_seconds()
        self._app.send_task(
            self.options.task,
            # Mailquay's own JSON, whatever a stage has put into it.
            args=[orjson.loads(message.to_json())],
            # What Celery shows of arguments, in events and logs of the application, would hold the beginning of the mail.
            argsrepr=f"(<message {message.id}>,)",
            task_id=message.id,
            root_id=message.id,
            # Else the task of ours that is running would be its parent.
            headers={"parent_id": None},
            add_to_parent=False,
            producer=line.producer,
            queue=self.options.queue,
            declare=[],
            mandatory=True,
            retry=False,
            timeout=seconds,
            confirm_timeout=seconds,
        )

    def _transport_options(self, seconds: float) -> dict[str, object]:
        if self.options.broker_url.get_secret_value().startswith("amqp"):
            return {"confirm_publish": True, "read_timeout": seconds, "write_timeout": seconds}
        return {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry_on_timeout": False}

    def _trust(self) -> dict[str, object] | None:
        url = self.options.broker_url
        if not _has_tls(url):
            return None
        authorities = None if self.options.ca_file is None else str(self.options.ca_file)
        parts = urlsplit(url.get_secret_value())
        if parts.scheme == "amqps":
            return {
                "ca_certs": authorities,
                "cert_reqs": ssl.CERT_REQUIRED,
                "server_hostname": parts.hostname,
            }
        return {"ssl_ca_certs": authorities, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}

    def _judge(self, error: BaseException) -> Receipt:
        """Say what an error means. The words of brokers and libraries are not shown; their names for it are."""
        name = type(error).__name__
        if _is_late(error):
            return Retry(f"{self._server} did not answer within {write_duration(self.options.timeout)}")
        if name in {"AccessRefused", "AuthenticationError", "NotAllowed"}:
            return Retry(f"{self._server} does not let us in ({name}): check BROKER_URL and PASSWORD")
        if getattr(error, "reply_code", None) == NO_ROUTE:
            return Retry(
                f"{self._server} has no queue {self.options.queue}: start a worker there, or set QUEUE"
            )
        if name == "PreconditionFailed" and "larger than" in str(error):
            return Refused(f"{self._server} takes no message of this size: raise max_message_size there")
        return Retry(f"{self._server} did not take the task, or cannot be reached ({name})")


def _has_tls(url: SecretStr) -> bool:
    return urlsplit(url.get_secret_value()).scheme in {"rediss", "amqps"}


def _is_late(error: BaseException) -> bool:
    # The Redis client has an error of its own for it, of the same name.
    return type(error).__name__ in {"TimeoutError", "timeout"}


def _hang_up(line: _Line) -> None:
    """Close a connection, without a word that would have to be answered."""
    line.connection.collect()
