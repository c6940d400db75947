"""`mailquay rewind MAILBOX`: move a checkpoint back on purpose, so that messages are pulled once more."""

from __future__ import annotations

from datetime import date

import click

from worker import catch_up
from worker.cli.pull import known
from worker.cli.session import session


def _place(_: click.Context, __: click.Parameter, value: str) -> int | date:
    """A uid or a date; `start` is the first uid there can be."""
    text = value.strip().lower()
    if text == "start":
        return 1
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("must be a uid such as 1200, a date such as 2026-01-01, or start") from None


@click.command("rewind")
@click.argument("mailbox")
@click.option("--folder", default="INBOX", show_default=True, help="The folder whose checkpoint is moved.")
@click.option(
    "--to",
    callback=_place,
    metavar="UID|DATE|start",
    required=True,
    help="The next pull begins with this uid, this day, or the first.",
)
@click.confirmation_option(
    prompt="What lies behind it is pulled and handed to the outputs again, with the same ids. Go on?"
)
def command(*, mailbox: str, folder: str, to: int | date) -> None:
    """Move a folder's checkpoint back; the next pull fetches again, and every message has the id it always has."""
    with session() as quay:
        click.echo(catch_up.rewind(quay, known(quay, mailbox), folder, to))
