"""`mailquay replay`: hand delivered messages over once more, from what KEEP keeps."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

import click
import orjson
from rich.filesize import decimal

from pipelines.options import write_duration
from worker.cli.bar import bar
from worker.cli.moment import Moment, at
from worker.cli.session import session
from worker.cli.words import counted
from worker.quay import Quay
from worker.replay import Replayed, Wish, oldest, replay


@click.command("replay")
@click.option("--mailbox", "mailboxes", multiple=True, required=True, metavar="NAME", help="May be repeated.")
@click.option(
    "--since", type=Moment(), required=True, help="What was done since then: 2h, 3d, or a date and time."
)
@click.option("--until", type=Moment(), help="What was done until then; unset: until now.")
@click.option(
    "--output", "outputs", multiple=True, required=True, metavar="NAME", help="Who gets it; may be repeated."
)
@click.option(
    "--message", "messages", multiple=True, metavar="ID", help="Only this message; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(
    *,
    mailboxes: Sequence[str],
    since: float,
    until: float | None,
    outputs: Sequence[str],
    messages: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send delivered messages again to some outputs, under the ids they had, in the order in which they were pulled.

    Workers deliver them next; without workers, `mailquay drain` does. It can be interrupted and begun again. Exits 1
    when something could not be sent again, or there was nothing.
    """
    last = time.time() if until is None else until
    if since >= last:
        raise click.UsageError("--since lies behind --until")
    wish = Wish(
        frozenset(mailboxes), tuple(dict.fromkeys(outputs)), since, last, frozenset(map(str.lower, messages))
    )
    with session() as quay:
        with bar("batches replayed") as show:
            done = replay(quay, wish, dry_run=dry_run, show=lambda count, of: show(count, of, ""))
        if as_json:
            line = {**asdict(done), "missing": sorted(done.missing), "dry_run": dry_run}
            click.echo(orjson.dumps(line).decode())
        else:
            _say(quay, wish, done, dry_run=dry_run)
    found_nothing = not done.messages and not done.waiting
    if found_nothing or done.damaged or done.missing or done.stopped:
        sys.exit(1)


def _say(quay: Quay, wish: Wish, done: Replayed, *, dry_run: bool) -> None:
    """What is done on standard output, what is to be known on standard error."""
    what = "to be sent again" if dry_run else "on the way again"
    click.echo(
        f"{counted(done.messages, 'message')} in {counted(done.batches, 'batch')} ({decimal(done.octets)}) {what} to {', '.join(wish.outputs)}"
    )
    if done.waiting:
        click.echo(
            f"on the way already, from an earlier replay: {counted(done.waiting, 'message')}", err=True
        )
    if not done.messages and not done.waiting:
        click.echo(_nothing(quay, wish), err=True)
    if done.left:
        click.echo(
            f"not among them: {counted(done.left, 'message')} of these mailboxes that an output is still owed",
            err=True,
        )
    for damage in done.damaged:
        click.echo(f"not sent again: {damage}", err=True)
    for missing in sorted(done.missing):
        click.echo(f"no message {missing} is kept of these mailboxes and that time", err=True)
    if done.stopped:
        click.echo(f"stopped: {done.stopped} Then run it once more.", err=True)


def _nothing(quay: Quay, wish: Wish) -> str:
    """Why there may be nothing."""
    first = oldest(quay.spool.kept(), wish.mailboxes)
    keep = write_duration(quay.settings.keep)
    if first is None:
        return f"nothing of these mailboxes is kept; KEEP is {keep}"
    return f"nothing of that time is kept; KEEP is {keep}, and the oldest that is kept was done {at(first)}"
