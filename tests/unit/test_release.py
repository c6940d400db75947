"""Releases in a folder and in memory: kept, found when they are due, struck off; and what a poll costs while none is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.release import Release, Releases
from worker.spool import Spool
from worker.spool.file import FileSpool
from worker.spool.memory import MemorySpool

NOW = 1_800_000_000
DAY = 86_400
ALL = 10_000


def in_folder(path: Path) -> FileSpool:
    return FileSpool(path, clock=lambda: NOW)


@pytest.fixture(params=["file", "memory"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Spool:
    return in_folder(tmp_path) if request.param == "file" else MemorySpool(clock=lambda: NOW)


@pytest.fixture
def releases(spool: Spool) -> Releases:
    return Releases(spool)


def release(*uids: int, at: int = NOW, folder: str = "INBOX", uidvalidity: int | None = 7) -> Release:
    return Release(folder, uidvalidity, at, uids)


def test_a_release_is_kept_once_until_it_is_struck_off(releases: Releases) -> None:
    """Noting one twice, as after a crash, is the same as once; other mailboxes are not concerned."""
    inbox, drop = release(1, 2), Release("INBOX", None, NOW, (), ("x y", "~"), recognised=True)
    for _ in range(2):
        releases.note("box", inbox)
        releases.note("drop", drop)

    assert releases.due("box", "INBOX", NOW, most=ALL) == [inbox]
    assert releases.due("drop", "INBOX", NOW, most=ALL) == [drop]
    assert (releases.waiting("box"), releases.waiting("drop"), releases.waiting("other")) == (2, 2, 0)
    for _ in range(2):
        releases.strike("box", [inbox])
    assert releases.due("box", "INBOX", NOW, most=ALL) == []
    assert releases.due("drop", "INBOX", NOW, most=ALL) == [drop]


def test_nothing_is_noted_of_no_messages(releases: Releases) -> None:
    """A delivery that got nothing accepted leaves no file."""
    releases.note("box", release())

    assert releases.due("box", "INBOX", NOW, most=ALL) == []


def test_what_is_due_comes_oldest_first_and_not_much_more_than_is_asked_for(releases: Releases) -> None:
    """To the second; a release is never cut in two."""
    moments = [NOW - 40 * DAY, NOW - 3 * DAY - 5, NOW - 3 * DAY, NOW - 3 * DAY + 1, NOW]
    noted = [release(number, number + 100, at=at) for number, at in enumerate(moments, 1)]
    for one in reversed(noted):
        releases.note("box", one)

    assert releases.due("box", "INBOX", NOW - 3 * DAY, most=ALL) == noted[:3]
    assert releases.due("box", "INBOX", NOW, most=3) == noted[:2]
    assert releases.due("box", "INBOX", NOW - 41 * DAY, most=ALL) == []


def test_a_folder_that_cannot_be_settled_is_not_in_the_way_of_others(releases: Releases) -> None:
    """However much waits in it, and however it is spelled."""
    for number in range(20):
        releases.note("box", release(number + 1, at=NOW - 10, folder="Lost/Öl-7"))
    inbox = release(1)
    releases.note("box", inbox)

    assert releases.due("box", "INBOX", NOW, most=5) == [inbox]
    assert {found.folder for found in releases.elsewhere("box", ["INBOX"], NOW, most=5)} == {"Lost/Öl-7"}
    assert len(releases.elsewhere("box", ["INBOX"], NOW, most=5)) == 5


def test_all_of_a_mailbox_can_be_struck_off(releases: Releases) -> None:
    """Due or not."""
    releases.note("box", release(1, at=NOW + 5 * DAY))
    releases.note("box", release(2, folder="Other"))
    releases.note("shop", release(3))

    releases.strike_all("box")

    assert (releases.waiting("box"), releases.waiting("shop")) == (0, 1)


def test_it_survives_the_process_and_needs_no_redis(tmp_path: Path) -> None:
    """All of it is in the folder, and days that are done with leave nothing."""
    old, new = release(1, at=NOW - 3 * DAY), release(2)
    for one in (old, new):
        Releases(in_folder(tmp_path)).note("box", one)

    releases = Releases(in_folder(tmp_path))
    assert releases.due("box", "INBOX", NOW, most=ALL) == [old, new]
    releases.strike("box", [old, new])

    # Today's folder stays: a release may be on its way into it.
    assert [len(list(day.iterdir())) for day in (tmp_path / "released" / "box").iterdir()] == [0]


def test_a_strangers_file_and_a_damaged_one_stop_nothing(tmp_path: Path) -> None:
    """They are let be."""
    releases = Releases(in_folder(tmp_path))
    whole, torn = release(1), release(2)
    releases.note("box", whole)
    releases.note("box", torn)
    (day,) = (tmp_path / "released" / "box").iterdir()
    (day / f"{torn.name}.json").write_bytes(b'{"folder"')
    (day / "notes.txt").write_text("mine")
    (day / "zzz.json").write_text("{}")
    (tmp_path / "released" / "box" / "000000").write_text("no folder")

    assert releases.due("box", "INBOX", NOW, most=ALL) == [whole]
    releases.strike_all("box")
    assert {path.name for path in day.iterdir()} == {"notes.txt", "zzz.json"}


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is listed or read."""
    seen: list[str] = []
    listdir, read_bytes = os.listdir, Path.read_bytes

    def listing(path: Path) -> list[str]:
        seen.append(path.name)
        return listdir(path)

    def reading(path: Path) -> bytes:
        seen.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(os, "listdir", listing)
    monkeypatch.setattr(Path, "read_bytes", reading)
    yield seen
    monkeypatch.undo()


def test_what_is_not_due_yet_is_neither_read_nor_listed(tmp_path: Path, touched: list[str]) -> None:
    """A month of releases costs a poll one listing of the month's days, and one of the day that is coming due."""
    releases = Releases(in_folder(tmp_path))
    for day in range(30):
        for number in range(3):
            releases.note("box", release(number + 1, at=NOW - day * DAY - number))
    touched.clear()

    assert releases.due("box", "INBOX", NOW - 29 * DAY - 3, most=ALL) == []

    assert len(touched) == 2
    assert touched[0] == "box"
