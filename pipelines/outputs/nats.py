"""Publishes each message to a NATS JetStream stream, and waits until the stream has stored it.

The message id is the `Nats-Msg-Id`: a stream stores one id once within its `duplicate_window`, which is two minutes unless
somebody sets it. An answer says that the stream has the message as its storage and its replicas have it; a single server
writes to its disk every two minutes (`sync_interval`) unless it has `sync_interval: always`. The stream is not made here.
Credentials go over TLS with `tls://`, or not at all.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import nats.errors
import nats.js.errors
from nats.js.api import PubAck
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from pipelines.message import Message
from pipelines.options import CaFile, Duration, write_duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.destination import check_route, check_trust, check_url, host_and_port, route_of
from pipelines.outputs.nats_client import NatsClient
from pipelines.outputs.nats_credentials import read_credentials

# How long leaving may take, in seconds.
LEAVE_SECONDS = 1.0
# What the server counts beside the body: the line of the headers' version, and their names and line ends.
HEADER_BYTES = 64
# JetStream's own numbers of errors (server/errors.json of nats-server).
MESSAGE_TOO_LARGE, OTHER_STREAM = 10054, 10060


RECONNECT_SECONDS = 0.05

T = TypeVar("T")


class NatsOptions(OutputOptions):
    """Which server, and which subject."""

    url: SecretStr = Field(
        description="Address of the server: `nats://` or, with TLS, `tls://`, then user and password or a token, host and "
        "port.",
        examples=["tls://nats.example:4222"],
    )
    subject: str = Field(
        default="mailquay",
        pattern=r"^[^\s.*>]+(\.[^\s.*>]+)*$",
        description="Subject to publish to; `{mailbox}` becomes the name of the message's mailbox. A stream has to take it.",
        examples=["mail.{mailbox}"],
    )
    stream: str | None = Field(
        default=None,
        min_length=1,
        description="Stream that has to be the one that takes the subject; any other is an error.",
        examples=["MAIL"],
    )
    token: SecretStr | None = Field(default=None, description="Token to sign in with.")
    username: str | None = Field(
        default=None, description="User to sign in as, if it is not in URL.", examples=["mailquay"]
    )
    password: SecretStr | None = Field(default=None, description="Password of USERNAME.")
    credentials: SecretStr | None = Field(
        default=None,
        description="What a credentials file holds (`.creds`: a user's JWT and seed); CREDENTIALS_FILE names the file itself.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10),
        ge=timedelta(milliseconds=100),
        le=timedelta(hours=1),
        description="How long to wait for the connection and the answers of one call.",
    )
    ca_file: CaFile = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: SecretStr) -> SecretStr:
        return check_url(url, schemes={"nats", "tls"})

    @field_validator("subject")
    @classmethod
    def _is_route(cls, subject: str) -> str:
        return check_route(subject)

    @field_validator("credentials")
    @classmethod
    def _are_credentials(cls, credentials: SecretStr | None) -> SecretStr | None:
        if credentials is not None:
            read_credentials(credentials)
        return credentials

    @field_validator("ca_file")
    @classmethod
    def _is_used(cls, ca_file: Path | None, info: ValidationInfo) -> Path | None:
        return check_trust(ca_file, info, tls="tls")


class NatsOutput(Output):
    """Publishes messages to SUBJECT. The library is asynchronous, so a thread with a loop of its own runs it."""

    type_name: ClassVar[str] = "nats"
    Options: ClassVar[type[OutputOptions]] = NatsOptions

    options: NatsOptions

    def __init__(self, name: str, options: NatsOptions) -> None:
        """Remember the options."""
        super().__init__(name, options)
        self._server = host_and_port(options.url, port=4222)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: NatsClient | None = None

    def open(self) -> None:
        """Start the thread; it connects when there is something to publish."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"output {self.name}", daemon=True
        )
        self._thread.start()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Publish the messages and wait until the stream has answered for each."""
        return self._run(self._deliver(messages))

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._loop is None or self._thread is None:
            return
        self._run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _deliver(self, messages: Sequence[Message]) -> list[Receipt]:
        if not messages:
            return []
        receipts: dict[int, Receipt] = {}
        # The place of a message -> the answer for it that is under way.
        answers: dict[int, asyncio.Task[PubAck]] = {}
        reason = f"{self._server} did not answer within {write_duration(self.options.timeout)}"
        try:
            async with asyncio.timeout(self.options.timeout.total_seconds()):
                client = await self._ready()
                for number, message in enumerate(messages):
                    refused = self._too_large(message, client.max_payload)
                    if refused is not None:
                        receipts[number] = refused
                    else:
                        # Tasks begin in this order, and each has said its word before the next one begins.
                        answers[number] = asyncio.create_task(self._publish(client, message))
                waiting: set[asyncio.Future[Any]] = set(answers.values())
                while waiting and not client.trouble.done():
                    _, waiting = await asyncio.wait(
                        {*waiting, client.trouble}, return_when=asyncio.FIRST_COMPLETED
                    )
                    waiting.discard(client.trouble)
                if client.trouble.done():
                    reason = client.trouble.result()
        except TimeoutError:
            pass
        except (nats.errors.Error, OSError) as error:
            reason = self._explain(error)
        for number, answer in answers.items():
            if answer.done():
                receipts[number] = self._judge(answer.exception())
            else:
                answer.cancel()
        if len(receipts) < len(messages):
            # Whatever it was, a new connection is none the worse for it.
            await self._leave()
        return [receipts.get(number) or Retry(reason) for number in range(len(messages))]

    async def _publish(self, client: NatsClient, message: Message) -> PubAck:
        # Not the library's `publish_async`: its answer never comes when the stream says no (nats-py 2.16).
        return await client.stream.publish(
            route_of(message, self.options.subject),
            message.to_json(),
            # The whole call has a deadline, which comes first.
            timeout=2 * self.options.timeout.total_seconds(),
            stream=self.options.stream,
            headers={"Nats-Msg-Id": message.id},
        )

    async def _ready(self) -> NatsClient:
        if self._client is not None and not self._client.trouble.done():
            return self._client
        await self._leave()
        self._client = client = NatsClient(self._server, tls=self._tls())
        seconds = self.options.timeout.total_seconds()
        await client.connect(
            self.options.url.get_secret_value(),
            **self._identity(),
            tls=client.trust,
            # Any number but whole ones is taken just as well.
            connect_timeout=seconds,  # type: ignore[arg-type]
            error_cb=client.heard,
            closed_cb=client.closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            # Between the first try and the only other one.
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]
        )
        return client

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await client.close()

    def _tls(self) -> ssl.SSLContext | None:
        if self.options.url.get_secret_value().startswith("tls:"):
            return ssl.create_default_context(cafile=self.options.ca_file)
        return None

    def _identity(self) -> dict[str, Any]:
        """Who signs in, in the library's words."""
        options = self.options
        who: dict[str, Any] = {}
        if options.token is not None:
            who["token"] = options.token.get_secret_value()
        if options.username is not None:
            who["user"] = options.username
        if options.password is not None:
            who["password"] = options.password.get_secret_value()
        if options.credentials is not None:
            credentials = read_credentials(options.credentials)
            who["user_jwt_cb"] = lambda: bytearray(credentials.jwt.encode())
            who["signature_cb"] = credentials.sign
        return who

    def _too_large(self, message: Message, most: int) -> Refused | None:
        size = len(message.to_json()) + HEADER_BYTES
        if size <= most:
            return None
        return Refused(
            f"{self._server} takes no message of {size} bytes, only of {most}: raise max_payload there"
        )

    def _judge(self, error: BaseException | None) -> Receipt:
        if error is None:
            # Also when it says that the stream had it before.
            return Accepted()
        if isinstance(error, nats.js.errors.NoStreamResponseError):
            return Retry(
                f"{self._server} has no stream that takes {self.options.subject}: make one, or set SUBJECT"
            )
        if not isinstance(error, nats.js.errors.APIError):
            return Retry(f"{self._server} broke off ({type(error).__name__})")
        code = error.err_code
        if code == MESSAGE_TOO_LARGE:
            return Refused(f"{self._server} takes no message of this size: raise max_msg_size of the stream")
        if code == OTHER_STREAM:
            return Retry(
                f"{self._server} gives {self.options.subject} to another stream than {self.options.stream}"
            )
        return Retry(
            f"{self._server} did not store the message (error {code}): is the stream full? See its log"
        )

    def _explain(self, error: Exception) -> str:
        """Say why there is no connection. The library keeps what happened at the only server to itself, but for its last."""
        cause = (
            self._client.cause
            if self._client is not None and isinstance(error, nats.errors.NoServersError)
            else error
        )
        if "authorization" in str(cause).lower():
            return f"{self._server} does not let us in: check user, password, token or credentials"
        return f"{self._server} cannot be reached, or broke off ({type(cause).__name__})"
