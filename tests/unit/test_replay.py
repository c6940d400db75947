"""Replaying: what was delivered comes again, under the ids it had, in order, and to nobody who did not ask."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bed.batches import spooled
from tests.bed.clock import Clock
from tests.bed.errands import deliver_due
from tests.bed.installation import Installation, numbered
from worker.errors import Misconfigured
from worker.quay import Quay
from worker.replay import Wish, again, chosen, replay
from worker.spool import Batch, Entry, Ticket

COUNT = 12
NOW = time.time()
HOUR = 3600.0


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """A mailbox with two outputs, of which `crm` writes down each time that it gets something."""
    installation.environ |= {
        "KEEP": "7d",
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__CRM__PATH": str(installation.folder / "crm"),
    }
    installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs="lines,crm")
    return installation


def delivered(
    quay: Quay, count: int = COUNT, *, size: int = 3, mailbox: str = "box", first: int = 1
) -> list[str]:
    """Messages that all outputs have taken, and their ids in the order in which they were pulled."""
    ids = ids_in(quay, spooled(quay, mailbox, [numbered(n) for n in range(count)], size=size, first=first))
    deliver_due(quay)
    assert quay.spool.tickets() == []
    return ids


def ids_in(quay: Quay, tickets: list[Ticket]) -> list[str]:
    """The messages in these batches."""
    ids: list[str] = []
    for ticket in tickets:
        with quay.spool.open(ticket) as opened:
            ids += [entry.id for entry in opened.batch.entries]
    return ids


def taken(installation: Installation) -> list[str]:
    """The ids that `crm` took, in order."""
    path = installation.folder / "crm"
    text = path.read_text() if path.exists() else ""
    return [line.partition(" ")[0] for line in text.split("\n") if line]


def wish(*outputs: str, since: float = NOW - HOUR, until: float = NOW + 9 * HOUR, **more: object) -> Wish:
    return Wish(frozenset({"box"}), outputs or ("crm",), since, until, **more)  # type: ignore[arg-type]


def ago(hours: float) -> str:
    return datetime.fromtimestamp(time.time() - hours * HOUR, UTC).isoformat()


# -- what is sent again ----------------------------------------------------------------------------------------------


def test_one_output_gets_everything_again_under_the_same_ids_and_in_order(ours: Installation) -> None:
    """The other one gets nothing; what is kept stays as it was, and a replay is not kept once more."""
    quay = ours.quay()
    ids = delivered(quay)
    kept = quay.spool.kept()

    done = replay(quay, wish())
    in_order = ids_in(quay, sorted(quay.spool.tickets(), key=lambda ticket: ticket.sequence))
    deliver_due(quay)

    assert (done.messages, done.batches, done.damaged, done.left) == (COUNT, COUNT // 3, [], 0)
    assert in_order == ids
    assert sorted(taken(ours)) == sorted([*ids, *ids])
    assert len(ours.lines()) == COUNT
    assert quay.spool.tickets() == quay.spool.failed() == []
    assert quay.spool.kept() == kept


def test_a_replayed_batch_tells_that_it_was_replayed(ours: Installation) -> None:
    """It owes just what was asked for, and its RETRY_FOR begins anew."""
    quay = ours.quay()
    delivered(quay, 3)

    replay(quay, wish("lines", "crm"))

    (ticket,) = quay.spool.tickets()
    with quay.spool.open(ticket) as opened:
        batch = opened.batch
        assert bytes(opened.raw(batch.entries[0])) == numbered(0)
    assert [entry.owed for entry in batch.entries] == [("lines", "crm")] * 3
    assert [(event.output, event.what, event.messages) for event in batch.history] == [
        ("lines", "replayed", 3), ("crm", "replayed", 3),
    ]  # fmt: skip
    assert batch.replayed
    assert batch.created >= int(NOW)


def test_a_time_is_that_of_the_last_output(ours: Installation, clock: Clock) -> None:
    """From and until are the moments at which a batch was done."""
    quay = ours.quay(clock=clock)
    first = delivered(quay, 3)
    clock.ahead = 2 * HOUR
    second = delivered(quay, 3, first=10)
    clock.ahead = 4 * HOUR

    assert replay(quay, wish(since=NOW + HOUR), dry_run=True).messages == 3
    assert replay(quay, wish(until=NOW + HOUR), dry_run=True).messages == 3
    assert replay(quay, wish(since=NOW + 3 * HOUR), dry_run=True).messages == 0
    replay(quay, wish(since=NOW + HOUR))
    deliver_due(quay)
    assert taken(ours) == [*first, *second, *second]


def test_single_messages_are_found_by_their_ids(ours: Installation) -> None:
    """Those that are not there are named."""
    quay = ours.quay()
    ids = delivered(quay)

    done = replay(quay, wish(messages=frozenset({ids[4], ids[5], "f" * 32})))
    deliver_due(quay)

    assert (done.messages, done.missing) == (2, {"f" * 32})
    assert taken(ours)[COUNT:] == ids[4:6]


def test_a_new_output_gets_what_was_delivered_before_it_was_there(ours: Installation) -> None:
    """As soon as the mailbox names it."""
    ours.environ["MAILBOX__BOX__OUTPUTS"] = "lines"
    ids = delivered(ours.quay())
    with pytest.raises(Misconfigured, match=r"MAILBOX__BOX__OUTPUTS"):
        replay(ours.quay(), wish())
    ours.environ["MAILBOX__BOX__OUTPUTS"] = "lines,crm"
    quay = ours.quay()

    replay(quay, wish())
    deliver_due(quay)

    assert sorted(taken(ours)) == sorted(ids)


def test_a_message_that_lies_in_several_kept_batches_comes_once(ours: Installation) -> None:
    """Such as one that a crash had pulled twice, or that was retried from `failed`."""
    quay = ours.quay()
    ids = delivered(quay, 4, size=4)
    delivered(quay, 6, size=2)

    done = replay(quay, wish())

    assert (done.messages, done.batches) == (6, 2)
    entries = ids_in(quay, sorted(quay.spool.tickets(), key=lambda ticket: ticket.sequence))
    assert entries[:4] == ids
    assert len(entries) == len(set(entries)) == 6


def test_a_condition_counts_for_a_replay_as_well_and_the_fallback_gets_nothing_of_it(
    ours: Installation,
) -> None:
    """Whom the mail is for has not changed because it comes again."""
    quay = ours.quay()
    ids = delivered(quay, 3, size=1)
    ours.environ |= {
        "OUTPUT__CRM__WHEN": 'subject == "Crate 1"',
        "OUTPUT__REST__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__REST__PATH": str(ours.folder / "rest"),
        "MAILBOX__BOX__FALLBACK": "rest",
    }
    quay = ours.quay()

    replay(quay, wish())
    deliver_due(quay)

    assert taken(ours)[3:] == [ids[1]]
    assert not (ours.folder / "rest").exists()
    # Asked for itself, it gets what it would get today: `lines` wants everything, so nothing.
    replay(quay, wish("rest"))
    deliver_due(quay)
    assert not (ours.folder / "rest").exists()
    ours.environ["MAILBOX__BOX__OUTPUTS"] = "crm"
    quay = ours.quay()
    replay(quay, wish("rest"))
    deliver_due(quay)
    assert (ours.folder / "rest").read_text().count("\n") == 2


def test_what_a_replay_is_refused_waits_for_a_person_and_goes_to_no_fallback(ours: Installation) -> None:
    """It was asked for by a person, who finds it in `failed`; the fallback was not asked for."""
    quay = ours.quay()
    delivered(quay, 3)
    ours.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Refuser",
        "OUTPUT__REST__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__REST__PATH": str(ours.folder / "rest"),
        "MAILBOX__BOX__FALLBACK": "rest",
    }
    quay = ours.quay()

    replay(quay, wish())
    deliver_due(quay)

    ((ticket, reason),) = quay.spool.failed()
    assert (ticket.messages, reason) == (3, "crm: it wants nothing")
    assert not (ours.folder / "rest").exists()


def test_a_replay_changes_nothing_on_the_mail_server(ours: Installation) -> None:
    """AFTER may have been `keep` when the message was handed over."""
    quay = ours.quay()
    delivered(quay)
    ours.environ["MAILBOX__BOX__AFTER"] = "delete"
    quay = ours.quay()

    replay(quay, wish())
    deliver_due(quay)

    assert len(taken(ours)) == 2 * COUNT
    assert quay.releases.waiting("box") == 0
    delivered(quay, 3, first=50)
    assert quay.releases.waiting("box") == 3


# -- what is refused, and what is told -------------------------------------------------------------------------------


def test_wishes_that_mean_nothing_are_refused(ours: Installation) -> None:
    """An unknown output, an unknown mailbox, and mail that was never kept; each with what to do."""
    quay = ours.quay()
    for wrong, told in (
        (wish("crn"), "crm, lines, post"),
        (wish("post"), "MAILBOX__BOX__OUTPUTS"),
        (replace(wish(), mailboxes=frozenset({"bix"})), "box"),
    ):
        with pytest.raises(Misconfigured, match=told):
            replay(quay, wrong)
    del ours.environ["KEEP"]
    with pytest.raises(Misconfigured, match="KEEP=7d"):
        replay(ours.quay(), wish())


def test_what_is_on_its_way_or_damaged_is_told(ours: Installation) -> None:
    """Neither is replayed, and the others are: a cut batch, one whose bytes are others, and one that is not done."""
    quay = ours.quay()
    delivered(quay)
    waits = spooled(quay, "box", [numbered(n) for n in range(2)], first=90, size=2)
    cut, changed, *_ = quay.spool.kept()
    (folder,) = (ours.folder / "data" / "spool" / "kept").iterdir()
    whole = (folder / str(cut)).read_bytes()
    (folder / str(cut)).write_bytes(whole[: len(whole) // 2])
    whole = (folder / str(changed)).read_bytes()
    (folder / str(changed)).write_bytes(whole.replace(b"xxxxxx", b"yxxxxx", 1))

    done = replay(quay, wish())

    assert (done.messages, len(done.damaged), done.left) == (COUNT - 6, 2, 2)
    assert all("Check the disk" in sentence for sentence in done.damaged)
    assert len(quay.spool.tickets()) == (COUNT - 6) // 3 + len(waits)


def test_a_full_spool_stops_it_and_says_so(ours: Installation) -> None:
    """What was spooled is on its way; begun again, it goes on."""
    delivered(ours.quay())

    clock = Clock()
    quay = ours.quay(clock=clock, SPOOL_MAX="1B")

    def later(*_: int) -> None:
        # What waits is measured once a second.
        clock.ahead += 2

    done = replay(quay, wish(), show=later)

    assert done.messages == 3
    assert "SPOOL_MAX" in done.stopped
    deliver_due(quay)
    assert len(taken(ours)) == COUNT + 3


# -- begun again -----------------------------------------------------------------------------------------------------


def test_begun_again_it_leaves_alone_what_still_waits(ours: Installation) -> None:
    """The same batch is not there twice; what was handed over comes again with the ids it always had."""
    quay = ours.quay()
    ids = delivered(quay)
    replay(quay, wish(messages=frozenset(ids[:3])))

    done = replay(quay, wish())

    assert (done.messages, done.waiting, done.left) == (COUNT - 3, 3, 0)
    deliver_due(quay)
    assert sorted(taken(ours)) == sorted([*ids, *ids])


@pytest.mark.parametrize("after", [1, 3])
def test_killed_at_any_batch_and_begun_again_nothing_is_missing(ours: Installation, after: int) -> None:
    """Each batch is durable before the next, so what a killed replay had spooled is delivered, and the rest comes then."""
    quay = ours.quay()
    ids = delivered(quay)
    code = (
        "import os, signal, sys, worker.replay as r\n"
        "from worker.cli import main\n"
        "real, count = r._spool, [0]\n"
        "def spool(*a):\n"
        "    real(*a)\n"
        "    count[0] += 1\n"
        f"    if count[0] == {after}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "r._spool = spool\n"
        "main(['replay', '--mailbox', 'box', '--since', '1h', '--output', 'crm'])\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=ours.folder, env=ours.full_environ(), check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(quay.spool.tickets()) == after

    again_ = ours.run("replay", "--mailbox", "box", "--since", "1h", "--output", "crm", "--json")

    assert orjson.loads(again_.stdout)["waiting"] == 3 * after
    deliver_due(quay)
    assert sorted(taken(ours)) == sorted([*ids, *ids])


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(ours: Installation) -> None:
    """In one sentence or one object; a dry run does nothing."""
    quay = ours.quay()
    ids = delivered(quay)
    words = ("replay", "--mailbox", "box", "--output", "crm", "--since", "2h")

    dry = ours.run(*words, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith(f"{COUNT} messages in {COUNT // 3} batches (")
    assert dry.stdout.endswith("to be sent again to crm\n")
    assert quay.spool.tickets() == []

    done = ours.run(*words, "--message", ids[0].upper(), "--json")
    line = orjson.loads(done.stdout)
    assert done.returncode == 0
    assert (line["messages"], line["batches"], line["dry_run"], line["missing"]) == (1, 1, False, [])
    assert len(quay.spool.tickets()) == 1


def test_the_command_ends_with_1_when_there_was_nothing(ours: Installation) -> None:
    """And says since when there is something; what is wrongly said ends with 2."""
    quay = ours.quay()
    words = ("replay", "--mailbox", "box", "--output", "crm")
    empty = ours.run(*words, "--since", "2h")
    assert empty.returncode == 1
    assert "nothing of these mailboxes is kept; KEEP is 7d" in empty.stderr
    delivered(quay, 3)

    early = ours.run(*words, "--since", ago(5), "--until", ago(3))
    assert early.returncode == 1
    assert "the oldest that is kept was done 20" in early.stderr
    for wrong in (("--since", "soon"), ("--since", "1h", "--until", "2h"), ()):
        assert ours.run(*words, *wrong).returncode == 2
    assert ours.run("replay", "--mailbox", "box", "--output", "crn", "--since", "1h").returncode == 1
    missing = ours.run(*words, "--since", "1h", "--message", "f" * 32)
    assert missing.returncode == 1
    assert f"no message {'f' * 32} is kept" in missing.stderr


def test_on_a_terminal_there_is_a_bar(ours: Installation) -> None:
    """Of all kept batches of that time."""
    delivered(ours.quay())
    ours.environ |= {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}

    result = ours.run("replay", "--mailbox", "box", "--output", "crm", "--since", "2h")

    assert "━" in result.stderr
    assert f"{COUNT // 3}/{COUNT // 3}" in result.stderr


# -- the choice ------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from(["box", "shop"]), st.integers(0, 100), st.integers(0, 100)), max_size=20
    ),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_the_choice_is_by_mailbox_and_time_and_in_the_order_of_pulling(
    rows: list[tuple[str, int, int]], since: int, until: int
) -> None:
    """Nothing else decides."""
    kept = [Ticket(f"{n:032x}", box, 1, due, sequence=at) for n, (box, due, at) in enumerate(rows)]

    found = chosen(kept, wish(since=since, until=until))

    assert set(found) == {one for one in kept if one.mailbox == "box" and since <= one.due <= until}
    assert [one.sequence for one in found] == sorted(one.sequence for one in found)


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.sets(st.sampled_from("abcdef")), st.booleans())
def test_a_batch_again_owes_exactly_what_was_wished_for(ids: list[str], seen: set[str], some: bool) -> None:
    """Every message that was not seen before, none twice, and under the same name for the same messages."""
    batch = Batch("0" * 32, "box", "INBOX", 7, generation=4, entries=tuple(Entry(one) for one in ids))
    asked = wish("crm", "lines", messages=frozenset("abc") if some else frozenset())

    made = again(batch, asked, seen)

    wanted = [one for one in ids if one not in seen and (not some or one in "abc")]
    assert [entry.id for entry in made.entries] == wanted if made else wanted == []
    if made:
        assert all(entry.owed == ("crm", "lines") for entry in made.entries)
        assert made.id != batch.id
        assert again(replace(batch, generation=9), asked, seen) == made
        other = replace(asked, outputs=("crm",))
        assert (found := again(batch, other, seen))
        assert found.id != made.id
