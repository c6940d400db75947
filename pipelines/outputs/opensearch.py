"""Indexes each message in OpenSearch or Elasticsearch, under its id, through the bulk API.

The action is `create`, so a message that comes again meets its own document and changes nothing, while its index is the
same: the index may be named by the month of receipt, which does not change. Each item of an answer becomes a receipt. A
document is as durable as the index makes it: by default it is on the disk of every copy (`translog.durability: request`).
Proxies and credentials from the environment are not used, redirects are not followed.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Self

import httpx2
import orjson
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipelines.message import Message
from pipelines.options import CaFile, Duration, Flag, write_duration
from pipelines.output import Output, OutputOptions, Receipt, Refused, Retry
from pipelines.outputs.bulk_answer import judge, read_items
from pipelines.outputs.http_client import (
    check_address,
    new_client,
    read_answer,
    read_retry_after,
    server_of,
)
from pipelines.outputs.name_pattern import check_pattern, expand
from pipelines.outputs.search_document import document, template

# Servers take 100 MB at once and like a tenth of it; a larger document goes alone.
REQUEST_BYTES = 8 << 20
ANSWER_BYTES = 16 << 20
# Of an answer no more is asked for than is read: error reasons hold pieces of the document.
_FILTER = "items.*.status,items.*.result,items.*.error.type,items.*.error.reason"
_INDEX = re.compile(r"[a-z][a-z0-9._-]*")


class OpenSearchOptions(OutputOptions):
    """Where the cluster is, who asks it, and where documents go."""

    url: str = Field(
        description="Address of the cluster: http or https, host and port.",
        examples=["https://search.example:9200"],
    )
    index: str = Field(
        default="mailquay-{received:%Y.%m}",
        description="Index that a message goes to, in lower case; {mailbox} and {received:…} may be in it.",
        examples=["mail-{mailbox}-{received:%Y}"],
    )
    username: str | None = Field(default=None, description="Who signs in, with PASSWORD.", examples=["robot"])
    password: SecretStr | None = Field(default=None, description="Password of USERNAME.", examples=["…"])
    api_key: SecretStr | None = Field(
        default=None,
        description="API key, as the cluster shows it in base64, instead of USERNAME.",
        examples=["…"],
    )
    index_template: Flag = Field(
        default=True,
        description="Whether the template that tells the cluster how to index mail is put there before the first "
        "delivery.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long to wait for the connection and for each piece of sending and of the answer.",
    )
    ca_file: CaFile = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        address = httpx2.URL(check_address(url))
        if address.userinfo or address.query:
            raise PydanticCustomError(
                "url", "write USERNAME and PASSWORD, and nothing behind a ? in the address"
            )
        return url.rstrip("/")

    @field_validator("index")
    @classmethod
    def _is_index(cls, index: str) -> str:
        check_pattern(index)
        name = re.sub(r"\{[^}]*\}", "0", index)
        if not _INDEX.fullmatch(name) or len(name) > 100 or "{id}" in index or re.search(r"%[^}]*/", index):
            raise PydanticCustomError(
                "index", "begin with a small letter; write small letters, digits, -, _, . and dates without /"
            )
        return index

    @model_validator(mode="after")
    def _signs_in_one_way(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise PydanticCustomError("sign_in", "write both USERNAME and PASSWORD, or neither")
        if self.username is not None and self.api_key is not None:
            raise PydanticCustomError("sign_in", "write USERNAME and PASSWORD, or API_KEY, and not both")
        return self


class OpenSearchOutput(Output):
    """Indexes messages at URL in INDEX, many in a request."""

    type_name: ClassVar[str] = "opensearch"
    Options: ClassVar[type[OutputOptions]] = OpenSearchOptions
    dedupes: ClassVar[bool] = True
    batch_size = 500

    options: OpenSearchOptions
    _client: httpx2.Client

    def __init__(
        self, name: str, options: OpenSearchOptions, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Remember the options; `clock`, in Unix seconds, dates the pause that a cluster asks for."""
        super().__init__(name, options)
        self._clock = clock
        self._opened = ExitStack()
        self._server = server_of(options.url)
        self._is_prepared = not options.index_template

    def open(self) -> None:
        """Make the HTTP client; the cluster is asked at the first delivery, whose receipts say what it answered.

        Raises:
            OSError: CA_FILE cannot be read or holds no certificate.
        """
        client = new_client(timeout=self.options.timeout, connections=1, ca_file=self.options.ca_file)
        self._client = self._opened.enter_context(client)

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Index the messages in requests of 8 MiB; when one fails as a whole, the later ones are not sent."""
        if not messages:
            return []
        if not self._is_prepared:
            trouble = self._put_template()
            if trouble is not None:
                return [trouble] * len(messages)
            self._is_prepared = True
        receipts: list[Receipt] = []
        for lines in _requests(self._lines(message) for message in messages):
            answers = self._bulk(lines)
            if isinstance(answers, Retry):
                return receipts + [answers] * (len(messages) - len(receipts))
            receipts += answers
        return receipts

    def close(self) -> None:
        """Close the connection."""
        self._opened.close()

    def _lines(self, message: Message) -> bytes:
        """Return what the bulk API wants of one document: a line that says what to do, and the document."""
        index = expand(self.options.index, message).lower()
        action = {"create": {"_index": index, "_id": message.id}}
        return orjson.dumps(action) + b"\n" + document(message) + b"\n"

    def _bulk(self, lines: list[bytes]) -> list[Receipt] | Retry:
        """Send documents; the answer is a receipt for each, or one for all when nothing was done."""
        asked = self._ask(
            "POST", f"/_bulk?filter_path={_FILTER}", b"".join(lines), kind="application/x-ndjson"
        )
        if isinstance(asked, Retry):
            return asked
        if asked.status == 413:
            if len(lines) == 1:
                return [Refused(f"{self._server} answered 413: the message is too large for it")]
            return self._singly(lines)
        if asked.status != 200:
            return self._retry(asked)
        items = read_items(asked.body)
        if len(items) != len(lines):
            return Retry(f"{self._server} answered 200 without a result for each message; is URL a cluster?")
        return [judge(item, server=self._server) for item in items]

    def _singly(self, lines: list[bytes]) -> list[Receipt] | Retry:
        receipts: list[Receipt] = []
        for line in lines:
            answers = self._bulk([line])
            if isinstance(answers, Retry):
                # What was indexed before is recognised the next time.
                return answers
            receipts += answers
        return receipts

    def _put_template(self) -> Retry | None:
        """Tell the cluster how to index mail; what is there under the same name is replaced."""
        pattern = re.sub(r"\{[^}]*\}", "*", self.options.index)
        name = re.sub(r"[^a-z0-9]+", "-", pattern).strip("-")
        body = orjson.dumps(template(pattern))
        asked = self._ask("PUT", f"/_index_template/{name}", body, kind="application/json")
        if isinstance(asked, Retry):
            return asked
        if asked.status == 200:
            return None
        if asked.status in {400, 403}:
            return Retry(
                f"{self._server} answered {asked.status} to the index template {name}: permit it "
                "(manage_index_templates), see whether another one has the same priority, or set INDEX_TEMPLATE=no"
            )
        return self._retry(asked)

    def _ask(self, method: str, path: str, body: bytes, *, kind: str) -> _Answer | Retry:
        headers = {"content-type": kind, "accept-encoding": "identity", **self._credentials()}
        seconds = self.options.timeout.total_seconds()
        try:
            url = f"{self.options.url}{path}"
            with self._client.stream(method, url, content=body, headers=headers) as answer:
                said = read_answer(answer, most=ANSWER_BYTES, seconds=seconds, clock=self._clock)
                return _Answer(answer.status_code, said or b"", answer.headers.get("retry-after"))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return Retry(f"{self._server} cannot be reached: {error}")
        except httpx2.TimeoutException:
            return Retry(f"{self._server} did not answer within {write_duration(self.options.timeout)}")
        except httpx2.HTTPError as error:
            return Retry(f"{self._server} broke the request off ({error.__class__.__name__})")

    def _credentials(self) -> dict[str, str]:
        if self.options.api_key is not None:
            return {"authorization": f"ApiKey {self.options.api_key.get_secret_value().strip()}"}
        if self.options.username is not None and self.options.password is not None:
            pair = f"{self.options.username}:{self.options.password.get_secret_value()}"
            return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}

    def _retry(self, asked: _Answer) -> Retry:
        """Say what a person can do about an answer that is none to the messages."""
        advice = {
            401: ": check USERNAME and PASSWORD, or API_KEY",
            403: ": its user may not create documents there",
            404: ": check URL",
        }
        if 300 <= asked.status < 400:
            advice[asked.status] = ", a redirect, which is not followed: set URL to the new address"
        now = datetime.fromtimestamp(self._clock(), UTC)
        return Retry(
            f"{self._server} answered {asked.status}{advice.get(asked.status, '')}",
            not_before=read_retry_after(asked.retry_after, now=now),
        )


class _Answer:
    """What the cluster answered: status, body (empty when it broke off), and the header Retry-After."""

    def __init__(self, status: int, body: bytes, retry_after: str | None) -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after


def _requests(documents: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Gather documents into requests of at most REQUEST_BYTES, or of one."""
    gathered: list[bytes] = []
    size = 0
    for lines in documents:
        if gathered and size + len(lines) > REQUEST_BYTES:
            yield gathered
            gathered, size = [], 0
        gathered.append(lines)
        size += len(lines)
    if gathered:
        yield gathered
