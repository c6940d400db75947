"""Log lines: JSON for programs, the same for our events and for other libraries' records."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog

from worker import log

NOISY = ("httpx2", "urllib3", "celery", "kombu")


@pytest.fixture(autouse=True)
def _set_back() -> Iterator[None]:
    """Logging belongs to the whole process of the tests."""
    loggers = [logging.getLogger(name) for name in (None, *NOISY, "celery.worker.consumer")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    structlog.reset_defaults()


def lines(said: str) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in said.splitlines()]


def test_events_are_one_json_object_a_line_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """With time, level and name; a library's record looks the same, with its traceback inside the line."""
    log.configure(level="info", form="auto")
    structlog.get_logger("pull").info("pull.finished", mailbox="support", messages=3)
    structlog.get_logger("pull").debug("not.shown")
    try:
        int("broken")
    except ValueError:
        logging.getLogger("library").exception("it broke")

    ours, theirs = lines(capsys.readouterr().err)
    assert ours | {"timestamp": ""} == {
        "event": "pull.finished", "mailbox": "support", "messages": 3, "level": "info", "logger": "pull", "timestamp": "",
    }  # fmt: skip
    assert str(ours["timestamp"]).endswith("Z")
    assert theirs["event"] == "it broke"
    assert "ValueError: invalid literal" in str(theirs["exception"])


def test_libraries_that_speak_of_every_connection_are_heard_when_they_warn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A broker that is away is said once by us, not at every attempt by the consumer."""
    log.configure(level="debug", form="json")
    for name in NOISY:
        logging.getLogger(name).info("chatter of %s", name)
        logging.getLogger(name).warning("trouble of %s", name)
    logging.getLogger("celery.worker.consumer").warning("cannot connect")

    assert [line["event"] for line in lines(capsys.readouterr().err)] == [
        f"trouble of {name}" for name in NOISY
    ]  # fmt: skip


def test_a_terminal_gets_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Without colours where there is no terminal after all."""
    log.configure(level="info", form="console")
    structlog.get_logger("pull").info("pull.finished", mailbox="support")

    said = capsys.readouterr().err
    assert "pull.finished" in said
    assert "mailbox=support" in said
    assert "\x1b" not in said
