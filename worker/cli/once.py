"""`mailquay once`, and what `pull` and `drain` share with it: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
import orjson

from worker import once
from worker.cli.session import has_terminal, session
from worker.quay import Quay


@click.command("once")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(*, as_json: bool) -> None:
    """Pull every mailbox and deliver until nothing is due. Exits 1 when anything failed or waits."""
    with session() as quay:
        enabled = [name for name, mailbox in quay.settings.mailboxes.items() if mailbox.enabled]
        if not enabled:
            click.echo(
                "No mailbox is configured: describe one in .env (see docs/configuration.md).", err=True
            )
        run(quay, enabled, drain=True, as_json=as_json)


def run(quay: Quay, mailboxes: Sequence[str], *, drain: bool, as_json: bool) -> None:
    """Pull and deliver with progress, print the totals, and exit 1 if anything failed or waits."""
    begun = time.monotonic()
    with _progress() as show:
        totals = once.run(quay, mailboxes, drain=drain, progress=show)
    seconds = round(time.monotonic() - begun, 3)
    if as_json:
        line = {
            "pulled": totals.pulled,
            "delivered": totals.delivered,
            "dropped": totals.dropped,
            "waiting": totals.waiting,
            "failed": totals.failed,
            "seconds": seconds,
            "troubles": totals.troubles,
        }
        click.echo(orjson.dumps(line).decode())
    else:
        click.echo(
            f"{totals.pulled} pulled, {totals.delivered} delivered, "
            + (f"{totals.dropped} dropped by stages, " if totals.dropped else "")
            + f"{totals.waiting} waiting, "
            f"{totals.failed} failed in {seconds:.1f} s"
        )
        for trouble in totals.troubles:
            click.echo(trouble, err=True)
    if totals.troubles or totals.failed or (drain and totals.waiting):
        sys.exit(1)


@contextmanager
def _progress() -> Iterator[once.Progress]:
    """A bar of delivered among pulled messages, on a terminal; nothing elsewhere."""
    if not has_terminal():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    begun = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("delivered of pulled", total=None, rate="")

        def show(totals: once.Totals) -> None:
            rate = totals.delivered / max(time.monotonic() - begun, 0.001)
            done = totals.delivered + totals.dropped
            bars.update(bar, completed=done, total=totals.pulled or None, rate=f"{rate:.0f}/s")

        yield show
