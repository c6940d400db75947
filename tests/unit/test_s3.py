"""Messages in an object store: whole, once, the JSON last; and a right receipt for every way in which a store can fail.

What it writes is read from moto's server; answers that no server gives on demand are written down, byte for byte, as S3
documents them.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydantic
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.name_pattern import expand
from pipelines.outputs.s3 import S3Options, S3Output
from pipelines.outputs.stores.folder import Folder
from pipelines.parse import parse
from pipelines.testing import sample_messages
from tests.bed.object_store import Bucket, ObjectServer, object_server
from tests.bed.scripted_http import Request, ScriptedHttp, said, scripted_http

SECRET = secrets.token_hex(20)
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"
)
HELD = said("200 OK", b"", 'etag: "x"')
LARGE = os.urandom(9 << 20)


@pytest.fixture(scope="module")
def object_stores() -> Iterator[ObjectServer]:
    with object_server() as server:
        yield server


@pytest.fixture
def bucket(object_stores: ObjectServer) -> Bucket:
    return object_stores.bucket()


@pytest.fixture
def scripted() -> Iterator[ScriptedHttp]:
    with scripted_http() as server:
        server.answer = lambda request: HELD
        yield server


@contextmanager
def opened(**options: Any) -> Iterator[S3Output]:
    output = S3Output("archive", S3Options.model_validate(options))
    output.open()
    try:
        yield output
    finally:
        output.close()


def told(server: ScriptedHttp, **options: Any) -> dict[str, Any]:
    keys = {"access_key": "AKIDEXAMPLE", "secret_key": SECRET}
    return {"url": "s3://mail/in", "endpoint": server.url, **keys, **options}


def deliver_one(server: ScriptedHttp, **options: Any) -> Receipt:
    with opened(**told(server, **options)) as output:
        (receipt,) = output.deliver(sample_messages(1))
    return receipt


def letter(*, content: bytes = b"%PDF-1.4 small", name: str = "offer.pdf") -> Message:
    """A message with one attachment and a picture in its text."""
    raw = (
        b"Subject: two\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\n\r\nHello.\r\n"
        b"--b\r\nContent-Type: image/png\r\nContent-Disposition: inline\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n"
        b"--b\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename*=utf-8''"
        + "".join(f"%{byte:02X}" for byte in name.encode()).encode()
        + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(content)
        + b"\r\n--b--\r\n"
    )
    received = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
    return parse(raw, id=sha256(raw).hexdigest()[:32], mailbox="support", received_at=received)


# -- what is put there -------------------------------------------------------------------------------------------------


def test_message_attachments_and_json_stand_under_keys_made_of_the_id(bucket: Bucket) -> None:
    """The day is that of receipt; an attachment's key begins with its number in the JSON."""
    message = letter()
    with opened(**bucket.options("in"), attachments=True) as output:
        assert output.deliver([message]) == [Accepted()]

    key = f"in/support/2026/11/24/{message.id}"
    assert bucket.objects() == {
        f"{key}.eml": bytes(message.raw),
        f"{key}/2-part-2.png": b"\x89PNG\r\n\x1a\n",
        f"{key}/3-offer.pdf": b"%PDF-1.4 small",
        f"{key}.json": message.to_json(),
    }


def test_the_json_comes_last(scripted: ScriptedHttp) -> None:
    """Whoever sees it finds the rest, however the process dies."""
    with opened(**told(scripted, attachments=True)) as output:
        output.deliver([letter()])

    endings = [path.rpartition(".")[2] for path in scripted.paths("PUT")]
    assert endings[0] == "eml"
    assert endings[-1] == "json"
    assert len(endings) == 4


def test_what_is_not_wanted_is_not_put(bucket: Bucket) -> None:
    """RAW=no leaves the JSON alone."""
    (message,) = sample_messages(1)
    with opened(**bucket.options(), raw=False, pattern="{received:%G-W%V}/{id}") as output:
        output.deliver([message])

    assert bucket.objects() == {f"2026-W01/{message.id}.json": message.to_json()}


def test_a_large_message_and_attachment_go_in_parts_and_arrive_whole(bucket: Bucket) -> None:
    """Over 8 MiB; a repetition finds them there."""
    message = letter(content=LARGE, name="film.mov")
    with opened(**bucket.options(), attachments=True) as output:
        assert output.deliver([message, message]) == [Accepted()] * 2

    found = bucket.objects()
    key = f"support/2026/11/24/{message.id}"
    assert found[f"{key}/3-film.mov"] == LARGE
    assert found[f"{key}.eml"] == bytes(message.raw)


def test_a_large_object_that_is_there_is_not_sent_again(scripted: ScriptedHttp) -> None:
    """A repetition asks for its head alone."""
    scripted.answer = lambda request: said("200 OK", b"", "last-modified: Tue, 24 Nov 2026 00:00:00 GMT")
    with opened(**told(scripted)) as output:
        assert output.deliver([letter(content=LARGE)]) == [Accepted()]

    assert scripted.paths("PUT") == []
    assert scripted.paths("POST") == []


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..\\..\\x.exe", "a/b/c.txt", "..", "status code: 413 <Code>EntityTooLarge</Code>", "\u202efdp", "x" * 500],
)  # fmt: skip
def test_no_name_that_a_sender_chose_leads_anywhere_else(bucket: Bucket, name: str) -> None:
    """What is left of it is one step below the key of its message."""
    message = letter(name=name)
    with opened(**bucket.options(), attachments=True) as output:
        assert output.deliver([message]) == [Accepted()]

    folder = f"support/2026/11/24/{message.id}"
    (key,) = (key for key in bucket.objects() if key.startswith(f"{folder}/3-"))
    step = key.removeprefix(f"{folder}/")
    assert "/" not in step
    assert len(step.encode()) <= 150


def test_attachments_have_no_media_type_of_their_senders(scripted: ScriptedHttp) -> None:
    """A browser that opens the object runs nothing; here it is declared as HTML."""
    with opened(**told(scripted, attachments=True)) as output:
        output.deliver([letter()])

    types = {
        request.path.rpartition("/")[2]: request.headers["content-type"] for request in scripted.requests
    }
    assert types["3-offer.pdf"] == "application/octet-stream"


# -- repetitions -------------------------------------------------------------------------------------------------------


def test_a_repetition_changes_nothing(bucket: Bucket) -> None:
    """What somebody put in the place of an object meanwhile stays as well."""
    import obstore

    (message,) = sample_messages(1)
    with opened(**bucket.options()) as output:
        output.deliver([message])
        before = {key: obstore.head(bucket.store(), key)["last_modified"] for key in bucket.objects()}
        obstore.put(bucket.store(), f"contract/2026/01/01/{message.id}.json", b"{}")
        assert output.deliver([message]) == [Accepted()]

    assert len(before) == 2
    assert bucket.objects()[f"contract/2026/01/01/{message.id}.json"] == b"{}"


def test_a_delivery_that_died_halfway_is_completed(bucket: Bucket) -> None:
    """The message is there, its JSON is not: the rest follows."""
    import obstore

    message = letter()
    key = f"support/2026/11/24/{message.id}"
    obstore.put(bucket.store(), f"{key}.eml", bytes(message.raw))
    with opened(**bucket.options(), attachments=True) as output:
        assert output.deliver([message]) == [Accepted()]

    assert {f"{key}/3-offer.pdf", f"{key}.json"} <= bucket.objects().keys()


def test_a_lost_answer_to_a_put_that_succeeded_is_a_retry_and_then_recognised(scripted: ScriptedHttp) -> None:
    """The store holds the object and hangs up; the repetition is told so by 412."""
    held: set[str] = set()

    def answer(request: Request) -> bytes:
        if request.method == "HEAD":
            there = request.path in held
            return said(
                "200 OK" if there else "404 Not Found", b"", "last-modified: Tue, 24 Nov 2026 00:00:00 GMT"
            )
        if request.headers.get("if-none-match") == "*" and request.path in held:
            return said("412 Precondition Failed", b"<Error><Code>PreconditionFailed</Code></Error>")
        held.add(request.path)
        return b"" if len(held) == 1 else HELD

    scripted.answer = answer
    with opened(**told(scripted)) as output:
        (first,) = output.deliver(sample_messages(1))
        (second,) = output.deliver(sample_messages(1))

    assert isinstance(first, Retry)
    assert "broke the request off" in first.reason
    assert second == Accepted()
    assert len(held) == 2


def test_a_conflict_with_another_writer_is_no_proof_that_the_object_is_there(scripted: ScriptedHttp) -> None:
    """409 ConditionalRequestConflict: the other one may yet fail, so it is looked for, and not found."""
    conflict = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    scripted.answer = lambda request: said(
        "409 Conflict" if request.method == "PUT" else "404 Not Found", conflict * (request.method == "PUT")
    )

    receipt = deliver_one(scripted)

    assert isinstance(receipt, Retry)
    assert "somebody else" in receipt.reason


def test_a_store_that_knows_no_conditions_gets_the_same_bytes_without(scripted: ScriptedHttp) -> None:
    """501 NotImplemented: the key alone makes a repetition harmless."""
    scripted.answer = lambda request: (
        said("501 Not Implemented", b"<Error><Code>NotImplemented</Code></Error>")
        if "if-none-match" in request.headers
        else HELD
    )

    assert deliver_one(scripted) == Accepted()


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        ("503 Slow Down", SLOW_DOWN, "answered 503 (SlowDown)"),
        ("500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>", "answered 500 (InternalError)"),
        ("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>", "answered 403 (AccessDenied): check ACCESS_KEY"),
        ("403 Forbidden", b"<Error><Code>RequestTimeTooSkewed</Code></Error>", "this machine's clock"),
        ("404 Not Found", b"<Error><Code>NoSuchBucket</Code></Error>", "404 (NoSuchBucket): check the bucket"),
        ("400 Bad Request", b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>", "set REGION"),
        ("400 Bad Request", b"not XML", "answered 400"),
    ],
)  # fmt: skip
def test_an_answer_that_blames_no_object_is_a_retry_that_says_what_to_do(
    scripted: ScriptedHttp, status: str, body: bytes, sentence: str
) -> None:
    """And shows neither the key nor the server's words."""
    scripted.answer = lambda request: said(status, body)

    receipt = deliver_one(scripted)

    assert isinstance(receipt, Retry)
    assert f"{scripted.url} {sentence}" in receipt.reason or sentence in receipt.reason
    assert not any(word in receipt.reason for word in (SECRET, "contract", "reduce", "not XML", "AKID"))


@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect"])
def test_a_redirect_to_another_region_is_not_followed(scripted: ScriptedHttp, status: str) -> None:
    """Mail goes to the configured place and to no other."""
    elsewhere = b"<Error><Code>PermanentRedirect</Code><Endpoint>mail.s3.eu-west-1.example</Endpoint></Error>"
    scripted.answer = lambda request: said(
        status, elsewhere, "x-amz-bucket-region: eu-west-1", f"location: {scripted.url}/elsewhere"
    )

    receipt = deliver_one(scripted)

    assert isinstance(receipt, Retry)
    assert "set REGION or ENDPOINT" in receipt.reason
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [("400 Bad Request", b"EntityTooLarge"), ("413 Content Too Large", b"X"), ("400 Bad Request", b"KeyTooLongError")],
)  # fmt: skip
def test_an_answer_that_blames_the_object_is_a_refusal(
    scripted: ScriptedHttp, status: str, code: bytes
) -> None:
    """The same request would meet the same answer."""
    scripted.answer = lambda request: said(status, b"<Error><Code>" + code + b"</Code></Error>")

    assert isinstance(deliver_one(scripted), Refused)


def test_a_refused_message_does_not_stop_the_others(scripted: ScriptedHttp) -> None:
    """Each has its own receipt."""
    messages = sample_messages(3)
    scripted.answer = lambda request: (
        said("413 Content Too Large") if messages[1].id in request.path else HELD
    )
    with opened(**told(scripted)) as output:
        receipts = output.deliver(messages)

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Accepted]


def test_a_store_that_never_answers_is_a_retry_within_the_time(scripted: ScriptedHttp) -> None:
    """One time-out a call and not one a message, and nothing is tried again in secret."""
    over = threading.Event()
    scripted.answer = lambda request: said("200 OK" if over.wait(20) else "500 Late")
    began = time.monotonic()
    with opened(**told(scripted, timeout="300ms")) as output:
        receipts = output.deliver(sample_messages(3))
    took = time.monotonic() - began
    over.set()

    assert [type(receipt) for receipt in receipts] == [Retry] * 3
    assert all("did not answer within 300ms" in getattr(receipt, "reason", "") for receipt in receipts)
    assert "was not tried" in getattr(receipts[2], "reason", "")
    assert took < 5
    assert len(scripted.requests) == 1


def test_a_store_that_asks_for_less_is_not_asked_again_in_the_same_call(scripted: ScriptedHttp) -> None:
    """503 SlowDown: the other messages of the call wait too."""
    scripted.answer = lambda request: said("503 Slow Down", SLOW_DOWN)
    with opened(**told(scripted)) as output:
        output.deliver(sample_messages(5))

    assert len(scripted.requests) == 1


def test_a_store_that_is_down_is_a_retry() -> None:
    """Nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = {"url": "s3://mail", "endpoint": endpoint, "access_key": "AKID", "secret_key": SECRET}
        with opened(**options) as output:
            (receipt,) = output.deliver(sample_messages(1))

    assert receipt == Retry(f"{endpoint} cannot be reached")


def test_a_part_that_fails_is_no_object(scripted: ScriptedHttp) -> None:
    """Of an upload in parts nothing is seen until it is completed, and no JSON follows."""
    opened_upload = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"

    def answer(request: Request) -> bytes:
        if request.method == "HEAD":
            return said("404 Not Found")
        return said("200 OK", opened_upload) if request.method == "POST" else said("503 Slow Down", SLOW_DOWN)

    scripted.answer = answer
    with opened(**told(scripted, raw=False, attachments=True)) as output:
        (receipt,) = output.deliver([letter(content=LARGE)])

    assert isinstance(receipt, Retry)
    assert not any(path.endswith(".json") for path in scripted.paths("PUT"))
    assert all("uploads" in path for path in scripted.paths("POST"))


# -- who asks, and how -------------------------------------------------------------------------------------------------


def test_proxies_of_the_environment_are_not_used(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Mailquay does is in its own configuration."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with opened(**bucket.options()) as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]


def test_without_keys_the_machine_says_who_it_is(
    scripted: ScriptedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by the variables of the provider's own tools."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDMACHINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with opened(url="s3://mail", endpoint=scripted.url, region="eu-central-1") as output:
        output.deliver(sample_messages(1))

    assert "Credential=AKIDMACHINE/" in scripted.requests[0].headers["authorization"]
    assert "/eu-central-1/s3/" in scripted.requests[0].headers["authorization"]


def test_google_and_azure_are_asked_in_their_own_words(scripted: ScriptedHttp) -> None:
    """A condition, a token or a signature of theirs; neither has a server that could be had for this test."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = json.dumps(
        {
            "type": "service_account",
            "private_key": key.decode(),
            "private_key_id": "1",
            "client_email": "a@b.example",
        }
    )
    azure = base64.b64encode(secrets.token_bytes(32)).decode()
    scripted.answer = lambda request: said("200 OK", b"", 'etag: "x"', "x-goog-generation: 1")
    with opened(url="gs://mail/in", endpoint=scripted.url, secret_key=account) as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
    with opened(url="az://mail/in", endpoint=scripted.url, access_key="account", secret_key=azure) as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]

    google, microsoft = scripted.requests[0].headers, scripted.requests[2].headers
    assert google["authorization"].startswith("Bearer ")
    assert google["x-goog-if-generation-match"] == "0"
    assert microsoft["authorization"].startswith("SharedKey account:")
    assert microsoft["if-none-match"] == "*"


def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_certificate_of_the_named_authority_is_trusted_and_no_other(tmp_path: Path) -> None:
    """CA_FILE is for a store of one's own; TLS is always verified."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with scripted_http(tls=tls(authority)) as server:
        server.answer = lambda request: HELD
        receipts = [deliver_one(server, ca_file=tmp_path / "ca.pem"), deliver_one(server)]

    assert receipts[0] == Accepted()
    assert isinstance(receipts[1], Retry)
    assert len(server.requests) == 2


def test_a_ca_file_without_certificates_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Nothing is delivered over a connection that cannot be verified."""
    (tmp_path / "ca.pem").write_text("no certificate")
    output = S3Output(
        "archive",
        S3Options(url="s3://mail", access_key="a", secret_key=SECRET, ca_file=tmp_path / "ca.pem"),  # type: ignore[arg-type]
    )

    with pytest.raises(OSError, match=r"CA_FILE .*ca\.pem gives no certificate"):
        output.open()


@pytest.mark.parametrize(
    "options",
    [
        {"url": "https://bucket.example/"},
        {"url": "s3://"},
        {"url": f"s3://key:{SECRET}@bucket/"},
        {"url": "s3://bucket/?x=y"},
        {"url": "file://relative/path"},
        {"url": "file:///data/%2e%2e/etc"},
        {"url": "s3://bucket", "endpoint": "minio.example:9000"},
        {"url": "s3://bucket", "endpoint": f"http://key:{SECRET}@minio.example"},
        {"url": "s3://bucket", "access_key": "AKID"},
        {"url": "az://container"},
        {"url": "s3://bucket", "pattern": "{mailbox}"},
        {"url": "s3://bucket", "pattern": "{id}/{subject}"},
        {"url": "s3://bucket", "pattern": "../{id}"},
        {"url": "s3://bucket", "pattern": "/{id}"},
        {"url": "s3://bucket", "pattern": "{received:%c}{id}"},
        {"url": "s3://bucket", "pattern": "{id:>40}"},
        {"url": "s3://bucket", "pattern": "{id"},
        {"url": "s3://bucket", "timeout": "0s"},
        {"url": "s3://bucket", "timeout": "2h"},
    ],
)
def test_options_that_cannot_work_are_problems_of_the_configuration(options: dict[str, str]) -> None:
    """Found by `mailquay check`, without showing a secret."""
    with pytest.raises(pydantic.ValidationError) as caught:
        S3Options.model_validate(options)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("mailbox", "received", "key"),
    [
        ("support", datetime(2026, 1, 2, 23, tzinfo=UTC), "support/2026/01/x"),
        ("../up", None, "_up/undated/x"),
        ("..", datetime(9999, 12, 31, 23, tzinfo=UTC), "_/9999/12/x"),
    ],
)
def test_a_key_stays_in_its_place_whatever_it_is_made_of(
    mailbox: str, received: datetime | None, key: str
) -> None:
    """Also the name of a mailbox leads nowhere; without a date of receipt there is one place."""
    message = parse(b"", id="x", mailbox=mailbox, received_at=received)

    assert expand("{mailbox}/{received:%Y/%m}/{id}", message) == key


FORKED = """
import os, sys
from pipelines.outputs.s3 import S3Options, S3Output

output = S3Output("archive", S3Options(url="s3://mail", endpoint=sys.argv[1], access_key="a", secret_key=sys.argv[2]))
output.open()
if os.fork() == 0:
    try:
        output.open()
    except OSError as error:
        os._exit(7 if "forked" in error.strerror else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_process_that_was_forked_too_late_says_so_and_does_not_hang(scripted: ScriptedHttp) -> None:
    """The library's threads stay behind in the parent; without this a request would wait for them for ever."""
    command = [sys.executable, "-c", FORKED, scripted.url, SECRET]

    assert subprocess.run(command, timeout=30, check=False).returncode == 7


# -- a folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_waits_for_the_disk_before_and_after_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power failure leaves a name without its bytes, or bytes without their name."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted(descriptor: int) -> None:
        done.append("folder" if Path(f"/dev/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", lambda one, to: (done.append("name"), replace(one, to))[1])
    with opened(url=f"file://{tmp_path}/mail", raw=False, pattern="{mailbox}/{id}") as output:
        output.deliver(sample_messages(1))

    assert done == ["file", "name", "folder", "folder"]


def test_a_full_disk_is_a_retry_that_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the folder and nothing of the message."""
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with opened(url=f"file://{tmp_path}/mail") as output:
        (receipt,) = output.deliver(sample_messages(1))

    assert receipt == Retry(f"{tmp_path}/mail cannot be written: No space left on device")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_drafts_of_dead_writers_are_removed_after_a_while(tmp_path: Path) -> None:
    """36 hours, as in a Maildir; what somebody writes at this moment stays."""
    (tmp_path / ".drafts").mkdir()
    (tmp_path / ".drafts/x").write_bytes(b"half")

    Folder(tmp_path, clock=time.time)
    assert (tmp_path / ".drafts/x").exists()
    Folder(tmp_path, clock=lambda: time.time() + 37 * 3600)
    assert not (tmp_path / ".drafts/x").exists()
