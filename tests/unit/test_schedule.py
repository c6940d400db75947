"""Beat: real `celery beat` processes and real ticks, counted in what arrives at the broker."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import cast

import orjson
import pytest
from celery import Celery

from tests.bed.installation import Installation
from tests.bed.processes import free_port, wait_until
from tests.bed.valkey import Valkey
from worker import schedule
from worker.app import configuration
from worker.quay import Quay
from worker.schedule import MailboxScheduler, next_cron

NOW = datetime(2027, 1, 15, 8, 30, 20, 250_000, tzinfo=UTC).timestamp()


def sent(valkey: Valkey) -> Counter[str]:
    """The tasks in the broker's lists: `pull:MAILBOX`, `sweep`, `keep_alive`, `alert`."""
    found: Counter[str] = Counter()
    with valkey.client() as client:
        for queue in ("pull", "maintenance", "deliver"):
            for text in cast("list[bytes]", client.lrange(f"mailquay:celery:{queue}", 0, -1)):
                message = orjson.loads(text)
                task = message["headers"]["task"].removeprefix("mailquay.")
                args = orjson.loads(base64.b64decode(message["body"]))[0]
                found[":".join([task, *args])] += 1
    return found


def mailboxes(installation: Installation, count: int, **said: str) -> None:
    for n in range(count):
        installation.mailbox(
            f"box{n}", address="a@example.com", host="localhost", password="x", outputs="lines", **said
        )  # fmt: skip


@contextmanager
def beat(installation: Installation) -> Iterator[subprocess.Popen[bytes]]:
    """A real `celery beat`."""
    with (installation.folder / "beat.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "--quiet", "--app", "worker.app", "beat"],
            cwd=installation.folder,
            env=installation.full_environ(),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_two_beats_call_each_due_mailbox_exactly_once_also_after_a_flush(
    installation: Installation, fresh_valkey: Valkey
) -> None:
    """They start at once, nobody leads, and each goes on ticking; a flushed timetable is filled again, once."""
    mailboxes(installation, 40, every="1h")
    # On a slow machine the usual sweep would be due again before the beats have been looked at.
    installation.environ["SWEEP_EVERY"] = "1h"
    once = Counter({f"pull:box{n}": 1 for n in range(40)} | {"sweep": 1, "keep_alive": 1})

    def rung() -> Counter[str]:
        """All but the alert's bell, which is due again within the minute."""
        return Counter({task: times for task, times in sent(fresh_valkey).items() if task != "alert"})

    with beat(installation) as one, beat(installation) as other, fresh_valkey.client() as client:

        def commands() -> list[int]:
            """How many commands each beat has sent."""
            lines = cast("list[dict[str, str]]", client.client_list())
            return [int(line["tot-cmds"]) for line in lines if line["name"] == "mailquay"]

        def both_ticked(times: int) -> None:
            wait_until(lambda: len(commands()) == 2, timeout=20, what="the start of both beats")
            before = min(commands())
            wait_until(lambda: min(commands()) >= before + 3 * times, timeout=20, what="ticks of both beats")

        wait_until(lambda: rung().total() >= once.total(), timeout=20, what="the first calls")
        both_ticked(2)
        assert rung() == once
        fresh_valkey.flush()
        wait_until(lambda: rung().total() >= once.total(), timeout=20, what="the calls after a flush")
        both_ticked(2)
        assert rung() == once
        assert (one.poll(), other.poll()) == (None, None)


class Ticking:
    """A scheduler in this process whose clock the test moves."""

    def __init__(self, quay: Quay, broker: str) -> None:
        self.now = NOW
        self.quay = quay
        app = Celery("test", set_as_current=False)
        said = configuration(quay.settings)
        # A broker that is away is known to be away at once, instead of after six seconds.
        patience = said["broker_transport_options"] | {"max_retries": 0}
        app.conf.update(said | {"broker_url": broker, "broker_transport_options": patience})
        self._app = app
        self.scheduler = MailboxScheduler(app, clock=lambda: self.now)

    def tick(self, later: float = 0) -> float:
        self.now += later
        return self.scheduler.tick()

    def close(self) -> None:
        self._app.close()


@pytest.fixture
def ticking(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticking]:
    mailboxes(installation, 1, every="1m")
    installation.mailbox(
        "nightly", address="a@example.com", host="localhost", password="x", outputs="lines", every="0 3 * * *"
    )  # fmt: skip
    installation.mailbox(
        "off", address="a@example.com", host="localhost", password="x", outputs="lines", enabled="false"
    )  # fmt: skip
    quay = installation.quay()
    monkeypatch.setattr(schedule, "quay", lambda: quay)
    ticking = Ticking(quay, quay.redis_url)
    yield ticking
    ticking.close()


def test_a_tick_calls_what_is_due_and_nothing_else(ticking: Ticking, fresh_valkey: Valkey) -> None:
    """Intervals, cron lines, and a mailbox that is switched off."""
    ticking.tick()
    assert sent(fresh_valkey) == Counter(
        {"pull:box0": 1, "pull:nightly": 1, "sweep": 1, "keep_alive": 1, "alert": 1}
    )
    nap = ticking.tick()
    assert 0 < nap <= 1
    ticking.tick(60)
    ticking.tick(60)
    assert sent(fresh_valkey)["pull:box0"] == 3
    assert sent(fresh_valkey)["pull:nightly"] == 1
    nightly = ticking.quay.timetable.due("pull:nightly")
    assert nightly
    assert datetime.fromtimestamp(nightly, UTC).replace(second=0, microsecond=0) == datetime(
        2027, 1, 16, 3, tzinfo=UTC
    )


def test_a_mailbox_that_another_beat_knows_is_called_all_the_same(
    ticking: Ticking, fresh_valkey: Valkey
) -> None:
    """While a new version rolls out, beats differ in what they know; none of them falls over it."""
    ticking.tick()
    ticking.quay.timetable.sync({"pull:new": 3600.0}, NOW)

    ticking.tick()

    assert sent(fresh_valkey)["pull:new"] == 1


def test_beat_waits_while_redis_is_away_and_goes_on_when_it_is_back(
    ticking: Ticking, fresh_valkey: Valkey
) -> None:
    """It neither dies nor spins."""
    fresh_valkey.stop()
    assert ticking.tick() == 1
    fresh_valkey.start()
    ticking.tick()

    assert sent(fresh_valkey)["pull:box0"] == 1


def test_what_the_broker_did_not_take_is_left_to_the_sweep(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker apart from Redis may be away alone: beat stays, and the bells stand there as unanswered."""
    mailboxes(installation, 3, every="1h")
    quay = installation.quay()
    monkeypatch.setattr(schedule, "quay", lambda: quay)
    ticking = Ticking(quay, f"redis://127.0.0.1:{free_port()}/0")

    assert ticking.tick() == 1

    assert len(quay.timetable.unanswered()) == 6
    ticking.close()


@pytest.mark.parametrize(
    ("line", "now", "expected"),
    [
        ("* * * * *", "2027-01-15T08:30:20.250", "2027-01-15T08:31"),
        ("* * * * *", "2027-01-15T08:30:59.999", "2027-01-15T08:31"),
        ("* * * * *", "2027-01-15T08:31:00.000", "2027-01-15T08:32"),
        ("*/15 6-20 * * mon-fri", "2027-01-15T20:45:01", "2027-01-18T06:00"),
        ("0 3 1 * *", "2027-01-31T23:59:59.5", "2027-02-01T03:00"),
        ("0 0 29 feb *", "2027-03-01T00:00", "2028-02-29T00:00"),
    ],
)
def test_a_cron_line_names_the_next_minute_in_utc_and_never_the_same_one_twice(
    line: str, now: str, expected: str
) -> None:
    """Within the named minute, strictly later than now."""
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()

    found = next_cron(line, moment, Celery("test", set_as_current=False))

    assert found > moment
    assert datetime.fromtimestamp(found, UTC).strftime("%Y-%m-%dT%H:%M") == expected
