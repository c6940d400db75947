"""Real Celery beat and workers, real Dovecot, real MSAL: what is put into mailboxes comes out of three outputs."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from standardwebhooks import Webhook

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.processes import descendants, wait_until
from tests.contract.receiver import receiving
from worker.demo.harbour import ALICE, BOB, SUPPORT


@contextmanager
def up(installation: Installation, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """`mailquay up` for the length of the block, ended by SIGTERM; its log is `up.log`."""
    with (installation.folder / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "up"],
            cwd=installation.folder,
            env=installation.full_environ(**more),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def log_of(installation: Installation) -> str:
    return (installation.folder / "up.log").read_text()


def arrived(installation: Installation, count: int) -> bool:
    return len(installation.lines()) >= count and len(installation.posted()) >= count


def test_mail_flows_from_imap_and_pop3_through_beat_and_workers(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """Four mailboxes, tokens by device code; mail that comes while all is running is delivered too, byte for byte."""
    installation.signs_in_at(fresh_identity)
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    addresses = {"alice": ALICE, "bob": BOB, "support": SUPPORT}
    letters: list[bytes] = []
    for index, (name, address) in enumerate(addresses.items()):
        dovecot.forget(address)
        batch = [numbered(100 * index + n) for n in range(20)]
        dovecot.save(address, *batch)
        letters += batch
        installation.on_dovecot(
            name,
            dovecot,
            address,
            protocol="pop3" if name == "bob" else "imap",
            auth="delegated",
            every="1s",
            account=ALICE if name == "support" else address,
            outputs="lines,post,hook",
        )

    with receiving() as receiver:
        hook = {"TYPE": "webhook", "URL": receiver.url, "SECRET": secret}
        installation.environ |= {f"OUTPUT__HOOK__{key}": value for key, value in hook.items()}
        quay = installation.quay()
        for account in (ALICE, BOB):
            installation.sign_in(quay, fresh_identity, account)
        with up(installation):
            wait_until(lambda: arrived(installation, 60), timeout=40, what="delivery of what was there")
            late = [numbered(900 + n) for n in range(5)]
            dovecot.save(SUPPORT, *late)
            wait_until(
                lambda: arrived(installation, 65) and len(receiver.calls) >= 65,
                timeout=20,
                what="delivery of what came later",
            )

    assert sorted(installation.posted().values()) == sorted(letters + late)
    lines = {line["id"]: line for line in installation.lines()}
    assert len(installation.lines()) == len(lines) == 65
    digests = sorted(f"sha256:{hashlib.sha256(raw).hexdigest()}" for raw in letters + late)
    assert sorted(line["digest"] for line in lines.values()) == digests
    assert {call.headers["webhook-id"]: orjson.loads(call.body) for call in receiver.calls} == lines
    for call in receiver.calls:
        Webhook(secret).verify(call.body, call.headers)
    events = [orjson.loads(line) for line in log_of(installation).splitlines() if line.startswith("{")]
    assert {event["mailbox"] for event in events if event["event"] == "pull.finished"} == set(addresses)


def test_a_role_that_dies_is_started_again_and_sigterm_stops_everything(
    installation: Installation, dovecot: Dovecot
) -> None:
    """The embedded Valkey, beat and workers run under one supervisor; nothing is left behind."""
    dovecot.forget(BOB)
    installation.on_dovecot("bob", dovecot, BOB, every="1s")
    del installation.environ["REDIS_URL"]

    # The killed puller may hold the mailbox; what it held is free again after this.
    with up(installation, LEASE_TTL="2s") as process:
        dovecot.save(BOB, numbered(1))
        wait_until(lambda: arrived(installation, 1), timeout=40, what="the first delivery")
        for pid, command in descendants().items():
            if "puller@" in command:
                os.kill(pid, signal.SIGKILL)
        dovecot.save(BOB, numbered(2))
        wait_until(lambda: arrived(installation, 2), timeout=40, what="delivery after the puller's death")
        begun = time.monotonic()
        process.terminate()
        process.wait(timeout=60)

    assert process.returncode == 0
    assert time.monotonic() - begun < 30
    assert [number_of(raw) for raw in installation.posted().values()]
    assert not descendants()


def test_up_without_any_mailbox_says_what_to_do_next(tmp_path: Path) -> None:
    """A fresh installation comes up and names the next step."""
    installation = Installation(tmp_path, redis_url=None)
    with up(installation):
        wait_until(lambda: "beat.no_mailboxes" in log_of(installation), timeout=30, what="the hint")

    assert "No mailbox is configured yet" in log_of(installation)


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_once_pulls_and_delivers_without_a_broker(tmp_path: Path, dovecot: Dovecot, protocol: str) -> None:
    """`mailquay once` needs nothing but itself; a second run finds nothing to do."""
    dovecot.forget(BOB)
    letters = [numbered(n) for n in range(130)]
    dovecot.save(BOB, *letters)
    installation = Installation(tmp_path, redis_url=None)
    installation.on_dovecot("bob", dovecot, BOB, protocol=protocol)

    first = installation.run("once", "--json")
    second = installation.run("once", "--json")

    assert first.returncode == 0, first.stderr
    assert orjson.loads(first.stdout) | {"seconds": 0} == {
        "pulled": 130, "delivered": 130, "dropped": 0, "waiting": 0, "failed": 0, "seconds": 0, "troubles": [],
    }  # fmt: skip
    assert orjson.loads(second.stdout)["pulled"] == 0
    assert sorted(installation.posted().values()) == sorted(letters)


def test_pull_and_drain_are_the_two_halves_of_once(tmp_path: Path, dovecot: Dovecot) -> None:
    """`pull` fills the spool and stops; `drain` delivers what is there."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(1), numbered(2))
    installation = Installation(tmp_path, redis_url=None)
    installation.on_dovecot("bob", dovecot, BOB)

    pulled = orjson.loads(installation.run("pull", "bob", "--json").stdout)
    assert (pulled["pulled"], pulled["delivered"], pulled["waiting"]) == (2, 0, 2)
    assert installation.lines() == []
    drained = orjson.loads(installation.run("drain", "--json").stdout)

    assert (drained["delivered"], drained["waiting"]) == (2, 0)
    assert len(installation.lines()) == 2
