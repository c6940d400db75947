"""`mailquay failed` as people type it: which batches it means, what it says of them, and what becomes of them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import orjson
import pytest
import structlog
from click.testing import CliRunner, Result

import worker.quay
from tests.bed.batches import spooled
from tests.bed.errands import deliver_due
from tests.bed.installation import Installation, numbered
from worker.cli import main
from worker.quay import Quay
from worker.spool import Batch, Entry, Event, OutputState, Ticket

Mailquay = Callable[..., Result]
NOW = time.time()
DAY = 86400.0
LETTER = (
    b"From: crane@example.com\r\nSubject: A secret berth\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nthe body nobody is shown\r\n"
    b'--b\r\nContent-Type: application/pdf; name="tides.pdf"\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--\r\n'
)


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """Two mailboxes; `crm` wants nothing of theirs, `lines` takes all."""
    installation.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Refuser",
        "OUTPUT__CRM__PATH": str(installation.folder / "crm"),
    }
    for name in ("box", "shop"):
        installation.mailbox(
            name, address=f"{name}@example.com", host="localhost", password="x", outputs="lines,crm"
        )
    return installation


@pytest.fixture
def mailquay(ours: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailquay]:
    """Run a verb in this process, with the installation's environment, in its folder."""
    monkeypatch.chdir(ours.folder)
    monkeypatch.setattr(worker.quay, "_quays", {})
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str, answer: str | None = None, **environ: str) -> Result:
        return CliRunner().invoke(main, arguments, env={**ours.environ, **environ}, input=answer)

    yield run
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [orjson.loads(line) for line in result.stdout.split("\n") if line]


def refused(
    quay: Quay,
    name: str,
    *,
    mailbox: str = "box",
    output: str = "crm",
    reason: str = "no such customer",
    ago: float = 0,
    raw: bytes = LETTER,
) -> Ticket:
    """A batch of one message that an output refused so many seconds ago."""
    at = int(NOW - ago)
    plan = Batch(
        name * 32,
        mailbox,
        "INBOX",
        7,
        created=at,
        sequence=at * 1_000_000,
        outputs={output: OutputState(attempts=4, since=at - 60, reason=reason)},
        history=(
            Event(output, "retry", 1, at - 60, at - 5, times=3, reason="HTTP 503"),
            Event("lines", "accepted", 1, at - 60, at - 60),
            Event(output, "refused", 1, at, at, reason=reason),
        ),
    )
    with quay.spool.new(plan) as writer:
        entry = writer.add(Entry(name * 32, uid=7, owed=(output,), accepted=("lines",)), (raw,))
        return writer.commit_failed(replace(plan, entries=(entry,)), f"{output}: {reason}")


def batches(result: Result) -> str:
    return "".join(sorted(str(line["batch"])[0] for line in lines(result)))


# -- list ------------------------------------------------------------------------------------------------------------


def test_filters_say_which_batches_are_meant(ours: Installation, mailquay: Mailquay) -> None:
    """Each alone, several together, a date as well as a while, and an id or its first letters."""
    quay = ours.quay()
    refused(quay, "a", ago=3 * DAY)
    refused(quay, "b", output="archive", reason="No Space at 10.0.0.1")
    refused(quay, "c", mailbox="shop", ago=1.5 * DAY)
    list_ = ("failed", "list", "--json")

    assert batches(mailquay(*list_)) == "abc"
    assert batches(mailquay(*list_, "--mailbox", "box")) == "ab"
    assert batches(mailquay(*list_, "--mailbox", "box", "--mailbox", "shop")) == "abc"
    assert batches(mailquay(*list_, "--output", "archive")) == "b"
    assert batches(mailquay(*list_, "--reason", "no space")) == "b"
    assert batches(mailquay(*list_, "--older-than", "1d")) == "ac"
    assert batches(mailquay(*list_, "--newer-than", "2d")) == "bc"
    assert batches(mailquay(*list_, "--newer-than", "2d", "--older-than", "1d")) == "c"
    yesterday = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW - DAY))
    assert batches(mailquay(*list_, "--older-than", yesterday)) == "ac"
    assert batches(mailquay(*list_, "--output", "crm", "--mailbox", "box")) == "a"
    assert batches(mailquay(*list_, "--output", "nobody")) == ""
    assert batches(mailquay(*list_, "cc")) == "c"
    assert mailquay(*list_, "--older-than", "soon").exit_code == 2


def test_a_line_says_who_did_not_take_what_and_since_when(ours: Installation, mailquay: Mailquay) -> None:
    """For programs with times in seconds; for people on one line, from which a stranger's reason cannot break out."""
    quay = ours.quay()
    ticket = refused(quay, "a", ago=100, reason="no\x1b[2J such\ncustomer")

    (line,) = lines(mailquay("failed", "list", "--json"))
    shown = mailquay("failed", "list").stdout

    assert (line["batch"], line["mailbox"], line["messages"], line["octets"]) == (
        "a" * 32, "box", 1, ticket.octets,
    )  # fmt: skip
    assert (line["outputs"], line["failed_at"], line["damaged"]) == (["crm"], int(NOW - 100), False)
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    assert "crm: no\\x1b[2J such; customer" in shown


def test_an_id_that_means_none_or_several_is_an_error(ours: Installation, mailquay: Mailquay) -> None:
    """Nothing is done then."""
    quay = ours.quay()
    for name in ("ab", "ac"):
        plan = Batch((name * 16), "box", "INBOX", 7)
        with quay.spool.new(plan) as writer:
            writer.commit_failed(plan, name)

    for beginning in ("a", "f"):
        result = mailquay("failed", "retry", beginning)
        assert result.exit_code == 1
        assert "mailquay failed list" in result.stderr
    assert len(quay.spool.failed()) == 2
    assert mailquay("failed", "retry", "ab").exit_code == 0


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_tells_the_whole_history_and_the_structure(ours: Installation, mailquay: Mailquay) -> None:
    """Who accepted it, how often the others were asked, why, and what it is made of."""
    refused(ours.quay(), "a")

    shown = mailquay("failed", "show", "a")
    (line,) = lines(mailquay("failed", "show", "a", "--json"))

    assert shown.exit_code == 0, shown.output
    for told in (
        f"batch {'a' * 32}  mailbox box  folder INBOX",
        "reason   crm: no such customer",
        "crm: attempts: 4, in vain since 20",
        "crm  retry  1 message, 3 times: HTTP 503",
        "lines  accepted  1 message\n",
        "crm  refused  1 message: no such customer",
        "uid 7",
        "accepted by lines",
        "multipart/mixed",
        "├── 1  text/plain  utf-8",
        "└── 2  application/pdf",
    ):
        assert told in shown.stdout
    assert line["attempts"] == {"crm": 4}
    assert [(event["output"], event["what"], event["times"]) for event in line["history"]] == [
        ("crm", "retry", 3), ("lines", "accepted", 1), ("crm", "refused", 1),
    ]  # fmt: skip
    (entry,) = line["entries"]
    assert (entry["uid"], entry["accepted"], entry["owed"]) == (7, ["lines"], ["crm"])
    assert any("application/pdf" in part for part in entry["structure"])


def test_show_tells_nothing_that_the_sender_wrote_unless_asked(
    ours: Installation, mailquay: Mailquay
) -> None:
    """Neither subject nor names of files without --content; a body never."""
    refused(ours.quay(), "a")
    plain = [mailquay("failed", "show", *more).output for more in ((), ("--json",))]
    asked = [mailquay("failed", "show", "--content", *more).output for more in ((), ("--json",))]

    for text in plain:
        assert "berth" not in text
        assert "tides" not in text
    for text in asked:
        assert "A secret berth" in text
        assert "tides.pdf" in text
    assert all("nobody is shown" not in text for text in (*plain, *asked))


def test_show_survives_a_message_that_kills_what_reads_it(
    ours: Installation, mailquay: Mailquay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies there for having killed three processes; the fourth is one of its own, and the others are shown."""
    quay = ours.quay()
    refused(quay, "a", ago=5)
    refused(quay, "b")
    monkeypatch.setattr("worker.cli.failed_shown.together", deadly_to("a" * 32))

    shown = mailquay("failed", "show").stdout

    assert "! the process that read it was killed" in shown
    assert shown.count("application/pdf") == 1


def deadly_to(label: str) -> Callable[..., object]:
    """The real pool, whose process ends at once when it is given the message of this id."""
    from worker.reading import pool, work

    def together(task: work.Task, pieces: Iterator[pool.Piece], *, processes: int) -> Iterator[work.Outcome]:
        marked = ([replace(place, raw=Deadly()) if place.label == label else place for place in piece] for piece in pieces)  # fmt: skip
        return pool.together(task, marked, processes=processes)

    return together


class Deadly:
    """Ends the process in which it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (139,)


def test_a_damaged_batch_is_shown_as_such(ours: Installation, mailquay: Mailquay) -> None:
    """Whether its plan can still be read or not; the others are listed all the same."""
    quay = ours.quay()
    cut, empty = refused(quay, "a"), refused(quay, "b")
    refused(quay, "c")
    folder = ours.folder / "data" / "spool" / "failed"
    whole = (folder / str(cut)).read_bytes()
    (folder / str(cut)).write_bytes(whole[: len(whole) // 2])
    (folder / str(empty)).write_bytes(b"")

    listed = lines(mailquay("failed", "list", "--json"))
    shown = mailquay("failed", "show", "a").stdout
    nothing = mailquay("failed", "show", "b")

    assert [line["damaged"] for line in listed] == [True, True, False]
    assert mailquay("failed", "list").stdout.count("DAMAGED") == 2
    assert "damaged  the batch" in shown
    # What the plan tells.
    assert "folder INBOX" in shown
    assert nothing.exit_code == 0
    assert "Check the disk" in nothing.stdout


def test_what_deliver_set_aside_is_told_as_it_happened(ours: Installation, mailquay: Mailquay) -> None:
    """With the history that delivering wrote: accepted by one output, refused by the other."""
    quay = ours.quay()
    spooled(quay, "box", [numbered(n) for n in range(3)], size=3)
    deliver_due(quay)

    (line,) = lines(mailquay("failed", "show", "--json"))

    assert (line["outputs"], line["messages"], line["attempts"]) == (["crm"], 3, {"crm": 0})
    assert {(event["output"], event["what"], event["messages"]) for event in line["history"]} == {
        ("crm", "refused", 3), ("lines", "accepted", 3),
    }  # fmt: skip
    assert [entry["accepted"] for entry in line["entries"]] == [["lines"]] * 3


# -- retry and drop --------------------------------------------------------------------------------------------------


def test_retry_of_many_puts_back_what_is_meant_and_says_how_much(
    ours: Installation, mailquay: Mailquay
) -> None:
    """The rest stays; what came back is delivered, and only to whom it was owed."""
    quay = ours.quay()
    for name, output in zip("abc", ("crm", "crm", "archive"), strict=True):
        refused(quay, name, output=output)
    ours.environ["OUTPUT__CRM__TYPE"] = "tests.faults.plugins:Recorder"

    result = mailquay("failed", "retry", "--output", "crm")
    deliver_due(ours.quay())

    assert (result.exit_code, result.stdout) == (0, "2 batches with 2 messages retried\n")
    assert [ticket.batch[0] for ticket, _ in quay.spool.failed()] == ["c"]
    assert quay.spool.tickets() == []
    assert sorted(line.split()[0][0] for line in (ours.folder / "crm").read_text().split("\n") if line) == [
        "a", "b",
    ]  # fmt: skip
    assert ours.lines() == []
    assert mailquay("failed", "retry", "--all", "--json").stdout == '{"retried":1,"messages":1,"gone":0}\n'


def test_nothing_said_is_not_everything(ours: Installation, mailquay: Mailquay) -> None:
    """A slip of the finger throws nothing away."""
    quay = ours.quay()
    refused(quay, "a")

    for verb in ("retry", "drop"):
        result = mailquay("failed", verb, answer="y\n")
        assert result.exit_code == 2
        assert "--all" in result.stderr
    assert len(quay.spool.failed()) == 1


def test_drop_asks_with_the_number_of_messages(ours: Installation, mailquay: Mailquay) -> None:
    """No is no, nothing is no, `--yes` does not ask; the question is not among what programs read."""
    quay = ours.quay()
    for name in "abc":
        refused(quay, name)

    for answer in ("n\n", None):
        result = mailquay("failed", "drop", "--mailbox", "box", answer=answer)
        assert result.exit_code == 1
        assert "3 batches with 3 messages will be gone" in result.stderr
    assert len(quay.spool.failed()) == 3
    assert mailquay("failed", "drop", "a", "--json", answer="y\n").stdout == (
        '{"dropped":1,"messages":1,"gone":0}\n'
    )
    assert mailquay("failed", "drop", "--all", "--yes").stdout == "2 batches with 2 messages dropped\n"
    assert quay.spool.failed() == []
    assert list((ours.folder / "data" / "spool" / "failed").iterdir()) == []


def test_on_a_terminal_many_have_a_bar(ours: Installation, mailquay: Mailquay) -> None:
    """To standard error; elsewhere a short run says nothing."""
    quay = ours.quay()
    for name in "abcd":
        refused(quay, name)

    drawn = mailquay("failed", "retry", "--all", FORCE_COLOR="1", TERM="xterm", COLUMNS="100")

    assert "━" in drawn.stderr
    assert "4/4" in drawn.stderr
    assert drawn.stdout == "4 batches with 4 messages retried\n"
    for ticket in quay.spool.tickets():
        quay.spool.fail(ticket, "again")
    assert mailquay("failed", "drop", "--all", "--yes").stderr == ""


def test_what_somebody_else_took_meanwhile_is_no_error(
    ours: Installation, mailquay: Mailquay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people at the same list: each batch is retried by one of them."""
    quay = ours.quay()
    refused(quay, "a")
    refused(quay, "b")
    theirs = worker.spool.file.FileSpool.retry

    def slow(spool: worker.spool.file.FileSpool, ticket: Ticket) -> Ticket:
        if ticket.batch.startswith("a"):
            theirs(quay.spool, ticket)
        return theirs(spool, ticket)

    monkeypatch.setattr(worker.spool.file.FileSpool, "retry", slow)

    result = mailquay("failed", "retry", "--all")

    assert result.exit_code == 0, result.output
    assert result.stdout == "1 batch with 1 message retried\n"
    assert "1 were gone" in result.stderr
    assert len(quay.spool.tickets()) == 2
