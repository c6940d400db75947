"""A message that no parser likes, one that a stage chokes on, and one that kills its process: no other is touched."""

from __future__ import annotations

import os
import random
import time

import orjson
import pytest

import worker.prepare
from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.forks import Forks
from tests.bed.installation import Installation, numbered
from tests.faults import hazard
from tests.faults.conftest import Events, of
from tests.faults.plugins import MARK, recorded
from worker.demo.harbour import BOB

COUNT = 5


def garbage() -> list[bytes]:
    """Messages that no standard allows, in the form in which a server hands them over byte for byte."""
    chance = random.Random(7)
    allowed = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    noise = b"".join(bytes(chance.choices(allowed, k=70)) + b"\r\n" for _ in range(200))
    nested = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(300)
    )
    return [
        noise,
        b"\r\n" + noise,
        b"\r\n",
        b"Subject: " + b"(" * 20_000 + b"\r\n\r\n",
        b"From: " + b"=?utf-8?q?=E4=?= " * 5_000 + b"\r\n\r\nx\r\n",
        nested,
        b"Content-Type: message/rfc822\r\n\r\n" * 200,
        b"Content-Type: text/plain; charset=nonsense; name*\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!!\r\n",
    ]


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_messages_that_no_parser_likes_arrive_byte_for_byte(
    installation: Installation, dovecot: Dovecot, events: Events, protocol: str
) -> None:
    """Whatever a message is made of, its bytes reach the outputs, and its neighbours are not held up."""
    dovecot.forget(BOB)
    letters = [letter for pair in zip(garbage(), map(numbered, range(99)), strict=False) for letter in pair]
    dovecot.save(BOB, *letters)
    installation.on_dovecot("box", dovecot, BOB, protocol=protocol)

    assert flow(installation.quay(), "box").trouble is None

    assert sorted(installation.posted().values()) == sorted(letters)
    assert len(installation.lines()) == len(letters)
    assert not of(events, "pull.failed")
    assert {event["failed"] for event in of(events, "deliver.finished")} == {0}


def on_marked_mail(installation: Installation, dovecot: Dovecot, **said: str) -> None:
    """A mailbox `box` with five messages, the third of which is marked."""
    dovecot.forget(BOB)
    letters = [numbered(n) for n in range(COUNT)]
    letters[2] = MARK + b"\r\n" + letters[2]
    dovecot.save(BOB, *letters)
    installation.on_dovecot("box", dovecot, BOB, **said)


def subjects(installation: Installation) -> list[str]:
    return sorted(line["subject"] for line in installation.lines())


def test_a_parser_that_fails_sets_that_message_aside(
    installation: Installation, dovecot: Dovecot, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its raw bytes wait in `failed`; the others are delivered, and it follows when the parser was mended."""
    on_marked_mail(installation, dovecot)
    quay = installation.quay()
    parse = worker.prepare.parse

    def fail(raw: memoryview, **named: object) -> object:
        if MARK in bytes(raw):
            raise RecursionError("words of the body")
        return parse(raw, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(worker.prepare, "parse", fail)
        flow(quay, "box")

    assert subjects(installation) == ["Crate 0", "Crate 1", "Crate 3", "Crate 4"]
    failed = quay.spool.failed()
    assert {(ticket.mailbox, ticket.messages) for ticket, _ in failed} == {("box", 1)}
    assert all("cannot be parsed (RecursionError)" in reason for _, reason in failed)
    assert "words of the body" not in str(events)
    for ticket, _ in failed:
        quay.spool.retry(ticket)
    deliver_due(quay)
    assert subjects(installation) == [f"Crate {n}" for n in range(COUNT)]
    assert len(installation.posted()) == COUNT
    assert quay.spool.failed() == quay.spool.tickets() == []


def test_a_stage_that_fails_holds_up_its_message_alone(
    installation: Installation, dovecot: Dovecot, events: Events
) -> None:
    """That message is tried again for three days, then waits for a person; what the stage said is not logged."""
    on_marked_mail(installation, dovecot, stages="picky")
    installation.environ["STAGE__PICKY__TYPE"] = "tests.faults.plugins:Picky"
    ahead = 0.0
    quay = installation.quay(clock=lambda: time.time() + ahead)

    flow(quay, "box")

    assert len(subjects(installation)) == COUNT - 1
    event = of(events, "deliver.finished")[-1]
    assert (event["mailbox"], event["done"], event["again"]) == ("box", COUNT - 1, 1)
    assert "picky" in event["reason"]
    assert "no log may show" not in str(events)
    ahead = 4 * 86400.0
    deliver_due(quay)
    ahead += 60
    deliver_due(quay)
    reasons = {reason for _, reason in quay.spool.failed()}
    assert len(reasons) == 2
    assert all("not accepted in 3d" in reason for reason in reasons)
    del installation.environ["STAGE__PICKY__TYPE"], installation.environ["MAILBOX__BOX__STAGES"]
    mended = installation.quay()
    for ticket, _ in mended.spool.failed():
        mended.spool.retry(ticket)
    deliver_due(mended)
    assert subjects(installation) == [f"Crate {n}" for n in range(COUNT)]


def on_deadly_mail(installation: Installation, dovecot: Dovecot) -> None:
    """The marked message kills the process that hands it to the output `deadly`."""
    on_marked_mail(installation, dovecot, outputs="lines,post,deadly")
    installation.environ["OUTPUT__DEADLY__TYPE"] = "tests.faults.plugins:Killer"
    installation.environ["OUTPUT__DEADLY__PATH"] = str(installation.folder / "deadly")


def test_a_message_that_kills_its_process_is_found_out(
    installation: Installation, dovecot: Dovecot, forks: Forks
) -> None:
    """Three attempts for its batch, three for it alone, then it waits in `failed`; the others are delivered once."""
    on_deadly_mail(installation, dovecot)
    quay = installation.quay()
    pulled(quay, "box")

    deaths, deadline = 0, time.monotonic() + 60
    while quay.spool.tickets():
        assert time.monotonic() < deadline
        deaths += forks.run(hazard.drain, installation.environ, installation.folder) == 139

    assert deaths == 6
    ((ticket, reason),) = quay.spool.failed()
    assert (ticket.mailbox, ticket.messages) == ("box", 1)
    assert "killed its process 3 times" in reason
    others = {
        line["digest"].removeprefix("sha256:")
        for line in installation.lines()
        if line["subject"] != "Crate 2"
    }
    got = recorded(installation.folder / "deadly")
    assert set(got) == others
    assert all(len(ids) == 1 for ids in got.values())
    assert len(subjects(installation)) == len(set(subjects(installation)))
    installation.environ["OUTPUT__DEADLY__TYPE"] = "tests.faults.plugins:Recorder"
    quay.spool.retry(ticket)
    deliver_due(installation.quay())
    assert subjects(installation) == [f"Crate {n}" for n in range(COUNT)]
    assert len(recorded(installation.folder / "deadly")) == COUNT


def test_drain_survives_a_message_that_kills_its_process(
    installation: Installation, dovecot: Dovecot
) -> None:
    """The pool is lost, not the run: only what it had in hand waits, and the line names the mailbox and what to do."""
    on_deadly_mail(installation, dovecot)
    dovecot.save(BOB, *(numbered(n) for n in range(COUNT, 3 * COUNT)))
    quay = installation.quay(BATCH_MESSAGES="1")
    pulled(quay, "box")

    drained = installation.run("drain", "--no-wait", "--json")

    assert drained.returncode == 1
    assert "Traceback" not in drained.stderr
    totals = orjson.loads(drained.stdout)
    waiting = quay.spool.tickets()
    # A pool that loses one process ends the others too, each with at most one batch in hand.
    assert 1 <= len(waiting) == totals["waiting"] <= max(2, os.cpu_count() or 1)
    # The other one may not have begun: a lease is taken a moment before the attempt is counted.
    assert 1 in {ticket.attempts for ticket in waiting} <= {0, 1}
    assert any(trouble.startswith("box: ") and "run again" in trouble for trouble in totals["troubles"])
    assert len(recorded(installation.folder / "deadly")) >= 3 * COUNT - len(waiting)
