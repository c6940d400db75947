"""Mail that a stage drops on purpose is counted and told, mail that a stage cannot handle stops alone."""

from __future__ import annotations

import time

import orjson

from pipelines.parse import parse
from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import Events, of
from worker.demo.harbour import BOB


def subjects(installation: Installation) -> list[str]:
    return sorted(line["subject"] for line in installation.lines())


def test_what_a_filter_drops_is_counted_and_logged_without_a_word_of_it(
    installation: Installation, dovecot: Dovecot, events: Events
) -> None:
    """Nothing is thrown away silently: which message of which mailbox, and which stage it was."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *map(numbered, range(5)))
    installation.on_dovecot("box", dovecot, BOB, stages="gate")
    installation.environ |= {
        "STAGE__GATE__TYPE": "filter",
        "STAGE__GATE__DROP": 'subject in ["Crate 1", "Crate 3"]',
    }
    quay = installation.quay()

    flow(quay, "box")

    assert subjects(installation) == ["Crate 0", "Crate 2", "Crate 4"]
    assert len(installation.posted()) == 3
    told = of(events, "deliver.dropped")
    assert [(event["mailbox"], event["stage"]) for event in told] == [("box", "gate")] * 2
    assert not {event["message"] for event in told} & {line["id"] for line in installation.lines()}
    (finished,) = of(events, "deliver.finished")
    # Three messages for two outputs.
    assert [finished[key] for key in ("done", "dropped", "accepted", "again", "failed")] == [3, 2, 6, 0, 0]
    standing = quay.standings.of("box")
    assert (standing.pulled, standing.delivered, standing.dropped) == (5, 3, 2)
    assert not any(word in str(events) for word in ("Crate 1", "Crate 3"))
    assert quay.spool.tickets() == []


def test_status_and_once_show_what_was_dropped(installation: Installation, dovecot: Dovecot) -> None:
    """A person who misses a message finds out where it went."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *map(numbered, range(3)))
    installation.on_dovecot("box", dovecot, BOB, stages="gate")
    installation.environ |= {"STAGE__GATE__TYPE": "filter", "STAGE__GATE__KEEP": 'subject == "Crate 1"'}

    once = installation.run("once")
    status = installation.run("status", COLUMNS="200")
    as_json = orjson.loads(installation.run("status", "--json").stdout)

    assert "3 pulled, 1 delivered, 2 dropped by stages, 0 waiting, 0 failed" in once.stdout, once.stderr
    assert "dropped" in status.stdout
    assert [box["dropped"] for box in as_json["mailboxes"]] == [2]


def test_a_message_that_waits_for_one_output_is_no_copy_of_itself(
    installation: Installation, dovecot: Dovecot, events: Events
) -> None:
    """It passes `dedupe` again at each attempt, while a copy of it in the same mailbox is dropped."""
    letter = b"Message-ID: <crate@example.com>\r\n" + numbered(0)
    dovecot.forget(BOB)
    dovecot.save(BOB, letter, letter)
    installation.on_dovecot("box", dovecot, BOB, stages="seen", outputs="lines,late")
    installation.environ |= {
        "STAGE__SEEN__TYPE": "dedupe",
        "STAGE__SEEN__PATH": str(installation.folder / "seen.sqlite"),
        "OUTPUT__LATE__TYPE": "tests.faults.plugins:Latecomer",
        "OUTPUT__LATE__PATH": str(installation.folder / "late"),
    }
    ahead = 0.0
    quay = installation.quay(clock=lambda: time.time() + ahead)

    flow(quay, "box")
    assert len(quay.spool.tickets()) == 1
    ahead = 60.0
    deliver_due(quay)

    assert quay.spool.tickets() == quay.spool.failed() == []
    assert subjects(installation) == ["Crate 0"]
    assert len((installation.folder / "late").read_text().split()) == 2
    assert len(of(events, "deliver.dropped")) == 1


def test_a_stage_whose_file_cannot_be_used_stops_its_messages_until_it_is_mended(
    installation: Installation, dovecot: Dovecot, events: Events
) -> None:
    """Visible, nothing delivered unseen, nothing lost; another mailbox goes on."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *map(numbered, range(2)))
    installation.on_dovecot("box", dovecot, BOB, stages="seen")
    installation.on_dovecot("other", dovecot, BOB)
    place = installation.folder / "place"
    place.write_text("a file where a folder should be")
    installation.environ |= {"STAGE__SEEN__TYPE": "dedupe", "STAGE__SEEN__PATH": str(place / "seen.sqlite")}
    ahead = 0.0
    quay = installation.quay(clock=lambda: time.time() + ahead)

    flow(quay, "box")
    flow(quay, "other")

    assert {line["mailbox"] for line in installation.lines()} == {"other"}
    event = next(found for found in of(events, "deliver.finished") if found["mailbox"] == "box")
    assert (event["done"], event["dropped"], event["again"]) == (0, 0, 2)
    assert "stage 'seen' failed" in event["reason"]
    place.unlink()
    ahead = 60.0
    deliver_due(quay)
    assert sorted(line["mailbox"] for line in installation.lines()) == ["box", "box", "other", "other"]
    assert quay.spool.tickets() == []


def test_a_redacted_message_is_whole_in_the_spool_and_redacted_in_every_output(
    installation: Installation, dovecot: Dovecot
) -> None:
    """With DROP_RAW also the Maildir, which passes raw messages on, holds no number."""
    raw = numbered(0) + b"My card: 4111 1111 1111 1111.\r\n"
    dovecot.forget(BOB)
    dovecot.save(BOB, raw)
    installation.on_dovecot("box", dovecot, BOB, stages="marks")
    installation.environ |= {"STAGE__MARKS__TYPE": "redact", "STAGE__MARKS__DROP_RAW": "yes"}
    quay = installation.quay()
    pulled(quay, "box")
    (ticket,) = quay.spool.tickets()
    with quay.spool.open(ticket) as opened:
        assert bytes(opened.raw(opened.batch.entries[0])) == raw

    deliver_due(quay)

    assert "4111" not in installation.lines_file.read_text()
    (posted,) = installation.posted().values()
    assert b"4111" not in posted
    assert parse(posted).subject == "Crate 0"
    assert b"My card: [redacted]." in posted
