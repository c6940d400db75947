"""Errors: each says who must act and whether it is tried again, and crosses processes whole."""

from __future__ import annotations

import pickle

import pytest

from worker import errors
from worker.errors import ConfigurationError, MailquayError, Problem, Throttled, Waiting
from worker.spool import Batch, BatchDamaged

CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, MailquayError)
]  # fmt: skip


def test_every_error_says_who_must_act_and_has_a_word_for_status() -> None:
    """The rest of the worker decides on nothing else; what is tried again by itself is nobody's or the operator's."""
    for kind in CLASSES:
        assert kind.who in {"nobody", "owner", "admin", "operator", "us"}
        assert kind.state
        assert kind.__doc__
        if kind.who in {"owner", "admin"}:
            assert not kind.retried
        if kind.who == "nobody":
            assert kind.retried


@pytest.mark.parametrize(
    "error",
    [
        Throttled("slow down", seconds=7.5, mailbox="support"),
        ConfigurationError((Problem("DATA_DIR", "is missing"),)),
        BatchDamaged("cut short", mailbox="support", plan=Batch("b", "support", "INBOX")),
        *(kind("its turn comes", seconds=4.5) for kind in CLASSES if issubclass(kind, Waiting)),
        *(
            kind("sentence", mailbox="support")
            for kind in CLASSES
            if kind not in {Throttled, ConfigurationError} and not issubclass(kind, Waiting)
        ),
    ],
)
def test_an_error_crosses_a_process_boundary_whole(error: MailquayError) -> None:
    """`once` works in a pool; what its children raise or report has all its attributes on this side."""
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_an_error_names_its_mailbox_when_it_has_one() -> None:
    """In front of the sentence."""
    assert str(MailquayError("it hung", mailbox="support")) == "support: it hung"
    assert str(MailquayError("it hung")) == "it hung"
    problems = (Problem("DATA_DIR", "is missing"), Problem("REDIS_URL", "is no address"))
    assert str(ConfigurationError(problems)) == "DATA_DIR: is missing\nREDIS_URL: is no address"
