"""How much anonymous memory a `mailquay pull` takes: a small case beside a huge one, which must differ by 20 MB at most.

    python -m bench.memory [--rounds 5] [--only REGEX] [--pulled 5000] [--json] [--plot FILE.svg]

One message of 1 MB and one of 150 MB come from a real Dovecot; folders of 1,000 and of 1,000,000 messages from an imitation
(`bench/vast.py`) that hangs up after `--pulled` messages, because a folder must not take memory to begin with either. What is
reported is the peak of RssAnon, read every 20 ms from /proc (Linux), of the pull and, beside it, of the embedded Valkey.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.chart import bars
from tests.bed.dovecot import Dovecot
from tests.bed.processes import free_port
from worker.demo.certificates import Certificates, write_certificates

BAR_MB = 20.0
_EVERY_SECONDS = 0.02
_PATIENCE_SECONDS = 600.0
_SMALL, _HUGE = "small@harbour.example", "huge@harbour.example"
_SMALL_FOLDER, _HUGE_FOLDER = 1_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pull signs in, and how many messages have to come at least."""

    port: int
    ca_file: Path
    user: str
    password: str
    messages: int


@dataclass(frozen=True, slots=True)
class Peaks:
    """Highest RssAnon in MB of the pull and of its embedded Valkey."""

    pull: float
    valkey: float


@dataclass(frozen=True, slots=True)
class Case:
    """Two mailboxes that a pull must not be able to tell apart by its memory."""

    name: str
    protocol: str
    since: str
    small: Callable[[], Place]
    huge: Callable[[], Place]


@dataclass(slots=True)
class Found:
    """The peaks of every round."""

    small: list[Peaks] = field(default_factory=list)
    huge: list[Peaks] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Medians in MB."""
        small, huge = (statistics.median(one.pull for one in rounds) for rounds in (self.small, self.huge))
        valkey = [statistics.median(one.valkey for one in rounds) for rounds in (self.small, self.huge)]
        figures = {"small_mb": small, "huge_mb": huge, "difference_mb": huge - small}
        figures |= {"valkey_small_mb": valkey[0], "valkey_huge_mb": valkey[1]}
        return {name: round(figure, 1) for name, figure in figures.items()}


# -- the mailboxes ---------------------------------------------------------------------------------------------------


def attachment(octets: int) -> bytes:
    """A message of about so many octets, base64 as attachments are."""
    head = b"Subject: plan\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    body = base64.encodebytes(random.Random(octets).randbytes(octets * 57 // 78))
    return head + body.replace(b"\n", b"\r\n")


@contextmanager
def large_messages(folder: Path) -> Iterator[list[Case]]:
    """One message of 1 MB, and one of 150 MB, on a real server."""
    certificates = write_certificates(folder / "dovecot")
    users = {_SMALL: 1_000_000, _HUGE: 150_000_000}
    dovecot = Dovecot(certificates=certificates, introspection_url="http://127.0.0.1:9/", passwords=users)
    try:
        dovecot.start()

        @cache
        def seeded(user: str) -> str:
            dovecot.save(user, attachment(users[user]))
            return dovecot.passwords[user]

        def place(user: str, port: int) -> Callable[[], Place]:
            return lambda: Place(port, dovecot.ca_file, user, seeded(user), 1)

        yield [
            Case(f"{name}, one message", name.lower(), "all", place(_SMALL, port), place(_HUGE, port))
            for name, port in (("IMAP", dovecot.imaps_port), ("POP3", dovecot.pop3s_port))
        ]
    finally:
        dovecot.remove()


@contextmanager
def vast_folders(folder: Path, pulled: int) -> Iterator[list[Case]]:
    """Folders of 1,000 and of 1,000,000 messages that end a session after `pulled` messages."""
    certificates = write_certificates(folder / "vast")
    servers: list[subprocess.Popen[bytes]] = []
    try:

        @cache
        def port(protocol: str, count: int) -> int:
            return _vast(servers, protocol, count, pulled, certificates)

        def place(protocol: str, count: int, since: str) -> Callable[[], Place]:
            most = 0 if since == "now" else min(pulled or count, count)
            # A pull that is hung up on keeps what was whole, so a few batches may be missing.
            least = most if most == count else most * 9 // 10
            return lambda: Place(
                port(protocol, count), certificates.ca_file, "vast@harbour.example", "vast", least
            )

        yield [
            Case(
                f"{protocol}, folder, SINCE={since}",
                protocol.lower(),
                since,
                place(protocol, _SMALL_FOLDER, since),
                place(protocol, _HUGE_FOLDER, since),
            )
            for protocol in ("IMAP", "POP3")
            for since in ("now", "all")
        ]
    finally:
        for server in servers:
            assert server.stdin
            assert server.stdout
            server.stdin.close()
            server.stdout.close()
            server.wait(10)


def _vast(
    servers: list[subprocess.Popen[bytes]], protocol: str, count: int, pulled: int, certificates: Certificates
) -> int:
    port = free_port()
    words = (protocol, port, count, pulled, certificates.chain_file, certificates.key_file)
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.vast", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        # Ctrl-C in a terminal goes to the measurement, which then ends the server.
        start_new_session=True,
    )
    servers.append(server)
    assert server.stdout
    assert server.stdout.readline() == b"ready\n"
    return port


# -- the measurement -------------------------------------------------------------------------------------------------


def anonymous(pid: int) -> float:
    """A process's anonymous memory in MB now; 0 when it has just ended."""
    with suppress(OSError):
        if found := re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024 / 1e6
    return 0.0


def valkeys(pid: int) -> list[int]:
    """The embedded servers that a process has started; its children before they became one are not meant."""
    with suppress(OSError):
        return [
            int(one)
            for tasks in Path(f"/proc/{pid}/task").glob("*/children")
            for one in tasks.read_text().split()
            if "valkey" in Path(f"/proc/{one}/comm").read_text()
        ]
    return []


def pull(place: Place, case: Case) -> Peaks:
    """One pull into an empty folder; what it took at most."""
    folder = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    environ = {
        **os.environ,
        "DATA_DIR": str(folder / "data"),
        "MESSAGE_MAX": "200MB",
        "OUTPUT__LINES__TYPE": "jsonl",
        "OUTPUT__LINES__PATH": str(folder / "mail.jsonl"),
        "MAILBOX__BENCH__PROTOCOL": case.protocol,
        "MAILBOX__BENCH__ADDRESS": place.user,
        "MAILBOX__BENCH__PASSWORD": place.password,
        "MAILBOX__BENCH__HOST": "localhost",
        "MAILBOX__BENCH__PORT": str(place.port),
        "MAILBOX__BENCH__CA_FILE": str(place.ca_file),
        "MAILBOX__BENCH__SINCE": case.since,
        "MAILBOX__BENCH__OUTPUTS": "lines",
        "LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "worker.cli", "pull", "bench", "--json"]
    try:
        with (folder / "said").open("w+") as said, (folder / "log").open("w+") as log:
            process = subprocess.Popen(command, cwd=folder, env=environ, stdout=said, stderr=log)
            try:
                peaks = _watched(process)
            finally:
                # It stops its Valkey in order when it is asked to end, and not when it is killed.
                process.terminate()
                process.wait(30)
            said.seek(0)
            log.seek(0)
            lines = said.read().splitlines()
            assert lines, log.read()[-2000:]
            totals = json.loads(lines[-1])
            assert totals["pulled"] >= place.messages, (case.name, totals, log.read()[-2000:])
            return peaks
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watched(process: subprocess.Popen[bytes]) -> Peaks:
    own = other = 0.0
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None:
        own = max(own, anonymous(process.pid))
        other = max([other, *map(anonymous, valkeys(process.pid))])
        if time.monotonic() > give_up:
            raise TimeoutError(f"a pull did not end within {_PATIENCE_SECONDS:g} s")
        time.sleep(_EVERY_SECONDS)
    return Peaks(own, other)


def measure(cases: Sequence[Case], rounds: int, console: Console) -> dict[str, Found]:
    """All cases in turn, `rounds` times."""
    found = {case.name: Found() for case in cases}
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("pulling", total=2 * rounds * len(cases))
        for _ in range(rounds):
            for case in cases:
                progress.update(task, description=case.name)
                found[case.name].small.append(pull(case.small(), case))
                progress.advance(task)
                found[case.name].huge.append(pull(case.huge(), case))
                progress.advance(task)
    return found


def table(found: dict[str, Found]) -> Table:
    """A row for each case."""
    drawn = Table("peak of anonymous memory, MB", title=f"{time.strftime('%Y-%m-%d')}, medians")
    for column in ("small", "huge", "difference", f"within {BAR_MB:g}", "Valkey, small", "Valkey, huge"):
        drawn.add_column(column, justify="right")
    for name, one in found.items():
        small, huge, difference, *valkey = one.figures().values()
        reached = "yes" if difference <= BAR_MB else "no"
        drawn.add_row(
            name,
            f"{small:.1f}",
            f"{huge:.1f}",
            f"{difference:+.1f}",
            reached,
            *(f"{mb:.1f}" for mb in valkey),
        )
    return drawn


def plot(found: dict[str, Found]) -> str:
    """Both peaks of every case, as SVG; the huge ones stand out."""
    rows = [
        (f"{size}: {name}", one.figures()[f"{size}_mb"], f"{one.figures()[f'{size}_mb']:.0f} MB")
        for name, one in found.items()
        for size in ("small", "huge")
    ]
    return bars("peak of anonymous memory of a pull", rows, ours="huge")


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(
        prog="python -m bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default="", help="a regular expression over the cases' names")
    arguments.add_argument(
        "--pulled", type=int, default=5000, help="messages after which a folder hangs up, 0: never"
    )
    arguments.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the medians as well")
    said = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    try:
        with large_messages(folder) as messages, vast_folders(folder, said.pulled) as folders:
            cases = [case for case in (*messages, *folders) if re.search(said.only, case.name)]
            found = measure(cases, said.rounds, Console(stderr=True))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(folder)
    if said.json:
        print(json.dumps({name: one.figures() for name, one in found.items()}, indent=2))
    else:
        Console(width=120).print(table(found))
    if said.plot:
        said.plot.write_text(plot(found), encoding="utf-8")


if __name__ == "__main__":
    main()
