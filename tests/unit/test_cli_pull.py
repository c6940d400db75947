"""`mailquay pull --since` and `mailquay rewind` as people type them: what they say, where, and how they end."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator

import orjson
import pytest
import structlog
from click.testing import CliRunner, Result

import worker.quay
from tests.bed.dovecot import Dovecot
from tests.bed.installation import Installation, numbered
from worker import once
from worker.cli import main
from worker.demo.harbour import BOB

Mailquay = Callable[..., Result]


@pytest.fixture
def box(installation: Installation, dovecot: Dovecot) -> Installation:
    """A mailbox with eight messages, of which SINCE=now skips all."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *map(numbered, range(8)))
    installation.on_dovecot("box", dovecot, BOB, since="now")
    return installation


@pytest.fixture
def mailquay(box: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailquay]:
    """Run a verb in this process, with the installation's environment, in its folder."""
    monkeypatch.chdir(box.folder)
    monkeypatch.setattr(worker.quay, "_quays", {})
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str, answer: str | None = None, **environ: str) -> Result:
        return CliRunner().invoke(main, arguments, env={**box.environ, **environ}, input=answer)

    yield run
    for quay in worker.quay._quays.values():
        quay.close()
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_a_plain_pull_starts_no_process(
    mailquay: Mailquay, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mailbox and nothing to deliver is work for one process; starting others takes longer than most pulls."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(once, "ProcessPoolExecutor", never)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", never)
    mailquay("pull", "box")
    dovecot.save(BOB, numbered(8))

    result = mailquay("pull", "box", "--json")

    assert result.exit_code == 0, result.output
    line = orjson.loads(result.stdout)
    assert (line["pulled"], line["waiting"], line["troubles"]) == (1, 1, [])


def test_going_back_tells_how_far_it_is_and_what_came(mailquay: Mailquay, box: Installation) -> None:
    """Plain lines where there is no terminal, to standard error; one sentence or one JSON object at the end."""
    mailquay("pull", "box")

    result = mailquay("pull", "box", "--since", "all")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("8 pulled in ")
    assert result.stdout.endswith("INBOX has been gone back over\n")
    assert result.stderr == "INBOX: 0%, 0 messages, 0 bytes, 0/s\n"
    assert sum(ticket.messages for ticket in box.quay().spool.tickets()) == 8
    again = orjson.loads(mailquay("pull", "box", "--since", "30d", "--json").stdout)
    assert (again["pulled"], again["folder"]) == (8, "INBOX")


def test_on_a_terminal_there_is_a_bar(mailquay: Mailquay, monkeypatch: pytest.MonkeyPatch) -> None:
    """With count, octets, rate and the time that is left."""
    mailquay("pull", "box")
    monkeypatch.setattr("worker.backfill._AT_ONCE", 2)

    result = mailquay("pull", "box", "--since", "all", FORCE_COLOR="1", TERM="xterm", COLUMNS="120")

    assert "━" in result.stderr
    for told in ("INBOX", "100%", "8 messages", "kB", "/s", "0:00:0"):
        assert told in result.stderr


def test_what_cannot_be_gone_back_over_is_said(mailquay: Mailquay) -> None:
    """Wishes that mean nothing are refused before anybody signs in; a missing folder is named."""
    mailquay("pull", "box")
    for wrong in ("now", "yesterday", "2026-13-01"):
        refused = mailquay("pull", "box", "--since", wrong)
        assert refused.exit_code == 2
        assert "30d" in refused.stderr
    missing = mailquay("pull", "box", "--since", "all", "--folder", "Nowhere")
    assert missing.exit_code == 1
    assert "Nowhere" in missing.stderr
    assert mailquay("pull", "bxo", "--since", "all").exit_code == 1
    late = mailquay("pull", "box", "--since", "2026-01-01", "--folder", "INBOX")
    assert late.exit_code == 0
    stopped = mailquay("pull", "box", "--stop")
    assert (stopped.exit_code, stopped.stderr) == (0, "box: INBOX was not being gone back over\n")


def test_an_empty_folder_has_nothing_behind_its_checkpoint(mailquay: Mailquay, dovecot: Dovecot) -> None:
    """That is no failure."""
    dovecot.forget(BOB)

    result = mailquay("pull", "box", "--since", "all")

    assert (result.exit_code, result.stdout) == (0, "nothing in INBOX lies behind its checkpoint\n")


def test_rewind_asks_first(mailquay: Mailquay, box: Installation) -> None:
    """A checkpoint is moved by a person who said yes, or by `--yes`; what is no place is refused."""
    mailquay("pull", "box")

    assert mailquay("rewind", "box", "--to", "start", answer="n\n").exit_code == 1
    assert orjson.loads(mailquay("pull", "box", "--json").stdout)["pulled"] == 0
    moved = mailquay("rewind", "box", "--to", "start", answer="y\n")
    assert moved.exit_code == 0
    assert "INBOX is moved back from uid 8 to 0" in moved.stdout
    assert orjson.loads(mailquay("pull", "box", "--json").stdout)["pulled"] == 8
    assert mailquay("rewind", "box", "--to", "7", "--yes").exit_code == 0
    assert orjson.loads(mailquay("pull", "box", "--json").stdout)["pulled"] == 2

    for wrong in ("0", "-3", "soon", "2026-02-30"):
        assert mailquay("rewind", "box", "--to", wrong, "--yes").exit_code == 2
    ahead = mailquay("rewind", "box", "--to", "99", "--yes")
    assert ahead.exit_code == 1
    assert "back only" in ahead.stderr
