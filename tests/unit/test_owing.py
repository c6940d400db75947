"""What a batch still owes: receipts in, the next step out, with nothing forgotten on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipelines.output import Accepted, Receipt, Refused, Retry
from worker.owing import RETRY_FOR, Owing, Receipts, Terms, outputs_due, owing
from worker.spool import Batch, Entry, Event, OutputState

NOW = 1_800_000_000.0
OUTPUTS = ("archive", "crm", "tickets")


def batch(*entries: Entry, **outputs: OutputState) -> Batch:
    return Batch("b", "support", "INBOX", 1, entries=entries, outputs=outputs)


RETRY_FOR_SECONDS = RETRY_FOR.total_seconds()


def after(
    found: Batch, receipts: Receipts, now: float = NOW, *, chance: float = 1.0, terms: Terms | None = None
) -> Owing:
    return owing(found, receipts, now=now, chance=lambda: chance, terms=terms or Terms())


def again(follows: Owing) -> tuple[Entry, ...]:
    """The messages that still owe something."""
    return follows.batch.owing


def due(follows: Owing) -> int:
    """When the batch is due again."""
    return min(state.due for state in follows.batch.outputs.values())


receipts_of_any_kind = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(OUTPUTS)),
    st.sampled_from([Accepted(), Refused("no such customer"), Retry("busy")]),
)


@given(
    owed=st.lists(st.lists(st.sampled_from(OUTPUTS), unique=True, min_size=1), min_size=1, max_size=4),
    receipts=receipts_of_any_kind,
)
def test_every_debt_is_paid_still_owed_or_failed(
    owed: list[list[str]], receipts: dict[tuple[str, str], Receipt]
) -> None:
    """Promise P2 for any answers: no pair of message and output gets lost, and none counts twice."""
    found = batch(*(Entry("abcd"[n], owed=tuple(names)) for n, names in enumerate(owed)))

    follows = after(found, receipts)

    debts = {(entry.id, output) for entry in found.entries for output in entry.owed}
    paid = {debt for debt in debts if isinstance(receipts.get(debt), Accepted)}
    failed = [(failure.entry.id, failure.output) for failure in follows.failures]
    still = [(entry.id, output) for entry in again(follows) for output in entry.owed]
    assert sorted([*paid, *failed, *still]) == sorted(debts)
    assert follows.accepted == len(paid)
    assert [(entry.id, output) for entry in follows.batch.entries for output in entry.accepted] == [
        debt for entry in found.entries for output in entry.owed if (debt := (entry.id, output)) in paid
    ]


def test_an_output_that_is_down_is_asked_ever_more_rarely_up_to_ten_minutes() -> None:
    """From two seconds, doubled each time; the batch is due when the first of its outputs is."""
    waits = []
    state = OutputState()
    for _ in range(40):
        follows = after(batch(Entry("a", owed=("crm",)), crm=state), {("a", "crm"): Retry("refused")})
        state = follows.states["crm"]
        waits.append(due(follows) - NOW)

    assert waits[:5] == [3, 5, 9, 17, 33]
    assert waits[-1] == 601
    assert (state.attempts, state.reason) == (40, "refused")


def test_a_time_that_the_output_asked_for_is_kept() -> None:
    """Retry-After beats our own back-off."""
    later = datetime.fromtimestamp(NOW + 3600, UTC)

    follows = after(batch(Entry("a", owed=("crm",))), {("a", "crm"): Retry("throttled", not_before=later)})

    assert due(follows) == NOW + 3601


def test_an_output_that_is_not_due_is_not_asked_and_keeps_its_time() -> None:
    """A slow output waits by itself; what others owe does not wait for it, and its back-off does not start anew."""
    down = OutputState(attempts=5, due=int(NOW) + 400, since=int(NOW) - 90, reason="refused")
    found = batch(Entry("a", owed=("archive", "crm")), crm=down)

    assert outputs_due(found, NOW) == ["archive"]
    follows = after(found, {("a", "archive"): Accepted()})

    assert again(follows) == (Entry("a", owed=("crm",), accepted=("archive",)),)
    assert follows.batch.outputs == {"crm": down}
    assert due(follows) == down.due
    sooner = after(found, {("a", "archive"): Retry("busy")})
    assert sooner.states["crm"] == down
    assert due(sooner) == sooner.states["archive"].due < down.due


def test_what_is_not_accepted_in_three_days_waits_for_a_person() -> None:
    """The reason says how long it was tried, and what the output said last."""
    state = OutputState(attempts=400, since=int(NOW))
    found = batch(Entry("a", owed=("crm",)), crm=state)
    receipts = {("a", "crm"): Retry("the server answered 503")}

    in_time = after(found, receipts, NOW + RETRY_FOR_SECONDS)
    too_late = after(found, receipts, NOW + RETRY_FOR_SECONDS + 1)

    assert in_time.failures == ()
    assert [(failure.output, failure.reason) for failure in too_late.failures] == [
        ("crm", "not accepted in 3d: the server answered 503")
    ]
    assert again(too_late) == ()


def test_a_refused_message_does_not_hold_up_its_neighbours() -> None:
    """One message fails at one output; the other output keeps its copy, the other message is done."""
    found = batch(Entry("a", owed=("archive", "crm")), Entry("b", owed=("archive", "crm")))
    receipts = {
        ("a", "archive"): Retry("busy"),
        ("a", "crm"): Refused("too large"),
        ("b", "archive"): Accepted(),
        ("b", "crm"): Accepted(),
    }

    follows = after(found, receipts)

    assert [(entry.id, entry.owed) for entry in again(follows)] == [("a", ("archive",))]
    assert [failure.entry.id for failure in follows.failures] == ["a"]


def test_what_failed_together_does_not_come_back_together() -> None:
    """Full jitter: the wait is anything from nothing to all of it."""
    state = OutputState(attempts=7, since=int(NOW))
    found = batch(Entry("a", owed=("crm",)), crm=state)

    waits = [due(after(found, {("a", "crm"): Retry("x")}, chance=chance)) - NOW for chance in (0.0, 0.5, 1.0)]

    assert waits == [1, 129, 257]


def test_each_output_has_a_time_of_its_own() -> None:
    """RETRY_FOR of one output gives a message up that the other one still waits for."""
    states = {name: OutputState(attempts=3, since=int(NOW) - 100) for name in ("archive", "crm")}
    found = batch(Entry("a", owed=("archive", "crm")), **states)
    receipts = {("a", name): Retry("busy") for name in ("archive", "crm")}

    follows = after(found, receipts, terms=Terms({"crm": timedelta(seconds=90)}))

    assert [(failure.output, failure.reason) for failure in follows.failures] == [
        ("crm", "not accepted in 90s: busy")
    ]
    assert again(follows) == (Entry("a", owed=("archive",), elsewhere=("crm",)),)


def test_what_an_output_refuses_is_owed_to_the_fallback_instead() -> None:
    """FALLBACK gets it at once; only what it refuses itself waits for a person."""
    terms = Terms(fallback="rest")
    found = batch(Entry("a", owed=("archive", "crm")))

    follows = after(found, {("a", "archive"): Accepted(), ("a", "crm"): Refused("too large")}, terms=terms)

    assert follows.failures == ()
    assert again(follows) == (Entry("a", owed=("rest",), accepted=("archive",)),)
    assert due(follows) == 0
    refused = after(follows.batch, {("a", "rest"): Refused("full")}, terms=terms)
    assert [failure.output for failure in refused.failures] == ["rest"]
    assert again(refused) == ()


def test_a_fallback_that_has_the_message_already_gets_it_once() -> None:
    """It may be one of the outputs of the mailbox itself."""
    terms = Terms(fallback="archive")
    found = batch(Entry("a", owed=("archive", "crm")))

    follows = after(found, {("a", "archive"): Accepted(), ("a", "crm"): Refused("too large")}, terms=terms)

    assert (follows.failures, again(follows)) == ((), ())


def test_the_history_says_what_happened_and_stays_short() -> None:
    """A hundred equal answers are one event with a number; different ones are kept up to fifty."""
    found = batch(Entry("a", owed=("crm",)), Entry("b", owed=("crm",)))
    for number in range(100):
        found = after(found, {("a", "crm"): Retry("busy"), ("b", "crm"): Retry("busy")}, NOW + number).batch

    assert found.history == (Event("crm", "retry", 2, int(NOW), int(NOW) + 99, 100, "busy"),)
    for number in range(100):
        found = after(found, {("a", "crm"): Retry(f"busy {number}")}, NOW + number).batch
    assert len(found.history) == 50
    found = after(found, {("a", "crm"): Accepted()}).batch
    assert (found.history[-1].what, found.history[-1].messages) == ("accepted", 1)
