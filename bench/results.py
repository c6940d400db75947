"""What a run measured, and the three ways it is shown: a table, JSON, and a plot. Medians over the rounds count."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.chart import bars
from bench.contestants import Contestant, Server, fresh_run


@dataclass(frozen=True, slots=True)
class Results:
    """Seconds of every round by contestant, for a mailbox of `count` messages with `octets` in all.

    `about` is what the reader must know of the run; `bases` are the contestants that the others are compared with.
    """

    seconds: dict[str, list[float]]
    count: int
    octets: int
    about: str
    bases: Sequence[str]

    def median(self, name: str) -> float:
        """The middle of a contestant's rounds, in seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str) -> dict[str, float]:
        """How many times as fast as each base a contestant was."""
        return {base: self.median(base) / self.median(name) for base in self.bases if base in self.seconds}

    def table(self) -> Table:
        """A row for each contestant."""
        table = Table("contestant", title=self.about)
        for column in ("seconds", "from", "to", "messages/s", "MB/s"):
            table.add_column(column, justify="right")
        for base in self.bases:
            if base in self.seconds:
                table.add_column(f"× {re.sub(', (keeps nothing|fsync on)$', '', base)}", justify="right")
        for name, rounds in self.seconds.items():
            middle = self.median(name)
            table.add_row(
                name,
                *(f"{figure:.2f}" for figure in (middle, min(rounds), max(rounds))),
                *(f"{self.count / middle:.0f}", f"{self.octets / middle / 1e6:.1f}"),
                *(f"{ratio:.2f}" for ratio in self.ratios(name).values()),
            )
        return table

    def as_json(self) -> str:
        """One object: the mailbox, and of each contestant the rounds, the median and the ratios."""
        said = {
            "about": self.about,
            "messages": self.count,
            "octets": self.octets,
            "contestants": {
                name: {
                    "seconds": [round(one, 3) for one in rounds],
                    "median": round(self.median(name), 3),
                    "messages_per_second": round(self.count / self.median(name), 1),
                    "times_as_fast_as": {base: round(ratio, 2) for base, ratio in self.ratios(name).items()},
                }
                for name, rounds in self.seconds.items()
            },
        }
        return json.dumps(said, indent=2, ensure_ascii=False)

    def plot(self) -> str:
        """Messages a second, as SVG."""
        rates = {name: self.count / self.median(name) for name in self.seconds}
        rows = [(name, rate, f"{rate:.0f} messages/s") for name, rate in rates.items()]
        return bars(self.about, rows)


def add_options(arguments: argparse.ArgumentParser) -> None:
    """The options that every comparison has."""
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default="", help="a regular expression over the contestants' names")
    arguments.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the medians as well")


def run_rounds(
    contestants: Sequence[Contestant], server: Server, rounds: int, console: Console
) -> dict[str, list[float]]:
    """Seconds by contestant: everybody in turn, `rounds` times, so that what the machine does meanwhile hits all alike."""
    seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("pulling", total=rounds * len(contestants))
        for _ in range(rounds):
            for one in contestants:
                progress.update(task, description=one.name)
                seconds[one.name].append(fresh_run(one, server))
                progress.advance(task)
    return seconds


def show(results: Results, said: argparse.Namespace) -> None:
    """Print the table or JSON to the standard output, and draw the plot where it was asked for."""
    if said.json:
        print(results.as_json())
    else:
        Console(width=170).print(results.table())
    if said.plot:
        said.plot.write_text(results.plot(), encoding="utf-8")


def today(words: str) -> str:
    """What a table is headed with."""
    return f"{time.strftime('%Y-%m-%d')}, one machine, {words}"
