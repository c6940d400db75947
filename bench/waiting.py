"""What it costs that batches wait for a dead output: sweeping and delivering over ten minutes of a clock that is made to run.

    python -m bench.waiting --batches 100000

The batches are real files of the spool, written without waiting for the disk; Valkey is real; time is not: each sweep finds
the clock ten seconds later than the one before. Processor time and memory of this process are what is measured.
"""

from __future__ import annotations

import argparse
import io
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog
from rich.console import Console
from rich.progress import track

from tests.bed.clock import Clock
from worker import settings
from worker.deliver import deliver
from worker.embedded import embedded
from worker.identity import batch_id, imap_id
from worker.parking import waiting_batches
from worker.quay import Quay
from worker.spool import Batch, Entry, Ticket
from worker.spool.archive import Archive
from worker.sweep import sweep

_RAW = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: one of many\r\n\r\n" + b"x" * 2000 + b"\r\n"
_SWEEP_SECONDS = 10
_SWEEPS = 60


@contextmanager
def opened(folder: Path, clock: Clock) -> Iterator[Quay]:
    """A mailbox whose only output is a port where nobody listens."""
    with embedded(folder) as url:
        environ = {
            "DATA_DIR": str(folder),
            "REDIS_URL": url,
            "OUTPUT__CRM__TYPE": "webhook",
            "OUTPUT__CRM__URL": "http://127.0.0.1:9/",
            "MAILBOX__BOX__ADDRESS": "a@example.com",
            "MAILBOX__BOX__HOST": "localhost",
            "MAILBOX__BOX__PASSWORD": "x",
            "MAILBOX__BOX__OUTPUTS": "crm",
        }
        quay = Quay(settings.load(environ, cwd=folder), url, clock=clock)
        try:
            yield quay
        finally:
            quay.close()


def written(quay: Quay, folder: Path, number: int) -> Ticket:
    """One batch of one message in the spool, as a pull leaves it."""
    entry = Entry(imap_id("box", "INBOX", 7, number), uid=number, owed=("crm",))
    target = io.BytesIO()
    archive = Archive(target)
    member = archive.add("0001.eml", (_RAW,))
    entry = replace(entry, member="0001.eml", size=member.size, sha256=member.sha256)
    batch = Batch(
        batch_id([entry.id]), "box", "INBOX", 7, int(quay.clock()), entries=(entry,), sequence=quay.sequence()
    )
    archive.add("batch.json", (batch.dumps(),))
    archive.close()
    ticket = batch.ticket(due=batch.created)
    (folder / "spool" / "ready" / str(ticket)).write_bytes(target.getvalue())
    return ticket


def anonymous() -> int:
    """Anonymous memory of this process, in octets."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Let them pile up, then sweep."""
    arguments = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    arguments.add_argument("--batches", type=int, default=100_000)
    said = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console = Console(width=120)
    folder = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    clock = Clock()
    try:
        with opened(folder, clock) as quay:
            _ = quay.spool
            idle = anonymous()
            tickets = [
                written(quay, folder, n)
                for n in track(range(1, said.batches + 1), "writing", console=Console(stderr=True))
            ]
            begun, used = time.perf_counter(), time.process_time()
            for ticket in track(tickets, "first calls", console=Console(stderr=True)):
                deliver(quay, ticket)
            console.print(
                f"first call, parked: {(time.process_time() - used) / said.batches * 1e3:.2f} ms of processor a batch, "
                f"{(time.perf_counter() - begun) / said.batches * 1e3:.2f} ms in all"
            )
            del tickets
            clock.ahead += _SWEEP_SECONDS
            used, calls, heap = time.process_time(), 0, anonymous()
            for _ in track(range(_SWEEPS), "sweeping", console=Console(stderr=True)):
                clock.ahead += _SWEEP_SECONDS
                rung: list[Ticket] = []
                sweep(quay, ring=rung.append, ring_pull=lambda _: None)
                for ticket in rung:
                    deliver(quay, ticket)
                calls += len(rung)
            seconds = time.process_time() - used
            share = seconds / (_SWEEPS * _SWEEP_SECONDS)
            waiting = len(waiting_batches(quay))
            console.print(
                f"{waiting} batches wait; {_SWEEPS} sweeps in {_SWEEPS * _SWEEP_SECONDS} s: {share:.2%} of a core, {calls} deliveries; "
                f"anonymous memory {idle / 1e6:.0f} MB without batches, {heap / 1e6:.0f} MB before, {anonymous() / 1e6:.0f} MB after; "
                f"Redis {quay.client.info('memory')['used_memory'] / 1e6:.0f} MB"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
