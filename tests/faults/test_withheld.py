"""Messages that a server lists and does not give: no folder waits for them, none is lost, and people see them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

import worker.repair
from tests.bed.errands import flow, pulled
from tests.bed.installation import Installation, numbered
from tests.bed.valkey import Valkey
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.withholding import WAYS, Withholding
from tests.model.mail_server import MailServer, MemorySource
from tests.model.mortal import Died, Life, mortal
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.identity import imap_id, pop3_id
from worker.quay import Quay

MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


@pytest.fixture
def server(installation: Installation, certificates: Certificates, protocol: str) -> Iterator[Withholding]:
    """The mailbox `box` with five numbered messages on a server that can withhold them."""
    with Withholding(certificates, *(numbered(n) for n in range(5)), protocol=protocol) as server:
        installation.mailbox(
            "box", protocol=protocol, address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post",
        )  # fmt: skip
        yield server


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    """The time of this test."""
    return Time()


@pytest.fixture
def quay(installation: Installation, server: Withholding, clock: Time) -> Quay:
    """One process, in which time passes only when it is told to."""
    return installation.quay(clock=clock)


def own_id(protocol: str, number: int) -> str:
    """The id of a message by its place on the server."""
    return imap_id("box", "INBOX", 7, number) if protocol == "imap" else pop3_id("box", f"u7-{number}")


def numbers(installation: Installation) -> list[str]:
    """The numbers of the messages that were delivered, as often as they were."""
    return sorted(line["subject"].removeprefix("Crate ") for line in installation.lines())


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_behind_a_withheld_message_is_pulled_and_the_message_when_it_comes(  # noqa: PLR0917  (fixtures)
    installation: Installation,
    server: Withholding,
    quay: Quay,
    clock: Time,
    events: Events,
    protocol: str,
    way: str,
) -> None:
    """Three polls with growing pauses, then hours; people are told once; at last it comes under its own id."""
    server.withheld = {2: way}

    assert flow(quay, "box").messages == 4
    assert numbers(installation) == ["0", "2", "3", "4"]
    assert quay.standings.of("box").state == "ok"
    (repair,) = quay.repairs.of("box")
    assert (repair.id, repair.tries, repair.stands) == (own_id(protocol, 2), 1, False)

    server.letters[6] = numbered(5)
    asked = len(server.said)
    assert flow(quay, "box").messages == 1
    assert not [said for said in server.said[asked:] if said in {b"RETR 2", b"UID FETCH 2 (UID RFC822.SIZE)"}]
    for pause, tries in ((MINUTE, 2), (5 * MINUTE, 3), (HOUR, 4), (4 * HOUR, 5)):
        clock.now += pause - 1
        flow(quay, "box")
        assert quay.repairs.of("box")[0].tries == tries - 1
        clock.now += 2
        flow(quay, "box")
        assert quay.repairs.of("box")[0].tries == tries
    (told,) = of(events, "message.withheld")
    assert (told["mailbox"], told["message"]) == ("box", own_id(protocol, 2))
    assert told["reason"] == quay.repairs.of("box")[0].reason

    server.withheld.clear()
    clock.now += 4 * HOUR + 1
    assert flow(quay, "box").messages == 1
    assert quay.repairs.of("box") == []
    assert delivered_once(installation, range(6))
    assert own_id(protocol, 2) in {line["id"] for line in installation.lines()}
    assert flow(quay, "box").messages == 0


@pytest.mark.parametrize("protocol", ["imap"], indirect=True)
def test_a_message_that_is_given_in_two_parts_comes_in_the_same_pull(
    installation: Installation, server: Withholding, quay: Quay
) -> None:
    """Byte for byte the same, and no place in the queue."""
    server.withheld = {2: "in two"}

    assert flow(quay, "box").messages == 5

    assert delivered_once(installation, range(5))
    assert quay.repairs.of("box") == []


@pytest.mark.parametrize("protocol", ["imap"], indirect=True)
def test_a_refusal_of_a_whole_group_keeps_back_only_the_one_that_is_ill(
    installation: Installation, server: Withholding, quay: Quay
) -> None:
    """Servers end a command at the first message that they cannot give; the others come one by one, in the same pull."""
    server.withheld = {2: "refused"}
    fetched = server._fetched
    server._fetched = lambda number, items: (
        b"" if b"[]" in items and len(server.said) < 4 else fetched(number, items)
    )  # type: ignore[method-assign]

    assert flow(quay, "box").messages == 4

    assert numbers(installation) == ["0", "2", "3", "4"]
    assert [repair.place.uid for repair in quay.repairs.of("box")] == [2]


def test_a_flushed_redis_forgets_no_withheld_message(
    installation: Installation, server: Withholding, quay: Quay, clock: Time, valkey: Valkey
) -> None:
    """The checkpoint that comes back has passed it, and its note lies beside."""
    server.withheld = {1: "left out", 5: "left out"}
    assert flow(quay, "box").messages == 3
    valkey.flush()
    server.withheld.clear()
    clock.now += HOUR

    flow(quay, "box")

    assert delivered_once(installation, range(5))
    assert quay.repairs.of("box") == []


@pytest.mark.parametrize("listed", [None, 100], ids=["announced", "listed as small"])
def test_a_message_larger_than_the_limit_waits_for_a_higher_one(  # noqa: PLR0917  (fixtures)
    installation: Installation,
    server: Withholding,
    clock: Time,
    events: Events,
    protocol: str,
    listed: int | None,
) -> None:
    """People are told at once, it is not asked for in vain, and with a higher MESSAGE_MAX it comes by itself."""
    server.letters[2] = numbered(1, size=50_000)
    if listed:
        server.listed[2] = listed
    quay = installation.quay(clock=clock, MESSAGE_MAX="20KB")

    for _ in range(3):
        flow(quay, "box")
        clock.now += 4 * HOUR

    assert numbers(installation) == ["0", "2", "3", "4"]
    (repair,) = quay.repairs.of("box")
    assert repair.size > 20_000
    assert "MESSAGE_MAX" in repair.reason or "more than 20" in repair.reason
    assert len(of(events, "message.withheld")) == 1
    assert quay.standings.of("box").state == "ok"
    asked = [said for said in server.said if said == b"RETR 2" or said.startswith(b"UID FETCH 2 (UID FLAGS")]
    assert len(asked) <= (2 if listed else 0)
    flow(installation.quay(clock=clock), "box")
    assert delivered_once(installation, range(5))


def test_a_message_that_is_gone_is_asked_for_no_more(
    installation: Installation, server: Withholding, quay: Quay, clock: Time, events: Events
) -> None:
    """Somebody deleted it; the line says that it was never had."""
    server.withheld = {2: "left out"}
    flow(quay, "box")
    del server.letters[2]
    clock.now += HOUR

    flow(quay, "box")

    assert quay.repairs.of("box") == []
    (event,) = of(events, "withheld.gone")
    assert (event["mailbox"], event["messages"]) == ("box", 1)


def test_a_server_that_withholds_everything_makes_the_folder_wait(  # noqa: PLR0917  (fixtures)
    installation: Installation,
    server: Withholding,
    quay: Quay,
    clock: Time,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond a number it is the server that is ill: nothing more is passed over, and people are told."""
    monkeypatch.setattr(worker.repair, "MOST", 2)
    quay = installation.quay(clock=clock, BATCH_MESSAGES="1")
    server.withheld = dict.fromkeys(range(1, 6), "left out")

    flow(quay, "box")

    assert len(quay.repairs.of("box")) == 2
    assert "mailquay repair list" in quay.standings.of("box").sentence
    server.withheld.clear()
    clock.now += HOUR
    flow(quay, "box")
    assert delivered_once(installation, range(5))


@pytest.mark.parametrize("last_one_done", [False, True], ids=["before the step", "behind the step"])
def test_a_process_that_dies_at_any_step_loses_no_withheld_message(
    installation: Installation, clock: Time, valkey: Valkey, *, last_one_done: bool
) -> None:
    """What the checkpoint has passed is spooled or noted; when the server gives in, all arrives once."""
    installation.mailbox(
        "box", address=BOB, password="x", host="localhost", since="all", outputs="lines", recognize="no"
    )
    installation.environ["BATCH_MESSAGES"] = "3"

    def dies(steps: int) -> bool:
        """Pull from a fresh mailbox until death; whether it came."""
        valkey.flush()
        server = MailServer()
        server.arrive(5)
        server.withheld = {2, 5}
        survivor = installation.quay(clock=clock, DATA_DIR=str(installation.folder / f"data-{steps}"))
        process = installation.quay(clock=clock, DATA_DIR=str(installation.folder / f"data-{steps}"))
        for one in (survivor, process):
            one.connect = lambda *_: MemorySource(server)  # type: ignore[method-assign]
        died = True
        with suppress(Died):
            pulled(mortal(process, Life(steps, last_one_done=last_one_done)), "box")
            died = False
        for key in survivor.client.scan_iter("mailquay:lease:*"):
            survivor.client.delete(key)

        at = survivor.checkpoints.load("box", "INBOX")
        spooled: set[int | None] = set()
        for ticket in survivor.spool.tickets():
            with survivor.spool.open(ticket) as opened:
                spooled |= {entry.uid for entry in opened.batch.entries}
        noted = {repair.place.uid for repair in survivor.repairs.of("box")}
        assert spooled | noted >= set(range(1, (at.uid if at else 0) + 1)), f"after {steps} steps"
        server.withheld.clear()
        clock.now += HOUR
        pulled(survivor, "box")
        pulled(survivor, "box")
        assert survivor.repairs.of("box") == [], f"after {steps} steps"
        found: set[str] = set()
        for ticket in survivor.spool.tickets():
            with survivor.spool.open(ticket) as opened:
                found |= {entry.id for entry in opened.batch.entries}
        assert found == {imap_id("box", "INBOX", 7, uid) for uid in range(1, 6)}, f"after {steps} steps"
        return died

    steps = 0
    while dies(steps):
        steps += 1
    assert steps > 20
