"""Each item of a bulk answer becomes the right receipt, and so does every way in which a cluster can fail.

No server of OpenSearch or Elasticsearch can be had here: answers are those that their documentation and their issues
show, byte for byte in the parts that are read.
"""

from __future__ import annotations

import base64
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pydantic
import pytest
import trustme

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs import opensearch
from pipelines.outputs.opensearch import OpenSearchOptions, OpenSearchOutput
from pipelines.outputs.search_document import document
from pipelines.parse import parse
from pipelines.schema import schema
from pipelines.testing import sample_messages
from tests.bed.scripted_http import Request, ScriptedHttp, said, scripted_http
from tests.bed.search import Cluster, cluster

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def search() -> Iterator[Cluster]:
    with cluster() as search:
        yield search


@pytest.fixture
def scripted() -> Iterator[ScriptedHttp]:
    with scripted_http() as server:
        yield server


@contextmanager
def opened(url: str, **options: Any) -> Iterator[OpenSearchOutput]:
    settings = OpenSearchOptions.model_validate({"url": url, **options})
    output = OpenSearchOutput("search", settings, clock=NOW.timestamp)
    output.open()
    try:
        yield output
    finally:
        output.close()


def deliver(url: str, messages: list[Message], **options: Any) -> list[Receipt]:
    with opened(url, **options) as output:
        return list(output.deliver(messages))


def reason(receipt: Receipt) -> str:
    assert not isinstance(receipt, Accepted)
    return receipt.reason


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_the_document_is_the_json_of_the_message_and_its_text(search: Cluster) -> None:
    """Under the message id, in the index of its month; HTML is searched as text."""
    raw = b"Subject: offer\r\nContent-Type: text/html\r\n\r\n<p>Three <b>boats</b></p><style>x{}</style>\r\n"
    message = parse(raw, id="c" * 32, mailbox="support", received_at=NOW)

    assert deliver(search.url, [message]) == [Accepted()]

    found = orjson.loads(search.documents["mailquay-2026.03", message.id])
    assert found.pop("text") == "Three boats"
    assert found == orjson.loads(message.to_json())


def test_the_index_follows_its_pattern(search: Cluster) -> None:
    """Mailbox and month, in small letters; without a date of receipt there is one index."""
    messages = [
        parse(b"", id="a" * 32, mailbox="Support Team", received_at=NOW),
        parse(b"", id="b" * 32, mailbox="sales"),
    ]

    deliver(search.url, messages, index="mail-{mailbox}-{received:%G-W%V}")

    assert search.documents.keys() == {
        ("mail-support_team-2026-w10", "a" * 32),
        ("mail-sales-undated", "b" * 32),
    }


def test_the_template_says_how_every_field_of_a_message_is_indexed(search: Cluster) -> None:
    """Put before the first delivery, once a process; no message makes a field of its own."""
    with opened(search.url) as output:
        output.deliver(sample_messages(1))
        output.deliver(sample_messages(2))

    ((name, template),) = search.templates.items()
    assert name == "mailquay"
    assert template["index_patterns"] == ["mailquay-*"]
    mappings: Any = template["template"]
    mappings = mappings["mappings"]
    assert mappings["dynamic"] is False
    assert set(schema()["properties"]) - set(mappings["properties"]) <= {"textBody", "htmlBody"}
    assert search.server.paths("PUT") == ["/_index_template/mailquay"]


def test_without_a_template_of_ours_none_is_put(search: Cluster) -> None:
    """INDEX_TEMPLATE=no: the cluster's own rules hold."""
    assert deliver(search.url, sample_messages(1), index_template="no") == [Accepted()]
    assert search.templates == {}


def test_large_batches_go_in_requests_that_a_cluster_likes(
    search: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request ends before it gets too large; a single larger document goes alone."""
    monkeypatch.setattr(opensearch, "REQUEST_BYTES", 20_000)
    messages = sample_messages(24)

    assert deliver(search.url, messages) == [Accepted()] * 24

    sizes = [len(request.body) for request in search.server.requests if request.method == "POST"]
    assert len(sizes) > 4
    assert all(size <= 20_000 or size > 300_000 for size in sizes)


def test_credentials_are_sent_as_they_are_meant(search: Cluster) -> None:
    """Basic for a user, ApiKey for a key, and nothing without."""
    password, key = secrets.token_hex(8), secrets.token_hex(20)
    deliver(search.url, sample_messages(1), username="robot", password=password)
    deliver(search.url, sample_messages(1), api_key=f"{key}\n")
    deliver(search.url, sample_messages(1))

    sent = [request.headers.get("authorization") for request in search.server.requests][::2]
    assert sent == [f"Basic {base64.b64encode(f'robot:{password}'.encode()).decode()}", f"ApiKey {key}", None]


# -- items -------------------------------------------------------------------------------------------------------------


def test_a_document_that_is_there_is_accepted(search: Cluster) -> None:
    """409 of `create`: it came before, perhaps with an answer that was lost."""
    (message,) = sample_messages(1)
    changed = replace(message, subject="another")

    assert deliver(search.url, [message]) == [Accepted()]
    assert deliver(search.url, [changed]) == [Accepted()]
    assert list(search.documents.values()) == [document(message)]


@pytest.mark.parametrize(
    ("status", "kind", "words", "sentence"),
    [
        (400, "mapper_parsing_exception", ("failed to parse field [sentAt] of type [date] in document with id 'x'. "
         "Preview of field's value: 'confidential'"), "mapper_parsing_exception): the field sentAt does not fit"),
        (400, "document_parsing_exception", "[1:11] failed to parse field [from.email] of type [keyword]",
         "the field from does not fit"),
        (400, "document_parsing_exception", "[1:7] failed to parse field [confidential] of type [long]",
         "document_parsing_exception)"),
        (400, "strict_dynamic_mapping_exception", "mapping set to strict, dynamic introduction of [confidential]",
         "strict_dynamic_mapping_exception)"),
        (400, "illegal_argument_exception", ('Document contains at least one immense term in field="digest", '
         "prefix of the first immense term is: '[99, 111, 110]...'"), "illegal_argument_exception)"),
    ],
)  # fmt: skip
def test_a_document_that_does_not_fit_is_refused_and_not_quoted(
    search: Cluster, status: int, kind: str, words: str, sentence: str
) -> None:
    """The cluster's words hold a piece of the message; a reason does not. The others are taken."""
    messages = sample_messages(3)
    search.faults[messages[1].id] = (status, kind, words)

    receipts = deliver(search.url, messages)

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Accepted]
    assert sentence in reason(receipts[1])
    assert "confidential" not in reason(receipts[1])
    assert messages[1].id not in reason(receipts[1])


@pytest.mark.parametrize(
    ("status", "kind", "words", "sentence"),
    [
        (429, "es_rejected_execution_exception", "rejected execution of coordinating operation", "answered 429"),
        (429, "rejected_execution_exception", "rejected execution of primary operation", "answered 429"),
        (429, "cluster_block_exception", ("index [m] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage "
         "watermark, index has read-only-allow-delete block];"), "a disk is nearly full"),
        (403, "cluster_block_exception", "blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];",
         "a disk is nearly full"),
        (503, "unavailable_shards_exception", "[m][0] primary shard is not active Timeout: [1m]", "answered 503"),
        (400, "validation_exception", ("Validation Failed: 1: this action would add [2] total shards, but this cluster "
         "currently has [1000]/[1000] maximum shards open;"), "no more shards"),
        (400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded", "no more shards or fields"),
        (400, "index_closed_exception", "closed", "index_closed_exception"),
        (404, "index_not_found_exception", "no such index [m] and [action.auto_create_index] is [false]", "answered 404"),
        (402, "service_quota_exceeded_exception", "maximum OCU capacity reached", "answered 402"),
        (409, "something_else_exception", "?", "answered 409"),
    ],
)  # fmt: skip
def test_an_item_that_blames_the_cluster_is_a_retry(
    search: Cluster, status: int, kind: str, words: str, sentence: str
) -> None:
    """A person can mend it, or time does; the mail waits."""
    messages = sample_messages(3)
    search.faults[messages[1].id] = (status, kind, words)

    receipts = deliver(search.url, messages)

    assert [type(receipt) for receipt in receipts] == [Accepted, Retry, Accepted]
    assert sentence in reason(receipts[1])


def test_a_document_that_an_ingest_pipeline_drops_is_refused(scripted: ScriptedHttp) -> None:
    """It is nowhere, so it is not accepted; a person should know."""
    item = b'{"create":{"_index":"m","_id":"x","_version":-3,"result":"noop","status":200}}'
    scripted.answer = lambda request: said("200 OK", b'{"took":1,"errors":false,"items":[' + item + b"]}")

    (receipt,) = deliver(scripted.url, sample_messages(1), index_template="no")

    assert isinstance(receipt, Refused)
    assert "ingest pipeline" in receipt.reason


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("401 Unauthorized", "check USERNAME and PASSWORD, or API_KEY"),
        ("403 Forbidden", "may not create"),
        ("404 Not Found", "check URL"),
        ("301 Moved Permanently", "a redirect, which is not followed"),
        ("400 Bad Request", "answered 400"),
        ("500 Internal Server Error", "answered 500"),
        ("502 Bad Gateway", "answered 502"),
    ],
)
def test_a_request_that_fails_as_a_whole_is_a_retry_for_all(
    scripted: ScriptedHttp, status: str, sentence: str
) -> None:
    """Nothing is said of any message."""
    scripted.answer = lambda request: said(status, b"Authentication finally failed")

    receipts = deliver(scripted.url, sample_messages(3), index_template="no")

    assert [type(receipt) for receipt in receipts] == [Retry] * 3
    assert sentence in reason(receipts[0])
    assert len(scripted.requests) == 1


def test_a_cluster_that_asks_for_patience_is_asked_when_it_said(scripted: ScriptedHttp) -> None:
    """429 with Retry-After."""
    scripted.answer = lambda request: said("429 Too Many Requests", b"", "retry-after: 90")

    (receipt,) = deliver(scripted.url, sample_messages(1), index_template="no")

    assert isinstance(receipt, Retry)
    assert receipt.not_before == NOW + timedelta(seconds=90)


def test_messages_that_are_too_large_together_go_one_by_one(search: Cluster) -> None:
    """413: a proxy may take less than the cluster. The one that is too large alone is refused."""
    messages = sample_messages(4)
    large = messages[3].id.encode()

    def answer(request: Request) -> bytes:
        if request.method == "POST" and (request.body.count(b'{"create"') > 1 or large in request.body):
            return said("413 Content Too Large")
        return search.reply(request)

    search.server.answer = answer
    receipts = deliver(search.url, messages)

    assert [type(receipt) for receipt in receipts] == [Accepted] * 3 + [Refused]


def test_a_lost_answer_is_a_retry_and_then_recognised(search: Cluster) -> None:
    """The documents are there; the repetition is told so."""
    lost = iter([True])

    def answer(request: Request) -> bytes:
        said_ = search.reply(request)
        return b"" if request.method == "POST" and next(lost, False) else said_

    search.server.answer = answer
    with opened(search.url) as output:
        first = output.deliver(sample_messages(3))
        second = output.deliver(sample_messages(3))

    assert [type(receipt) for receipt in first] == [Retry] * 3
    assert list(second) == [Accepted()] * 3
    assert len(search.documents) == 3


@pytest.mark.parametrize(
    "body", [b"", b"<html>Welcome</html>", b"{}", b'{"items":[]}', b'{"items":[{"index":{"status":201}}]}', b"[1]"]
)  # fmt: skip
def test_an_answer_that_is_none_of_a_cluster_accepts_nothing(scripted: ScriptedHttp, body: bytes) -> None:
    """200 alone says nothing."""
    scripted.answer = lambda request: said("200 OK", body)

    (receipt,) = deliver(scripted.url, sample_messages(1), index_template="no")

    assert isinstance(receipt, Retry)
    assert "is URL a cluster?" in receipt.reason


def test_an_answer_that_breaks_off_accepts_nothing(scripted: ScriptedHttp) -> None:
    """What stands in it may be whole, or not."""
    scripted.answer = lambda request: b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\nconnection: close\r\n\r\n{"

    (receipt,) = deliver(scripted.url, sample_messages(1), index_template="no")

    assert isinstance(receipt, Retry)


def test_a_cluster_that_fails_amid_a_call_keeps_what_it_took(
    search: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several requests the first was answered; the later ones are not sent."""
    monkeypatch.setattr(opensearch, "REQUEST_BYTES", 1)
    asked = iter(range(10))

    def answer(request: Request) -> bytes:
        if request.method == "POST" and next(asked) > 0:
            return said("503 Service Unavailable")
        return search.reply(request)

    search.server.answer = answer
    receipts = deliver(search.url, sample_messages(4))

    assert [type(receipt) for receipt in receipts] == [Accepted, Retry, Retry, Retry]
    assert len(search.server.paths("POST")) == 2


def test_a_template_that_is_not_permitted_is_a_retry_that_says_what_to_do(scripted: ScriptedHttp) -> None:
    """Nothing is indexed without it: fields would be guessed, for ever."""
    scripted.answer = lambda request: said("403 Forbidden", b'{"error":{"type":"security_exception"}}')

    (receipt,) = deliver(scripted.url, sample_messages(1))

    assert isinstance(receipt, Retry)
    assert "INDEX_TEMPLATE=no" in receipt.reason
    assert scripted.paths("POST") == []


def test_a_cluster_that_never_answers_is_a_retry_within_the_time(scripted: ScriptedHttp) -> None:
    """Every wait has a deadline."""
    over = threading.Event()
    scripted.answer = lambda request: said("200 OK" if over.wait(20) else "500 Late")
    began = time.monotonic()
    receipts = deliver(scripted.url, sample_messages(3), timeout="200ms")
    took = time.monotonic() - began
    over.set()

    assert all("did not answer within 200ms" in reason(receipt) for receipt in receipts)
    assert took < 5


def test_a_cluster_that_is_down_is_a_retry() -> None:
    """Nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (receipt,) = deliver(url, sample_messages(1))

    assert f"{url} cannot be reached" in reason(receipt)


def test_a_certificate_of_the_named_authority_is_trusted_and_no_other(tmp_path: Path) -> None:
    """TLS is always verified."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with scripted_http(tls=context) as server:
        search = Cluster(server)
        (trusted,) = deliver(search.url, sample_messages(1), ca_file=tmp_path / "ca.pem")
        (other,) = deliver(search.url, sample_messages(1))

    assert trusted == Accepted()
    assert "CERTIFICATE_VERIFY_FAILED" in reason(other)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "search.example:9200"},
        {"url": "https://robot:swordfish@search.example"},
        {"url": "https://search.example/?x=y"},
        {"index": "Mail"},
        {"index": "{mailbox}"},
        {"index": "mail-{id}"},
        {"index": "mail/{received:%Y}"},
        {"index": "mail-{received:%Y/%m}"},
        {"index": "mail-{subject}"},
        {"index": "mail *"},
        {"index": ""},
        {"username": "robot"},
        {"password": "swordfish"},
        {"username": "robot", "password": "swordfish", "api_key": "swordfish"},
        {"timeout": "2h"},
    ],
)
def test_options_that_cannot_work_are_problems_of_the_configuration(options: dict[str, str]) -> None:
    """Found by `mailquay check`, without showing a secret."""
    with pytest.raises(pydantic.ValidationError) as caught:
        OpenSearchOptions.model_validate({"url": "https://search.example:9200", **options})

    assert "swordfish" not in str(caught.value)
