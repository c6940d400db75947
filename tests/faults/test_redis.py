"""A Redis that is down at the start, goes away in the middle of work, or comes back empty."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import orjson
import pytest
import redis

import worker.deliver
import worker.quay
from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow
from tests.bed.installation import Installation, numbered
from tests.bed.processes import wait_until
from tests.bed.valkey import Valkey
from tests.faults.conftest import Events, delivered_once, of
from tests.integration.test_roles import log_of, up
from worker import tasks
from worker.demo.harbour import ALICE, BOB
from worker.errand import Pulled
from worker.pull import pull
from worker.quay import Quay
from worker.spool import Ticket

COUNT = 6


@pytest.fixture(params=["imap", "pop3"])
def box(installation: Installation, dovecot: Dovecot, request: pytest.FixtureRequest) -> Installation:
    """A mailbox `box` with six messages in three batches."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB, protocol=request.param)
    installation.environ["BATCH_MESSAGES"] = "2"
    return installation


def pulled_until_first_bell(quay: Quay, happens: Callable[[], None]) -> Pulled:
    """Pull, and let something happen when the first bell is rung."""
    rung: list[Ticket] = []

    def ring(ticket: Ticket) -> None:
        rung.append(ticket)
        if len(rung) == 1:
            happens()

    return pull(quay, quay.settings.mailboxes["box"], ring=ring)


def later() -> float:
    """The clock in ten minutes: what was postponed is due."""
    return time.time() + 600


def test_redis_is_down_at_the_start(installation: Installation, dovecot: Dovecot, valkey: Valkey) -> None:
    """Every verb that needs it ends in one line, with exit code 1, and works when it is there."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB)
    valkey.stop()
    once = installation.run("once")
    status = installation.run("status")
    valkey.start()

    assert once.returncode == status.returncode == 1
    assert "Redis does not answer" in once.stderr
    assert "check REDIS_URL" in once.stderr
    assert any(line.startswith("box: ") for line in once.stderr.splitlines())
    assert status.stderr.startswith("Redis does not answer")
    assert "Traceback" not in once.stderr + status.stderr
    assert installation.run("once").returncode == 0
    assert delivered_once(installation, range(COUNT))


@pytest.mark.parametrize("box", ["imap"], indirect=True)
def test_redis_goes_away_in_the_middle_of_a_pull(box: Installation, valkey: Valkey, events: Events) -> None:
    """What is spooled is kept; one line says why it stopped; the next pull goes on, and ids stay the same."""
    quay = box.quay()
    quay.lease_seconds = 0.5
    result = pulled_until_first_bell(quay, valkey.stop)

    assert result.batches == 1
    (event,) = of(events, "pull.failed")
    assert event["mailbox"] == "box"
    assert event["state"] == "redis unavailable"
    assert "check REDIS_URL" in event["reason"]
    valkey.start()
    wait_until(lambda: not flow(quay, "box").busy, timeout=5, what="the end of the lost lease")
    assert delivered_once(box, range(COUNT))


@pytest.mark.parametrize("after", ["keep", "seen"])
def test_redis_goes_away_in_the_middle_of_a_delivery(
    installation: Installation, dovecot: Dovecot, valkey: Valkey, events: Events, after: str
) -> None:
    """The outputs have answered, and nothing can be noted: the batch is delivered again, seen once, and not blamed."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB, after=after)
    quay = installation.quay()
    quay.lease_seconds = 0.5
    pulled_until_first_bell(quay, lambda: None)
    ask = worker.deliver.ask

    def then_away(*arguments: object) -> object:
        answers = ask(*arguments)  # type: ignore[arg-type]
        valkey.stop()
        return answers

    with pytest.MonkeyPatch.context() as fault:
        fault.setattr(worker.deliver, "ask", then_away)
        deliver_due(quay)

    (event,) = of(events, "deliver.finished")
    assert event["mailbox"] == "box"
    assert "Redis does not answer" in event["reason"]
    assert {ticket.attempts for ticket in quay.spool.tickets()} <= {0}
    valkey.start()
    later_on = installation.quay(clock=later)
    wait_until(
        lambda: deliver_due(later_on) or not quay.spool.tickets(), timeout=5, what="the second delivery"
    )
    assert delivered_once(installation, range(COUNT))
    assert quay.spool.tickets() == quay.spool.failed() == []
    flow(quay, "box")
    seen = ("\\Seen",) if after == "seen" else ()
    assert set(dovecot.listing(BOB).values()) == {seen}


@pytest.mark.parametrize("lost", ["restarted", "killed", "flushed"])
def test_redis_comes_back_in_the_middle_of_a_pull(
    box: Installation, dovecot: Dovecot, valkey: Valkey, events: Events, lost: str
) -> None:
    """Restarted, killed with its last second, or emptied: every message arrives under one id, and is seen once."""

    def restart_hard() -> None:
        valkey.kill9()
        valkey.start()

    happens = {"restarted": valkey.restart, "killed": restart_hard, "flushed": valkey.flush}[lost]
    quay = box.quay()
    pulled_until_first_bell(quay, happens)

    flow(quay, "box")
    flow(quay, "box")

    assert delivered_once(box, range(COUNT))
    assert quay.spool.tickets() == quay.spool.failed() == []
    dovecot.save(BOB, numbered(COUNT))
    assert flow(quay, "box").messages == 1
    assert delivered_once(box, range(COUNT + 1))
    if lost == "flushed":
        (event,) = of(events, "pull.failed")
        assert event["mailbox"] == "box"


@pytest.mark.parametrize(
    "when", ["between two pulls", "in the middle of a pull", "before anything was pulled"]
)
def test_a_flushed_redis_makes_no_old_mailbox_look_new(
    box: Installation, dovecot: Dovecot, valkey: Valkey, events: Events, when: str
) -> None:
    """With SINCE=now, mail that came before stays unpulled, and none that came since is skipped."""
    quay = box.quay(MAILBOX__BOX__SINCE="now")
    assert flow(quay, "box").messages == 0
    if when == "between two pulls":
        dovecot.save(BOB, numbered(10), numbered(11))
        flow(quay, "box")
        dovecot.save(BOB, numbered(12), numbered(13))
        valkey.flush()
    elif when == "in the middle of a pull":
        dovecot.save(BOB, *(numbered(n) for n in range(10, 14)))
        pulled_until_first_bell(quay, valkey.flush)
    else:
        dovecot.save(BOB, *(numbered(n) for n in range(10, 14)))
        valkey.flush()

    flow(quay, "box")
    flow(quay, "box")

    assert delivered_once(box, range(10, 14))
    (event,) = of(events, "checkpoint.restored")
    assert event["mailbox"] == "box"


def test_a_folder_that_redis_alone_has_forgotten_is_not_new_either(
    installation: Installation, dovecot: Dovecot
) -> None:
    """A Redis that lost its last second may know one folder of a mailbox and not the other."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    dovecot.save(BOB, numbered(1), folder="Done")
    installation.on_dovecot("box", dovecot, BOB, since="now", folders="INBOX,Done")
    quay = installation.quay()
    flow(quay, "box")
    dovecot.save(BOB, numbered(2), folder="Done")

    quay.client.hdel("mailquay:checkpoint:{box}", "folder:Done")
    flow(quay, "box")

    assert delivered_once(installation, range(2, 3))


def out_of_memory(valkey: Valkey, admin: redis.Redis) -> Callable[[], object]:
    admin.config_set("maxmemory", "1")
    return lambda: admin.config_set("maxmemory", "0")


def out_of_disk(valkey: Valkey, admin: redis.Redis) -> Callable[[], object]:
    """A snapshot that cannot be written stops all writes, as a full disk does."""
    obstacle = valkey.folder / "dump.rdb" / "in the way"
    obstacle.mkdir(parents=True)
    admin.config_set("save", "3600 1")
    admin.bgsave()
    wait_until(
        lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", timeout=5, what="the failure"
    )

    def mend() -> None:
        admin.config_set("save", "")
        shutil.rmtree(obstacle.parent)

    return mend


@pytest.mark.parametrize("short", [out_of_memory, out_of_disk], ids=lambda short: short.__name__)
def test_redis_refuses_writes(
    installation: Installation,
    dovecot: Dovecot,
    valkey: Valkey,
    events: Events,
    short: Callable[[Valkey, redis.Redis], Callable[[], object]],
) -> None:
    """A Redis without memory or disk is as good as away: one line with the remedy, and nothing is lost."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB)
    quay = installation.quay()
    with valkey.client(decode_responses=True) as admin:
        mend = short(valkey, admin)
        try:
            flow(quay, "box")
        finally:
            mend()

    (event,) = of(events, "pull.failed")
    assert (event["mailbox"], event["state"]) == ("box", "redis unavailable")
    assert "refuses writes" in event["reason"]
    assert "check its memory, its disk" in event["reason"]
    flow(quay, "box")
    assert delivered_once(installation, range(COUNT))


def test_a_task_without_redis_ends_in_a_line(
    installation: Installation, valkey: Valkey, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a task could not do is said in one line that names the mailbox and the remedy, and in no traceback."""
    for name, value in installation.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(installation.folder)
    monkeypatch.setattr(worker.quay, "_quays", {})
    valkey.stop()

    tasks.sweep()
    tasks.pull("gone")

    given_up = of(events, "task.given_up")
    assert [(event["task"], event["mailbox"]) for event in given_up] == [("sweep", ""), ("pull", "gone")]
    assert all("check REDIS_URL" in event["reason"] for event in given_up)
    for quay in worker.quay._quays.values():
        quay.close()


def test_all_roles_outlive_a_redis_that_comes_and_goes(
    installation: Installation, dovecot: Dovecot, valkey: Valkey
) -> None:
    """Down at the start, restarted, killed and flushed while mail flows: all of it arrives once, and no task ends in a traceback."""
    total = 120
    for name, address, protocol in (("alice", ALICE, "imap"), ("bob", BOB, "pop3")):
        dovecot.forget(address)
        installation.on_dovecot(name, dovecot, address, protocol=protocol, every="1s")
    installation.environ |= {
        "LEASE_TTL": "2s",
        "SWEEP_EVERY": "1s",
        "BATCH_MESSAGES": "5",
        "LOG_FORMAT": "json",
    }
    numbers = iter(range(total))

    def mail_comes(count: int) -> None:
        for address in (ALICE, BOB):
            dovecot.save(address, *(numbered(next(numbers)) for _ in range(count)))

    def arrived(count: int) -> None:
        wait_until(lambda: len(installation.lines()) >= count, timeout=40, what=f"delivery of {count}")

    mail_comes(10)
    valkey.stop()
    with up(installation):
        wait_until(lambda: "beat.waiting" in log_of(installation), timeout=20, what="beat's line")
        valkey.start()
        arrived(20)
        for happens in (valkey.restart, valkey.kill9, valkey.flush):
            mail_comes(15)
            happens()
            if not valkey.running:
                valkey.start()
        mail_comes(5)
        arrived(total)
        wait_until(lambda: len(installation.posted()) >= total, timeout=20, what="the Maildir")

    assert delivered_once(installation, range(total))
    assert installation.quay().spool.failed() == []
    events = [orjson.loads(line) for line in log_of(installation).splitlines() if line.startswith("{")]
    # Celery's own machinery shows where its connections broke; none of our tasks may end so.
    raised = [event for event in events if "exception" in event]
    ours = [
        it for it in raised if it["logger"] == "celery.app.trace" or not it["logger"].startswith("celery.")
    ]
    assert ours == []
