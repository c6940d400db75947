"""A batch that is cut short or overwritten after it was durably written, as bad disks and power cuts do."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.plugins import recorded
from worker.demo.harbour import BOB
from worker.quay import Quay
from worker.spool import BatchDamaged


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_the_plan(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def overwritten_in_a_message(path: Path) -> None:
    raw = path.read_bytes()
    at = raw.index(b"X-Number: 2") + 20
    path.write_bytes(raw[:at] + b"\xff\0garbage" + raw[at + 9 :])


def overwritten_in_the_directory(path: Path) -> None:
    raw = path.read_bytes()
    at = raw.rindex(b"0002.eml")
    path.write_bytes(raw[:at] + b"\xff\xff\xff\xff" + raw[at + 4 :])


DAMAGES = (
    cut_in_half,
    cut_to_nothing,
    cut_in_the_plan,
    overwritten_in_a_message,
    overwritten_in_the_directory,
)


@pytest.fixture(params=["imap", "pop3"])
def quay(installation: Installation, dovecot: Dovecot, request: pytest.FixtureRequest) -> Quay:
    """A mailbox `box` with two batches of three messages."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(6)))
    installation.on_dovecot("box", dovecot, BOB, protocol=request.param)
    return installation.quay(BATCH_MESSAGES="3")


def batches(installation: Installation) -> list[Path]:
    return sorted((installation.folder / "data" / "spool" / "ready").iterdir())


def first_batch(installation: Installation) -> Path:
    """The one that holds messages 0 to 2."""
    (found,) = (path for path in batches(installation) if b"X-Number: 0\r\n" in path.read_bytes())
    return found


def spooled_ids(quay: Quay) -> set[str]:
    """The ids of all messages in the spool."""
    found: set[str] = set()
    for ticket in quay.spool.tickets():
        with quay.spool.open(ticket) as opened:
            found |= {entry.id for entry in opened.batch.entries}
    return found


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_batch_is_pulled_once_more(
    installation: Installation, quay: Quay, events: Events, damage: Callable[[Path], None]
) -> None:
    """Its messages come again under the same ids, the other batch is not held up, the damaged file is kept."""
    pulled(quay, "box")
    ids = spooled_ids(quay)
    damaged = first_batch(installation)
    damage(damaged)
    found = damaged.read_bytes()

    deliver_due(quay)
    assert delivered_once(installation, range(3, 6))
    again = flow(quay, "box")

    assert again.messages == 3
    assert delivered_once(installation, range(6))
    assert {line["id"] for line in installation.lines()} == ids
    assert flow(quay, "box").messages == 0
    ((ticket, reason),) = quay.spool.failed()
    assert ticket.mailbox == "box"
    assert "Its 3 messages are being pulled once more" in reason
    assert "Check the disk" in reason
    kept = installation.folder / "data" / "spool" / "failed" / str(ticket)
    assert kept.read_bytes() == found
    (event,) = (event for event in of(events, "deliver.finished") if event["failed"])
    assert event["mailbox"] == "box"
    assert event["reason"] == reason


def test_a_batch_without_its_beginning_and_a_flushed_redis_says_what_it_cannot_tell(
    installation: Installation, quay: Quay
) -> None:
    """Two faults at once leave a sentence for a person, and do not stop the rest."""
    pulled(quay, "box")
    cut_to_nothing(first_batch(installation))
    quay.client.flushall()

    deliver_due(quay)

    ((ticket, reason),) = quay.spool.failed()
    assert (ticket.mailbox, ticket.messages) == ("box", 3)
    assert "they are still there" in reason
    assert delivered_once(installation, range(3, 6))


def test_a_damaged_batch_that_is_retried_by_hand_does_not_hide_what_was_pulled_again(
    installation: Installation, dovecot: Dovecot, quay: Quay
) -> None:
    """The messages that came again are no older generation of the damaged batch, which could be cleaned away."""
    path = installation.folder / "recorded"
    installation.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Sulker",
        "OUTPUT__CRM__PATH": str(path),
        "MAILBOX__BOX__OUTPUTS": "lines,post,crm",
    }
    path.with_suffix(".sulk").touch()
    flow(installation.quay(BATCH_MESSAGES="3"), "box")
    later = installation.quay(BATCH_MESSAGES="3", clock=lambda: time.time() + 600)
    damaged = first_batch(installation)
    assert ".g1." in damaged.name
    overwritten_in_a_message(damaged)
    deliver_due(later)
    assert pulled(later, "box").messages == 3
    dovecot.forget(BOB)
    ((ticket, _),) = later.spool.failed()

    later.spool.retry(ticket)
    later.spool.clean()
    path.with_suffix(".sulk").unlink()
    for _ in range(2):
        deliver_due(installation.quay(clock=lambda: time.time() + 6000))

    assert len(recorded(path)) == 6
    assert delivered_once(installation, range(6))


def test_whatever_is_overwritten_is_either_harmless_or_found_out(
    installation: Installation, quay: Quay
) -> None:
    """No bytes of a batch, changed at random, lead to an error that was not foreseen, or to a wrong entry."""
    pulled(quay, "box")
    path = first_batch(installation)
    (ticket,) = (ticket for ticket in quay.spool.tickets() if str(ticket) == path.name)
    whole = path.read_bytes()
    chance = random.Random(1)
    ids = spooled_ids(quay)
    damaged = 0

    for _ in range(400):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + chance.randbytes(chance.choice((1, 8))) + whole[at + 1 :])
        try:
            with quay.spool.open(ticket) as opened:
                entries = opened.batch.entries
                right = [hashlib.sha256(opened.raw(entry)).hexdigest() == entry.sha256 for entry in entries]
        except BatchDamaged:
            damaged += 1
            continue
        damaged += not all(right)
        assert {entry.id for entry in entries} < ids

    assert damaged > 100
