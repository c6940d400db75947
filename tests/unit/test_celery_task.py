"""Tasks for a downstream application: a real worker runs them from a real Valkey; RabbitMQ and faults beside it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery
import pydantic
import pytest

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.celery_task import CeleryOptions, CeleryOutput
from pipelines.testing import sample_messages
from tests.bed.lossy import lossy
from tests.bed.processes import BedProcess, wait_until
from tests.bed.rabbitmq import RabbitMq
from tests.bed.tls_front import tls_front
from tests.bed.valkey import Valkey
from worker.demo.certificates import Certificates, write_certificates

TASK = "crm.take_mail"
APPLICATION = '''
"""A downstream application: it writes down what it is given."""
import json, os, pathlib, sys
import celery

app = celery.Celery("crm", broker=os.environ["CRM_BROKER"])
app.conf.update(task_default_queue=os.environ["CRM_QUEUE"], task_acks_late=True, worker_hijack_root_logger=False)

@app.task(name="crm.take_mail", bind=True)
def take_mail(self, message):
    place = pathlib.Path(os.environ["CRM_FOLDER"]) / f"{self.request.id}.json"
    place.with_suffix(".new").write_text(
        json.dumps({"message": message, "parent": self.request.parent_id, "root": self.request.root_id})
    )
    place.with_suffix(".new").rename(place)
'''


@contextmanager
def sender(url: str, **options: Any) -> Iterator[CeleryOutput]:
    output = CeleryOutput("crm", CeleryOptions.model_validate({"broker_url": url, "task": TASK, **options}))
    output.open()
    try:
        yield output
    finally:
        output.close()


def deliver(url: str, *messages: Message, **options: Any) -> list[Receipt]:
    with sender(url, **options) as output:
        return list(output.deliver(messages or sample_messages(1)))


def reason(receipts: list[Receipt]) -> str:
    """What all of these receipts give as their reason, which has to be one."""
    assert all(isinstance(receipt, Retry) for receipt in receipts), receipts
    (told,) = {receipt.reason for receipt in receipts if isinstance(receipt, Retry)}
    return told


@contextmanager
def downstream(folder: Path, broker: str, queue: str) -> Iterator[Path]:
    """Run a worker of the downstream application; gives the folder that it writes to."""
    (folder / "crm.py").write_text(APPLICATION)
    taken = folder / "taken"
    taken.mkdir()
    environ = {
        **os.environ,
        "CRM_BROKER": broker,
        "CRM_QUEUE": queue,
        "CRM_FOLDER": str(taken),
        "PYTHONPATH": str(folder),
    }
    log = folder / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "crm", "worker", "-P", "solo", "-l", "info",
               "--without-gossip", "--without-mingle", "--without-heartbeat"]  # fmt: skip
    worker = BedProcess(command, log_file=log, environ=environ)
    try:
        wait_until(
            lambda: "ready." in log.read_text() or not worker.running, timeout=30, what="the worker's start"
        )
        assert worker.running, log.read_text()
        yield taken
    finally:
        worker.end(how=signal.SIGKILL)


def tasks_of(valkey: Valkey, queue: str = "celery") -> list[dict[str, Any]]:
    with valkey.client() as client:
        return [json.loads(entry) for entry in reversed(client.lrange(queue, 0, -1))]


def test_a_worker_of_another_application_runs_the_task(fresh_valkey: Valkey, tmp_path: Path) -> None:
    """A real worker, which knows nothing of Mailquay, gets the JSON, under the message's id."""
    messages = sample_messages(6)
    with downstream(tmp_path, fresh_valkey.url, "mail") as taken:
        assert deliver(fresh_valkey.url, *messages, queue="mail") == [Accepted()] * 6
        wait_until(lambda: len(list(taken.glob("*.json"))) == 6, timeout=30, what="six tasks")

    for message in messages:
        told = json.loads((taken / f"{message.id}.json").read_text())
        assert told == {"message": json.loads(message.to_json()), "parent": None, "root": message.id}


def test_a_worker_on_rabbitmq_runs_the_task(rabbitmq: RabbitMq, tmp_path: Path) -> None:
    """The same over AMQP, where the worker has declared its queue."""
    (message,) = sample_messages(1)
    queue = f"mail-{secrets.token_hex(4)}"
    with downstream(tmp_path, rabbitmq.url, queue) as taken:
        assert deliver(rabbitmq.url, message, queue=queue) == [Accepted()]
        wait_until(lambda: list(taken.glob("*.json")), timeout=30, what="the task")

    assert json.loads((taken / f"{message.id}.json").read_text())["message"] == json.loads(message.to_json())


def test_what_celery_shows_of_a_task_holds_nothing_of_the_mail(fresh_valkey: Valkey) -> None:
    """Its worker logs the arguments' short form, and its events carry it."""
    (message,) = sample_messages(1)
    deliver(fresh_valkey.url, message)

    (task,) = tasks_of(fresh_valkey)
    assert task["headers"]["argsrepr"] == f"(<message {message.id}>,)"
    assert "plain" not in json.dumps(task["headers"]) + json.dumps(task["properties"])


def test_mailquays_own_application_stays_the_current_one(
    fresh_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes the other's broker; Celery's variables in the environment are about ours, if about any."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/0")
    ours = celery.Celery("ours", set_as_current=True)
    try:
        assert deliver(fresh_valkey.url) == [Accepted()]
        assert celery.current_app._get_current_object() is ours
    finally:
        ours.close()


def test_a_task_of_ours_that_is_running_is_not_the_parent(fresh_valkey: Valkey) -> None:
    """Messages are delivered by a Celery task, and the application downstream has nothing to do with its id."""
    ours = celery.Celery("ours", set_as_current=False)

    @ours.task(name="bell")
    def bell() -> list[Receipt]:
        return deliver(fresh_valkey.url)

    try:
        assert bell.apply().get() == [Accepted()]
    finally:
        ours.close()

    (task,) = tasks_of(fresh_valkey)
    assert task["headers"]["parent_id"] is None
    assert task["headers"]["root_id"] == task["headers"]["id"]


def test_tasks_go_side_by_side_over_connections_that_are_kept(fresh_valkey: Valkey) -> None:
    """Calls overlap in threads, each with a connection of its own, and the next ones use the same."""
    with lossy(fresh_valkey.port) as wire, sender(f"redis://127.0.0.1:{wire.port}/0") as output:
        barrier = threading.Barrier(3)

        def deliver_one(message: Message) -> list[Receipt]:
            barrier.wait(10)
            return list(output.deliver([message]))

        with ThreadPoolExecutor(3) as threads:
            receipts = list(threads.map(deliver_one, sample_messages(12)))
        connections = wire.connections

    assert receipts == [[Accepted()]] * 12
    assert connections <= 6, "kombu opens one or two for each of three"
    assert len(tasks_of(fresh_valkey)) == 12


def test_an_answer_that_gets_lost_is_a_retry_with_the_same_id(fresh_valkey: Valkey) -> None:
    """The task is there twice then; its id says so."""
    (message,) = sample_messages(1)
    with (
        lossy(fresh_valkey.port) as wire,
        sender(f"redis://127.0.0.1:{wire.port}/0", timeout="500ms") as output,
    ):
        assert output.deliver([message]) == [Accepted()]
        wire.answers = "lose"
        assert "did not answer within 500ms" in reason(list(output.deliver([message])))
        wire.answers = "pass"
        assert output.deliver([message]) == [Accepted()]

    assert {task["headers"]["id"] for task in tasks_of(fresh_valkey)} == {message.id}


def test_a_kept_connection_that_is_gone_is_made_anew(fresh_valkey: Valkey) -> None:
    """A broker that restarts between two calls costs no retry."""
    with sender(fresh_valkey.url) as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        fresh_valkey.restart()
        assert output.deliver(sample_messages(1)) == [Accepted()]


def test_a_kept_connection_to_rabbitmq_that_is_gone_is_made_anew(rabbitmq: RabbitMq) -> None:
    """The same over AMQP."""
    queue = declared(rabbitmq)
    with lossy(rabbitmq.port) as wire:
        url = rabbitmq.url.replace(str(rabbitmq.port), str(wire.port))
        with sender(url, queue=queue) as output:
            assert output.deliver(sample_messages(1)) == [Accepted()]
            wire.cut()
            assert output.deliver(sample_messages(1)) == [Accepted()]


@pytest.mark.parametrize("scheme", ["redis", "amqp", "rediss", "amqps"])
def test_a_broker_that_is_down_or_hangs_is_a_retry_in_time(scheme: str) -> None:
    """Kombu alone would try for ever. The reason has host and port, and not the password."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        began = time.monotonic()
        told = reason(deliver(f"{scheme}://robot:swordfish@127.0.0.1:{port}/0", timeout="700ms"))
        assert f"127.0.0.1:{port} did not answer within 700ms" in told
    told = reason(deliver(f"{scheme}://robot:swordfish@127.0.0.1:{port}/0", timeout="700ms"))
    assert f"127.0.0.1:{port} did not take the task, or cannot be reached" in told
    assert "swordfish" not in told
    assert time.monotonic() - began < 6


def test_a_rabbitmq_that_hangs_is_a_retry_in_time(rabbitmq: RabbitMq) -> None:
    """With its connections open: no confirm comes."""
    queue = declared(rabbitmq)
    with sender(rabbitmq.url, queue=queue, timeout="1s") as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        rabbitmq.freeze()
        try:
            began = time.monotonic()
            assert "did not answer within 1s" in reason(list(output.deliver(sample_messages(1))))
            assert time.monotonic() - began < 5
        finally:
            rabbitmq.thaw()
        assert output.deliver(sample_messages(1)) == [Accepted()]


def test_a_missing_queue_is_a_retry_and_spoils_nothing(rabbitmq: RabbitMq) -> None:
    """RabbitMQ returns the task and confirms it: that confirm must not be taken for the next task's."""
    queue = f"mail-{secrets.token_hex(4)}"
    with sender(rabbitmq.url, queue=queue) as output:
        for message in sample_messages(3):
            assert f"has no queue {queue}: start a worker there" in reason(list(output.deliver([message])))
        with rabbitmq.channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False)
        assert output.deliver(sample_messages(1)) == [Accepted()]

    with rabbitmq.channel() as channel:
        assert channel.queue_delete(queue) == 1


def test_a_full_queue_is_a_retry(rabbitmq: RabbitMq) -> None:
    """The broker says no, and Celery would not hear it without confirms."""
    queue = declared(rabbitmq, {"x-max-length": 1, "x-overflow": "reject-publish"})

    receipts = deliver(rabbitmq.url, *sample_messages(2), queue=queue)

    assert receipts[0] == Accepted()
    assert "did not take the task" in reason(receipts[1:])


def test_a_task_that_is_too_large_is_refused(rabbitmq: RabbitMq) -> None:
    """`max_message_size` of the broker."""
    (message,) = sample_messages(1)
    queue = declared(rabbitmq)

    (receipt,) = deliver(rabbitmq.url, message.with_findings("padding", "x" * 1_000_000), queue=queue)

    assert isinstance(receipt, Refused)
    assert "raise max_message_size there" in receipt.reason


def test_a_wrong_password_is_a_retry_that_does_not_show_it(rabbitmq: RabbitMq) -> None:
    """PASSWORD is used when BROKER_URL has none."""
    bare = f"amqp://robot@127.0.0.1:{rabbitmq.port}//"

    told = reason(deliver(bare, password="swordfish-swordfish"))

    assert "does not let us in (AccessRefused): check BROKER_URL and PASSWORD" in told
    assert "swordfish" not in told
    assert deliver(bare, password=rabbitmq.password, queue=declared(rabbitmq)) == [Accepted()]


def test_tls_to_redis_is_verified(fresh_valkey: Valkey, certificates: Certificates, tmp_path: Path) -> None:
    """`rediss://` speaks verified TLS or not at all."""
    other = write_certificates(tmp_path / "other")
    with tls_front(fresh_valkey.port, certificates) as port:
        url = f"rediss://localhost:{port}/0"
        for trusted in ({}, {"ca_file": other.ca_file}):
            assert "cannot be reached" in reason(deliver(url, **trusted))
        assert tasks_of(fresh_valkey) == []
        assert deliver(url, ca_file=certificates.ca_file) == [Accepted()]

    assert len(tasks_of(fresh_valkey)) == 1


def test_tls_to_rabbitmq_is_verified(rabbitmq: RabbitMq, tmp_path: Path) -> None:
    """`amqps://` speaks verified TLS or not at all."""
    queue, other = declared(rabbitmq), write_certificates(tmp_path / "other")
    for trusted in ({}, {"ca_file": other.ca_file}):
        told = reason(deliver(rabbitmq.tls_url, queue=queue, **trusted))
        assert "cannot be reached (SSLCertVerificationError)" in told

    assert deliver(rabbitmq.tls_url, queue=queue, ca_file=rabbitmq.authority) == [Accepted()]


@pytest.mark.parametrize("url", ["", "memory://", "sqs://h", "redis://", "redis://h:port", "amqp://h/?x=1"])
def test_an_address_that_is_none_is_a_problem_of_the_configuration(url: str) -> None:
    """Kombu knows more brokers; of these it is known when they have a task."""
    with pytest.raises(pydantic.ValidationError, match="write a whole address"):
        CeleryOptions.model_validate({"broker_url": url, "task": TASK})


def declared(rabbitmq: RabbitMq, arguments: dict[str, Any] | None = None) -> str:
    """A durable queue with a name of its own."""
    queue = f"mail-{secrets.token_hex(4)}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
    return queue
