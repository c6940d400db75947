"""What a real Valkey makes of a stream output: repetitions, faults of the server and of the wire, and what is accepted when."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic
import pytest

from pipelines.output import Accepted, Receipt, Retry
from pipelines.outputs.redis_stream import RedisStreamOptions, RedisStreamOutput
from pipelines.testing import sample_messages
from tests.bed.lossy import lossy
from tests.bed.tls_front import tls_front
from tests.bed.valkey import Valkey
from worker.demo.certificates import Certificates, write_certificates


@contextmanager
def writer(url: str, **options: Any) -> Iterator[RedisStreamOutput]:
    output = RedisStreamOutput("feed", RedisStreamOptions.model_validate({"url": url, **options}))
    output.open()
    try:
        yield output
    finally:
        output.close()


def deliver(url: str, count: int = 1, **options: Any) -> list[Receipt]:
    with writer(url, **options) as output:
        return list(output.deliver(sample_messages(count)))


def entries(valkey: Valkey, stream: str = "mailquay") -> list[dict[bytes, bytes]]:
    with valkey.client() as client:
        return [fields for _, fields in client.xrange(stream)]


def reason(receipts: list[Receipt]) -> str:
    """What all of these receipts give as their reason, which has to be one."""
    assert all(isinstance(receipt, Retry) for receipt in receipts), receipts
    (told,) = {receipt.reason for receipt in receipts if isinstance(receipt, Retry)}
    return told


def test_an_entry_has_id_mailbox_and_json(fresh_valkey: Valkey) -> None:
    """And nothing else, unless it was asked for."""
    (message,) = sample_messages(1)

    assert deliver(fresh_valkey.url) == [Accepted()]

    (entry,) = entries(fresh_valkey)
    assert entry == {b"id": message.id.encode(), b"mailbox": b"contract", b"json": message.to_json()}


def test_raw_bytes_are_added_on_request_and_not_beyond_max_size(fresh_valkey: Valkey) -> None:
    """Byte for byte, also what is no UTF-8; a message over MAX_SIZE has its JSON only."""
    messages = sample_messages(6)
    large = max(messages, key=lambda message: message.size)

    assert deliver(fresh_valkey.url, 6, content="json+raw", max_size=large.size - 1) == [Accepted()] * 6

    found = {entry[b"id"].decode(): entry for entry in entries(fresh_valkey)}
    for message in messages:
        assert found[message.id].get(b"raw") == (None if message is large else bytes(message.raw))
        assert found[message.id][b"json"] == message.to_json()


def test_an_answer_that_gets_lost_leaves_one_entry(fresh_valkey: Valkey) -> None:
    """The script ran, nobody heard of it, and the message comes again."""
    with (
        lossy(fresh_valkey.port) as wire,
        writer(f"redis://127.0.0.1:{wire.port}", timeout="500ms") as output,
    ):
        assert output.deliver(sample_messages(1)) == [Accepted()]
        wire.answers = "cut"
        receipts = list(output.deliver(sample_messages(5)))
        assert f"127.0.0.1:{wire.port} cannot be reached, or broke off" in reason(receipts)
        wire.answers = "lose"
        assert f"127.0.0.1:{wire.port} did not answer within 500ms" in reason(
            list(output.deliver(sample_messages(5)))
        )
        wire.answers = "pass"
        wire.cut()
        assert output.deliver(sample_messages(5)) == [Accepted()] * 5

    assert len(entries(fresh_valkey)) == 5


def test_a_kept_connection_that_is_gone_is_made_anew(fresh_valkey: Valkey) -> None:
    """A server that restarts between two calls costs no retry."""
    with writer(fresh_valkey.url) as output:
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2
        fresh_valkey.restart()
        assert output.deliver(sample_messages(4)) == [Accepted()] * 4

    assert len(entries(fresh_valkey)) == 4


def test_a_server_that_is_down_is_a_retry_that_names_it(fresh_valkey: Valkey) -> None:
    """Host and port, and not the password that is in the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    told = reason(deliver(f"redis://robot:swordfish@127.0.0.1:{port}/0", 3))

    assert told.startswith(f"127.0.0.1:{port} cannot be reached")
    assert "swordfish" not in told


def test_a_server_that_hangs_is_a_retry_in_time(fresh_valkey: Valkey) -> None:
    """It takes the connection and never answers; it is not asked twice."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        told = reason(deliver(f"redis://127.0.0.1:{server.getsockname()[1]}", 3, timeout="400ms"))

    assert "did not answer within 400ms" in told
    assert time.monotonic() - began < 2


def test_a_wrong_password_is_a_retry_that_does_not_show_it(fresh_valkey: Valkey) -> None:
    """Somebody can put it right, and the mail is still there."""
    url = fresh_valkey.url.replace("redis://", "redis://nobody@")

    told = reason(deliver(url, password="swordfish"))

    assert "does not let us in: check URL, USERNAME and PASSWORD" in told
    assert "swordfish" not in told


def test_user_and_password_may_stand_beside_the_url(fresh_valkey: Valkey) -> None:
    """So that the password can be a file of its own. This user may do no more than the output has to."""
    with fresh_valkey.client() as client:
        client.acl_setuser("feeder", enabled=True, passwords=["+swordfish"], keys=["mailquay*"], reset=True,
                           commands=["+evalsha", "+eval", "+script|load", "+script|exists", "+xadd", "+zadd", "+zscore",
                                     "+zrangebyscore", "+zrem", "+time", "+select", "+client", "+hello", "+ping"])  # fmt: skip
    try:
        assert deliver(fresh_valkey.url, username="feeder", password="swordfish") == [Accepted()]
        told = reason(deliver(fresh_valkey.url, username="feeder", password="swordfish", stream="secret"))
        assert "answered NOPERM: this user may not use STREAM" in told
    finally:
        with fresh_valkey.client() as client:
            client.acl_deluser("feeder")


@pytest.mark.parametrize("key", ["mailquay", "mailquay:ids"])
def test_a_key_of_another_kind_is_a_retry_and_nothing_is_added(fresh_valkey: Valkey, key: str) -> None:
    """The script is not rolled back, so it may not fail halfway: an entry without its id would be added again."""
    with fresh_valkey.client() as client:
        client.set(key, "something else")

    told = reason(deliver(fresh_valkey.url, 2))

    assert "answered WRONGTYPE: STREAM or STREAM:ids is a key of another kind" in told
    with fresh_valkey.client() as client:
        assert client.keys() == [key.encode()]


def test_a_server_without_memory_is_a_retry(fresh_valkey: Valkey) -> None:
    """Mail waits until there is room."""
    with fresh_valkey.client() as client:
        client.config_set("maxmemory", 1)
        try:
            assert "answered OOM: it has no memory left" in reason(deliver(fresh_valkey.url, 2))
        finally:
            client.config_set("maxmemory", 0)

    assert entries(fresh_valkey) == []


def test_the_stream_is_kept_short_on_request(fresh_valkey: Valkey) -> None:
    """About MAXLEN entries: Redis trims whole nodes of a hundred."""
    with writer(fresh_valkey.url, maxlen=100) as output:
        output.deliver(sample_messages(400))

    assert 100 <= len(entries(fresh_valkey)) < 250


def test_an_id_is_forgotten_after_the_window(fresh_valkey: Valkey) -> None:
    """The set of ids does not grow for ever. Time is the server's, so what it wrote down is made older."""
    first, second = sample_messages(2)
    with writer(fresh_valkey.url, window="1m") as output, fresh_valkey.client() as client:
        output.deliver([first])
        client.zincrby("mailquay:ids", -61_000, first.id)
        output.deliver([second])
        assert client.zrange("mailquay:ids", 0, -1) == [second.id.encode()]
        output.deliver([first])

    assert len(entries(fresh_valkey)) == 3


def test_a_repetition_is_remembered_anew(fresh_valkey: Valkey) -> None:
    """Whoever repeats may repeat again: the window begins with the last time."""
    with writer(fresh_valkey.url, window="1m") as output, fresh_valkey.client() as client:
        output.deliver(sample_messages(1))
        for _ in range(3):
            client.zincrby("mailquay:ids", -50_000, sample_messages(1)[0].id)
            assert output.deliver(sample_messages(1)) == [Accepted()]

    assert len(entries(fresh_valkey)) == 1


def test_fsync_waits_for_the_disk(fresh_valkey: Valkey) -> None:
    """WAITAOF comes behind the messages on their own connection, for repetitions as well."""
    assert deliver(fresh_valkey.url, 3, fsync=True) == [Accepted()] * 3
    assert deliver(fresh_valkey.url, 3, fsync=True) == [Accepted()] * 3

    with fresh_valkey.client() as client:
        assert client.info("commandstats")["cmdstat_waitaof"]["calls"] >= 2


def test_without_an_append_only_file_fsync_is_a_retry(fresh_valkey: Valkey) -> None:
    """A server that has nothing on its disk cannot promise it."""
    with fresh_valkey.client() as client:
        client.config_set("appendonly", "no")
        try:
            assert "FSYNC needs its append-only file" in reason(deliver(fresh_valkey.url, 2, fsync=True))
        finally:
            client.config_set("appendonly", "yes")


def test_replicas_have_to_confirm_when_they_are_asked_for(fresh_valkey: Valkey) -> None:
    """With one replica REPLICAS=1 accepts; when it is gone, the message waits, and its repetition is still one entry."""
    replica = Valkey()
    replica.start()
    try:
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(fresh_valkey.port))
        with writer(fresh_valkey.url, replicas=1, timeout="10s") as output:
            assert output.deliver(sample_messages(2)) == [Accepted()] * 2
        assert len(entries(replica)) == 2
        replica.kill9()
        told = reason(deliver(fresh_valkey.url, 3, replicas=1, timeout="500ms"))
        assert "its replicas have not confirmed it within TIMEOUT" in told
    finally:
        replica.remove()

    assert deliver(fresh_valkey.url, 3) == [Accepted()] * 3
    assert len(entries(fresh_valkey)) == 3


def test_tls_is_verified_against_the_named_authority(
    fresh_valkey: Valkey, certificates: Certificates, tmp_path: Path
) -> None:
    """`rediss://` speaks verified TLS or not at all."""
    other = write_certificates(tmp_path / "other")
    with tls_front(fresh_valkey.port, certificates) as port:
        url = f"rediss://localhost:{port}/0"
        for trusted in ({}, {"ca_file": other.ca_file}):
            told = reason(deliver(url, **trusted))
            assert told == f"localhost:{port} cannot be reached, or broke off (SSLCertVerificationError)"
        assert entries(fresh_valkey) == []
        assert deliver(url, ca_file=certificates.ca_file) == [Accepted()]

    assert len(entries(fresh_valkey)) == 1


@pytest.mark.parametrize(
    "url",
    ["", "redis", "http://h", "redis://", "redis://h:port", "redis://h/0?socket_timeout=9999", "redis://h:0", "redis://[::1"],
)  # fmt: skip
def test_an_address_that_is_none_is_a_problem_of_the_configuration(url: str) -> None:
    """Options behind a question mark are none of ours either: they could undo every deadline."""
    with pytest.raises(pydantic.ValidationError, match="write a whole address"):
        RedisStreamOptions.model_validate({"url": url})


def test_certificates_without_tls_are_a_problem_of_the_configuration(tmp_path: Path) -> None:
    """Whoever names an authority believes that it is asked."""
    with pytest.raises(pydantic.ValidationError, match="there is no TLS without rediss://"):
        RedisStreamOptions.model_validate({"url": "redis://h", "ca_file": tmp_path / "ca.pem"})


def test_a_large_call_goes_in_pieces_and_keeps_its_order(fresh_valkey: Valkey) -> None:
    """So much as a client can hold goes on the wire at once; receipts and entries stay in order."""
    messages = sample_messages(90)

    assert deliver(fresh_valkey.url, 90, content="json+raw") == [Accepted()] * 90

    assert [entry[b"id"].decode() for entry in entries(fresh_valkey)] == [message.id for message in messages]
