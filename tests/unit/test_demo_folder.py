"""The demo's folder: what it empties, what it leaves alone, and what it shows of itself."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from worker import settings
from worker.cli.status import Line
from worker.demo.addresses import Addresses
from worker.demo.board import Board, View
from worker.demo.folder import MARKER, DemoFolder, claimed
from worker.demo.variables import environment, variables, write_env
from worker.errors import Misconfigured
from worker.standing import Standing


def test_what_an_earlier_demo_left_is_swept_away(tmp_path: Path) -> None:
    """Folders, files and links go; what a link names stays."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "keep.txt").touch()
    folder = DemoFolder(tmp_path / "demo")
    with claimed(folder):
        (folder.data / "spool").mkdir(parents=True)
        (folder.path / "mail.jsonl").touch()
        (folder.path / "link").symlink_to(mine)

    with claimed(folder):
        assert [path.name for path in folder.path.iterdir()] == [MARKER]
    assert (mine / "keep.txt").exists()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    """The second one says so and touches nothing."""
    folder = DemoFolder(tmp_path / "demo")
    with claimed(folder):
        (folder.path / "mail.jsonl").touch()
        with pytest.raises(Misconfigured, match="another demo runs in"), claimed(folder):
            pytest.fail("it was let in")
        assert (folder.path / "mail.jsonl").exists()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    """A file is in the way."""
    (tmp_path / "file").touch()

    with (
        pytest.raises(Misconfigured, match="cannot be the demo's folder"),
        claimed(DemoFolder(tmp_path / name)),
    ):
        pytest.fail("it was let in")


def test_the_env_file_says_what_the_roles_are_told_whatever_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes, commas, `$` and backslashes in a path arrive; the shell's own variables do not."""
    folder = tmp_path / r"it's 5$, a\b"
    folder.mkdir()
    (folder / "ca.pem").touch()
    (folder / "secret").write_text("whsec_" + "c2VjcmV0" * 4)
    addresses = Addresses(
        host="localhost",
        authority="https://localhost:1/harbour.example",
        client_id="x",
        robot_id="y",
        robot_secret_file="",
        lab="http://localhost:2/_lab",
        imap_port=3,
        pop3_port=4,
        receiver="http://localhost:5/hook",
        receiver_secret_file=str(folder / "secret"),
        receiver_log="",
        ca_file=str(folder / "ca.pem"),
    )
    said = variables(addresses, lines=folder / "mail.jsonl", maildir=folder / "Maildir")
    write_env(folder / ".env", said)
    monkeypatch.setenv("MAILBOX__REAL__ADDRESS", "real@example.com")
    monkeypatch.setenv("LOG_LEVEL", "debug")

    from_file = settings.load({}, cwd=folder)
    from_environment = settings.load(environment(said), cwd=folder)

    assert from_file.mailboxes == from_environment.mailboxes
    assert from_file.outputs == from_environment.outputs
    assert set(from_environment.mailboxes) == {"alice", "bob", "orders", "support"}
    assert from_environment.log_level == "info"
    assert from_environment.mailboxes["bob"].endpoint.port == 4


def test_without_a_terminal_a_line_is_printed_now_and_then(tmp_path: Path) -> None:
    """A log of a demo stays short."""
    console = Console(file=io.StringIO(), width=80)
    line = Line("alice", Standing(pulled=7, delivered=5), waiting=2, failed=0, next_at=None)
    with Board(console) as board:
        for second in range(12):
            board.show(View(0.0, float(second), 8, [line], {}, {"jsonl": 6, "maildir": 5}, {}))

    printed = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    counters = "8 letters, 7 pulled, 5 delivered, 2 waiting, 0 failed; 6 in jsonl, 5 in maildir"
    assert printed == [f"5 s: {counters}", f"10 s: {counters}"]
