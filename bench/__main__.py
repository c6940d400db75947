"""`make bench`: pull one mailbox with every contestant in turn, several times, and print medians and ratios."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.contestants import CONTESTANTS, USER, Server, imaplib_loop, poplib_loop
from bench.mailbox import mixed
from bench.results import Results, add_options, run_rounds, show, today
from tests.bed.dovecot import Dovecot
from worker.demo.certificates import write_certificates

BASES = ("imaplib, keeps nothing", "mbsync, fsync on", "poplib, keeps nothing", "mpop", "getmail6, POP3")


def main() -> None:
    """Seed a local Dovecot and let everyone pull it."""
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    arguments.add_argument("--messages", type=int, default=5000)
    add_options(arguments)
    said = arguments.parse_args()
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    # Nobody asks for a token here: all contestants sign in with the password.
    dovecot = Dovecot(
        certificates=write_certificates(folder), introspection_url="http://127.0.0.1:9/", passwords=[USER]
    )
    try:
        dovecot.start()
        letters = mixed(said.messages)
        octets = sum(map(len, letters))
        about = f"{len(letters)} messages, {octets / len(letters) / 1000:.0f} kB on average"
        console.print(about)
        dovecot.save(USER, *letters)
        server = Server(
            dovecot.imaps_port, dovecot.pop3s_port, dovecot.ca_file, dovecot.passwords[USER], len(letters)
        )
        taking_part = [one for one in CONTESTANTS if re.search(said.only, one.name) and one.installed]
        # The server's index and the page cache are warm for everybody; POP3 has sizes of its own in the index.
        imaplib_loop(server, folder)
        poplib_loop(server, folder)
        seconds = run_rounds(taking_part, server, said.rounds, console)
    finally:
        dovecot.remove()
        shutil.rmtree(folder)
    show(Results(seconds, len(letters), octets, today(about), BASES), said)
    left_out = [one.name for one in CONTESTANTS if not one.installed]
    if left_out:
        console.print(f"not installed, so not measured: {', '.join(left_out)}")


if __name__ == "__main__":
    sys.exit(main())
