"""One AMQP channel in confirm mode: what was published on it, and what the broker said of each message.

Publisher confirms and returns are extensions and parts of AMQP 0-9-1 as RabbitMQ speaks it: the broker numbers what is
published on a channel from 1 and confirms by number, several at once if it likes; a mandatory message that reaches no queue
is returned first and confirmed then. Connections are py-amqp's, which kombu uses too; kombu waits for each confirm before
the next message, and here many are under way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from pydantic import SecretStr

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Retry

# How long a broker that answers no more may hold up hanging up, in seconds: with TLS, leave is taken.
LEAVE_SECONDS = 0.5


def connect(
    url: SecretStr, *, server: str, password: SecretStr | None, ca_file: Path | None, seconds: float
) -> amqp.Connection:
    """Open a connection to `server`, the host and port in `url`; no wait for a piece of an answer is over `seconds`.

    Raises:
        OSError: there is no broker, its certificate cannot be verified, or it does not answer.
        amqp.AMQPError: it does not let us in.
    """
    parts = urlsplit(url.get_secret_value())
    given = unquote(parts.password or "") if password is None else password.get_secret_value()
    tls = {"ca_certs": None if ca_file is None else str(ca_file), "server_hostname": parts.hostname}
    connection = amqp.Connection(
        host=server,
        userid=unquote(parts.username or "guest"),
        password=given,
        virtual_host=unquote(parts.path[1:]) or "/",
        ssl=tls if parts.scheme == "amqps" else False,
        connect_timeout=seconds,
        # A heartbeat would have to be sent between calls, when nobody is here to send it; each call has its deadline.
        heartbeat=0,
    )
    try:
        connection.connect()
        connection.sock.settimeout(seconds)
    except BaseException:
        hang_up(connection)
        raise
    return connection


def hang_up(connection: amqp.Connection) -> None:
    """Close a connection without the broker's part in it."""
    transport = connection._transport  # noqa: SLF001 - the property asserts that there is one
    if transport is not None and transport.sock is not None:
        transport.sock.settimeout(LEAVE_SECONDS)
    connection.collect()


class ConfirmedChannel:
    """A channel on which every message has its own answer, handed to the function that came with it."""

    def __init__(self, connection: amqp.Connection, *, server: str) -> None:
        """Open the channel. `server` is what reasons call the broker.

        Raises:
            OSError: the broker does not answer.
            amqp.AMQPError: it does not open a channel.
        """
        self._server = server
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_nack"].add(self._nacked)
        self._channel.events["basic_return"].add(self._returned)
        self._published = 0
        # The broker's number -> size, id, and who wants to know.
        self._waiting: dict[int, tuple[int, str, Callable[[Receipt], None]]] = {}
        # Ids of messages that came back and are not confirmed yet.
        self._unroutable: set[str] = set()
        self.unconfirmed_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether the broker has said its word on everything."""
        return not self._waiting

    def publish(
        self,
        message: Message,
        *,
        exchange: str,
        routing_key: str,
        seconds: float,
        told: Callable[[Receipt], None],
    ) -> None:
        """Send one message; `told` is called later, when the broker has said what became of it."""
        body = message.to_json()
        self._published += 1
        self._waiting[self._published] = (len(body), message.id, told)
        self.unconfirmed_bytes += len(body)
        self._channel.basic_publish(
            amqp.Message(
                body,
                content_type="application/json",
                content_encoding="utf-8",
                # Persistent: kept on disk by a durable queue.
                delivery_mode=2,
                message_id=message.id,
                app_id="mailquay",
                application_headers={"mailbox": message.mailbox},
            ),
            exchange=exchange,
            routing_key=routing_key,
            mandatory=True,
            timeout=seconds,
        )

    def _acked(self, number: int, multiple: bool) -> None:
        for id_, told in self._settled(number, multiple):
            told(
                Retry(
                    f"{self._server} has no queue for this message: check EXCHANGE, ROUTING_KEY, and the bindings there"
                )
                if id_ in self._unroutable
                else Accepted()
            )
            self._unroutable.discard(id_)

    def _nacked(self, number: int, multiple: bool) -> None:
        for _, told in self._settled(number, multiple):
            told(
                Retry(
                    f"{self._server} did not take the message: its queue is full, or it is in trouble; see its log"
                )
            )

    def _returned(self, _error: Exception, _exchange: str, _routing_key: str, message: Any) -> None:
        self._unroutable.add(message.properties["message_id"])

    def _settled(self, number: int, multiple: bool) -> list[tuple[str, Callable[[Receipt], None]]]:
        """Take out what a confirm is about: one message, or all up to it."""
        numbers = [earlier for earlier in self._waiting if earlier <= number] if multiple else [number]
        found = []
        for one in numbers:
            size, id_, told = self._waiting.pop(one)
            self.unconfirmed_bytes -= size
            found.append((id_, told))
        return found
