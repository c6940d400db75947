"""`mailquay status` on outputs and the spool: who is away, what waits for whom, how full it is, and how fast that is said."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import orjson
import pytest
import structlog
from click.testing import CliRunner, Result

import worker.quay
from tests.bed.batches import spooled
from tests.bed.installation import Installation, numbered
from worker.cli import main
from worker.quay import Quay
from worker.spool import Ticket

Mailquay = Callable[..., Result]


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """A mailbox for two of the three outputs `crm`, `lines` and `post`."""
    installation.environ |= {
        "OUTPUT__CRM__TYPE": "tests.faults.plugins:Recorder",
        "OUTPUT__CRM__PATH": str(installation.folder / "crm"),
    }
    installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs="lines,crm")
    return installation


@pytest.fixture
def mailquay(ours: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailquay]:
    """Run a verb in this process, with the installation's environment, in its folder."""
    monkeypatch.chdir(ours.folder)
    monkeypatch.setattr(worker.quay, "_quays", {})
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(main, arguments, env={**ours.environ, "COLUMNS": "140", **environ})

    yield run
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def goes_away(quay: Quay, output: str = "crm") -> None:
    """Open the circuit, as five batches that failed do."""
    for number in range(5):
        quay.circuits.failed(output, str(number), f"output {output} failed with HTTP 503 [x]")


def parked(quay: Quay, output: str, count: int, *, octets: int = 1000) -> None:
    """Names of batches that are parked for an output; nobody opens what is parked, so they are empty."""
    now = int(time.time())
    folder = quay.settings.data_dir / "spool" / "parked" / output
    quay.spool.tickets()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        ticket = Ticket(f"{number:032x}", "box", 1, now, octets=octets, sequence=(now - 60) * 1_000_000)
        (folder / str(ticket)).touch()


def test_an_output_is_ok_or_away_with_what_waits_for_it(ours: Installation, mailquay: Mailquay) -> None:
    """Since when, why, when it is probed next, and how many messages: parked ones and others; for programs and people."""
    quay = ours.quay()
    begun = time.time()
    goes_away(quay)
    parked(quay, "crm", 7)
    spooled(quay, "box", [numbered(n) for n in range(4)], size=2)

    status = orjson.loads(mailquay("status", "--json").stdout)
    shown = mailquay("status").stdout

    outputs = {output["output"]: output for output in status["outputs"]}
    crm, lines, post = (outputs[name] for name in ("crm", "lines", "post"))
    assert (crm["state"], crm["messages"], crm["reason"]) == (
        "away", 11, "output crm failed with HTTP 503 [x]",
    )  # fmt: skip
    assert begun - 1 < crm["away_since"] < crm["next_probe"] < begun + 60
    assert crm["since"] == pytest.approx(begun - 60, abs=5)
    assert (lines["state"], lines["messages"], lines["away_since"], lines["next_probe"]) == (
        "ok", 4, None, None,
    )  # fmt: skip
    assert (post["state"], post["messages"], post["since"]) == ("ok", 0, 0)
    for told in ("away since", "in ", "HTTP 503 [x]", "spool", "11 messages waiting"):
        assert told in shown


def test_what_is_parked_for_an_output_of_former_days_is_shown(ours: Installation, mailquay: Mailquay) -> None:
    """It is configured no more, and its mail waits all the same."""
    quay = ours.quay()
    parked(quay, "erp", 3)

    status = orjson.loads(mailquay("status", "--json").stdout)

    assert {output["output"]: output["messages"] for output in status["outputs"]}["erp"] == 3


def test_the_spool_is_measured_against_its_limits(ours: Installation, mailquay: Mailquay) -> None:
    """What waits, what may, what is free and has to be; and why nothing is pulled, when that is so."""
    quay = ours.quay()
    parked(quay, "crm", 3, octets=5_000_000)

    spool = orjson.loads(mailquay("status", "--json", SPOOL_MAX="20MB", DISK_FREE_MIN="1MB").stdout)["spool"]
    full = mailquay("status", SPOOL_MAX="10MB", DISK_FREE_MIN="1MB").stdout
    short = mailquay("status", DISK_FREE_MIN="900000TB").stdout

    assert (spool["messages"], spool["octets"], spool["spool_max"]) == (3, 15_000_000, 20_000_000)
    assert spool["disk_free_min"] == 1_000_000 < spool["free"]
    assert (spool["trouble"], spool["kept_batches"], spool["unread"]) == ("", 0, 0)
    assert "3 messages waiting (15.0 MB of 10MB)" in full
    assert "SPOOL_MAX" in full
    assert "DISK_FREE_MIN" in short


def test_what_is_kept_is_counted(ours: Installation, mailquay: Mailquay) -> None:
    """Where KEEP is set."""
    quay = ours.quay(KEEP="7d")
    for ticket in spooled(quay, "box", [numbered(n) for n in range(3)]):
        quay.spool.finish(ticket, time.time())

    assert "3 delivered batches kept" in mailquay("status", KEEP="7d").stdout


def test_twenty_thousand_parked_batches_are_counted_by_their_names(
    ours: Installation, mailquay: Mailquay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is opened, no name is read more than once, and it takes the time of reading names."""
    quay = ours.quay()
    goes_away(quay)
    parked(quay, "crm", 20_000)
    parsed = 0
    parse = Ticket.parse

    def counted(name: str) -> Ticket | None:
        nonlocal parsed
        parsed += 1
        return parse(name)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a batch was opened")

    monkeypatch.setattr(Ticket, "parse", counted)
    monkeypatch.setattr("worker.spool.file.FileSpool.open", never)
    begun = time.process_time()

    result = mailquay("status", "--json")

    took = time.process_time() - begun
    crm = next(output for output in orjson.loads(result.stdout)["outputs"] if output["output"] == "crm")
    assert crm["messages"] == 20_000
    assert parsed == 20_000
    # Less than a second here; it would be minutes to open them.
    assert took < 5
