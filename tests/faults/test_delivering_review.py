"""What goes wrong between outputs, batches, Redis and clocks, each fault by itself: nothing is lost, stuck, or told."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipelines.message import Message
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from tests.bed.batches import spooled
from tests.bed.clock import Clock
from tests.bed.errands import deliver_due
from tests.bed.installation import Installation, numbered
from tests.bed.valkey import Valkey
from tests.faults.conftest import Events
from tests.faults.plugins import MARK
from worker.deliver import deliver
from worker.once import run
from worker.owing import RETRY_FOR
from worker.parking import waiting_batches
from worker.spool import Batch, Entry, Spool, Ticket
from worker.spool.file import FileSpool
from worker.sweep import sweep

DAY = 86_400
YEAR = 365 * DAY


class Desk(Output):
    """Answers as `answer` says, and remembers what it took."""

    type_name: ClassVar[str] = "desk"

    def __init__(self, name: str) -> None:
        super().__init__(name, OutputOptions())
        self.answer: Callable[[Message], Any] = lambda _: Accepted()
        self.took: list[str] = []

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        answers = [self.answer(message) for message in messages]
        self.took += [
            message.id
            for message, answer in zip(messages, answers, strict=True)
            if isinstance(answer, Accepted)
        ]
        return answers


class Office:
    """A mailbox `box` with desks for outputs, and a quay over them."""

    def __init__(self, installation: Installation, clock: Clock, *names: str, **environ: str) -> None:
        self.clock = clock
        self.installation = installation
        for name in names:
            installation.environ |= {
                f"OUTPUT__{name.upper()}__TYPE": "jsonl",
                f"OUTPUT__{name.upper()}__PATH": str(installation.folder / name),
            }
        outputs = ",".join(name for name in names if name != "rest")
        installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs=outputs)
        installation.environ |= environ
        self.desks = {name: Desk(name) for name in names}
        self.quay = installation.quay(clock=clock)
        self.quay._outputs.update(self.desks)

    def away(self, *names: str) -> None:
        for name in names:
            self.desks[name].answer = lambda _: Retry("not today")

    def back(self, *names: str) -> None:
        for name in names:
            self.desks[name].answer = lambda _: Accepted()

    def sweeps(self, times: int, *, seconds: float = 10) -> int:
        """Let time pass with a sweep now and then, whose bells are answered at once; how many there were."""
        bells = 0
        for _ in range(times):
            self.clock.ahead += seconds
            rung: list[Ticket] = []
            sweep(self.quay, ring=rung.append, ring_pull=lambda _: None)
            for ticket in rung:
                delivered = deliver(self.quay, ticket)
                while delivered and delivered.next:
                    delivered = deliver(self.quay, delivered.next)
            bells += len(rung)
        return bells

    def opens(self, output: str) -> None:
        """Open a circuit, as five batches do that fail."""
        for number in range(5):
            self.quay.circuits.failed(output, f"some{number}", "not today")

    def batches(self) -> list[Batch]:
        """What waits, as it is written."""
        found = []
        places = [(ticket, place) for place in self.spool.parked_for() for ticket in self.spool.parked(place)]
        for ticket, place in [*((ticket, "") for ticket in self.spool.tickets()), *places]:
            with self.spool.open(ticket, parked=place) as opened:
                found.append(opened.batch)
        return found

    @property
    def spool(self) -> Spool:
        return self.quay.spool


@pytest.fixture
def two(installation: Installation, clock: Clock) -> Office:
    """Outputs `archive` and `crm`."""
    return Office(installation, clock, "archive", "crm")


@pytest.fixture
def in_order(installation: Installation, clock: Clock) -> Office:
    """Outputs `archive`, and `crm` with ORDERED=yes."""
    return Office(installation, clock, "archive", "crm", OUTPUT__CRM__ORDERED="yes")


def ids(office: Office, tickets: Sequence[Ticket]) -> list[str]:
    found = []
    for ticket in tickets:
        with office.spool.open(ticket) as opened:
            found += [entry.id for entry in opened.batch.entries]
    return found


def died_with(spool: Spool, ticket: Ticket, times: int = 3) -> Ticket:
    """What processes leave that begin a batch and die."""
    for _ in range(times):
        begun = spool.begin(ticket)
        assert begun
        ticket = begun
    return ticket


# -- outputs that are away ------------------------------------------------------------------------------------------------


def test_of_two_outputs_that_were_away_the_one_that_is_back_has_its_mail_at_once(two: Office) -> None:
    """A batch that waits for both is not kept from the one by the other (promise P5)."""
    two.away("archive", "crm")
    spooled(two.quay, "box", [numbered(n) for n in range(20)])
    two.sweeps(8)
    assert two.spool.tickets() == []

    two.back("crm")
    two.sweeps(20)

    assert len(two.desks["crm"].took) == len(set(two.desks["crm"].took)) == 20
    assert two.desks["archive"].took == []
    two.back("archive")
    two.sweeps(20)
    assert len(two.desks["archive"].took) == len(set(two.desks["archive"].took)) == 20
    assert waiting_batches(two.quay) == []


def test_a_probe_with_which_nothing_was_asked_is_there_for_the_next_one(
    installation: Installation, clock: Clock
) -> None:
    """Mail that WHEN keeps from an output was parked unread; it must not use up the chances to find the output back."""
    office = Office(installation, clock, "crm", OUTPUT__CRM__WHEN='subject == "wanted"')
    office.opens("crm")
    spooled(office.quay, "box", [numbered(n) for n in range(3)])
    deliver_due(office.quay)
    office.clock.ahead += 1
    spooled(office.quay, "box", [b"Subject: wanted\r\n\r\n"], first=4)
    deliver_due(office.quay)
    assert len(office.spool.parked("crm")) == 4

    office.clock.ahead += 5
    office.sweeps(4, seconds=1)

    assert office.desks["crm"].took != []
    assert waiting_batches(office.quay) == []


def test_what_is_older_than_retry_for_and_was_never_tried_costs_an_output_that_is_away_nothing(
    two: Office,
) -> None:
    """After a long stop of the deliverers everything is that old; only probes are let out."""
    tickets = spooled(two.quay, "box", [numbered(n) for n in range(30)])
    two.clock.ahead += RETRY_FOR.total_seconds() + DAY
    two.away("crm")
    two.opens("crm")
    deliver_due(two.quay)
    assert len(two.spool.parked("crm")) == len(tickets)

    assert two.sweeps(30) <= 12


def test_a_fallback_that_is_away_is_not_asked_for_every_message_that_comes_to_it(
    installation: Installation, clock: Clock
) -> None:
    """What no condition lets through is parked for it like all other mail."""
    office = Office(
        installation,
        clock,
        "crm",
        "rest",
        OUTPUT__CRM__WHEN='subject == "wanted"',
        MAILBOX__BOX__FALLBACK="rest",
    )
    asked: list[str] = []

    def hangs(message: Message) -> Receipt:
        asked.append(message.id)
        return Retry("it did not answer in time")

    office.desks["rest"].answer = hangs
    office.opens("rest")
    spooled(office.quay, "box", [numbered(n) for n in range(10)])

    deliver_due(office.quay)

    assert asked == []
    assert len(office.spool.parked("rest")) == 10
    office.back("rest")
    office.sweeps(3, seconds=61)
    assert len(office.desks["rest"].took) == 10


# -- what outputs answer --------------------------------------------------------------------------------------------------


def test_a_time_that_no_name_can_hold_hides_no_batch(two: Office) -> None:
    """A server that says the year 9999 is asked again after a day; a name with a longer number would be nobody's."""
    never = datetime.max.replace(tzinfo=UTC)
    two.desks["crm"].answer = lambda _: Retry("later", not_before=never)
    spooled(two.quay, "box", [numbered(0)])

    deliver_due(two.quay)
    (ticket,) = two.spool.tickets()
    two.back("crm")
    two.sweeps(2, seconds=DAY)

    assert ticket.due <= two.clock() + DAY
    assert len(two.desks["crm"].took) == 1
    assert waiting_batches(two.quay) == []


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "accepted",
        Retry("a reason that cannot be written: \udcff"),
        Retry("x" * 1_000_000),
        Retry(None),  # type: ignore[arg-type]
    ],
    ids=["nothing", "no receipt", "a broken letter", "an endless reason", "no reason"],
)
def test_an_answer_that_is_none_costs_its_own_message_a_delay_and_the_other_output_nothing(
    two: Office, answer: Any
) -> None:
    """It is no death: nothing is begun anew, set apart or handed over again."""
    two.desks["crm"].answer = lambda message: answer if b"Crate 0" in bytes(message.raw) else Accepted()
    spooled(two.quay, "box", [numbered(0), numbered(1)], size=2)

    deliver_due(two.quay)

    (batch,) = two.batches()
    assert len(two.desks["archive"].took) == 2
    assert len(batch.outputs["crm"].reason) <= 1000
    assert [entry.owed for entry in batch.entries] == [("crm",), ()]
    two.back("crm")
    two.sweeps(1)
    assert len(two.desks["crm"].took) == 2
    assert waiting_batches(two.quay) == two.spool.failed() == []


def test_a_reason_that_cannot_be_written_fails_like_any_other(two: Office) -> None:
    """Refused, for a person, with what can be read of it."""
    two.desks["crm"].answer = lambda _: Refused("no \udcff thanks")
    spooled(two.quay, "box", [numbered(0)])

    deliver_due(two.quay)

    ((_, reason),) = two.spool.failed()
    assert reason == "crm: no ? thanks"


@pytest.mark.parametrize("kind", [OSError, PermissionError, type("Homemade", (OSError,), {})])
def test_what_an_output_says_in_a_system_error_is_told_to_nobody(
    two: Office, events: Events, kind: type[OSError]
) -> None:
    """Anything may stand where the system's words belong (promise P7)."""

    def raises(message: Message) -> Receipt:
        raise kind(13, f"cannot store {message.subject}")

    two.desks["crm"].answer = raises
    spooled(two.quay, "box", [numbered(0)])

    deliver_due(two.quay)

    (batch,) = two.batches()
    assert kind.__name__ in batch.outputs["crm"].reason or "PermissionError" in batch.outputs["crm"].reason
    assert "Crate" not in str(events) + str(batch)


def test_a_name_that_cannot_be_resolved_is_told(two: Office) -> None:
    """These words are the system's own."""

    def raises(_: Message) -> Receipt:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    two.desks["crm"].answer = raises
    spooled(two.quay, "box", [numbered(0)])

    deliver_due(two.quay)

    assert two.batches()[0].outputs["crm"].reason.endswith("gaierror (Name or service not known)")


# -- batches --------------------------------------------------------------------------------------------------------------


def test_two_debts_of_one_message_in_two_deadly_batches_do_not_hide_each_other(two: Office) -> None:
    """Refused by one output, waiting for another, each cut into single messages: both are paid."""
    two.away("archive")
    two.desks["crm"].answer = lambda _: Refused("not yet")
    spooled(two.quay, "box", [numbered(0), numbered(1)], size=2)
    deliver_due(two.quay)
    two.clock.ahead += 600
    (waits,) = two.spool.tickets()
    deliver(two.quay, died_with(two.spool, waits))
    deliver_due(two.quay)
    assert {ticket.generation for ticket in two.spool.tickets()} == {1}

    two.back("crm")
    ((refused, _),) = two.spool.failed()
    deliver(two.quay, died_with(two.spool, two.spool.retry(refused)))
    two.spool.clean()
    deliver_due(two.quay)

    assert len(two.desks["crm"].took) == 2
    two.back("archive")
    two.sweeps(3, seconds=700)
    assert len(two.desks["archive"].took) == 2
    assert waiting_batches(two.quay) == two.spool.failed() == []


@pytest.mark.parametrize("first", ["archive", "crm"])
def test_a_message_that_one_output_refused_is_settled_when_all_have_it_in_whatever_order(
    installation: Installation, clock: Clock, first: str
) -> None:
    """Neither the one that is accepted late nor the one that a person retries lets the server delete it before the other."""
    office = Office(installation, clock, "archive", "crm", MAILBOX__BOX__AFTER="delete")
    office.away("archive")
    office.desks["crm"].answer = lambda _: Refused("not yet")
    spooled(office.quay, "box", [numbered(0)])
    deliver_due(office.quay)
    ((refused, _),) = office.spool.failed()

    def settled_at_once() -> bool:
        names = list(office.spool.releases("box"))
        found = [office.spool.release("box", int(name[:11]), name) for name in names]
        # A recognised one waits until nothing of the mailbox is left anywhere.
        return any(note and not note["recognised"] for note in found)

    if first == "archive":
        office.back("archive")
        office.sweeps(1)
        assert not settled_at_once()
        office.back("crm")
        office.spool.retry(refused)
        office.sweeps(1)
    else:
        office.back("crm")
        office.spool.retry(refused)
        deliver_due(office.quay)
        assert not settled_at_once()
        office.back("archive")
        office.sweeps(1)

    assert waiting_batches(office.quay) == office.spool.failed() == []
    assert not settled_at_once()
    assert office.quay.releases.waiting("box") > 0


def test_of_a_damaged_batch_only_what_is_still_owed_is_pulled_once_more(
    two: Office, installation: Installation
) -> None:
    """What every output has is not handed over again for the sake of its neighbour."""
    two.desks["crm"].answer = lambda message: (
        Retry("later") if b"Crate 2" in bytes(message.raw) else Accepted()
    )
    spooled(two.quay, "box", [numbered(n) for n in range(3)], size=3)
    deliver_due(two.quay)
    (path,) = (installation.folder / "data" / "spool" / "ready").iterdir()
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"X-Number: 2", b"X-Number: 3"))

    two.sweeps(1)

    assert [place.uid for place in two.quay.checkpoints.to_pull_again("box")] == [3]


def test_a_batch_that_is_kept_does_not_grow_with_every_try(tmp_path: Path, clock: Clock) -> None:
    """KEEP keeps the messages, not each of a hundred states."""
    spool = FileSpool(tmp_path / "spool", keep=DAY, clock=clock)
    entries = tuple(Entry(f"{number:032x}", uid=number + 1, owed=("crm",)) for number in range(64))
    batch = Batch("b" * 32, "box", "INBOX", 7, 1, entries=entries)
    with spool.new(batch) as writer:
        written = tuple(writer.add(entry, (numbered(n),)) for n, entry in enumerate(entries))
        ticket = writer.commit(batch_with(batch, written, owed=64))
    for number in range(150):
        with spool.open(ticket) as opened:
            following = batch_with(opened.batch, opened.batch.entries, owed=64 - number // 3)
            renewed = spool.again(ticket, opened, following, due=0)
        assert renewed
        ticket = renewed

    (path,) = (tmp_path / "spool" / "ready").iterdir()
    assert path.stat().st_size < 2 << 20
    with spool.open(ticket) as opened:
        assert [bytes(opened.raw(entry)) for entry in opened.batch.entries] == [
            numbered(n) for n in range(64)
        ]


def batch_with(batch: Batch, entries: Sequence[Entry], *, owed: int) -> Batch:
    changed = tuple(
        replace(entry, owed=("crm",) if number < owed else ()) for number, entry in enumerate(entries)
    )
    return replace(batch, entries=changed, generation=batch.generation + 1)


# -- order ----------------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_begun_while_somebody_looks_for_it_is_not_taken_for_gone(
    in_order: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name changes between the listing and the look; the one behind it still waits."""
    first, second = spooled(in_order.quay, "box", [numbered(0), numbered(1)])
    real = in_order.spool.open

    def begun_in_between(ticket: Ticket, **where: str) -> Any:
        if ticket == first:
            in_order.spool.begin(first)
        return real(ticket, **where)

    monkeypatch.setattr(in_order.spool, "open", begun_in_between)
    deliver(in_order.quay, second)

    assert in_order.desks["crm"].took == []
    assert len(in_order.desks["archive"].took) == 1


def test_a_batch_whose_turn_comes_while_it_looks_is_called(
    in_order: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it is concluded just between its look and its rest, and finds nobody to call."""
    first, second = spooled(in_order.quay, "box", [numbered(0), numbered(1)])
    others = in_order.installation.quay(clock=in_order.clock)
    others._outputs.update(in_order.desks)

    def meanwhile(message: Message) -> Receipt:
        in_order.back("archive")
        concluded = deliver(others, first)
        assert concluded
        assert concluded.next is None
        return Accepted()

    in_order.desks["archive"].answer = meanwhile
    delivered = deliver(in_order.quay, second)

    assert delivered
    assert delivered.next
    deliver(in_order.quay, delivered.next)
    assert len(in_order.desks["crm"].took) == 2


def test_once_hands_everything_over_in_order(
    installation: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that overtake each other leave nothing waiting for somebody to call it."""
    path = installation.folder / "crm"
    installation.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__CRM__PATH": str(path),
        "OUTPUT__CRM__ORDERED": "yes",
    }
    installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs="lines,crm")
    for name, value in installation.environ.items():
        monkeypatch.setenv(name, value)
    quay = installation.quay()
    tickets = spooled(quay, "box", [numbered(n) for n in range(60)], size=2)
    expected = []
    for ticket in tickets:
        with quay.spool.open(ticket) as opened:
            expected += [entry.id for entry in opened.batch.entries]

    totals = run(quay, [])

    assert (totals.delivered, totals.waiting) == (60, 0)
    assert [line.partition(" ")[0] for line in path.read_text().split("\n") if line] == expected


def test_a_stage_that_fails_for_one_message_lets_none_overtake_it(
    installation: Installation, clock: Clock
) -> None:
    """Not even in its own batch."""
    office = Office(
        installation,
        clock,
        "archive",
        "crm",
        OUTPUT__CRM__ORDERED="yes",
        STAGE__PICKY__TYPE="tests.faults.plugins:Picky",
        MAILBOX__BOX__STAGES="picky",
    )
    deadly = MARK + b"\r\n" + numbered(1)
    tickets = spooled(office.quay, "box", [numbered(0), deadly, numbered(2)], size=3)
    expected = ids(office, tickets)

    deliver_due(office.quay)

    assert office.desks["crm"].took == expected[:1]
    assert office.desks["archive"].took == [expected[0], expected[2]]


def test_an_output_with_an_order_that_is_away_is_found_out_by_one_mailbox_and_costs_nothing(
    in_order: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing behind its first batch is ever tried, it is parked; when it is back, all arrive, in their order."""
    in_order.away("crm")
    tickets = spooled(in_order.quay, "box", [numbered(n) for n in range(40)])
    expected = ids(in_order, tickets)
    in_order.sweeps(40)
    # The one that is asked may rest for itself.
    assert len(in_order.spool.tickets()) <= 1
    assert len(in_order.spool.parked("crm")) >= 39

    opened: list[Ticket] = []
    real = in_order.spool.open
    monkeypatch.setattr(
        in_order.spool, "open", lambda ticket, **where: opened.append(ticket) or real(ticket, **where)
    )
    in_order.sweeps(30)
    assert len(opened) <= 3 * 30
    in_order.back("crm")
    in_order.sweeps(20, seconds=61)

    assert in_order.desks["crm"].took == expected
    assert waiting_batches(in_order.quay) == []


# -- clocks and Redis -----------------------------------------------------------------------------------------------------


def test_what_was_written_while_the_clock_was_years_ahead_does_not_wait_for_years(two: Office) -> None:
    """New mail, a batch that was tried, one that is parked and its circuit: all go on when the clock is right again."""
    two.clock.ahead = YEAR
    two.away("crm")
    spooled(two.quay, "box", [numbered(n) for n in range(8)])
    two.sweeps(2)
    spooled(two.quay, "box", [numbered(9)], first=10)

    two.clock.ahead = 0
    two.back("crm")
    two.sweeps(5)

    assert len(two.desks["crm"].took) == len(two.desks["archive"].took) == 9
    assert waiting_batches(two.quay) == []


def test_a_time_that_comes_while_a_batch_is_looked_at_is_no_error(
    two: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One output is away and the other due in a moment, and just then Redis takes its time."""
    two.away("crm")
    soon = datetime.fromtimestamp(two.clock() + 30, UTC)
    two.desks["archive"].answer = lambda _: Retry("in half a minute", not_before=soon)
    spooled(two.quay, "box", [numbered(0)])
    deliver_due(two.quay)
    two.clock.ahead += 4
    two.opens("crm")
    (ticket,) = two.spool.tickets()
    monkeypatch.setattr(two.quay, "circuits", Slow(two.quay.circuits, two.clock))

    deliver(two.quay, ticket)

    assert [(one.attempts, one.messages) for one in waiting_batches(two.quay)] == [(0, 1)]


class Slow:
    """Circuits whose answers take a minute."""

    def __init__(self, circuits: Any, clock: Clock) -> None:
        self._circuits = circuits
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        def slowly(*words: Any, **more: Any) -> Any:
            found = getattr(self._circuits, name)(*words, **more)
            self._clock.ahead += 60
            return found

        return slowly


def test_what_outputs_answered_counts_when_redis_goes_away_behind_it(
    two: Office, fresh_valkey: Valkey
) -> None:
    """They are not asked once more for what was only missing from a count of failures."""

    def stops(_: Message) -> Receipt:
        fresh_valkey.stop()
        return Accepted()

    two.desks["crm"].answer = stops
    (ticket,) = spooled(two.quay, "box", [numbered(0)])
    delivered = deliver(two.quay, ticket)
    fresh_valkey.start()
    two.quay.client.delete(f"mailquay:lease:batch:{ticket.batch}")
    two.back("crm")
    two.sweeps(5)

    assert delivered
    assert "Redis" in delivered.trouble
    assert [len(desk.took) for desk in two.desks.values()] == [1, 1]
    assert waiting_batches(two.quay) == []


def test_a_spool_that_cannot_be_changed_for_a_while_sets_no_message_aside(
    two: Office, installation: Installation
) -> None:
    """It is the disk's fault, so no attempt is counted; a message that is tried three times in vain is no deadly one."""
    in_the_way = installation.folder / "data" / "spool" / "parked" / "crm"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    two.opens("crm")
    two.away("crm")
    spooled(two.quay, "box", [numbered(0)])

    for _ in range(5):
        deliver_due(two.quay)
        two.clock.ahead += 1
        two.opens("crm")
        two.clock.ahead += 31

    assert [(ticket.attempts, ticket.messages) for ticket in two.spool.tickets()] == [(0, 1)]
    assert two.spool.failed() == []
    in_the_way.unlink()
    two.back("crm")
    two.sweeps(10)
    assert [len(desk.took) for desk in two.desks.values()] == [1, 1]
