"""An output that is away: a few batches find it out, the others wait at no cost, and all arrive once when it is back."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.bed.batches import spooled
from tests.bed.clock import Clock
from tests.bed.errands import deliver_due
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import Events, of
from worker.parking import waiting_batches
from worker.quay import Quay
from worker.spool import Event, Ticket
from worker.sweep import sweep

COUNT = 30


@pytest.fixture
def quay(installation: Installation, clock: Clock) -> Quay:
    """A mailbox `box` with a healthy output `lines`, and `crm`, which raises while the file `crm.sulk` is there."""
    installation.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Sulker",
        "OUTPUT__CRM__PATH": str(installation.folder / "crm"),
        "OUTPUT__CRM__RETRY_FOR": "1d",
    }
    installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs="lines,crm")
    sulks(installation)
    return installation.quay(clock=clock)


def sulks(installation: Installation) -> None:
    (installation.folder / "crm.sulk").touch()


def recovers(installation: Installation) -> None:
    (installation.folder / "crm.sulk").unlink()


def taken(installation: Installation) -> Counter[str]:
    """How often `crm` took each id."""
    path = installation.folder / "crm"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.partition(" ")[0] for line in lines if line)


def swept(quay: Quay) -> list[Ticket]:
    """A sweep whose bells are answered at once."""
    rung: list[Ticket] = []
    sweep(quay, ring=rung.append, ring_pull=lambda _: None)
    deliver_due(quay)
    return rung


def history(quay: Quay, output: str) -> list[Event]:
    """What happened to all waiting batches at one output."""
    found: list[Event] = []
    parked = [(ticket, name) for name in quay.spool.parked_for() for ticket in quay.spool.parked(name)]
    for ticket, name in [*((ticket, "") for ticket in quay.spool.tickets()), *parked]:
        with quay.spool.open(ticket, parked=name) as opened:
            found += [event for event in opened.batch.history if event.output == output]
    return found


def test_a_few_batches_find_out_and_the_others_are_parked(
    installation: Installation, quay: Quay, clock: Clock, events: Events
) -> None:
    """Thirty batches cost five calls; the healthy output has everything at once; one event says that it is away."""
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])

    deliver_due(quay)

    assert len(installation.lines()) == COUNT
    assert sum(event.times for event in history(quay, "crm")) == 5
    (event,) = of(events, "output.away")
    assert event["output"] == "crm"
    assert "RuntimeError" in event["reason"]
    # Those that found it out are tried again in their time, and then find it away.
    clock.ahead += 3
    deliver_due(quay)
    assert quay.spool.tickets() == []
    assert len(quay.spool.parked("crm")) == COUNT
    # The first probe may have been one of them.
    assert sum(event.times for event in history(quay, "crm")) <= 6


def test_new_mail_is_parked_without_being_read_and_one_batch_a_probe_is_tried(
    installation: Installation, quay: Quay, clock: Clock
) -> None:
    """A sweep lets one out when a probe is due, and none before; probes come ever more rarely."""
    installation.environ["MAILBOX__BOX__OUTPUTS"] = "crm"
    quay = installation.quay(clock=clock)
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])
    deliver_due(quay)
    clock.ahead += 3
    deliver_due(quay)
    assert len(quay.spool.parked("crm")) == COUNT
    probes = 0
    for _ in range(120):
        clock.ahead += 1
        rung = swept(quay)
        assert len(rung) <= 1
        probes += len(rung)
    assert 3 <= probes <= 8
    assert len(waiting_batches(quay)) == COUNT
    # Each probe was another batch: one that cannot be delivered for its own reasons does not stand for all.
    tried = [event for event in history(quay, "crm") if event.times > 1]
    assert len(tried) <= 5


def test_everything_arrives_once_when_it_is_back(
    installation: Installation, quay: Quay, clock: Clock, events: Events
) -> None:
    """The probe closes the circuit, the next sweep lets all out, nothing that is healthy gets anything twice."""
    tickets = spooled(quay, "box", [numbered(n) for n in range(COUNT)])
    deliver_due(quay)
    recovers(installation)

    for _ in range(3):
        clock.ahead += 61
        swept(quay)

    assert set(taken(installation).values()) == {1}
    assert len(taken(installation)) == len(tickets) == COUNT
    assert len(installation.lines()) == COUNT
    assert waiting_batches(quay) == quay.spool.failed() == []
    (event,) = of(events, "output.back")
    assert event["output"] == "crm"


def test_what_waits_for_longer_than_retry_for_waits_for_a_person(
    installation: Installation, quay: Quay, clock: Clock
) -> None:
    """Also what was never tried, because it came when the output was known to be away; a person may put it back."""
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])
    deliver_due(quay)
    clock.ahead += 3
    deliver_due(quay)
    clock.ahead += 86_000
    swept(quay)
    assert quay.spool.failed() == []
    clock.ahead += 600
    for _ in range(3):
        swept(quay)
        clock.ahead += 61

    failed = quay.spool.failed()
    assert len(failed) == COUNT
    assert all(
        "crm: not accepted in 1d: output crm failed with RuntimeError" in reason for _, reason in failed
    )
    assert waiting_batches(quay) == []
    recovers(installation)
    for ticket, _ in failed:
        quay.spool.retry(ticket)
    for _ in range(3):
        swept(quay)
        clock.ahead += 61
    assert len(taken(installation)) == COUNT
    assert waiting_batches(quay) == quay.spool.failed() == []


def test_a_flushed_redis_lets_everything_out_and_finds_out_anew(
    installation: Installation, quay: Quay, clock: Clock
) -> None:
    """The circuits lie in Redis alone; what is parked is found without them."""
    spooled(quay, "box", [numbered(n) for n in range(COUNT)])
    deliver_due(quay)
    clock.ahead += 3
    deliver_due(quay)
    quay.client.flushall()

    swept(quay)
    assert quay.circuits.opened(["crm"])
    recovers(installation)
    for _ in range(3):
        clock.ahead += 61
        swept(quay)

    assert set(taken(installation).values()) == {1}
    assert len(taken(installation)) == COUNT


def test_one_message_that_an_output_cannot_take_opens_nothing(
    installation: Installation, quay: Quay, clock: Clock
) -> None:
    """It fails again and again, and the mail around it goes through."""
    spooled(quay, "box", [numbered(0)])
    for _ in range(20):
        deliver_due(quay)
        clock.ahead += 700
    assert quay.circuits.opened(["crm"]) == {}
    assert quay.spool.parked_for() == []
