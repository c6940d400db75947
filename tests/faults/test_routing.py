"""WHEN and FALLBACK: who is to have a message, decided by the message, and where it goes when nobody is."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.bed.batches import spooled
from tests.bed.errands import deliver_due
from tests.bed.installation import Installation
from tests.faults.conftest import Events, of
from worker import settings
from worker.errors import ConfigurationError
from worker.parking import waiting_batches
from worker.quay import Quay

INVOICE = b"Subject: Invoice 7\r\nX-Kind: bill\r\n\r\n1\r\n"
ORDER = b"Subject: Order 8\r\n\r\n2\r\n"
OTHER = b"Subject: Hello\r\n\r\n3\r\n"


def routed(installation: Installation, **said: str) -> Quay:
    """A mailbox `box` with outputs `invoices`, `orders` and `rest`, each a file of lines."""
    for name in ("invoices", "orders", "rest"):
        installation.environ[f"OUTPUT__{name.upper()}__TYPE"] = "jsonl"
        installation.environ[f"OUTPUT__{name.upper()}__PATH"] = str(installation.folder / name)
    installation.environ |= {
        "OUTPUT__INVOICES__WHEN": 'subject.matches("(?i)invoice") && headers["X-Kind"] == "bill"',
        "OUTPUT__ORDERS__WHEN": 'subject.startsWith("Order")',
    }
    installation.mailbox(
        "box",
        **{
            "address": "a@example.com",
            "host": "localhost",
            "password": "x",
            "outputs": "invoices,orders",
            **said,
        },
    )
    return installation.quay()


def got(installation: Installation, output: str) -> list[int]:
    """Which of the messages are in the file of an output, by their bodies."""
    path = installation.folder / output
    return (
        [int(orjson.loads(line)["preview"]) for line in path.read_bytes().splitlines()]
        if path.exists()
        else []
    )


def test_each_output_gets_the_messages_for_which_its_condition_is_true(
    installation: Installation, events: Events
) -> None:
    """What no condition lets through owes nothing, and is done."""
    quay = routed(installation)
    spooled(quay, "box", [INVOICE, ORDER, OTHER], size=3)

    deliver_due(quay)

    assert (got(installation, "invoices"), got(installation, "orders")) == ([1], [2])
    assert waiting_batches(quay) == quay.spool.failed() == []
    (event,) = of(events, "deliver.finished")
    assert (event["done"], event["accepted"], event["dropped"]) == (3, 2, 0)


def test_what_no_condition_lets_through_goes_to_the_fallback(installation: Installation) -> None:
    """In the same delivery, and only that."""
    quay = routed(installation, fallback="rest")
    spooled(quay, "box", [INVOICE, ORDER, OTHER], size=3)

    deliver_due(quay)

    assert [got(installation, name) for name in ("invoices", "orders", "rest")] == [[1], [2], [3]]
    assert waiting_batches(quay) == []


def test_what_an_output_refuses_goes_to_the_fallback(installation: Installation) -> None:
    """And not to `failed`; it stays known who did accept it."""
    installation.environ["OUTPUT__PICKY__TYPE"] = "tests.faults.plugins:Refuser"
    installation.environ["OUTPUT__PICKY__PATH"] = str(installation.folder / "picky")
    quay = routed(installation, fallback="rest", outputs="invoices,picky")
    spooled(quay, "box", [INVOICE, ORDER], size=2)

    deliver_due(quay)
    deliver_due(quay)

    assert [got(installation, name) for name in ("invoices", "rest")] == [[1], [1, 2]]
    assert waiting_batches(quay) == quay.spool.failed() == []


def test_a_condition_without_an_answer_lets_the_message_through(installation: Installation) -> None:
    """A stage that did not run must not cost mail."""
    installation.environ["OUTPUT__REST__WHEN"] = "findings.robots.automatic"
    quay = routed(installation, outputs="rest")
    spooled(quay, "box", [OTHER])

    deliver_due(quay)

    assert got(installation, "rest") == [3]


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("OUTPUT__ORDERS__WHEN", "subjct == ''", "is no expression in CEL, at character"),
        ("OUTPUT__ORDERS__WHEN", "size + 1", "must be true or false"),
        ("OUTPUT__ORDERS__RETRY_FOR", "never", "write a number and a unit"),
        ("OUTPUT__ORDERS__ORDERED", "perhaps", "write yes or no"),
        ("MAILBOX__BOX__FALLBACK", "nobody", "is no configured output"),
    ],
)
def test_what_cannot_be_meant_is_said_before_the_first_message(
    installation: Installation, variable: str, value: str, sentence: str
) -> None:
    """Each problem names its variable and quotes no value."""
    routed(installation)
    installation.environ[variable] = value

    with pytest.raises(ConfigurationError) as wrong:
        settings.load(installation.environ, cwd=Path.cwd())

    (problem,) = wrong.value.problems
    assert problem.variable == variable
    assert sentence in problem.sentence
    assert value not in problem.sentence
