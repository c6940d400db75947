"""Two processes that take the same work, because a lease ran out under a slow one, or because a bell rang twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, pull_tickets, pulled
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.plugins import recorded
from worker.deliver import deliver
from worker.demo.harbour import BOB
from worker.lease import Lease
from worker.pull import pull
from worker.quay import Quay
from worker.spool import Ticket
from worker.sweep import sweep

COUNT = 6


@pytest.fixture(params=["imap", "pop3"])
def box(installation: Installation, dovecot: Dovecot, request: pytest.FixtureRequest) -> Installation:
    """A mailbox `box` with six messages in three batches, one of whose outputs notes every call."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB, protocol=request.param, outputs="lines,post,record")
    installation.environ |= {
        "OUTPUT__RECORD__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__RECORD__PATH": str(installation.folder / "record"),
        "BATCH_MESSAGES": "2",
    }
    return installation


def calls(box: Installation) -> int:
    """How many messages the recorder was handed, repeats included."""
    return len((box.folder / "record").read_text().split()) // 2


def one_id_each(box: Installation) -> bool:
    return [len(ids) for ids in recorded(box.folder / "record").values()] == [1] * COUNT


def loses_its_lease(quay: Quay, what: str) -> None:
    """What happens to a process that was stopped for longer than its lease lives."""
    quay.client.delete(f"mailquay:lease:{what}")


def test_of_two_deliverers_that_hear_one_bell_one_works(box: Installation) -> None:
    """A bell that rings twice, or a sweep that rings again, costs nothing but a look."""
    quays = [box.quay(), box.quay()]
    _, rung = pull_tickets(quays[0], "box")
    start = threading.Barrier(2)

    def work(quay: Quay) -> int:
        start.wait()
        return sum(deliver(quay, ticket) is not None for ticket in rung)

    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(work, quays))

    assert sum(done) == len(rung) == 3
    assert calls(box) == COUNT
    assert delivered_once(box, range(COUNT))


def test_a_deliverer_that_lost_its_lease_leaves_the_batch_to_the_one_that_took_over(
    box: Installation, events: Events
) -> None:
    """It notices before it concludes, says so in one line, and undoes nothing of what the other did."""
    slow, quick = box.quay(), box.quay()
    slow.lease_seconds = 0.3
    _, (ticket, *_) = pull_tickets(slow, "box")
    output = slow.output("record")
    took_over: list[Any] = []

    def while_it_sleeps(messages: Any) -> Any:
        loses_its_lease(slow, f"batch:{ticket.batch}")
        (begun,) = (waiting for waiting in quick.spool.tickets() if waiting.batch == ticket.batch)
        took_over.append(deliver(quick, begun))
        # By then the lease would have ended anyway, renewed or not.
        time.sleep(1.5 * slow.lease_seconds)
        return type(output).deliver(output, messages)

    output.deliver = while_it_sleeps  # type: ignore[method-assign]
    late = deliver(slow, ticket)

    assert took_over[0].done == 2
    assert late is not None
    assert "lease" in late.trouble
    assert [event["mailbox"] for event in of(events, "deliver.finished")] == ["box", "box"]
    deliver_due(quick)
    assert delivered_once(box, range(COUNT))
    assert one_id_each(box)
    assert slow.spool.tickets() == slow.spool.failed() == []


def with_a_pause_behind_the_check(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Stop the process right behind its last look at the lease, where nobody can notice; once."""
    check = Lease.check

    def paused(lease: Lease) -> None:
        check(lease)
        monkeypatch.setattr(Lease, "check", check)
        happens()

    monkeypatch.setattr(Lease, "check", paused)


def test_a_deliverer_that_wakes_up_too_late_repeats_and_loses_nothing(
    box: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what it thinks is still owed; that is delivered once more under the same ids, and no file stays."""
    box.environ |= {
        "OUTPUT__LATE__TYPE": "tests.faults.plugins:Latecomer",
        "OUTPUT__LATE__PATH": str(box.folder / "late"),
        "MAILBOX__BOX__OUTPUTS": "lines,post,record,late",
    }
    ahead = [0.0]
    slow, quick = (box.quay(clock=lambda: 2_000_000_000 + ahead[0]) for _ in range(2))
    _, rung = pull_tickets(slow, "box")
    ticket = rung[0]

    def others_finish() -> None:
        loses_its_lease(slow, f"batch:{ticket.batch}")
        for _ in range(2):
            deliver_due(quick)
            sweep(quick, ring=lambda _: None, ring_pull=lambda _: None)
            ahead[0] += 600
        assert quick.spool.tickets() == []

    with_a_pause_behind_the_check(monkeypatch, others_finish)
    deliver(slow, ticket)
    ahead[0] += 600
    deliver_due(quick)
    quick.spool.clean()

    assert delivered_once(box, range(COUNT))
    assert one_id_each(box)
    assert [len(ids) for ids in recorded(box.folder / "late").values()] == [1] * COUNT
    spool = box.folder / "data" / "spool"
    assert [path for part in ("ready", "failed", "tmp") for path in (spool / part).iterdir()] == []


def test_a_puller_that_lost_its_lease_cannot_move_the_checkpoint(box: Installation, events: Events) -> None:
    """The one that took over has moved it further; the late one stops in one line, and its repeats are seen once."""
    slow, quick = box.quay(), box.quay()
    rung: list[Ticket] = []

    def others_pull(ticket: Ticket) -> None:
        rung.append(ticket)
        loses_its_lease(slow, "mailbox:box")
        assert pulled(quick, "box").trouble is None

    late = pull(slow, slow.settings.mailboxes["box"], ring=others_pull)

    assert late.trouble is not None
    assert len(rung) == 1
    failed = of(events, "pull.failed")
    assert [(event["mailbox"], event["state"]) for event in failed] == [("box", "busy")]
    deliver_due(quick)
    assert delivered_once(box, range(COUNT))
    assert one_id_each(box)
    assert pulled(quick, "box").messages == 0


def test_a_batch_that_was_pulled_twice_is_seen_once(
    box: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both pullers have spooled the same messages before one of them noticed."""
    slow, quick = box.quay(), box.quay()

    def others_pull() -> None:
        loses_its_lease(slow, "mailbox:box")
        assert pulled(quick, "box").trouble is None

    with_a_pause_behind_the_check(monkeypatch, others_pull)
    pulled(slow, "box")
    while deliver_due(quick):
        pass

    assert delivered_once(box, range(COUNT))
    assert one_id_each(box)
    assert slow.spool.tickets() == []
    assert pulled(quick, "box").messages == 0
