"""`mailquay demo` as a person runs it: real servers, real Valkey, real beat and workers, and nothing left behind."""

from __future__ import annotations

import contextlib
import email
import email.utils
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.bed.processes import descendants, wait_until
from tests.bed.valkey import Valkey
from worker.demo.carrier import Carrier, Letter

ROOT = Path(__file__).parents[2]
MAILBOXES = ("alice", "bob", "orders", "support")


def environ(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def demo(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a demo that ends by itself."""
    command = [sys.executable, "-m", "worker.cli", "demo", "--dir", str(folder), *arguments]
    with subprocess.Popen(
        command, env=environ(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = process.communicate(timeout=60)
        finally:
            # Killed, it could not end what it started.
            process.terminate()
    return subprocess.CompletedProcess(command, process.returncode, *said)


@contextlib.contextmanager
def running(folder: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A demo that goes on; ended behind the block when the test has not done so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "demo", "--dir", str(folder), *arguments],
        env=environ(COLUMNS="110", LINES="40"),
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The finished lines of a file."""
    text = path.read_bytes() if path.exists() else b""
    return [orjson.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def seeded(posted: dict[str, bytes]) -> list[Letter]:
    """The letters as the demo must have written them; only their dates are taken from what arrived."""
    found = [email.message_from_bytes(raw) for raw in posted.values()]
    dates = {
        int(message["X-Letter"]): email.utils.parsedate_to_datetime(message["Date"]) for message in found
    }
    moments = iter([dates[number].timestamp() for number in sorted(dates)])
    with Carrier(lambda: next(moments)) as carrier:
        return carrier.write(len(dates))


def test_once_delivers_every_letter_to_all_three_outputs_byte_for_byte(tmp_path: Path) -> None:
    """One JSON line on standard output, exit code 0; what the shell says of other mail changes nothing."""
    folder = tmp_path / "it's, a demo"
    elsewhere = {"REDIS_URL": "redis://127.0.0.1:1/0", "MAILBOX__REAL__ADDRESS": "real@example.com"}

    done = demo(folder, "--once", **elsewhere)

    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout) | {"seconds": 0} == {
        "pulled": 40, "delivered": 40, "waiting": 0, "failed": 0, "seconds": 0,
    }  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert done.stderr.count("approves") == 2
    posted = {path.name.partition(".")[0]: path.read_bytes() for path in (folder / "Maildir/new").iterdir()}
    letters = seeded(posted)
    assert sorted(posted.values()) == sorted(letter.raw for letter in letters)
    lines = json_lines(folder / "mail.jsonl")
    assert sorted((line["mailbox"], line["digest"]) for line in lines) == sorted(
        (letter.berth.name, f"sha256:{letter.digest}") for letter in letters
    )
    called = [line["webhook-id"] for line in json_lines(folder / "servers/receiver.jsonl")]
    assert sorted(called) == sorted(line["id"] for line in lines) == sorted(posted)
    assert not descendants()


def test_what_is_late_is_named_and_nothing_is_left_running(tmp_path: Path) -> None:
    """A timeout that cannot be kept: exit code 1, and a line for every mailbox and output."""
    folder = tmp_path / "demo"

    late = demo(folder, "--once", "--timeout", "1", "--letters", "8")

    assert late.returncode == 1
    assert orjson.loads(late.stdout)["delivered"] == 0
    assert "not finished after" in late.stderr
    for mailbox in MAILBOXES:
        for output in ("jsonl", "maildir", "webhook"):
            assert f"{mailbox}: 2 of 2 letters missing from {output}: no. " in late.stderr
    assert not descendants()


def test_on_a_terminal_a_live_table_shows_four_mailboxes_until_ctrl_c(tmp_path: Path) -> None:
    """Letters keep arriving; Ctrl-C, even pressed twice, ends every process in time."""
    folder = tmp_path / "demo"
    screen = bytearray()
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))

    def read() -> None:
        # Linux says EIO when the last process has let the terminal go.
        with contextlib.suppress(OSError):
            while chunk := os.read(leader, 65536):
                screen.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    arguments = ("--letters", "4", "--rate", "4")
    with running(folder, *arguments, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        wait_until(lambda: delivered(screen) > 4, timeout=40, what="delivery of what came later")
        begun = time.monotonic()
        # As a terminal does it: to everybody in the foreground.
        os.killpg(process.pid, signal.SIGINT)
        wait_until(lambda: b"Ending every process" in screen, timeout=5, what="the answer to Ctrl-C")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert time.monotonic() - begun < 20
    assert not descendants()
    reader.join(timeout=5)
    os.close(leader)

    found = rows(screen)
    assert found["bob"][:2] == ["POP3", "bob@harbour.example"]
    assert found["support"][:2] == ["IMAP", "alice@harbour.example"]
    assert found["orders"][:2] == ["IMAP", "bob@harbour.example"]
    assert set(found) == set(MAILBOXES)
    assert 4 < delivered(screen) <= len(json_lines(folder / "mail.jsonl"))
    assert "Traceback" not in screen.decode()


def rows(screen: bytearray) -> dict[str, list[str]]:
    """The last whole row of each mailbox on the screen: protocol, account, last pull and the four counters."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode(errors="replace"))
    row = r"^(\w+) +(IMAP|POP3) +(\S+) +(never|\d+ \w ago) +(\d+) +(\d+) +(\d+) +(\d+)\s*?\n"
    return {name: cells for name, *cells in re.findall(row, text, flags=re.MULTILINE)}


def delivered(screen: bytearray) -> int:
    """What the table says in its column `delivered`, of all mailboxes together."""
    return sum(int(cells[4]) for cells in rows(screen).values())


@pytest.mark.parametrize("stage", ["servers", "roles.log"])
def test_sigterm_during_the_start_leaves_no_process(tmp_path: Path, stage: str) -> None:
    """However early the end comes, when the servers start or when the roles do, everything that was started ends."""
    folder = tmp_path / "demo"
    with running(folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_until((folder / stage).exists, timeout=20, what=f"{stage} of the demo")
        begun = time.monotonic()
        process.terminate()
        process.terminate()
        said, _ = process.communicate(timeout=30)

    assert process.returncode == 0, said
    assert time.monotonic() - begun < 20
    assert b"Every process has ended" in said
    assert not descendants()


def test_a_folder_that_no_demo_made_is_not_touched(tmp_path: Path) -> None:
    """Somebody may name a folder of their own by mistake."""
    (tmp_path / "thesis.txt").write_text("years of work")

    refused = demo(tmp_path, "--once")

    assert refused.returncode == 1
    assert "holds files that no demo made; none was touched" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """The demo's servers are an extra; a plain installation has none of them."""
    program = "import sys; sys.modules['pymap'] = None; from worker.cli import main; main(['demo'])"

    refused = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert refused.returncode == 1
    assert "pip install 'mailquay[demo]'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_in_a_container_the_other_services_find_the_mailboxes_in_its_env_file(
    tmp_path: Path, fresh_valkey: Valkey
) -> None:
    """The file appears when accounts are signed in and letters lie there, serves another process, and goes at the end."""
    folder, out = tmp_path / "demo", tmp_path / "data" / "demo"
    env_file = folder / ".env"
    shared = environ(REDIS_URL=fresh_valkey.url, DATA_DIR=str(tmp_path / "data"))
    options = ["--host", "127.0.0.1", "--name", "localhost", "--free-ports", "--letters", "8", "--rate", "0"]
    command = [
        sys.executable,
        "-m",
        "worker.demo.container",
        "--dir",
        str(folder),
        "--out",
        str(out),
        *options,
    ]
    container = subprocess.Popen(command, env=shared, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: env_file.exists() or container.poll() is not None, timeout=20, what="the demo's env file"
        )
        pulled = subprocess.run(
            [sys.executable, "-m", "worker.cli", "once", "--json"],
            cwd=tmp_path,
            env={**shared, "ENV_FILE": f".env,{env_file}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        container.terminate()
        said, _ = container.communicate(timeout=20)

    assert container.returncode == 0, said
    assert pulled.returncode == 0, pulled.stderr
    assert orjson.loads(pulled.stdout)["delivered"] == 8
    assert len(json_lines(out / "mail.jsonl")) == 8
    assert len(json_lines(folder / "receiver.jsonl")) == 8
    assert not env_file.exists()
