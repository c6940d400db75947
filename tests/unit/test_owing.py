"""What a batch still owes: receipts in, the next step out, with nothing forgotten on the way."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pipelines.output import Accepted, Receipt, Refused, Retry
from worker.owing import RETRY_FOR_SECONDS, Owing, Receipts, outputs_due, owing
from worker.spool import Batch, Entry, OutputState

NOW = 1_800_000_000.0
OUTPUTS = ("archive", "crm", "tickets")


def batch(*entries: Entry, **outputs: OutputState) -> Batch:
    return Batch("b", "support", "INBOX", 1, entries=entries, outputs=outputs)


def after(found: Batch, receipts: Receipts, now: float = NOW) -> Owing:
    return owing(found, receipts, now=now, jitter=lambda: 1.0)


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
    still = [(entry.id, output) for entry in follows.again for output in entry.owed]
    assert sorted([*paid, *failed, *still]) == sorted(debts)
    assert follows.accepted == len(paid)
    assert {entry.id for entry in follows.done} == {
        entry.id for entry in found.entries if all((entry.id, output) in paid for output in entry.owed)
    }


def test_an_output_that_is_down_is_asked_ever_more_rarely_up_to_ten_minutes() -> None:
    """From a second, doubled each time; the batch is due when the first of its outputs is."""
    waits = []
    state = OutputState()
    for _ in range(40):
        follows = after(batch(Entry("a", owed=("crm",)), crm=state), {("a", "crm"): Retry("refused")})
        state = follows.outputs["crm"]
        waits.append(follows.due - NOW)

    assert waits[:5] == [2, 3, 5, 9, 17]
    assert waits[-1] == 601
    assert (state.attempts, state.reason) == (40, "refused")


def test_a_time_that_the_output_asked_for_is_kept() -> None:
    """Retry-After beats our own back-off."""
    later = datetime.fromtimestamp(NOW + 3600, UTC)

    follows = after(batch(Entry("a", owed=("crm",))), {("a", "crm"): Retry("throttled", not_before=later)})

    assert follows.due == NOW + 3601


def test_an_output_that_is_not_due_is_not_asked_and_keeps_its_time() -> None:
    """A slow output waits by itself; what others owe does not wait for it, and its back-off does not start anew."""
    down = OutputState(attempts=5, due=int(NOW) + 400, since=int(NOW) - 90, reason="refused")
    found = batch(Entry("a", owed=("archive", "crm")), crm=down)

    assert outputs_due(found, NOW) == ["archive"]
    follows = after(found, {("a", "archive"): Accepted()})

    assert follows.again == (Entry("a", owed=("crm",)),)
    assert follows.outputs == {"crm": down}
    assert follows.due == down.due
    sooner = after(found, {("a", "archive"): Retry("busy")})
    assert sooner.outputs["crm"] == down
    assert sooner.due == sooner.outputs["archive"].due < down.due


def test_what_is_not_accepted_in_three_days_waits_for_a_person() -> None:
    """The reason says how long it was tried, and what the output said last."""
    state = OutputState(attempts=400, since=int(NOW))
    found = batch(Entry("a", owed=("crm",)), crm=state)
    receipts = {("a", "crm"): Retry("the server answered 503")}

    in_time = after(found, receipts, NOW + RETRY_FOR_SECONDS)
    too_late = after(found, receipts, NOW + RETRY_FOR_SECONDS + 1)

    assert in_time.failures == ()
    assert [(failure.output, failure.reason) for failure in too_late.failures] == [
        ("crm", "not accepted in 3 days: the server answered 503")
    ]
    assert too_late.again == ()


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

    assert [entry.id for entry in follows.done] == ["b"]
    assert [(entry.id, entry.owed) for entry in follows.again] == [("a", ("archive",))]
    assert [failure.entry.id for failure in follows.failures] == ["a"]
