"""One output of three is down for the whole run: what that costs the other two.

    python -m bench.one_down --messages 5000 --rounds 5

`mailquay once` empties a mailbox into a file of JSON lines and a Maildir; then the same with a webhook beside them at whose
address nobody listens. Both in turn; afterwards the webhook comes up, and has to get each message once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bench.contestants import USER
from bench.mailbox import mixed
from tests.bed.dovecot import Dovecot
from tests.bed.processes import free_port
from tests.contract.receiver import receiving
from worker.demo.certificates import write_certificates


def environ(dovecot: Dovecot, folder: Path, outputs: str, url: str) -> dict[str, str]:
    """The variables of one run."""
    return {
        **os.environ,
        "DATA_DIR": str(folder / "data"),
        "OUTPUT__LINES__TYPE": "jsonl",
        "OUTPUT__LINES__PATH": str(folder / "mail.jsonl"),
        "OUTPUT__POST__TYPE": "maildir",
        "OUTPUT__POST__PATH": str(folder / "Maildir"),
        "OUTPUT__CRM__TYPE": "webhook",
        "OUTPUT__CRM__URL": url,
        "MAILBOX__BENCH__ADDRESS": USER,
        "MAILBOX__BENCH__PASSWORD": dovecot.passwords[USER],
        "MAILBOX__BENCH__HOST": "localhost",
        "MAILBOX__BENCH__PORT": str(dovecot.imaps_port),
        "MAILBOX__BENCH__CA_FILE": str(dovecot.ca_file),
        "MAILBOX__BENCH__SINCE": "all",
        "MAILBOX__BENCH__OUTPUTS": outputs,
        "LOG_LEVEL": "error",
    }


def once(said: dict[str, str], verb: str = "once") -> float:
    """Seconds of one run, the program's start counted."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "worker.cli", verb, "--json"], env=said, capture_output=True, check=False
    )
    return time.perf_counter() - begun


def complete(folder: Path, count: int) -> bool:
    """Whether both files hold every message once."""
    ids = [json.loads(line)["id"] for line in (folder / "mail.jsonl").read_bytes().splitlines()]
    return len(ids) == len(set(ids)) == count == len(list((folder / "Maildir" / "new").iterdir()))


def main() -> None:
    """Both kinds of run in turn, and what comes after."""
    arguments = argparse.ArgumentParser(prog="python -m bench.one_down", description=__doc__)
    arguments.add_argument("--messages", type=int, default=5000)
    arguments.add_argument("--rounds", type=int, default=5)
    said = arguments.parse_args()
    console = Console(width=120)
    home = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    dovecot = Dovecot(
        certificates=write_certificates(home), introspection_url="http://127.0.0.1:9/", passwords=[USER]
    )
    seconds: dict[str, list[float]] = {"lines,post": [], "lines,post,crm": []}
    try:
        dovecot.start()
        dovecot.save(USER, *mixed(said.messages))
        port = free_port()
        for number in track(range(said.rounds), "emptying", console=Console(stderr=True)):
            for outputs, took in seconds.items():
                folder = home / f"{number}{len(outputs)}"
                folder.mkdir()
                took.append(once(environ(dovecot, folder, outputs, f"http://127.0.0.1:{port}/")))
                assert complete(folder, said.messages), outputs
        two, three = (statistics.median(took) for took in seconds.values())
        console.print(f"two outputs {two:.2f} s, with a dead third {three:.2f} s: {three / two:.2f}")
        with receiving() as receiver:
            back = environ(dovecot, folder, "lines,post,crm", receiver.url)
            while Counter(call.headers["webhook-id"] for call in receiver.calls).total() < said.messages:
                once(back, "drain")
            calls = Counter(call.headers["webhook-id"] for call in receiver.calls)
            assert set(calls.values()) == {1}, calls.most_common(3)
            assert complete(folder, said.messages)
        console.print(f"back, it got {len(calls)} messages, each once; the other two got nothing again")
    finally:
        dovecot.remove()
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
