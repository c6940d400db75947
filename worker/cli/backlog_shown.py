"""What waits for the outputs, and how full the spool is, as `status` and `drain` show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from pipelines.options import write_size
from worker.backlog import Backlog, Waiting
from worker.cli.moment import ago, ahead
from worker.cli.words import counted
from worker.errors import SpoolFull
from worker.quay import Quay
from worker.reading.shown import shown

_MOST = 2000
"""Characters of a reason that are shown."""


@dataclass(frozen=True, slots=True)
class Room:
    """How full the spool is, in octets: what waits and what may, what is free and what has to be.

    `spool_max` is None without a limit, `free` where nobody can tell. `kept_batches` are those of KEEP. `trouble` says why
    nothing is pulled, when that is so.
    """

    messages: int
    octets: int
    spool_max: int | None
    free: int | None
    disk_free_min: int
    kept_batches: int
    trouble: str = ""


def room(quay: Quay, found: Waiting) -> Room:
    """Measure the spool. What is kept is only counted where KEEP is set: it may be much."""
    said = quay.settings
    trouble = ""
    try:
        quay.spool.check_room()
    except SpoolFull as error:
        trouble = error.sentence
    return Room(
        found.messages,
        found.octets,
        said.spool_max,
        quay.spool.free(),
        said.disk_free_min,
        len(quay.spool.kept()) if said.keep else 0,
        trouble,
    )


def told(backlog: Backlog) -> dict[str, object]:
    """An output and what waits for it, for programs; times in Unix seconds."""
    circuit = backlog.circuit
    return {
        "output": backlog.output,
        "state": "away" if circuit else "ok",
        "messages": backlog.messages,
        "since": backlog.since,
        "reason": backlog.reason,
        "away_since": circuit and circuit.since,
        "next_probe": circuit and circuit.probe_at,
    }


def room_told(found: Room, unread: int) -> dict[str, object]:
    """The spool, for programs. `unread` are messages of which it was not looked up whom they wait for."""
    return {**asdict(found), "unread": unread}


def outputs_table(found: Sequence[Backlog], now: float) -> Table:
    """Each output: whether it is away, when it is asked again, what waits for it, and what it said last."""
    grid = Table("output", "state", "next probe", box=None, pad_edge=False, header_style="bold")
    grid.add_column("waiting", justify="right")
    grid.add_column("what it said", overflow="fold")
    for backlog in found:
        circuit = backlog.circuit
        grid.add_row(
            backlog.output,
            f"[red]away since {ago(circuit.since, now).removesuffix(' ago')}[/]"
            if circuit
            else "[green]ok[/]",
            ahead(circuit.probe_at, now) if circuit else "-",
            str(backlog.messages),
            escape(shown(backlog.reason, most=_MOST)),
        )
    return grid


def room_line(found: Room, unread: int) -> str:
    """The spool on a line or two, with markup of rich."""
    waits = f"{counted(found.messages, 'message')} waiting ({decimal(found.octets)}"
    waits += f" of {write_size(found.spool_max)})" if found.spool_max else ")"
    free = (
        []
        if found.free is None
        else [f"{decimal(found.free)} free, of which {write_size(found.disk_free_min)} stay free"]
    )
    kept = [f"{counted(found.kept_batches, 'delivered batch')} kept"] if found.kept_batches else []
    line = f"[bold]spool[/]  {'; '.join([waits, *free, *kept])}"
    if unread:
        line += f"\nwhom they wait for was not looked up of {counted(unread, 'message')}"
    return line + (f"\n[red]{escape(found.trouble)}[/]" if found.trouble else "")
