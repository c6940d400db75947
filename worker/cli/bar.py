"""How far something long is, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from worker.cli.session import has_terminal

Show = Callable[[int, int, str], None]
"""Called with how much is done, of how much, and what else there is to say."""

_LINE_SECONDS = 10.0
"""Without a terminal a line comes so often."""


@contextmanager
def bar(what: str) -> Iterator[Show]:
    """Show how far `what` is for the length of the block."""
    if not has_terminal():
        yield _lines(what)
        return
    # Loaded only here: what is short is not to wait for it.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=None, told="")
        yield lambda done, total, told: bars.update(task, completed=done, total=total, told=escape(told))


def _lines(what: str) -> Show:
    last = time.monotonic()

    def show(done: int, total: int, told: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            click.echo(f"{what}: {done} of {total}" + (f"; {told}" if told else ""), err=True)

    return show
