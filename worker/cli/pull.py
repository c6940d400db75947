"""`mailquay pull MAILBOX`: fill the spool and stop; with `--since` go back over a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import orjson

from worker import catch_up
from worker.checkpoint import Backfill
from worker.cli.once import run
from worker.cli.session import has_terminal, session
from worker.errors import Misconfigured
from worker.mailbox import Mailbox, Since, read_since
from worker.quay import Quay
from worker.spool import Ticket

_LINE_SECONDS = 10.0
"""Without a terminal a line of progress comes so often."""


def _since(_: click.Context, __: click.Parameter, value: str | None) -> Since | None:
    """Read it as SINCE is read; `now` would be nothing to go back over."""
    try:
        since = read_since(value)
    except ValueError:
        since = Since("now")
    if isinstance(since, Since) and since.kind == "now":
        raise click.BadParameter("must be all, a number of days such as 30d, or a date such as 2026-01-01")
    return since if isinstance(since, Since) else None


@click.command("pull")
@click.argument("mailbox")
@click.option(
    "--since",
    callback=_since,
    metavar="all|30d|2026-01-01",
    help="Go back over a folder: its messages come with the ids they always have.",
)
@click.option("--folder", default="INBOX", show_default=True, help="The folder that --since goes back over.")
@click.option("--stop", is_flag=True, help="Give up a --since that has not ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(*, mailbox: str, since: Since | None, folder: str, stop: bool, as_json: bool) -> None:
    """Pull one mailbox into the spool; nothing is delivered.

    With --since it goes back over a folder, from the newest message down, and pulls new mail first all the while. It can
    be interrupted: the schedule goes on with it, and the same command shows how far it is.
    """
    with session() as quay:
        found = known(quay, mailbox)
        if stop:
            _stop(quay, found, folder)
        elif since:
            _go_back(quay, found, folder, since, as_json=as_json)
        else:
            run(quay, [mailbox], drain=False, as_json=as_json)


def known(quay: Quay, mailbox: str) -> Mailbox:
    """The mailbox of this name.

    Raises:
        Misconfigured: there is none.
    """
    if mailbox not in quay.settings.mailboxes:
        names = ", ".join(sorted(quay.settings.mailboxes)) or "none"
        raise Misconfigured(f"there is no mailbox {mailbox}; configured are: {names}")
    return quay.settings.mailboxes[mailbox]


def _stop(quay: Quay, mailbox: Mailbox, folder: str) -> None:
    if catch_up.give_up(quay, mailbox, folder):
        click.echo(f"{mailbox.name}: {folder} is not gone back over any more; what came stays")
    else:
        click.echo(f"{mailbox.name}: {folder} was not being gone back over", err=True)


def _go_back(quay: Quay, mailbox: Mailbox, folder: str, since: Since, *, as_json: bool) -> None:
    begun = time.monotonic()
    came = [0, 0]

    def ring(ticket: Ticket) -> None:
        came[0] += ticket.messages
        came[1] += 1

    going = catch_up.note(quay, mailbox, folder, since)
    if going:
        with _progress(folder, going) as show:
            catch_up.work_off(quay, mailbox, folder, ring=ring, progress=show)
    seconds = round(time.monotonic() - begun, 3)
    if as_json:
        line = {"pulled": came[0], "batches": came[1], "folder": folder, "seconds": seconds}
        click.echo(orjson.dumps(line).decode())
    elif going:
        click.echo(f"{came[0]} pulled in {seconds:.1f} s; {folder} has been gone back over")
    else:
        click.echo(f"nothing in {folder} lies behind its checkpoint")


@contextmanager
def _progress(folder: str, first: Backfill) -> Iterator[Callable[[Backfill], None]]:
    """A bar on a terminal: messages, octets, rate, time left; a line now and then elsewhere."""
    # Loaded only here: a pull without a bar is not to wait for it.
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    begun = time.monotonic()

    def told(going: Backfill) -> str:
        count = going.messages - first.messages
        rate = count / max(time.monotonic() - begun, 0.001)
        return f"{going.messages} messages, {decimal(going.octets)}, {rate:.0f}/s"

    if not has_terminal():
        last = [begun]

        def line(going: Backfill) -> None:
            if time.monotonic() - last[0] >= _LINE_SECONDS:
                last[0] = time.monotonic()
                click.echo(f"{folder}: {going.share:.0%}, {told(going)}", err=True)

        click.echo(f"{folder}: {first.share:.0%}, {told(first)}", err=True)
        yield line
        return
    columns = (
        TextColumn(folder),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task(folder, total=1000, completed=round(1000 * first.share), told=told(first))
        yield lambda going: bars.update(bar, completed=round(1000 * going.share), told=told(going))
