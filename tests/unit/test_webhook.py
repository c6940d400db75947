"""The webhook posts signed JSON and makes the right receipt of every answer, and of every way not to answer."""

from __future__ import annotations

import base64
import contextlib
import hmac
import itertools
import secrets
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pydantic
import pytest
import standardwebhooks
import trustme

from pipelines.message import Message, Source
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.http_client import read_retry_after
from pipelines.outputs.webhook import WebhookOptions, WebhookOutput, judge
from pipelines.outputs.webhook_body import in_base64
from pipelines.parse import parse
from pipelines.testing import sample_messages
from tests.contract.receiver import Answer, Call, Receiver, receiving

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


@contextmanager
def sender(url: str, *, clock: Callable[[], float] = time.time, **options: Any) -> Iterator[WebhookOutput]:
    output = WebhookOutput("crm", WebhookOptions.model_validate({"url": url, **options}), clock=clock)
    output.open()
    try:
        yield output
    finally:
        output.close()


def deliver_one(url: str, message: Message | None = None, **options: Any) -> Receipt:
    with sender(url, **options) as output:
        (receipt,) = output.deliver([message or sample_messages(1)[0]])
    return receipt


def side_by_side(output: WebhookOutput, messages: Sequence[Message]) -> list[Receipt]:
    """Deliver as Mailquay does: as many calls at once as the output declares, each with as much as it declares."""
    assert output.batch_size == 1
    with ThreadPoolExecutor(output.parallel) as threads:
        return [receipt for (receipt,) in threads.map(lambda message: output.deliver([message]), messages)]


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_request_is_the_json_of_the_message_with_its_id(receiver: Receiver) -> None:
    """The body is the very JSON of the message; the id is the receiver's key against repetitions."""
    message = sample_messages(1)[0]

    assert deliver_one(receiver.url) == Accepted()

    (call,) = receiver.calls
    assert call.path == "/hooks/mail"
    assert call.body == message.to_json()
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == message.id


def test_the_signature_is_what_standard_webhooks_verifies(receiver: Receiver) -> None:
    """The reference implementation accepts id, time, body and signature."""
    key = secret()
    deliver_one(receiver.url, secret=key)

    (call,) = receiver.calls
    assert standardwebhooks.Webhook(key).verify(call.body, dict(call.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret()).verify(call.body, dict(call.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(key).verify(call.body + b" ", dict(call.headers))


def test_during_a_change_of_secrets_both_sign(receiver: Receiver) -> None:
    """A receiver that knows only the old or only the new secret verifies the same request."""
    old, new = secret(), secret()
    deliver_one(receiver.url, secret=f"{new} {old}")

    (call,) = receiver.calls
    assert standardwebhooks.Webhook(old).verify(call.body, dict(call.headers))
    assert standardwebhooks.Webhook(new).verify(call.body, dict(call.headers))


def test_without_a_secret_the_request_is_not_signed(receiver: Receiver) -> None:
    """A receiver on a private network may do without; id and time are sent all the same."""
    with sender(receiver.url, clock=lambda: 1234567890.9) as output:
        output.deliver(sample_messages(1))

    (call,) = receiver.calls
    assert call.headers["webhook-timestamp"] == "1234567890"
    assert "webhook-signature" not in call.headers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_is_accepted(status: int) -> None:
    """Any 2xx."""
    assert judge(status, retry_after=None, server="https://crm.example", now=NOW) == Accepted()


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_an_answer_that_blames_the_message_is_a_refusal(status: int) -> None:
    """The same request would meet the same answer, so a person has to look."""
    receipt = judge(status, retry_after=None, server="https://crm.example", now=NOW)

    assert isinstance(receipt, Refused)
    assert f"https://crm.example answered {status}" in receipt.reason


@pytest.mark.parametrize(
    "status", [301, 302, 307, 308, 401, 403, 404, 405, 408, 409, 425, 429, 451, 500, 501, 502, 503, 504, 599]
)
def test_an_answer_that_blames_the_server_or_the_configuration_is_a_retry(status: int) -> None:
    """A wrong URL, an expired secret or a server in trouble must not throw mail into failed."""
    receipt = judge(status, retry_after=None, server="https://crm.example", now=NOW)

    assert isinstance(receipt, Retry)
    assert f"https://crm.example answered {status}" in receipt.reason
    assert receipt.not_before is None


def test_a_receiver_that_is_gone_keeps_its_mail_waiting_and_is_hardly_asked() -> None:
    """410 is about the URL; Standard Webhooks wants nothing more to be sent then. No message is given up for it."""
    receipt = judge(410, retry_after=None, server="https://crm.example", now=NOW)

    assert isinstance(receipt, Retry)
    assert receipt.reason.startswith("https://crm.example answered 410: it wants nothing more; set URL")
    assert receipt.not_before == NOW + timedelta(hours=1)
    later = judge(410, retry_after="7200", server="https://crm.example", now=NOW)
    assert isinstance(later, Retry)
    assert later.not_before == NOW + timedelta(hours=2)


def test_too_large_for_now_is_a_retry() -> None:
    """RFC 9110 lets 413 carry Retry-After when the condition passes."""
    receipt = judge(413, retry_after="60", server="https://crm.example", now=NOW)

    assert receipt == Retry("https://crm.example answered 413", not_before=NOW + timedelta(seconds=60))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", NOW),
        ("120", NOW + timedelta(seconds=120)),
        ("Wed, 04 Mar 2026 06:00:00 GMT", datetime(2026, 3, 4, 6, tzinfo=UTC)),
        ("Wed, 04 Mar 2026 07:00:00 +0100", datetime(2026, 3, 4, 6, tzinfo=UTC)),
        # -0000 means that the zone is unknown.
        ("Wed, 04 Mar 2026 06:00:00 -0000", datetime(2026, 3, 4, 6, tzinfo=UTC)),
        # A receiver may be wrong about how patient one should be.
        ("9" * 5000, NOW + timedelta(days=1)),
        ("Wed, 04 Mar 2099 06:00:00 GMT", NOW + timedelta(days=1)),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("١٢", None),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str | None, expected: datetime | None) -> None:
    """RFC 9110 section 10.2.3, bounded by a day; what is neither is no wish at all."""
    assert read_retry_after(value, now=NOW) == expected


@pytest.mark.parametrize("status", [429, 503])
def test_a_throttling_receiver_is_asked_again_when_it_said(receiver: Receiver, status: int) -> None:
    """429 and 503 with Retry-After, over the wire."""
    receiver.answer = lambda call: Answer(status, {"Retry-After": "90"})
    with sender(receiver.url, clock=NOW.timestamp) as output:
        (receipt,) = output.deliver(sample_messages(1))

    assert isinstance(receipt, Retry)
    assert receipt.not_before == NOW + timedelta(seconds=90)


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    """Mail goes to the address that was configured and to no other."""
    receiver.answer = lambda call: Answer(307, {"Location": receiver.url + "/elsewhere"})

    receipt = deliver_one(receiver.url)

    assert isinstance(receipt, Retry)
    assert "redirect" in receipt.reason
    assert len(receiver.calls) == 1


def test_each_message_has_its_own_receipt_in_order(receiver: Receiver) -> None:
    """Requests run in parallel, and the answers come back in any order."""
    messages = sample_messages(12)
    refused, failed = messages[3].id, messages[7].id
    statuses = {refused: 422, failed: 503}
    receiver.answer = lambda call: Answer(statuses.get(call.headers["webhook-id"], 204))
    with sender(receiver.url, parallel=8) as output:
        receipts = side_by_side(output, messages)

    kinds = [type(receipt) for receipt in receipts]
    assert kinds[3] is Refused
    assert kinds[7] is Retry
    assert kinds.count(Accepted) == 10


def test_requests_run_side_by_side_up_to_the_limit(receiver: Receiver) -> None:
    """PARALLEL=3: three calls on one output are under way at once; a fourth is not made."""
    barrier = threading.Barrier(3, timeout=10)
    under_way, most, lock = 0, 0, threading.Lock()

    def answer(call: Call) -> Answer:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        # Nobody passes unless three are here at once.
        barrier.wait()
        with lock:
            under_way -= 1
        return Answer()

    receiver.answer = answer
    with sender(receiver.url, parallel=3) as output:
        assert side_by_side(output, sample_messages(9)) == [Accepted()] * 9

    assert most == 3


def test_connections_are_used_again(receiver: Receiver) -> None:
    """A handshake a message would cost more than the message; answers with a body are read to the end."""
    receiver.answer = lambda call: Answer(200, body=b"thank you")
    with sender(receiver.url, parallel=1) as output:
        output.deliver(sample_messages(5))

    assert len({call.port for call in receiver.calls}) == 1


def test_a_receiver_that_breaks_the_connection_is_a_retry(receiver: Receiver) -> None:
    """It may have taken the message or not; the repetition carries the same id."""
    receiver.answer = lambda call: Answer(broken=True)

    receipt = deliver_one(receiver.url)

    assert isinstance(receipt, Retry)
    assert "broke the request off" in receipt.reason


def test_a_receiver_that_never_answers_is_a_retry(receiver: Receiver) -> None:
    """Every wait has a deadline."""
    over = threading.Event()
    receiver.answer = lambda call: Answer() if over.wait(20) else Answer(500)

    receipt = deliver_one(receiver.url, timeout="200ms")
    over.set()

    assert isinstance(receipt, Retry)
    assert "did not answer within 200ms" in receipt.reason


def test_a_body_that_breaks_off_after_success_is_still_accepted(receiver: Receiver) -> None:
    """The status says it all; what the receiver wanted to add does not matter."""
    receiver.answer = lambda call: Answer(200, {"content-length": "1000", "Connection": "close"}, b"short")

    assert deliver_one(receiver.url) == Accepted()


@pytest.mark.parametrize(
    "answer",
    [
        # A megabyte, and then nothing of the rest that was announced.
        Answer(200, {"content-length": str(10**12)}, b"x" * 10**6),
        # One byte now and then, never late enough for a time-out.
        Answer(200, body=b"x" * 200, drip=0.1),
    ],
)
def test_an_endless_answer_is_not_read_to_its_end(receiver: Receiver, answer: Answer) -> None:
    """A receiver cannot keep us reading: 64 KiB and one TIMEOUT are enough to be polite."""
    receiver.answer = lambda call: answer
    began = time.monotonic()
    late = itertools.count(began, 60)
    with sender(receiver.url, clock=lambda: next(late), timeout="20s") as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]

    assert time.monotonic() - began < 10


def test_a_receiver_that_drips_the_head_of_its_answer_is_a_retry() -> None:
    """One byte now and then is never late enough for a time-out of each piece, and would go on for hours."""
    gone = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            with contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not gone.wait(0.02):
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        dripping = threads.submit(drip, listener)
        began = time.monotonic()
        try:
            receipt = deliver_one(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout="300ms")
        finally:
            gone.set()
        dripping.result(timeout=10)

    assert isinstance(receipt, Retry)
    assert "did not answer within" in receipt.reason
    assert time.monotonic() - began < 5


def test_a_receiver_that_is_down_is_a_retry_for_all_that_names_it() -> None:
    """Nobody listens: the reason shows the server, and no credentials, path or query."""
    port = closed_port()
    url = f"http://robot:swordfish@127.0.0.1:{port}/hooks/token-in-path?key=in-query"
    with sender(url, parallel=2) as output:
        receipts = output.deliver(sample_messages(6))

    reasons = {receipt.reason for receipt in receipts if isinstance(receipt, Retry)}
    assert len(receipts) == 6
    assert all(f"http://127.0.0.1:{port} cannot be reached" in reason for reason in reasons)
    assert not any(
        word in reason for reason in reasons for word in ("swordfish", "token-in-path", "in-query")
    )


def tls(authority: trustme.CA, *, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_certificate_of_the_named_authority_is_trusted(tmp_path: Path) -> None:
    """CA_FILE is what the server is verified against."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with receiving(tls=tls(authority)) as receiver:
        assert deliver_one(receiver.url, ca_file=tmp_path / "ca.pem") == Accepted()


def test_an_unknown_authority_is_a_retry_and_nothing_is_sent(tmp_path: Path) -> None:
    """TLS is always verified, with CA_FILE and without."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with receiving(tls=tls(trustme.CA())) as receiver:
        receipts = [deliver_one(receiver.url), deliver_one(receiver.url, ca_file=other)]

    for receipt in receipts:
        assert isinstance(receipt, Retry)
        assert "CERTIFICATE_VERIFY_FAILED" in receipt.reason
    assert receiver.calls == []


def test_a_certificate_for_another_name_is_a_retry(tmp_path: Path) -> None:
    """A certificate of the right authority for the wrong server proves nothing."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with receiving(tls=tls(authority, name="other.example")) as receiver:
        receipt = deliver_one(receiver.url, ca_file=tmp_path / "ca.pem")

    assert isinstance(receipt, Retry)
    assert "CERTIFICATE_VERIFY_FAILED" in receipt.reason


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_without_certificates_is_an_error_that_names_it(
    tmp_path: Path, content: str | None
) -> None:
    """Nothing is delivered over a connection that cannot be verified."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    output = WebhookOutput("crm", WebhookOptions(url="https://127.0.0.1/", ca_file=path))
    try:
        with pytest.raises(OSError, match=r"CA_FILE .*ca\.pem gives no certificate"):
            output.open()
    finally:
        output.close()


@pytest.mark.parametrize("timeout", ["0s", "2h", "999999d"])
def test_a_timeout_has_bounds(timeout: str) -> None:
    """Nobody answers in no time, and a wait of days is no deadline."""
    with pytest.raises(pydantic.ValidationError, match="timeout"):
        WebhookOptions.model_validate({"url": "https://crm.example/", "timeout": timeout})


def test_proxies_and_netrc_of_the_environment_are_not_used(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Mailquay does is in its own configuration, and no credentials slip in from elsewhere."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login robot password swordfish\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")

    assert deliver_one(receiver.url) == Accepted()
    assert "authorization" not in receiver.calls[0].headers


@pytest.mark.parametrize(
    "url", ["", "crm.example/hook", "ftp://crm.example/", "https://", "http://h:port/", "//h/x"]
)
def test_an_address_that_is_none_is_a_problem_of_the_configuration(url: str) -> None:
    """Found by `mailquay check`, and not at the first message."""
    with pytest.raises(pydantic.ValidationError, match="write a whole address"):
        WebhookOptions.model_validate({"url": url})


@pytest.mark.parametrize(
    "bad", ["", "swordfish", "whsec_!", "whsec_c3dvcmRmaXNo", "whsec_not*base64*" + "A" * 30]
)
def test_a_secret_of_the_wrong_shape_is_a_problem_that_does_not_show_it(bad: str) -> None:
    """Too short, too long or no base64: said without repeating it."""
    with pytest.raises(pydantic.ValidationError, match="24 to 64 random bytes") as caught:
        WebhookOptions.model_validate({"url": "https://crm.example/", "secret": bad})

    assert not bad or bad not in str(caught.value)


def test_one_bad_secret_among_several_is_a_problem() -> None:
    """Otherwise the change of secrets would break at its end."""
    with pytest.raises(pydantic.ValidationError, match="24 to 64 random bytes"):
        WebhookOptions.model_validate({"url": "https://crm.example/", "secret": f"{secret()} nonsense"})


def letter(*attachments: bytes, encoding: str = "base64") -> bytes:
    """A message with these attachments."""
    parts = [
        b"Content-Type: application/pdf; name=a.pdf\r\nContent-Disposition: attachment\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(content)
        for content in attachments
    ]
    body = b"\r\n--x\r\n".join([b"", b"\r\nSee below.", *parts])
    return b"Subject: papers\r\nContent-Type: multipart/mixed; boundary=x\r\n" + body + b"\r\n--x--\r\n"


@pytest.mark.parametrize("sizes", [(), (0,), (1, 2, 3), (128 * 1024 + 1, 57, 400_000)])
def test_attachments_are_sent_inside_the_json_in_base64_by_part(
    receiver: Receiver, sizes: tuple[int, ...]
) -> None:
    """The JSON is as ever, with one key more, and what is signed is what is sent."""
    contents = [secrets.token_bytes(size) for size in sizes]
    message, key = parse(letter(*contents)), secret()
    assert deliver_one(receiver.url, message, content="json+attachments", secret=key) == Accepted()

    (call,) = receiver.calls
    assert call.headers["content-type"] == "application/json"
    assert standardwebhooks.Webhook(key).verify(call.body, dict(call.headers))
    sent = orjson.loads(call.body)
    held = sent.pop("attachmentContents")
    assert sent == orjson.loads(message.to_json())
    assert [base64.b64decode(held[part["partId"]], validate=True) for part in sent["attachments"]] == contents
    assert len(held) == len(contents)


def test_a_picture_in_the_text_is_sent_with_the_attachments(receiver: Receiver) -> None:
    """It is in `textBody` and not in `attachments` (RFC 8621), and people miss it all the same."""
    raw = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n"
    deliver_one(receiver.url, parse(raw), content="json+attachments")

    assert orjson.loads(receiver.calls[0].body)["attachmentContents"] == {"1": "iVBORw0KGgo="}


def test_attachments_of_a_message_beyond_max_size_are_described_and_not_sent(receiver: Receiver) -> None:
    """The receiver gets the mail, and a null that tells it from mail without attachments."""
    message = parse(letter(b"x" * 1000))
    for limit in (message.size, message.size - 1):
        assert (
            deliver_one(
                receiver.url, message, content="json+attachments", max_size=f"{limit}B", secret=secret()
            )
            == Accepted()
        )

    within, beyond = (orjson.loads(call.body) for call in receiver.calls)
    assert within["attachmentContents"].keys() == {"2"}
    assert beyond["attachmentContents"] is None
    assert beyond["attachments"][0]["size"] == 1000


def test_a_large_attachment_is_not_held_in_memory_to_be_sent(receiver: Receiver) -> None:
    """Sixteen megabytes go in pieces, counted and signed first, then sent."""
    message = parse(letter(bytes(16_000_000)))
    message.to_json()
    received = 0

    def count(call: Call) -> Answer:
        nonlocal received
        received = len(call.body)
        receiver.calls.clear()
        return Answer()

    receiver.answer = count
    with sender(receiver.url, content="json+attachments", secret=secret()) as output:
        (small,) = output.deliver(sample_messages(1))
        # The receiver of this test holds the body in the same process, so only what is made here is counted.
        tracemalloc.start(1)
        try:
            body = output._body(message)
            length = sum(map(len, body.pieces()))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert output.deliver([message]) == [small]
    assert received == length > 21_000_000
    assert peak < 2_000_000


@pytest.mark.parametrize("lengths", [(0,), (1,), (2, 2), (3, 0, 1), (100, 1, 1, 1, 50)])
def test_base64_in_pieces_is_base64_in_one(lengths: tuple[int, ...]) -> None:
    """Pieces end anywhere, padding stands at the end alone."""
    pieces = [secrets.token_bytes(length) for length in lengths]

    assert b"".join(in_base64(pieces)) == base64.b64encode(b"".join(pieces))


def test_a_raw_message_is_sent_byte_for_byte_with_its_origin_in_headers(receiver: Receiver) -> None:
    """message/rfc822; what the JSON would say of its way is in headers, percent-encoded."""
    key, raw = secret(), b"Subject: raw \xe4\0\nbare line feeds\r\n" + bytes(range(256)) * 2000
    message = parse(
        raw,
        id="a" * 32,
        mailbox="support",
        source=Source(folder="Entw\u00fcrfe/a b\r\nx: y\ud800"),
        received_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    )
    assert deliver_one(receiver.url, message, content="raw", secret=key) == Accepted()

    (call,) = receiver.calls
    assert call.body == raw
    # The reference implementation takes UTF-8 only; this is what its specification says of any body.
    signed = f"{'a' * 32}.{call.headers['webhook-timestamp']}.".encode() + raw
    digest = hmac.digest(base64.b64decode(key.removeprefix("whsec_")), signed, "sha256")
    assert call.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert {name: value for name, value in call.headers.items() if name.startswith("mailquay-")} == {
        "mailquay-mailbox": "support",
        "mailquay-folder": "Entw%C3%BCrfe/a%20b%0D%0Ax:%20y%EF%BF%BD",
        "mailquay-digest": f"sha256:{message.digest}",
        "mailquay-received-at": "2026-03-04T05:06:07Z",
    }
    assert (call.headers["content-type"], call.headers["webhook-id"]) == ("message/rfc822", "a" * 32)


def test_an_empty_raw_message_is_a_request_without_a_body(receiver: Receiver) -> None:
    """Nothing is something that arrives, too."""
    assert deliver_one(receiver.url, parse(b""), content="raw", secret=secret()) == Accepted()

    assert receiver.calls[0].body == b""


def test_a_raw_message_beyond_max_size_is_refused_and_not_sent(receiver: Receiver) -> None:
    """There is nothing to leave out of it, so a person has to look."""
    message = parse(b"Subject: x\r\n\r\n" + b"y" * 1000)

    assert deliver_one(receiver.url, message, content="raw", max_size="1KB") == Refused(
        "the message is larger than MAX_SIZE, 1KB"
    )
    assert receiver.calls == []


def test_headers_of_ones_own_are_in_every_request(receiver: Receiver) -> None:
    """For a gateway that wants a token; lines as they stand in a file."""
    token = secrets.token_urlsafe()
    deliver_one(
        receiver.url, headers=f"Authorization: Bearer {token}\nX-Tenant:  a; b, c \n\nUser-Agent: crm-feed\n"
    )

    (call,) = receiver.calls
    assert call.headers["authorization"] == f"Bearer {token}"
    assert (call.headers["x-tenant"], call.headers["user-agent"]) == ("a; b, c", "crm-feed")
    assert call.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "bad",
    [
        "swordfish",
        "Authorization:",
        ": swordfish",
        "X A: swordfish",
        "X-A: sword\0fish",
        "X-A: sw\u00f6rdfish",
        "X-A: 1\nx-a: swordfish",
        *(f"{name}: swordfish" for name in ("Host", "Content-Length", "Content-Type", "Transfer-Encoding")),
        *(
            f"{name}: swordfish"
            for name in ("webhook-id", "Webhook-Signature", "mailquay-mailbox", "Connection")
        ),
    ],
)
def test_headers_that_are_none_or_not_ones_own_are_a_problem_that_does_not_show_them(bad: str) -> None:
    """A second Content-Length would let a receiver see two requests in one."""
    with pytest.raises(pydantic.ValidationError, match="headers") as caught:
        WebhookOptions.model_validate({"url": "https://crm.example/", "headers": bad})

    assert "swordfish" not in str(caught.value)
