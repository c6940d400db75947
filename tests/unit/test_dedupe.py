"""Of two copies one passes, whoever delivers them; a message that comes again is no copy of itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.message import Message
from pipelines.parse import parse
from pipelines.stages import dedupe
from pipelines.stages.dedupe import DedupeOptions, DedupeStage
from tests.bed.forks import Forks

DAY = 86400.0
BODY = b"From: ann@example.com\r\nSubject: Crate\r\nMessage-ID: <%d@example.com>\r\n\r\nA crate.\r\n"


def letter(number: int = 1, *, id_: str = "a", mailbox: str = "support", way: bytes = b"") -> Message:
    """A message as it came one way; `id_` is the one that its place gives it."""
    return parse(way + BODY % number, id=id_ * 32, mailbox=mailbox)


class Clock:
    """A clock that a test turns."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def stage(path: Path, clock: Clock | None = None, **said: str) -> DedupeStage:
    options = DedupeOptions.model_validate({"path": str(path / "seen.sqlite"), **said})
    return DedupeStage("once", options, clock=clock or Clock())


def test_a_copy_is_dropped_and_the_message_itself_never(tmp_path: Path) -> None:
    """The first one claims it; when that one comes again, also in another process, it passes."""
    first, copy = letter(id_="a"), letter(id_="b", way=b"Received: by another way\r\n")

    assert stage(tmp_path).apply(first) is first
    assert stage(tmp_path).apply(copy) is None
    assert stage(tmp_path).apply(first) is first
    assert stage(tmp_path).apply(copy) is None


@pytest.mark.parametrize(
    "other",
    [
        BODY % 2,
        (BODY % 1).replace(b"A crate", b"B crate"),
        (BODY % 1).replace(b"ann@", b"eve@"),
        (BODY % 1).replace(b"Subject: Crate", b"Subject: Crates"),
        (BODY % 1).replace(b"Message-ID", b"X-Message-ID"),
        (BODY % 1).replace(b"\r\n\r\n", b"\r\nContent-Type: text/html\r\n\r\n"),
    ],
)
def test_what_differs_is_no_copy(tmp_path: Path, other: bytes) -> None:
    """Nobody can make a message disappear by using its Message-ID."""
    deduping = stage(tmp_path)

    assert deduping.apply(letter()) is not None
    assert deduping.apply(parse(other, id="b" * 32, mailbox="support")) is not None


def test_attachments_count_and_boundaries_do_not(tmp_path: Path) -> None:
    """Servers write boundaries anew; another attachment makes another message."""
    multipart = (
        b"Message-ID: <m@example.com>\r\nContent-Type: multipart/mixed; boundary=%(b)b\r\n\r\n--%(b)b\r\n\r\nHi\r\n"
        b"--%(b)b\r\nContent-Type: application/pdf\r\n\r\n%(pdf)b\r\n--%(b)b--\r\n"
    )
    messages = [
        parse(multipart % {b"b": boundary, b"pdf": pdf}, id=id_ * 32)
        for boundary, pdf, id_ in ((b"x", b"one", "a"), (b"y", b"one", "b"), (b"x", b"two", "c"))
    ]

    assert [stage(tmp_path).apply(message) is not None for message in messages] == [True, False, True]


def test_without_a_message_id_the_whole_message_counts(tmp_path: Path) -> None:
    """Octet for octet."""
    raw = b"Subject: x\r\n\r\nHi\r\n"
    messages = [parse(raw, id="a" * 32), parse(raw, id="b" * 32), parse(b"X-Way: 2\r\n" + raw, id="c" * 32)]

    assert [stage(tmp_path).apply(message) is not None for message in messages] == [True, False, True]


def test_the_scope_is_the_mailbox_unless_one_says_all(tmp_path: Path) -> None:
    """Two mailboxes may have different outputs, and each wants its own."""
    support, sales = letter(id_="a"), letter(id_="b", mailbox="sales")

    assert stage(tmp_path).apply(support) is not None
    assert stage(tmp_path).apply(sales) is not None
    assert stage(tmp_path / "all", scope="all").apply(support) is not None
    assert stage(tmp_path / "all", scope="all").apply(sales) is None


def test_a_copy_after_the_window_passes_and_claims_anew(tmp_path: Path) -> None:
    """The window begins with the first one and is not drawn out by copies."""
    clock = Clock()
    deduping = stage(tmp_path, clock, window="7d")

    assert deduping.apply(letter(id_="a")) is not None
    clock.now += 6.9 * DAY
    assert deduping.apply(letter(id_="b")) is None
    clock.now += 0.2 * DAY
    assert deduping.apply(letter(id_="c")) is not None
    assert deduping.apply(letter(id_="b")) is None


def claims(path: Path) -> int:
    database = sqlite3.connect(path / "seen.sqlite")
    try:
        return int(database.execute("select count(*) from claims").fetchone()[0])
    finally:
        database.close()


def test_what_is_outdated_goes(tmp_path: Path) -> None:
    """The file does not grow for ever, and no message waits for a long cleaning."""
    clock = Clock()
    deduping = stage(tmp_path, clock, window="1d")
    for number in range(100):
        deduping.apply(letter(number))
    clock.now += 2 * DAY

    for number in range(100, 110):
        deduping.apply(letter(number))

    assert claims(tmp_path) == 10


def test_no_word_of_a_message_is_in_the_file(tmp_path: Path) -> None:
    """Hashes and our own ids only."""
    stage(tmp_path).apply(letter())

    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(word in held for word in (b"example", b"rate", b"support"))


def test_a_file_that_was_deleted_or_damaged_is_begun_anew(tmp_path: Path) -> None:
    """That costs a copy and stops no message."""
    deduping = stage(tmp_path)
    assert deduping.apply(letter(id_="a")) is not None
    for path in tmp_path.iterdir():
        path.unlink()
    assert deduping.apply(letter(id_="b")) is not None
    assert deduping.apply(letter(id_="a")) is None
    del deduping
    (tmp_path / "seen.sqlite").write_bytes(b"no database " * 1000)

    assert stage(tmp_path).apply(letter(id_="a")) is not None
    assert stage(tmp_path).apply(letter(id_="b")) is None


def test_a_file_that_cannot_be_used_stops_the_message_for_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds its lock for ever: neither is the message dropped, nor does it pass unseen."""
    deduping = stage(tmp_path)
    deduping.apply(letter(1))
    monkeypatch.setattr(dedupe, "LOCK_SECONDS", 0.1)
    locker = sqlite3.connect(tmp_path / "seen.sqlite", isolation_level=None)
    try:
        locker.execute("begin immediate")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            stage(tmp_path).apply(letter(2))
    finally:
        locker.close()
    assert deduping.apply(letter(2)) is not None


def test_a_window_of_nothing_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    """It would drop nothing."""
    with pytest.raises(ValidationError, match="greater than 0"):
        stage(tmp_path, window="0s")


# -- several processes

_RACES = 60


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    forks.start(__name__)
    yield forks
    forks.stop()


_RACERS = "abcd"


def race(folder: Path, id_: str) -> None:
    """Be one of several deliverers: each has a copy of every message, and writes down which of its copies passed."""
    copies = [letter(number, id_=id_) for number in range(_RACES)]
    (folder / f"ready-{id_}").touch()
    deadline = time.monotonic() + 20
    while len(list(folder.glob("ready-*"))) < len(_RACERS):
        assert time.monotonic() < deadline
    deduping = stage(folder)
    passed = [number for number, copy in enumerate(copies) if deduping.apply(copy) is not None]
    (folder / f"passed-{id_}").write_text(" ".join(map(str, passed)))


def claim_and_die(folder: Path, id_: str) -> None:
    """Die after the claim and before anything is delivered."""
    stage(folder).apply(letter(id_=id_))
    os.kill(os.getpid(), signal.SIGKILL)


def test_of_copies_in_several_processes_exactly_one_passes(tmp_path: Path, forks: Forks) -> None:
    """Also when all of them find the file missing at the same instant."""
    with ThreadPoolExecutor(len(_RACERS)) as threads:
        codes = list(threads.map(lambda id_: forks.run(race, tmp_path, id_), _RACERS))

    assert codes == [0] * len(_RACERS)
    passed = [number for id_ in _RACERS for number in (tmp_path / f"passed-{id_}").read_text().split()]
    assert sorted(map(int, passed)) == list(range(_RACES))


def test_a_crash_between_claim_and_delivery_loses_nothing(tmp_path: Path, forks: Forks) -> None:
    """The claim belongs to the message and not to the process: its retry passes, its copy does not."""
    assert forks.run(claim_and_die, tmp_path, "a") == -signal.SIGKILL
    assert claims(tmp_path) == 1

    assert stage(tmp_path).apply(letter(id_="b")) is None
    assert stage(tmp_path).apply(letter(id_="a")) is not None
