"""A full disk: pulling stops, mail waits on its server, delivering goes on, and everything resumes by itself."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.forks import Forks
from tests.bed.installation import Installation, numbered
from tests.faults import hazard
from tests.faults.conftest import Events, delivered_once, of
from worker.demo.harbour import BOB

COUNT = 6


@pytest.fixture(params=["imap", "pop3"])
def box(installation: Installation, dovecot: Dovecot, request: pytest.FixtureRequest) -> Installation:
    """A mailbox `box` with six messages of 20 kB."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n, size=20_000) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB, protocol=request.param)
    installation.environ["BATCH_MESSAGES"] = "3"
    return installation


def spooled(installation: Installation, folder: str) -> list[Path]:
    return list((installation.folder / "data" / "spool" / folder).iterdir())


def later() -> float:
    """The clock in ten minutes."""
    return time.time() + 600


def test_a_disk_below_its_limit_stops_pulling_and_not_delivering(
    box: Installation, dovecot: Dovecot, events: Events
) -> None:
    """The line names the mailbox, the variable and the remedy; what is spooled goes out; then pulling goes on."""
    pulled(box.quay(), "box")
    dovecot.save(BOB, numbered(COUNT))
    full = box.quay(DISK_FREE_MIN="900000TB")

    result = flow(full, "box")

    assert result.messages == 0
    assert delivered_once(box, range(COUNT))
    (event,) = of(events, "pull.failed")
    assert (event["mailbox"], event["state"]) == ("box", "spool full")
    assert "DISK_FREE_MIN" in event["reason"]
    assert "free some space" in event["reason"]
    assert full.standings.of("box").state == "spool full"
    assert flow(box.quay(), "box").messages == 1
    assert delivered_once(box, range(COUNT + 1))


def with_a_small_disk(work: str, environ: Mapping[str, str], folder: Path, octets: int) -> None:
    """Do `work` in this process, none of whose files may grow beyond `octets`."""
    quay = hazard.opened(environ, folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    with capture_logs() as events:
        if work == "pull":
            pulled(quay, "box")
        else:
            deliver_due(quay)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    quay.close()
    (folder / "events").write_bytes(orjson.dumps(events))


def test_a_disk_that_fills_up_while_a_batch_is_written(box: Installation, forks: Forks) -> None:
    """The half batch vanishes, the checkpoint stays, and the messages come whole when there is room."""
    assert forks.run(with_a_small_disk, "pull", box.environ, box.folder, 50_000) == 0

    assert spooled(box, "tmp") == spooled(box, "ready") == []
    quay = box.quay()
    standing = quay.standings.of("box")
    assert standing.state == "spool full"
    assert "no room in the spool" in standing.sentence
    assert "free some space" in standing.sentence
    flow(quay, "box")
    assert delivered_once(box, range(COUNT))


def test_a_disk_that_fills_up_while_outputs_are_written(box: Installation, forks: Forks) -> None:
    """What cannot be written again stays as it was, without an attempt counted against it, and is tried later."""
    quay = box.quay()
    pulled(quay, "box")
    before = {ticket.batch for ticket in quay.spool.tickets()}

    assert forks.run(with_a_small_disk, "deliver", box.environ, box.folder, 15_000) == 0

    waiting = quay.spool.tickets()
    assert {ticket.batch for ticket in waiting} == before
    assert {ticket.attempts for ticket in waiting} == {0}
    assert all(ticket.due > quay.clock() for ticket in waiting)
    assert spooled(box, "tmp") == spooled(box, "failed") == []
    events = orjson.loads((box.folder / "events").read_bytes())
    assert {event["mailbox"] for event in events} == {"box"}
    assert all("no room in the spool" in event["reason"] for event in events)
    deliver_due(box.quay(clock=later))
    assert delivered_once(box, range(COUNT))


def test_a_disk_without_room_for_a_reason_keeps_a_damaged_batch_where_it_is(
    box: Installation, forks: Forks
) -> None:
    """Setting a batch aside needs a little room too; until there is some, the batch waits and nothing crashes."""
    quay = box.quay()
    pulled(quay, "box")
    for path in spooled(box, "ready"):
        path.write_bytes(path.read_bytes()[:-10])

    assert forks.run(with_a_small_disk, "deliver", box.environ, box.folder, 100) == 0

    assert len(quay.spool.tickets()) == 2
    assert quay.spool.failed() == []
    quay = box.quay(clock=later)
    deliver_due(quay)
    assert len(quay.spool.failed()) == 2
    flow(quay, "box")
    assert delivered_once(box, range(COUNT))
