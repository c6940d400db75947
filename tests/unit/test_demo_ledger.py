"""The demo's ledger: what it says of outputs that lost, doubled or altered a letter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.demo.carrier import Carrier, Letter
from worker.demo.folder import Outputs
from worker.demo.ledger import Ledger


class Held:
    """Three outputs, filled by hand."""

    def __init__(self, folder: Path) -> None:
        self.outputs = Outputs(folder / "mail.jsonl", folder / "Maildir", folder / "receiver.jsonl")
        (self.outputs.maildir / "new").mkdir(parents=True)

    def line(self, id_: str, letter: Letter, *, end: str = "\n") -> None:
        with self.outputs.lines.open("a") as file:
            file.write(json.dumps({"id": id_, "digest": f"sha256:{letter.digest}"}) + end)

    def call(self, id_: str, letter: Letter) -> None:
        with self.outputs.receiver_log.open("a") as file:
            file.write(json.dumps({"webhook-id": id_, "digest": f"sha256:{letter.digest}"}) + "\n")

    def post(self, id_: str, raw: bytes) -> None:
        (self.outputs.maildir / "new" / id_).write_bytes(raw)

    def everything(self, letters: list[Letter]) -> None:
        for letter in letters:
            id_ = f"{letter.number:032x}"
            self.line(id_, letter)
            self.call(id_, letter)
            self.post(id_, letter.raw)


@pytest.fixture
def letters() -> list[Letter]:
    with Carrier(lambda: 1_800_000_000.0) as carrier:
        return carrier.write(40)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def ledger_of(held: Held, letters: list[Letter]) -> Ledger:
    ledger = Ledger(held.outputs)
    ledger.expect(letters)
    ledger.look()
    return ledger


def test_what_arrived_whole_is_no_trouble(held: Held, letters: list[Letter]) -> None:
    """Every letter once in every output."""
    held.everything(letters)

    ledger = ledger_of(held, letters)

    assert ledger.look() == {"jsonl": 40, "maildir": 40, "webhook": 40}
    assert ledger.complete
    assert ledger.troubles() == []


def test_before_anything_was_delivered_everything_is_missing(tmp_path: Path, letters: list[Letter]) -> None:
    """Outputs that do not exist yet hold nothing."""
    ledger = Ledger(Outputs(tmp_path / "a", tmp_path / "b", tmp_path / "c"))
    ledger.expect(letters)

    assert ledger.look() == {"jsonl": 0, "maildir": 0, "webhook": 0}
    assert not ledger.complete
    assert len(ledger.troubles()) == 12


def test_a_lost_letter_is_named_with_its_mailbox_output_and_number(held: Held, letters: list[Letter]) -> None:
    """Lost in one output only."""
    held.everything(letters)
    lost = letters[16]
    (held.outputs.maildir / "new" / f"{lost.number:032x}").unlink()

    ledger = ledger_of(held, letters)

    assert not ledger.complete
    assert ledger.troubles() == [f"{lost.berth.name}: 1 of 10 letters missing from maildir: no. 17"]


def test_a_letter_under_two_ids_is_doubled_in_any_output(held: Held, letters: list[Letter]) -> None:
    """Nobody downstream could recognise the second one."""
    held.everything(letters)
    held.line("f" * 32, letters[0])
    held.post("f" * 32, letters[0].raw)
    held.call("f" * 32, letters[0])

    name = letters[0].berth.name
    assert ledger_of(held, letters).troubles() == [
        f"{name}: 1 of 10 letters more than once in {output}: no. 1"
        for output in ("jsonl", "maildir", "webhook")
    ]


def test_a_repetition_with_its_id_is_doubled_in_the_file_but_not_at_the_receiver(
    held: Held, letters: list[Letter]
) -> None:
    """The receiver drops a webhook-id that it knows; a file of lines would show the line twice."""
    held.everything(letters)
    held.line(f"{1:032x}", letters[0])
    held.call(f"{1:032x}", letters[0])

    name = letters[0].berth.name
    assert ledger_of(held, letters).troubles() == [f"{name}: 1 of 10 letters more than once in jsonl: no. 1"]


def test_a_letter_that_lost_a_byte_is_missing_and_something_strange_is_there(
    held: Held, letters: list[Letter]
) -> None:
    """Bytes are compared, not numbers."""
    held.everything(letters)
    held.post(f"{1:032x}", letters[0].raw[:-1])

    name = letters[0].berth.name
    assert ledger_of(held, letters).troubles() == [
        f"{name}: 1 of 10 letters missing from maildir: no. 1",
        "1 messages in maildir are not what was sent",
    ]


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(
    held: Held, letters: list[Letter]
) -> None:
    """A look may fall into the middle of a write."""
    held.line("a" * 32, letters[0])
    held.line("b" * 32, letters[1], end="")
    ledger = ledger_of(held, letters[:2])
    assert ledger.look()["jsonl"] == 1

    with held.outputs.lines.open("a") as file:
        file.write("\n")

    assert ledger.look()["jsonl"] == 2
    assert not [trouble for trouble in ledger.troubles() if "jsonl" in trouble]


def test_every_mailbox_gets_letters_of_every_kind(letters: list[Letter]) -> None:
    """Ten kinds of letters over four mailboxes."""
    for name in ("alice", "bob", "orders", "support"):
        assert {letter.number % 10 for letter in letters if letter.berth.name == name} == set(range(10))
