"""An output that is down, hangs or raises: it is asked again, the others are not held up, nothing comes twice."""

from __future__ import annotations

import threading
import time
from collections import Counter

import orjson
import pytest

from tests.bed.clock import Clock
from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.processes import free_port, wait_until
from tests.contract.receiver import Answer, Call, Receiver, receiving
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.plugins import recorded
from worker.demo.harbour import BOB
from worker.quay import Quay

COUNT = 10


@pytest.fixture
def quay(installation: Installation, dovecot: Dovecot, clock: Clock) -> Quay:
    """The mailbox `box` with ten messages, whose outputs are `lines`, `post` and whatever a test calls `crm`."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB, outputs="lines,post,crm")
    return configured(installation, clock)


def configured(installation: Installation, clock: Clock, **crm: str) -> Quay:
    """A quay whose output `crm` is as described: a webhook that nobody answers, when nothing else is said."""
    described = crm or {"URL": f"http://127.0.0.1:{free_port()}/hook"}
    said = {f"OUTPUT__CRM__{key}": value for key, value in {"TYPE": "webhook", **described}.items()}
    return installation.quay(clock=clock, **said)


def numbers(receiver: Receiver) -> Counter[int]:
    """How often each message was accepted by the receiver."""
    texts = [orjson.loads(call.body)["subject"] for call in receiver.calls]
    return Counter(int(text.rpartition(" ")[2]) for text in texts)


def test_a_webhook_that_is_down_gets_everything_once_when_it_is_back(
    installation: Installation, quay: Quay, clock: Clock, events: Events
) -> None:
    """Files are written at once; what the webhook owes waits in the spool, is tried again, and arrives once."""
    flow(quay, "box")

    assert delivered_once(installation, range(COUNT))
    (event,) = of(events, "deliver.finished")
    assert (event["mailbox"], event["again"]) == ("box", COUNT)
    assert "http://127.0.0.1:" in event["reason"]
    assert "cannot be reached" in event["reason"]
    clock.ahead += 30
    deliver_due(quay)
    (ticket,) = quay.spool.tickets()
    assert ticket.messages == COUNT
    assert ticket.due > clock()
    with receiving() as receiver:
        clock.ahead += 600
        back = configured(installation, clock, URL=receiver.url)
        deliver_due(back)
        deliver_due(back)
        assert numbers(receiver) == Counter(range(COUNT))
        ids = {call.headers["webhook-id"] for call in receiver.calls}
    assert ids == {line["id"] for line in installation.lines()}
    assert delivered_once(installation, range(COUNT))
    assert quay.spool.tickets() == quay.spool.failed() == []


def test_a_webhook_that_hangs_does_not_hold_the_other_outputs_up(
    installation: Installation, quay: Quay, clock: Clock
) -> None:
    """Outputs are asked side by side: the file is complete while the webhook still thinks."""

    def think(call: Call) -> Answer:
        # Were outputs asked one after the other, nobody would ever see the lines.
        wait_until(lambda: len(installation.lines()) == COUNT, timeout=20, what="the lines")
        return Answer()

    with receiving() as receiver:
        receiver.answer = think
        slow = configured(installation, clock, URL=receiver.url)
        flow(slow, "box")
        assert numbers(receiver) == Counter(range(COUNT))
    assert delivered_once(installation, range(COUNT))


def test_a_webhook_that_never_answers_costs_three_time_outs_and_not_one_a_message(
    installation: Installation, quay: Quay, clock: Clock, events: Events
) -> None:
    """A delivery ends soon, with what was not tried left for later; when the receiver recovers, all arrive."""
    released = threading.Event()

    def hang(call: Call) -> Answer:
        released.wait(20)
        return Answer(broken=True)

    with receiving() as receiver:
        receiver.answer = hang
        slow = configured(installation, clock, URL=receiver.url, TIMEOUT="500ms", PARALLEL="1")
        begun = time.monotonic()
        flow(slow, "box")
        assert time.monotonic() - begun < 3
        assert len(receiver.calls) <= 3
        assert "did not answer within" in of(events, "deliver.finished")[0]["reason"]
        released.set()
        receiver.calls.clear()
        receiver.answer = lambda call: Answer()
        clock.ahead += 600
        deliver_due(slow)
        assert numbers(receiver) == Counter(range(COUNT))
    assert delivered_once(installation, range(COUNT))


def test_an_output_that_raises_even_when_it_is_closed(
    installation: Installation, quay: Quay, clock: Clock, events: Events
) -> None:
    """A broken plugin costs its own messages a delay, and nobody else anything; its words are not logged."""
    path = installation.folder / "recorded"
    sulking = path.with_suffix(".sulk")
    sulking.touch()
    broken = configured(installation, clock, TYPE="tests.faults.plugins:Sulker", PATH=str(path))

    flow(broken, "box")

    assert delivered_once(installation, range(COUNT))
    (event,) = of(events, "deliver.finished")
    assert event["mailbox"] == "box"
    assert "output crm failed with RuntimeError" in event["reason"]
    assert "not today" not in str(events)
    sulking.unlink()
    clock.ahead += 600
    deliver_due(broken)
    assert len(recorded(path)) == COUNT
    assert broken.spool.tickets() == []


def test_what_an_output_refuses_waits_for_a_person_and_can_be_retried(
    installation: Installation, quay: Quay, clock: Clock, events: Events
) -> None:
    """A refusal sets that message aside for that output; after the receiver was mended it arrives."""
    with receiving() as receiver:
        receiver.answer = lambda call: Answer(422 if b"Crate 4" in call.body else 204)
        picky = configured(installation, clock, URL=receiver.url)
        flow(picky, "box")
        ((ticket, reason),) = picky.spool.failed()
        assert (ticket.mailbox, ticket.messages) == ("box", 1)
        assert "crm: http://127.0.0.1" in reason
        assert "422" in reason
        assert picky.spool.tickets() == []
        receiver.calls.clear()
        receiver.answer = lambda call: Answer()
        picky.spool.retry(ticket)
        deliver_due(picky)
        assert numbers(receiver) == Counter([4])
        assert picky.spool.failed() == []
    assert delivered_once(installation, range(COUNT))
    assert sorted(number_of(raw) for raw in installation.posted().values()) == list(range(COUNT))
