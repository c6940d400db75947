"""The sweep: what was lost between Redis, beat and a worker that died is rung for again."""

from __future__ import annotations

from dataclasses import replace

from tests.bed.installation import Installation
from worker.quay import Quay
from worker.spool import Batch, Entry, Ticket
from worker.sweep import Swept, sweep
from worker.timetable import ALERT, KEEP_ALIVE, SWEEP

NOW = 1_800_000_000.0


class Sweeping:
    """One sweep at a given time, with what it rang for."""

    def __init__(self, quay: Quay, now: float) -> None:
        quay.clock = lambda: now
        self.batches: list[Ticket] = []
        self.mailboxes: list[str] = []
        self.result = sweep(quay, ring=self.batches.append, ring_pull=self.mailboxes.append)


def put(quay: Quay, name: str, *, due: int, generation: int = 0) -> Ticket:
    plan = Batch(name * 32, "box", "INBOX", 7, int(NOW), generation)
    with quay.spool.new(plan) as writer:
        entry = writer.add(Entry("x", owed=("lines",)), (b"raw",))
        return writer.commit(replace(plan, entries=(entry,)), due=due)


def test_batches_that_are_due_are_rung_for_and_others_wait(installation: Installation) -> None:
    """A bell that Redis lost, a batch whose back-off is over, and one whose time has not come."""
    quay = installation.quay()
    due = put(quay, "a", due=int(NOW))
    later = put(quay, "b", due=int(NOW) + 60)

    assert Sweeping(quay, NOW).batches == [due]
    assert Sweeping(quay, NOW).result == Swept(batches=1, waiting=2)
    assert Sweeping(quay, NOW + 60).batches == [due, later]


def test_a_batch_whose_deliverer_died_is_rung_for_under_its_new_name(installation: Installation) -> None:
    """Its attempt was counted in the name; the old name would find nothing."""
    quay = installation.quay()
    begun = quay.spool.begin(put(quay, "a", due=int(NOW)))
    assert begun

    assert Sweeping(quay, NOW).batches == [begun]


def test_mailboxes_whose_bell_nobody_answered_are_rung_for_after_two_minutes(
    installation: Installation,
) -> None:
    """And not again for another two; the sweep's own bell and the keep-alive's are not mailboxes."""
    quay = installation.quay()
    quay.timetable.sync(
        {"pull:box": 3600.0, "pull:done": 3600.0, SWEEP: 60.0, KEEP_ALIVE: 60.0, ALERT: 60.0}, NOW
    )
    quay.timetable.claim(NOW)
    quay.timetable.answered("pull:done")

    assert Sweeping(quay, NOW + 119).mailboxes == []
    assert Sweeping(quay, NOW + 121).mailboxes == ["box"]
    assert Sweeping(quay, NOW + 200).mailboxes == []
    assert Sweeping(quay, NOW + 250).mailboxes == ["box"]
    assert quay.timetable.unanswered()[0].first == NOW


def test_what_is_left_over_is_cleaned(installation: Installation) -> None:
    """An older generation of a batch, whose newer one was written before a crash."""
    quay = installation.quay()
    put(quay, "a", due=int(NOW))
    newer = put(quay, "a", due=int(NOW), generation=1)

    swept = Sweeping(quay, NOW)

    assert (swept.batches, swept.result.cleaned) == ([newer], 1)
