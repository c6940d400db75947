"""Posts each message as JSON to a URL, signed as Standard Webhooks (github.com/standard-webhooks/standard-webhooks).

The id of the message is the `webhook-id`, the same at every repetition, so the receiver can drop repetitions. The
answer decides: 2xx is accepted, what says "this very request is wrong" is refused, all else is tried again,
because a wrong URL or a receiver in trouble is no reason to give mail up. Redirects are not followed, attachments are
described and not sent. Proxies and credentials from the environment or `.netrc` are not used.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import httpx2
from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from pipelines.message import Message
from pipelines.options import Duration, FilePath, write_duration
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.http_client import (
    check_address,
    new_client,
    read_answer,
    read_retry_after,
    server_of,
)

# 400 bad request, 410 gone, 413 too large, 415 wrong type, 422 invalid: the same request would meet the same answer. Not
# 401, 403, 404 or 405: those say that the URL or the credentials are wrong, which a person can put right.
REFUSED_STATUSES = frozenset({400, 410, 413, 415, 422})
ANSWER_BYTES = 64 * 1024


class WebhookOptions(OutputOptions):
    """Whom to call, and how."""

    url: str = Field(
        description="Address that gets a POST request a message: http or https.",
        examples=["https://crm.example/hooks/mail"],
    )
    secret: SecretStr | None = Field(
        default=None,
        description="Signs every request: `whsec_` and 24 to 64 bytes in base64. Several, separated by a space, "
        "all sign, for a change of secrets without a gap. Without one, requests are not signed.",
        examples=["whsec_…"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long to wait for the connection and for each piece of sending and of the answer.",
    )
    parallel: int = Field(
        default=4, ge=1, le=64, description="How many requests of one process are under way at once."
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="Certificates (PEM) that the server is verified against, instead of those of the system.",
        examples=["/etc/mailquay/ca.pem"],
    )

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return check_address(url)

    @field_validator("secret")
    @classmethod
    def _are_keys(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            read_keys(secret)
        return secret


class WebhookOutput(Output):
    """Posts messages to URL, several at once."""

    type_name: ClassVar[str] = "webhook"
    Options: ClassVar[type[OutputOptions]] = WebhookOptions

    options: WebhookOptions
    _client: httpx2.Client
    _threads: ThreadPoolExecutor

    def __init__(self, name: str, options: WebhookOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, dates signatures and the pause that a receiver asks for."""
        super().__init__(name, options)
        self._clock = clock
        self._opened = ExitStack()
        self._keys = () if options.secret is None else read_keys(options.secret)
        self._server = server_of(options.url)

    def open(self) -> None:
        """Make the HTTP client and the threads that use it.

        Raises:
            OSError: CA_FILE cannot be read or holds no certificate.
        """
        self._client = self._opened.enter_context(
            new_client(
                timeout=self.options.timeout,
                connections=self.options.parallel,
                ca_file=self.options.ca_file,
            )
        )
        self._threads = self._opened.enter_context(ThreadPoolExecutor(self.options.parallel))

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Post the messages and read a receipt from each answer."""
        unreachable, late = threading.Event(), itertools.count(1)
        return list(self._threads.map(lambda message: self._post(message, unreachable, late), messages))

    def close(self) -> None:
        """End the threads and close the connections."""
        self._opened.close()

    def _post(self, message: Message, unreachable: threading.Event, late: Iterator[int]) -> Receipt:
        # A dead server costs one time-out a call, and not one a message; one that hangs, one for each thread.
        if unreachable.is_set():
            return Retry(f"{self._server} cannot be reached; this message was not tried")
        body = message.to_json()
        headers = {
            "content-type": "application/json",
            "user-agent": "mailquay",
            **self._sign(message.id, body),
        }
        try:
            with self._client.stream("POST", self.options.url, content=body, headers=headers) as answer:
                # The status is known already: a short answer is read so that the connection can be used again.
                seconds = self.options.timeout.total_seconds()
                read_answer(answer, most=ANSWER_BYTES, seconds=seconds, clock=self._clock)
                return judge(
                    answer.status_code,
                    retry_after=answer.headers.get("retry-after"),
                    server=self._server,
                    now=datetime.fromtimestamp(self._clock(), UTC),
                )
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            unreachable.set()
            return Retry(f"{self._server} cannot be reached: {error}")
        except httpx2.TimeoutException:
            if next(late) >= self.options.parallel:
                unreachable.set()
            return Retry(f"{self._server} did not answer within {write_duration(self.options.timeout)}")
        except httpx2.HTTPError as error:
            return Retry(f"{self._server} broke the request off ({error.__class__.__name__})")

    def _sign(self, id_: str, body: bytes) -> dict[str, str]:
        """Make the headers of Standard Webhooks: an HMAC-SHA256 over id, time and body for each key."""
        seconds = str(int(self._clock()))
        headers = {"webhook-id": id_, "webhook-timestamp": seconds}
        if self._keys:
            signed = b".".join((id_.encode(), seconds.encode(), body))
            digests = (hmac.digest(key, signed, "sha256") for key in self._keys)
            headers["webhook-signature"] = " ".join(
                f"v1,{base64.b64encode(digest).decode()}" for digest in digests
            )
        return headers


def judge(status: int, *, retry_after: str | None, server: str, now: datetime) -> Receipt:
    """Turn the answer of a receiver into a receipt. `now` is aware; `retry_after` is the header, seconds or a date.

    An answer with Retry-After is never a refusal: RFC 9110 section 15.5.14 lets 413 say so that it is for now only.
    """
    if 200 <= status < 300:
        return Accepted()
    if status in REFUSED_STATUSES and retry_after is None:
        return Refused(f"{server} answered {status}: it does not want this message")
    if 300 <= status < 400:
        return Retry(
            f"{server} answered {status}, a redirect, which is not followed: set URL to the new address"
        )
    if status in {401, 403, 404, 405}:
        return Retry(f"{server} answered {status}: check URL and SECRET, here and there")
    return Retry(f"{server} answered {status}", not_before=read_retry_after(retry_after, now=now))


def read_keys(secret: SecretStr) -> tuple[bytes, ...]:
    """Decode one or several signing secrets, `whsec_` and base64, separated by blanks.

    Raises:
        PydanticCustomError: a secret has another shape; the sentence does not show it.
    """
    try:
        words = [word.removeprefix("whsec_") for word in secret.get_secret_value().split()]
        keys = tuple(base64.b64decode(word, validate=True) for word in words)
    except (binascii.Error, ValueError):
        keys = ()
    if not keys or not all(24 <= len(key) <= 64 for key in keys):
        raise PydanticCustomError("webhook_secret", "write whsec_ and then 24 to 64 random bytes in base64")
    return keys
