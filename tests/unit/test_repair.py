"""The repair queue: what is noted of a message that does not come, when it is tried again, and what a person can do."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

import worker.repair
from tests.bed.installation import Installation
from tests.unit.test_cli import Mailquay, lines, mailquay
from worker.checkpoint import Place
from worker.identity import imap_id, pop3_id
from worker.quay import Quay
from worker.repair import MOST, Repair, Repairs
from worker.spool import Spool
from worker.spool.file import FileSpool
from worker.spool.memory import MemorySpool
from worker.timetable import pull_entry

__all__ = ["mailquay"]

NOW = 1_800_000_000


@pytest.fixture(params=["file", "memory"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Spool:
    """Either spool."""
    return (
        FileSpool(tmp_path, clock=lambda: NOW) if request.param == "file" else MemorySpool(clock=lambda: NOW)
    )


def repair(uid: int, *, folder: str = "INBOX", uidvalidity: int = 7, since: int = NOW) -> Repair:
    place = Place(folder, imap_id("box", folder, uidvalidity, uid), uidvalidity, uid)
    return Repair(place, "left out", size=100, since=since, due=since)


def test_what_is_noted_is_kept_by_mailbox_until_it_is_struck_off(spool: Spool) -> None:
    """Oldest first; striking off what is not there is no error."""
    repairs = Repairs(spool)
    assert repairs.of("box") == []
    of_pop3 = Repair(Place("INBOX", pop3_id("shop", "x/../y z"), uidl="x/../y z"), "refused", recognise=True)
    repairs.note("box", [repair(2), repair(1, since=NOW - 5)])
    repairs.note("shop", [of_pop3])

    assert repairs.of("box") == [repair(1, since=NOW - 5), repair(2)]
    assert repairs.of("shop") == [of_pop3]
    repairs.strike("box", {repair(1).id, "nothing"})
    repairs.strike("shop", [])
    assert repairs.of("box") == [repair(2)]
    assert repairs.of("shop") == [of_pop3]


def test_a_note_is_durable_when_it_is_made(tmp_path: Path) -> None:
    """Another process finds it, and nobody else may read it."""
    Repairs(FileSpool(tmp_path, clock=lambda: NOW)).note("box", [repair(1)])

    assert Repairs(FileSpool(tmp_path, clock=lambda: NOW)).of("box") == [repair(1)]
    assert (tmp_path / "withheld" / "box").stat().st_mode & 0o777 == 0o700


def test_a_message_that_is_noted_again_keeps_its_tries(spool: Spool) -> None:
    """Else a Redis that lost its last second would begin its pauses anew; the reason is the latest one."""
    repairs = Repairs(spool)
    repairs.note("box", [repair(1)])
    (tried,) = repairs.tried("box", repairs.of("box"), NOW)
    repairs.note("box", [Repair(repair(1).place, "refused", size=200, since=NOW + 9, due=NOW + 9)])

    assert repairs.of("box") == [Repair(repair(1).place, "refused", 200, NOW, tried.tries, tried.due)]


def test_pauses_grow_from_a_minute_to_hours() -> None:
    """Servers mostly need seconds; what they do not give after the third poll in vain stands in the queue."""
    one, dues, standing = repair(1), [], []
    for _ in range(6):
        one = one.tried(NOW)
        dues.append(one.due - NOW)
        standing.append(one.stands)

    assert dues == [60, 300, 3600, 14400, 14400, 14400]
    assert standing == [False, False, True, True, True, True]


def test_there_is_room_for_so_many_messages_of_one_mailbox(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are noted already take no more of it; another mailbox has its own."""
    assert MOST == 1000
    monkeypatch.setattr(worker.repair, "MOST", 2)
    repairs = Repairs(spool)
    repairs.note("box", [repair(1)])

    assert repairs.room("box", [repair(1).id, repair(2).id])
    assert not repairs.room("box", [repair(2).id, repair(3).id])
    assert repairs.room("shop", [repair(2).id, repair(3).id])


def test_a_renumbered_folder_forgets_what_its_old_numbers_meant(spool: Spool) -> None:
    """And no other folder does."""
    repairs = Repairs(spool)
    noted = [repair(1), repair(1, uidvalidity=8), repair(1, folder="Junk")]
    repairs.note("box", noted)

    repairs.forget_others("box", "INBOX", 8)

    assert {one.id for one in repairs.of("box")} == {noted[1].id, noted[2].id}


# -- what a person can do --------------------------------------------------------------------------------------------


@pytest.fixture
def quay(installation: Installation) -> Quay:
    """The mailbox `box` with a message that stands in the queue for its size, and `shop` with one that was left out."""
    for name in ("box", "shop"):
        installation.mailbox(
            name, address=f"{name}@example.com", host="localhost", password="x", outputs="lines"
        )
    quay = installation.quay()
    quay.repairs.note("box", [repair(1, since=int(quay.clock()) - 7200)])
    quay.repairs.tried("box", quay.repairs.of("box"), int(quay.clock()))
    quay.repairs.note("shop", [Repair(Place("INBOX", pop3_id("shop", "abc"), uidl="abc"), "refused")])
    return quay


def test_what_is_withheld_is_listed_and_counted(
    installation: Installation, quay: Quay, mailquay: Mailquay
) -> None:
    """With everything that finds it on the server, for programs and for people; `status` says how many there are."""
    box, shop = lines(mailquay("repair", "list", "--json"))
    shown = mailquay("repair", "list").stdout.splitlines()
    status = orjson.loads(mailquay("status", "--json").stdout)["mailboxes"]

    assert (box["message"], box["mailbox"], box["folder"], box["uid"], box["size"], box["tries"]) == (
        repair(1).id, "box", "INBOX", 1, 100, 1,
    )  # fmt: skip
    assert (shop["mailbox"], shop["uid"], shop["uidl"], shop["reason"]) == ("shop", None, "abc", "refused")
    for word in (repair(1).id, "box", "INBOX uid 1", "since 2 h ago", "tries: 1", "left out"):
        assert word in shown[0]
    assert "UIDL abc" in shown[1]
    assert [line["withheld"] for line in status] == [1, 1]
    installation.environ["COLUMNS"] = "160"
    assert "withheld" in mailquay("status").stdout
    quay.repairs.strike("box", [repair(1).id])
    quay.repairs.strike("shop", [pop3_id("shop", "abc")])
    assert "withheld" not in mailquay("status").stdout


def test_a_message_is_tried_at_once_when_a_person_wants_it(quay: Quay, mailquay: Mailquay) -> None:
    """Whatever its size is thought to be; the mailbox is due now."""
    quay.timetable.sync({pull_entry("box"): 3600.0}, quay.clock())
    quay.timetable.park(pull_entry("box"), quay.clock() + 3600)

    assert mailquay("repair", "retry", repair(1).id).exit_code == 0

    (asked,) = quay.repairs.of("box")
    assert (asked.due, asked.size, asked.tries) == (0, 0, 1)
    due = quay.timetable.due(pull_entry("box"))
    assert due is not None
    assert due <= quay.clock()


def test_a_message_is_given_up_when_a_person_is_sure(quay: Quay, mailquay: Mailquay) -> None:
    """It is asked for twice; an id that nothing is withheld under is named."""
    assert mailquay("repair", "drop", repair(1).id, input="n\n").exit_code == 1
    assert len(quay.repairs.of("box")) == 1
    assert mailquay("repair", "drop", repair(1).id, input="y\n").exit_code == 0
    assert quay.repairs.of("box") == []
    missing = mailquay("repair", "drop", repair(1).id, "--yes")
    assert missing.exit_code == 1
    assert "mailquay repair list" in missing.stderr


def test_one_that_has_come_meanwhile_is_not_asked_for_again(spool: Spool) -> None:
    """A pull may have brought it while the person was typing."""
    repairs = Repairs(spool)

    repairs.ask("box", repair(1).id)

    assert repairs.of("box") == []
