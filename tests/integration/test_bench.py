"""`make bench` runs to its end: whoever compares Mailquay with its peers must not have to repair the comparison first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(module: str, *options: str) -> str:
    """What a comparison prints; its own asserts see to it that every contestant got every message."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.dovecot
def test_a_small_mailbox_is_pulled_measured_and_drawn(tmp_path: Path) -> None:
    """One round of a few messages without the peers, as JSON and as a picture; nothing is said of the times."""
    picture = tmp_path / "bench.svg"

    said = json.loads(
        bench(
            *("bench", "--messages", "20", "--rounds", "1"),
            *("--only", "nothing|pull", "--json", "--plot", str(picture)),
        )
    )

    contestants = said["contestants"]
    assert said["messages"] == 20
    assert {"imaplib, keeps nothing", "mailquay pull, IMAP", "mailquay pull, POP3"} <= contestants.keys()
    assert all(len(one["seconds"]) == 1 and one["median"] > 0 for one in contestants.values())
    assert contestants["poplib, keeps nothing"]["times_as_fast_as"]["poplib, keeps nothing"] == 1
    assert picture.read_text().count("<rect") == len(contestants)


@pytest.mark.dovecot
def test_a_folder_that_hangs_up_is_measured_all_the_same() -> None:
    """The imitated folder of a million messages ends the session after some; what came by then was counted."""
    said = json.loads(
        bench("bench.memory", "--rounds", "1", "--only", "IMAP, folder.*all", "--pulled", "200", "--json")
    )

    assert said.keys() == {"IMAP, folder, SINCE=all"}
    assert all(one["small_mb"] > 10 and one["huge_mb"] > 10 for one in said.values())
