"""ORDERED=yes: a mailbox's messages reach that output in the order in which they were pulled, whatever fails on the way."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bed.batches import spooled
from tests.bed.clock import Clock
from tests.bed.installation import Installation, numbered
from worker.deliver import deliver
from worker.ordering import next_in_line
from worker.parking import let_out, waiting_batches
from worker.quay import Quay
from worker.spool import Ticket

COUNT = 12


@pytest.fixture
def ordered(installation: Installation, clock: Clock) -> Quay:
    """A mailbox `box` with `lines`, in no order, and `crm`, in order, which raises while `crm.sulk` is there."""
    installation.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Sulker",
        "OUTPUT__CRM__PATH": str(installation.folder / "crm"),
        "OUTPUT__CRM__ORDERED": "yes",
    }
    for name in ("box", "other"):
        installation.mailbox(
            name, address=f"{name}@example.com", host="localhost", password="x", outputs="lines,crm"
        )
    return installation.quay(clock=clock)


def taken(installation: Installation) -> list[str]:
    """The ids that `crm` took, in their order."""
    path = installation.folder / "crm"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.partition(" ")[0] for line in lines if line]


def ids(quay: Quay, tickets: list[Ticket]) -> list[str]:
    found = []
    for ticket in tickets:
        with quay.spool.open(ticket) as opened:
            found += [entry.id for entry in opened.batch.entries]
    return found


def until_empty(quay: Quay, clock: Clock, tickets: list[Ticket]) -> None:
    """Deliver these, in any order, and what is rung behind them; time passes when nothing is due."""
    for _ in range(500):
        random.Random(len(tickets)).shuffle(tickets)
        for ticket in tickets:
            delivered = deliver(quay, ticket)
            while delivered and delivered.next:
                delivered = deliver(quay, delivered.next)
        if not waiting_batches(quay):
            return
        clock.ahead += 10
        let_out(quay, most=100)
        tickets = quay.spool.tickets()
    pytest.fail("it never came to rest")


def test_batches_that_are_rung_in_any_order_are_handed_over_in_theirs(
    installation: Installation, ordered: Quay, clock: Clock
) -> None:
    """The output without an order has each when its bell rang; no batch waits for the sweep once it is its turn."""
    tickets = spooled(ordered, "box", [numbered(n) for n in range(COUNT)], size=2)
    expected = ids(ordered, tickets)
    backwards = list(reversed(tickets))
    for ticket in backwards[:-1]:
        deliver(ordered, ticket)
    assert taken(installation) == []
    assert len(installation.lines()) == COUNT - 2

    delivered = deliver(ordered, backwards[-1])
    while delivered and delivered.next:
        delivered = deliver(ordered, delivered.next)

    assert taken(installation) == expected
    assert len(installation.lines()) == COUNT
    assert waiting_batches(ordered) == []


def test_a_mailbox_does_not_wait_for_another_one(installation: Installation, ordered: Quay) -> None:
    """The order is that of each mailbox."""
    spooled(ordered, "box", [numbered(0)])
    (other,) = spooled(ordered, "other", [numbered(1)])
    expected = ids(ordered, [other])

    deliver(ordered, other)

    assert taken(installation) == expected


def test_an_output_that_fails_in_between_gets_nothing_out_of_turn(
    installation: Installation, ordered: Quay, clock: Clock
) -> None:
    """It fails at the third message of a batch: what stands behind it waits, through back-off, parking and probes."""
    tickets = spooled(ordered, "box", [numbered(n) for n in range(COUNT)], size=4)
    expected = ids(ordered, tickets)
    output = ordered.output("crm")
    real, calls = output.deliver, 0

    def moody(messages):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls % 3 == 0 or 10 < calls < 30:
            raise RuntimeError("not today")
        return real(messages)

    type(output).deliver, before = moody_of(moody), type(output).deliver
    try:
        until_empty(ordered, clock, tickets)
    finally:
        type(output).deliver = before

    assert taken(installation) == expected


def moody_of(moody):  # type: ignore[no-untyped-def]
    """A method out of a function that knows its output."""
    return lambda self, messages: moody(messages)


def test_two_processes_keep_the_order_between_them(
    installation: Installation, ordered: Quay, clock: Clock
) -> None:
    """Nothing is locked: what owes is there for all to see."""
    tickets = spooled(ordered, "box", [numbered(n) for n in range(COUNT)])
    expected = ids(ordered, tickets)
    quays = [installation.quay(clock=clock) for _ in range(2)]

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda quay: [deliver(quay, ticket) for ticket in tickets], quays))
    until_empty(ordered, clock, ordered.spool.tickets())

    assert taken(installation) == expected


def test_what_a_person_has_to_look_at_does_not_stop_those_behind_it(
    installation: Installation, ordered: Quay
) -> None:
    """A batch in `failed` is passed over, or one message would stop its mailbox for ever."""
    first, second = spooled(ordered, "box", [numbered(0), numbered(1)])
    expected = ids(ordered, [second])
    ordered.spool.fail(first, "refused")

    deliver(ordered, second)

    assert taken(installation) == expected
    assert next_in_line(ordered, opened_batch(ordered, first)) is None


def opened_batch(quay: Quay, ticket: Ticket):  # type: ignore[no-untyped-def]
    with quay.spool.open_failed(ticket) as opened:
        return opened.batch
