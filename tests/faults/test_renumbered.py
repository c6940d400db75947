"""A server that gives all of its messages new numbers: nothing is lost, and nothing comes again that was handed over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

import worker.pull
import worker.recognise
from tests.bed.dovecot import Dovecot
from tests.bed.errands import flow, pulled
from tests.bed.installation import Installation, numbered
from tests.bed.valkey import Valkey
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.withholding import Withholding
from tests.model.mail_server import MailServer, MemorySource
from tests.model.mortal import Died, Life, mortal
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.quay import Quay

COUNT = 5
OLD = b"Date: Mon, 1 Jan 2024 12:00:00 +0000\r\n"


@pytest.fixture
def box(installation: Installation, dovecot: Dovecot) -> Installation:
    """A mailbox `box` on a real Dovecot, with five messages in three batches."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT)))
    installation.on_dovecot("box", dovecot, BOB)
    installation.environ["BATCH_MESSAGES"] = "2"
    return installation


@pytest.mark.parametrize("to", [1_900_000_000, 17], ids=["forward", "backward"])
def test_a_new_uidvalidity_brings_only_what_was_not_handed_over(
    box: Installation, dovecot: Dovecot, events: Events, to: int
) -> None:
    """After a move or a restore all uids mean something else, also when the new value is a lower one."""
    quay = box.quay()
    flow(quay, "box")
    dovecot.save(BOB, numbered(COUNT))
    dovecot.uidvalidity(BOB, to)

    result = flow(quay, "box")

    assert (result.messages, result.recognised) == (1, COUNT)
    assert delivered_once(box, range(COUNT + 1))
    (event,) = of(events, "folder.renumbered")
    assert (event["mailbox"], event["folder"]) == ("box", "INBOX")
    checkpoint = quay.checkpoints.load("box", "INBOX")
    assert checkpoint
    assert (checkpoint.uidvalidity, checkpoint.uid, checkpoint.recognise) == (to, COUNT + 1, False)
    assert flow(quay, "box").messages == 0


def test_two_equal_letters_are_two_messages_once_the_folder_was_gone_through(
    box: Installation, dovecot: Dovecot
) -> None:
    """Nothing is compared but what a renumbered folder holds at that time."""
    quay = box.quay()
    flow(quay, "box")
    dovecot.save(BOB, numbered(0))
    assert flow(quay, "box").messages == 1
    dovecot.uidvalidity(BOB, 1_900_000_000)
    assert flow(quay, "box").recognised == COUNT + 1
    dovecot.save(BOB, numbered(0))

    assert flow(quay, "box").messages == 1

    assert sorted(line["subject"] for line in box.lines()).count("Crate 0") == 3


def test_a_setting_turns_it_off(box: Installation, dovecot: Dovecot) -> None:
    """Then everything comes again, under new ids, and no digest is kept."""
    quay = box.quay(MAILBOX__BOX__RECOGNIZE="no")
    flow(quay, "box")
    dovecot.uidvalidity(BOB, 1_900_000_000)

    assert flow(quay, "box").messages == COUNT

    assert len({line["id"] for line in box.lines()}) == 2 * COUNT
    assert not quay.client.exists("mailquay:handed:{box}")


def test_a_renumbered_folder_is_gone_through_in_several_pulls(box: Installation, dovecot: Dovecot) -> None:
    """A pull that reaches its deadline says `more`, and the next one still compares."""
    quay = box.quay()
    flow(quay, "box")
    dovecot.uidvalidity(BOB, 1_900_000_000)

    hurried = [
        worker.pull.pull(quay, quay.settings.mailboxes["box"], ring=lambda _: None, deadline=time.monotonic())
        for _ in range(3)
    ]

    assert [(result.recognised, result.messages) for result in hurried] == [(2, 0), (2, 0), (1, 0)]
    assert flow(quay, "box").messages == 0
    assert delivered_once(box, range(COUNT))


def test_what_was_forgotten_comes_again_and_is_never_lost(
    box: Installation, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set of digests is bounded, in number and in time, and keeps the newest."""
    now = [time.time()]
    monkeypatch.setattr(worker.recognise, "MOST", 3)
    quay = box.quay(clock=lambda: now[0], MAILBOX__BOX__OUTPUTS="lines")
    flow(quay, "box")
    assert quay.client.zcard("mailquay:handed:{box}") == 3
    dovecot.uidvalidity(BOB, 1_900_000_000)
    assert flow(quay, "box").messages == 2
    assert 0 < quay.client.ttl("mailquay:handed:{box}") <= worker.recognise.DAYS * 86400

    now[0] += worker.recognise.DAYS * 86400 + 1
    dovecot.save(BOB, numbered(COUNT))
    flow(quay, "box")
    assert quay.client.zcard("mailquay:handed:{box}") == 1


def test_what_was_withheld_under_an_old_number_is_asked_for_under_the_new_one(
    installation: Installation, certificates: Certificates
) -> None:
    """The old place means nothing any more; the message comes once, and the queue is empty."""
    with Withholding(certificates, *(numbered(n) for n in range(COUNT)), protocol="imap") as server:
        installation.mailbox(
            "box", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post",
        )  # fmt: skip
        server.withheld = {2: "left out"}
        quay = installation.quay()
        flow(quay, "box")
        server.uidvalidity = 8
        flow(quay, "box")
        assert [repair.place.uidvalidity for repair in quay.repairs.of("box")] == [8]
        server.withheld.clear()
        later = installation.quay(clock=lambda: time.time() + 3600)

        assert flow(later, "box").messages == 1

    assert quay.repairs.of("box") == []
    assert delivered_once(installation, range(COUNT))


def test_what_is_withheld_while_a_folder_is_gone_through_is_recognised_when_it_comes(
    installation: Installation, certificates: Certificates
) -> None:
    """It was handed over under its old number, however late the server gives it under the new one."""
    with Withholding(certificates, *(numbered(n) for n in range(COUNT)), protocol="imap") as server:
        installation.mailbox(
            "box", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post",
        )  # fmt: skip
        quay = installation.quay()
        flow(quay, "box")
        server.uidvalidity, server.withheld = 8, {2: "left out"}
        assert flow(quay, "box").recognised == COUNT - 1
        server.withheld.clear()
        later = installation.quay(clock=lambda: time.time() + 3600)

        result = flow(later, "box")

    assert (result.messages, result.recognised) == (0, 1)
    assert quay.repairs.of("box") == []
    assert delivered_once(installation, range(COUNT))


def test_what_since_had_skipped_stays_skipped(box: Installation, dovecot: Dovecot, valkey: Valkey) -> None:
    """Years of mail that were never wanted do not flood anybody because a server has moved, even after a flush."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(8), numbered(9))
    for letter in (dovecot._maildir(BOB, "INBOX") / "new").iterdir():
        # When a letter came is the time of its file.
        os.utime(letter, (1_700_000_000, 1_700_000_000))
    quay = box.quay(MAILBOX__BOX__SINCE="now")
    assert flow(quay, "box").messages == 0
    dovecot.save(BOB, numbered(0))
    flow(quay, "box")
    valkey.flush()
    flow(quay, "box")
    dovecot.save(BOB, numbered(1))
    dovecot.uidvalidity(BOB, 1_900_000_000)

    flow(quay, "box")

    assert {line["subject"] for line in box.lines()} == {"Crate 0", "Crate 1"}


@pytest.fixture
def maildrop(installation: Installation, certificates: Certificates) -> Iterator[Withholding]:
    """A POP3 mailbox `box` with five messages."""
    with Withholding(certificates, *(numbered(n) for n in range(COUNT)), protocol="pop3") as server:
        installation.mailbox(
            "box", protocol="pop3", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post",
        )  # fmt: skip
        yield server


def test_a_maildrop_whose_uidls_all_change_brings_only_what_was_not_handed_over(
    installation: Installation, maildrop: Withholding, events: Events
) -> None:
    """A migration of the server; there is no UIDVALIDITY that would say so (Zimbra zm-mailbox#1472)."""
    quay = installation.quay()
    flow(quay, "box")
    maildrop.uidvalidity = 8
    maildrop.letters[COUNT + 1] = numbered(COUNT)

    result = flow(quay, "box")

    assert (result.messages, result.recognised) == (1, COUNT)
    assert delivered_once(installation, range(COUNT + 1))
    assert len(of(events, "folder.renumbered")) == 1
    maildrop.letters[COUNT + 2] = numbered(0)
    assert flow(quay, "box").messages == 1


@pytest.mark.parametrize("dated", [True, False], ids=["with TOP", "without TOP"])
def test_what_since_had_skipped_of_a_maildrop_stays_skipped_where_the_server_tells_dates(
    installation: Installation, maildrop: Withholding, *, dated: bool
) -> None:
    """Where it does not, old mail is delivered, because nothing else is sure not to lose any."""
    maildrop.letters = {number: OLD + numbered(number) for number in range(1, 6)}
    maildrop.dated = dated
    quay = installation.quay(MAILBOX__BOX__SINCE="now")
    assert flow(quay, "box").messages == 0
    maildrop.letters[6] = numbered(6)
    assert flow(quay, "box").messages == 1
    maildrop.letters[7] = numbered(7)
    maildrop.uidvalidity = 8

    result = flow(quay, "box")

    assert (result.messages, result.recognised) == (1 if dated else 6, 1)
    assert flow(quay, "box").messages == 0


def test_a_maildrop_that_was_emptied_is_not_taken_for_a_renumbered_one(
    installation: Installation, maildrop: Withholding, events: Events
) -> None:
    """Deleted messages and a few new ones are an ordinary day."""
    quay = installation.quay()
    flow(quay, "box")
    maildrop.letters = {7: numbered(0)}

    assert flow(quay, "box").messages == 1
    assert of(events, "folder.renumbered") == []


@pytest.mark.parametrize("last_one_done", [False, True], ids=["before the step", "behind the step"])
def test_a_process_that_dies_at_any_step_neither_loses_nor_repeats(
    installation: Installation, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, *, last_one_done: bool
) -> None:
    """In the middle of a renumbered folder: every message is spooled once, under one id of either generation."""
    installation.mailbox("box", address=BOB, password="x", host="localhost", since="all", outputs="lines")
    installation.environ["BATCH_MESSAGES"] = "2"
    generation = [7]
    opened = MemorySource.open
    monkeypatch.setattr(
        MemorySource,
        "open",
        lambda source, folder, *, writable: replace(
            opened(source, folder, writable=writable), uidvalidity=generation[0]
        ),
    )

    def dies(steps: int) -> bool:
        """Pull a folder that was just renumbered until death; whether it came."""
        valkey.flush()
        generation[0] = 7
        server = MailServer()
        server.arrive(3)
        life: list[Quay] = []
        for _ in range(2):
            quay = installation.quay(DATA_DIR=str(installation.folder / f"data-{steps}"))
            quay.connect = lambda *_: MemorySource(server)  # type: ignore[method-assign]
            life.append(quay)
        survivor, process = life
        pulled(survivor, "box")
        server.arrive(4)
        generation[0] = 8
        died = True
        with suppress(Died):
            pulled(mortal(process, Life(steps, last_one_done=last_one_done)), "box")
            died = False
        for key in survivor.client.scan_iter("mailquay:lease:*"):
            survivor.client.delete(key)
        pulled(survivor, "box")
        raw: set[tuple[str, bytes]] = set()
        for ticket in survivor.spool.tickets():
            with survivor.spool.open(ticket) as batch:
                raw |= {(entry.id, bytes(batch.raw(entry))) for entry in batch.batch.entries}
        assert sorted(bytes_ for _, bytes_ in raw) == [server.raw(uid) for uid in range(1, 8)], (
            f"step {steps}"
        )
        return died

    steps = 0
    while dies(steps):
        steps += 1
    assert steps > 20
