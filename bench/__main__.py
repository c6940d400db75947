"""`make bench`: pull one mailbox with every contestant in turn, several times, and print medians and ratios."""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.contestants import CONTESTANTS, USER, Server, fresh_run
from bench.mailbox import mixed
from tests.bed.dovecot import Dovecot
from worker.demo.certificates import write_certificates


def main() -> None:
    """Seed a local Dovecot and let everyone pull it."""
    arguments = argparse.ArgumentParser(prog="python -m bench")
    arguments.add_argument("--messages", type=int, default=5000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", default="", help="a regular expression over the names")
    said = arguments.parse_args()
    console = Console(stderr=True)
    certificates = write_certificates(Path(tempfile.mkdtemp(prefix="mailquay-bench-")))
    # Nobody asks for a token here: all contestants sign in with the password.
    dovecot = Dovecot(certificates=certificates, introspection_url="http://127.0.0.1:9/", passwords=[USER])
    try:
        dovecot.start()
        letters = mixed(said.messages)
        octets = sum(map(len, letters))
        console.print(f"{len(letters)} messages, {octets / len(letters) / 1000:.0f} kB on average")
        dovecot.save(USER, *letters)
        server = Server(
            dovecot.imaps_port, dovecot.pop3s_port, dovecot.ca_file, dovecot.passwords[USER], len(letters)
        )
        taking_part = [one for one in CONTESTANTS if re.search(said.only, one.name) and one.installed]
        seconds: dict[str, list[float]] = {one.name: [] for one in taking_part}
        # The server's index and the page cache are warm for everybody.
        CONTESTANTS[0].run(server, Path())
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("pulling", total=said.rounds * len(taking_part))
            for _ in range(said.rounds):
                for one in taking_part:
                    seconds[one.name].append(fresh_run(one, server))
                    progress.advance(task)
    finally:
        dovecot.remove()
    Console(width=150).print(_table(seconds, len(letters), octets))
    left_out = [one.name for one in CONTESTANTS if not one.installed]
    if left_out:
        console.print(f"not installed, so not measured: {', '.join(left_out)}")


def _table(seconds: dict[str, list[float]], count: int, octets: int) -> Table:
    median = {name: statistics.median(times) for name, times in seconds.items()}
    table = Table("contestant", "seconds", "messages/s", "MB/s", title=time.strftime("%Y-%m-%d, one machine"))
    bases = [
        name
        for name in ("imaplib, keeps nothing", "mbsync, fsync on", "poplib, keeps nothing", "mpop")
        if name in median
    ]
    for base in bases:
        table.add_column(f"× {base.split(',')[0]}", justify="right")
    for name, middle in median.items():
        ratios = [f"{median[base] / middle:.2f}" for base in bases]
        table.add_row(name, f"{middle:.2f}", f"{count / middle:.0f}", f"{octets / middle / 1e6:.0f}", *ratios)
    return table


if __name__ == "__main__":
    sys.exit(main())
