"""Messages at which the server hangs up each time: the folder goes on without them, and none is lost or comes twice."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.bed.errands import flow, pulled
from tests.bed.installation import Installation, numbered
from tests.bed.valkey import Valkey
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.withholding import Withholding, _numbers
from tests.model.mail_server import MailServer, MemorySource
from tests.model.mortal import Died, Life, mortal
from worker.backfill import ask
from worker.catch_up import alone
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.errors import Unreachable
from worker.hurdles import BLAMED, LONELY, SUSPECTED
from worker.identity import imap_id
from worker.quay import Quay
from worker.sources import Fetched, Ref, Withheld

COUNT = 5
HOUR = 3600.0


class Stumbling(Withholding):
    """Hangs up in the middle of each message whose number is among `hurdles`; `broken` hangs up at any."""

    def __init__(self, certificates: Certificates, *letters: bytes, protocol: str) -> None:
        super().__init__(certificates, *letters, protocol=protocol)
        self.hurdles: set[int] = set()
        self.broken = False
        self.fetches: list[list[int]] = []

    def _answer(self, said: bytes) -> bytes:
        if found := re.match(rb"UID FETCH (\S+) \(.*BODY", said):
            numbers = [number for number in _numbers(found[1]) if number in self.letters]
        elif found := re.match(rb"RETR (\d+)", said):
            numbers = [int(found[1])]
        else:
            return super()._answer(said)
        self.fetches.append(numbers)
        ill = next((number for number in numbers if self.broken or number in self.hurdles), None)
        if ill is None:
            return super()._answer(said)
        came = [self._fetched(number, b"BODY") for number in numbers[: numbers.index(ill)]]
        raw = self.letters[ill]
        begun = (
            b"+OK\r\n" if said.startswith(b"RETR") else b"* 9 FETCH (UID %d BODY[] {%d}\r\n" % (ill, len(raw))
        )
        return b"".join(came) + begun + raw[: len(raw) * 2 // 3] + b"<end>"


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


@pytest.fixture
def server(installation: Installation, certificates: Certificates, protocol: str) -> Iterator[Stumbling]:
    """The mailbox `box` with five numbered messages on a server that hangs up."""
    with Stumbling(certificates, *(numbered(n) for n in range(COUNT)), protocol=protocol) as server:
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
def quay(installation: Installation, server: Stumbling, clock: Time) -> Quay:
    """One process, in which time passes only when it is told to."""
    return installation.quay(clock=clock)


def subjects(installation: Installation) -> list[str]:
    """The numbers of the messages that were delivered, as often as they were."""
    return sorted(line["subject"].removeprefix("Crate ") for line in installation.lines())


def test_a_message_at_which_the_server_hangs_up_each_time_does_not_stop_its_folder(
    installation: Installation, server: Stumbling, quay: Quay, clock: Time, events: Events
) -> None:
    """After five sessions that ended there it waits in the repair queue, and comes under its own id when it can."""
    server.hurdles = {3}

    pulls = [flow(quay, "box") for _ in range(BLAMED)]

    assert [result.messages for result in pulls] == [2, *[0] * (BLAMED - 1)]
    assert all(isinstance(result.trouble, Unreachable) for result in pulls)
    assert quay.repairs.of("box") == []
    result = flow(quay, "box")
    assert (result.trouble, result.messages, result.withheld) == (None, 2, 1)
    assert subjects(installation) == ["0", "1", "3", "4"]
    assert quay.standings.of("box").state == "ok"
    (repair,) = quay.repairs.of("box")
    assert "ended the session, or hung" in repair.reason
    (told,) = of(events, "message.set_aside")
    assert (told["mailbox"], told["message"]) == ("box", repair.id)

    server.letters[6] = numbered(5)
    assert flow(quay, "box").messages == 1
    clock.now += 61
    assert isinstance(flow(quay, "box").trouble, Unreachable), "it is tried once more"
    assert flow(quay, "box").trouble is None, "and not at each poll"
    server.hurdles.clear()
    clock.now += HOUR
    assert flow(quay, "box").messages == 1
    assert quay.repairs.of("box") == []
    assert delivered_once(installation, range(6))
    assert flow(quay, "box").messages == 0


def test_a_suspect_is_asked_for_when_nothing_else_is_under_way(server: Stumbling, quay: Quay) -> None:
    """Else one that came late in the same answer would be blamed in its place."""
    server.hurdles = {3}
    for _ in range(SUSPECTED):
        flow(quay, "box")
    server.fetches.clear()
    server.hurdles.clear()

    assert flow(quay, "box").messages == 3

    assert server.fetches[0] == [3]
    assert quay.repairs.of("box") == []


def test_the_newest_message_is_set_aside_only_after_a_long_time(
    installation: Installation, server: Stumbling, quay: Quay
) -> None:
    """Nothing behind it shows that the connection works; a short trouble of the server must not put it last."""
    server.hurdles = {COUNT}

    pulls = [flow(quay, "box") for _ in range(LONELY)]

    assert all(result.trouble for result in pulls)
    assert quay.repairs.of("box") == []
    assert flow(quay, "box").trouble is None
    assert len(quay.repairs.of("box")) == 1
    server.letters[COUNT + 1] = numbered(COUNT)
    assert flow(quay, "box").messages == 1
    assert subjects(installation) == ["0", "1", "2", "3", "5"]


def test_several_such_messages_in_a_row_are_passed_one_after_the_other(
    installation: Installation, server: Stumbling, quay: Quay, clock: Time
) -> None:
    """Each is counted by itself; what was counted of the first is kept while the second is found."""
    server.hurdles = {2, 3}

    for _ in range(2 * BLAMED + 1):
        flow(quay, "box")

    assert subjects(installation) == ["0", "3", "4"]
    assert len(quay.repairs.of("box")) == 2
    server.hurdles.clear()
    clock.now += HOUR
    flow(quay, "box")
    assert delivered_once(installation, range(COUNT))


def test_a_server_that_hangs_up_at_every_message_sets_none_behind_the_others(
    installation: Installation, server: Stumbling, quay: Quay
) -> None:
    """That is the server's trouble and not that of a message: when it is over, all come by the next poll but one."""
    server.broken = True
    for _ in range(BLAMED + SUSPECTED):
        assert flow(quay, "box").messages == 0
    at = quay.checkpoints.load("box", "INBOX")
    assert at is None or (at.uid == 0 and not at.uidls)

    server.broken = False
    assert flow(quay, "box").messages >= COUNT - 1
    later = installation.quay(clock=lambda: time.time() + HOUR)
    flow(later, "box")
    assert delivered_once(installation, range(COUNT))
    assert later.repairs.of("box") == []


def test_a_flushed_redis_forgets_no_message_that_was_set_aside(
    installation: Installation, server: Stumbling, quay: Quay, clock: Time, valkey: Valkey
) -> None:
    """Its note lies beside the spool, and the checkpoint that comes back has passed it."""
    server.hurdles = {3}
    for _ in range(BLAMED + 1):
        flow(quay, "box")
    valkey.flush()
    server.hurdles.clear()
    clock.now += HOUR

    flow(quay, "box")

    assert delivered_once(installation, range(COUNT))
    assert quay.repairs.of("box") == []


def test_a_backfill_goes_on_without_such_a_message(
    installation: Installation, server: Stumbling, quay: Quay, clock: Time
) -> None:
    """What is old is no more worth a standstill than what is new."""
    skipping = installation.quay(clock=clock, MAILBOX__BOX__SINCE="now")
    assert flow(skipping, "box").messages == 0
    with alone(skipping, skipping.settings.mailboxes["box"]) as (errand, source):
        ask(errand, source, "INBOX", None, word="all")
    server.hurdles = {3}

    for _ in range(BLAMED + 1):
        flow(skipping, "box")

    assert subjects(installation) == ["0", "1", "3", "4"]
    assert skipping.checkpoints.backfills("box") == {}
    server.hurdles.clear()
    clock.now += HOUR
    flow(skipping, "box")
    assert delivered_once(installation, range(COUNT))


class HangsUp(MemorySource):
    """A session that ends at the second message."""

    def _asked(self, ref: Ref) -> Fetched | Withheld:
        if ref.uid == 2:
            raise Unreachable("it hung up")
        return super()._asked(ref)


@pytest.mark.parametrize("last_one_done", [False, True], ids=["before the step", "behind the step"])
def test_a_process_that_dies_at_any_step_loses_no_hurdle(
    installation: Installation, clock: Time, valkey: Valkey, *, last_one_done: bool
) -> None:
    """What the checkpoint has passed is spooled or noted (promise P1)."""
    installation.mailbox(
        "box", address=BOB, password="x", host="localhost", since="all", outputs="lines", recognize="no"
    )
    installation.environ["BATCH_MESSAGES"] = "2"

    def dies(steps: int) -> bool:
        """Pull past a hurdle until death; whether it came."""
        valkey.flush()
        server = MailServer()
        server.arrive(5)
        survivor, process = (
            installation.quay(clock=clock, DATA_DIR=str(installation.folder / f"data-{steps}"))
            for _ in range(2)
        )
        survivor.connect = process.connect = lambda *_: HangsUp(server)  # type: ignore[method-assign]
        for _ in range(BLAMED):
            survivor.hurdles.stumbled("box", imap_id("box", "INBOX", 7, 2))
        died = True
        with suppress(Died):
            pulled(mortal(process, Life(steps, last_one_done=last_one_done)), "box")
            died = False
        for key in survivor.client.scan_iter("mailquay:lease:*"):
            survivor.client.delete(key)
        assert past(survivor) == [], f"after {steps} steps"
        pulled(survivor, "box")
        assert past(survivor) == [], f"after {steps} steps"
        at = survivor.checkpoints.load("box", "INBOX")
        assert at is not None
        assert at.uid == 5, f"after {steps} steps"
        return died

    def past(quay: Quay) -> list[int]:
        """What the checkpoint has passed, and nobody knows of."""
        at = quay.checkpoints.load("box", "INBOX")
        known: set[int | None] = {repair.place.uid for repair in quay.repairs.of("box")}
        for ticket in quay.spool.tickets():
            with quay.spool.open(ticket) as opened:
                known |= {entry.uid for entry in opened.batch.entries}
        return [uid for uid in range(1, (at.uid if at else 0) + 1) if uid not in known]

    steps = 0
    while dies(steps):
        steps += 1
    assert steps > 8


def test_a_huge_message_that_never_comes_whole_does_not_stop_its_folder(
    installation: Installation, server: Stumbling, quay: Quay
) -> None:
    """It goes straight from the wire to the file; of a part of it nothing is kept."""
    server.letters[3] = numbered(2, size=2_000_000)
    quay = installation.quay(BATCH_SIZE="1MB")
    server.hurdles = {3}

    for _ in range(BLAMED + 1):
        flow(quay, "box")

    assert subjects(installation) == ["0", "1", "3", "4"]
    assert len(quay.repairs.of("box")) == 1
