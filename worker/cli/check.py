"""`mailquay check`: every configuration problem at once; `--connect` also signs in and opens every mailbox."""

from __future__ import annotations

import sys

import click

from worker.cli.session import session
from worker.errors import MailquayError
from worker.mailbox import Mailbox
from worker.quay import Quay


@click.command("check")
@click.option("--connect", is_flag=True, help="Also sign in to every mailbox and open its folders.")
def command(*, connect: bool) -> None:
    """Check the configuration. Exits 2 when it is wrong, 1 when a mailbox cannot be opened."""
    with session() as quay:
        said = quay.settings
        click.echo(
            f"configuration is valid: {len(said.mailboxes)} mailboxes, {len(said.outputs)} outputs, "
            f"{len(said.stages)} stages"
        )
        if not said.mailboxes:
            click.echo("No mailbox is configured yet: describe one in .env (see docs/configuration.md).")
        failed = 0
        for name, mailbox in sorted(said.mailboxes.items()) if connect else ():
            try:
                click.echo(f"{name}: ok, {_opened(quay, mailbox)}")
            except MailquayError as error:
                failed += 1
                click.echo(f"{name}: {error.state}: {error.sentence}")
    sys.exit(1 if failed else 0)


def _opened(quay: Quay, mailbox: Mailbox) -> str:
    """What was found in each folder."""
    source = quay.source(mailbox)
    try:
        found = [source.open(folder, writable=False) for folder in mailbox.folders]
        source.finish()
    finally:
        source.close()
    return ", ".join(f"{opened.folder} holds {opened.exists} messages" for opened in found)
