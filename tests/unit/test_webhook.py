"""The webhook posts signed JSON and makes the right receipt of every answer, and of every way not to answer."""

from __future__ import annotations

import base64
import itertools
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydantic
import pytest
import standardwebhooks
import trustme

from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.webhook import WebhookOptions, WebhookOutput, judge, read_retry_after
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


def deliver_one(url: str, **options: Any) -> Receipt:
    with sender(url, **options) as output:
        (receipt,) = output.deliver(sample_messages(1))
    return receipt


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


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
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


def test_a_throttling_receiver_is_asked_again_when_it_said(receiver: Receiver) -> None:
    """429 with Retry-After, over the wire."""
    receiver.answer = lambda call: Answer(429, {"Retry-After": "90"})
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
        receipts = output.deliver(messages)

    kinds = [type(receipt) for receipt in receipts]
    assert kinds[3] is Refused
    assert kinds[7] is Retry
    assert kinds.count(Accepted) == 10


def test_requests_run_side_by_side_up_to_the_limit(receiver: Receiver) -> None:
    """PARALLEL=3: three are under way at once, never a fourth."""
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
        assert output.deliver(sample_messages(9)) == [Accepted()] * 9

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
    assert any("was not tried" in reason for reason in reasons)


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
