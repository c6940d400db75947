"""Posts each message to a URL, signed as Standard Webhooks (github.com/standard-webhooks/standard-webhooks).

The id of the message is the `webhook-id`, the same at every repetition, so the receiver can drop repetitions. The
answer decides: 2xx is accepted, what says "this very request is wrong" is refused, all else is tried again,
because a wrong URL or a receiver in trouble is no reason to give mail up. Redirects are not followed. Proxies and
credentials from the environment or `.netrc` are not used. What is sent is made by `webhook_body`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

import httpx2
from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from pipelines.message import Message
from pipelines.options import ByteSize, CaFile, Duration, Parallel, write_duration, write_size
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.http_client import (
    check_address,
    new_client,
    read_answer,
    read_retry_after,
    server_of,
)
from pipelines.outputs.webhook_body import Body, as_json, as_raw, with_attachments

# 400 bad request, 413 too large, 415 wrong type, 422 invalid: the same request would meet the same answer. Not
# 401, 403, 404 or 405: those say that the URL or the credentials are wrong, which a person can put right.
REFUSED_STATUSES = frozenset({400, 413, 415, 422})
# Of the URL and not of one message (RFC 9110 section 15.5.11); to Standard Webhooks it means: send nothing more. So hardly
# anything is sent any more, and mail is kept for whoever puts it right.
GONE = 410
GONE_PAUSE = timedelta(hours=1)
ANSWER_BYTES = 64 * 1024

# RFC 9110 section 5.6.2, and what of section 5.5 no server takes for something else.
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)")
# These say what a request is, where it ends and who made it.
_OWN_HEADERS = re.compile(
    r"host|connection|te|upgrade|expect|trailer|transfer-encoding|content-(type|length|encoding)|(webhook|mailquay|proxy)-.*"
)


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
    headers: SecretStr | None = Field(
        default=None,
        description="More headers of every request, `Name: value`, each on a line of its own.",
        examples=["Authorization: Bearer …"],
    )
    content: Literal["json", "json+attachments", "raw"] = Field(
        default="json",
        description="What is sent: the JSON, the JSON with the contents of attachments, or the message as the mail server "
        "sent it.",
    )
    max_size: ByteSize = Field(
        default=25_000_000,
        ge=0,
        description="A larger message is sent without the contents of its attachments, or, with CONTENT=raw, refused.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long to wait for the connection and for each piece of sending and of the answer.",
    )
    parallel: Parallel = 4
    ca_file: CaFile = None

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

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: SecretStr | None) -> SecretStr | None:
        if headers is not None:
            read_headers(headers)
        return headers


class WebhookOutput(Output):
    """Posts messages to URL, one a call."""

    type_name: ClassVar[str] = "webhook"
    Options: ClassVar[type[OutputOptions]] = WebhookOptions
    batch_size = 1

    options: WebhookOptions
    _client: httpx2.Client | None = None

    def __init__(self, name: str, options: WebhookOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, dates signatures and the pause that a receiver asks for."""
        super().__init__(name, options)
        self.parallel = options.parallel
        self._clock = clock
        self._keys = () if options.secret is None else read_keys(options.secret)
        self._headers = {} if options.headers is None else read_headers(options.headers)
        self._server = server_of(options.url)

    def open(self) -> None:
        """Make the HTTP client; it connects when it is used.

        Raises:
            OSError: CA_FILE cannot be read or holds no certificate.
        """
        self._client = new_client(
            timeout=self.options.timeout,
            connections=self.options.parallel,
            ca_file=self.options.ca_file,
        )

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Post the messages one after the other and read a receipt from each answer."""
        return [self._post(message) for message in messages]

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _post(self, message: Message) -> Receipt:
        assert self._client is not None
        if self.options.content == "raw" and message.size > self.options.max_size:
            return Refused(f"the message is larger than MAX_SIZE, {write_size(self.options.max_size)}")
        body = self._body(message)
        headers = {
            "user-agent": "mailquay",
            **self._headers,
            "content-type": body.media_type,
            **body.headers,
            **self._sign(message.id, body),
        }
        try:
            with self._client.stream(
                "POST", self.options.url, content=iter(body.pieces()), headers=headers
            ) as answer:
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
            return Retry(f"{self._server} cannot be reached: {error}")
        except httpx2.TimeoutException:
            return Retry(f"{self._server} did not answer within {write_duration(self.options.timeout)}")
        except httpx2.HTTPError as error:
            return Retry(f"{self._server} broke the request off ({error.__class__.__name__})")

    def _body(self, message: Message) -> Body:
        if self.options.content == "raw":
            return as_raw(message)
        if self.options.content == "json+attachments":
            return with_attachments(message, max_size=self.options.max_size)
        return as_json(message)

    def _sign(self, id_: str, body: Body) -> dict[str, str]:
        """Make the headers of Standard Webhooks, an HMAC-SHA256 over id, time and body for each key; and the length."""
        seconds = str(int(self._clock()))
        headers = {"webhook-id": id_, "webhook-timestamp": seconds}
        signatures = [hmac.new(key, f"{id_}.{seconds}.".encode(), "sha256") for key in self._keys]
        length = 0
        for piece in body.pieces():
            length += len(piece)
            for signature in signatures:
                signature.update(piece)
        if signatures:
            headers["webhook-signature"] = " ".join(
                f"v1,{base64.b64encode(signature.digest()).decode()}" for signature in signatures
            )
        return {**headers, "content-length": str(length)}


def judge(status: int, *, retry_after: str | None, server: str, now: datetime) -> Receipt:
    """Turn the answer of a receiver into a receipt. `now` is aware; `retry_after` is the header, seconds or a date.

    An answer with Retry-After is never a refusal: RFC 9110 section 15.5.14 lets 413 say so that it is for now only.
    """
    if 200 <= status < 300:
        return Accepted()
    if status == GONE:
        pause = read_retry_after(retry_after, now=now) or now + GONE_PAUSE
        return Retry(
            f"{server} answered 410: it wants nothing more; set URL to a new address, or take the output away",
            pause,
        )
    if status in REFUSED_STATUSES and retry_after is None:
        return Refused(f"{server} answered {status}: it does not want this message")
    if 300 <= status < 400:
        return Retry(
            f"{server} answered {status}, a redirect, which is not followed: set URL to the new address"
        )
    if status in {401, 403, 404, 405}:
        return Retry(f"{server} answered {status}: check URL, SECRET and HEADERS, here and there")
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


def read_headers(lines: SecretStr) -> dict[str, str]:
    """Read headers, `Name: value` a line; names are in lower case.

    Raises:
        PydanticCustomError: a line is no header, says one again, or sets one that Mailquay sets; no value is shown.
    """
    headers: dict[str, str] = {}
    for line in lines.get_secret_value().splitlines():
        if not line.strip():
            continue
        match = _HEADER.fullmatch(line.strip())
        if match is None:
            raise PydanticCustomError("headers", "write Name: value on each line, in plain ASCII")
        name = match[1].lower()
        if _OWN_HEADERS.fullmatch(name):
            raise PydanticCustomError(
                "headers", "leave out host, content-… and webhook-…: Mailquay sets them"
            )
        if name in headers:
            raise PydanticCustomError("headers", "write each name once")
        headers[name] = match[2]
    return headers
