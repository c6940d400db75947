"""`mailquay check`: every configuration problem at once; `--connect` also signs in and opens every mailbox."""

from __future__ import annotations

import sys

import click

from worker.cli.session import session
from worker.errors import MailquayError
from worker.exchange import access_lines, advice_lines
from worker.login import logged_in
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.settings import Settings


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
        if failed or not connect:
            _show_access(said)
    sys.exit(1 if failed else 0)


def _show_access(said: Settings) -> None:
    """What somebody has to permit in Exchange Online, and what he had better set, if he has not done so already."""
    lines = access_lines(said.mailboxes.values(), said.registration, cloud=said.entra.cloud)
    if lines:
        click.echo(
            "\nAn Exchange administrator gives access with (PowerShell, module ExchangeOnlineManagement):\n"
        )
        click.echo("\n".join(f"    {line}" for line in lines))
    if advice := advice_lines(said.mailboxes.values()):
        click.echo(
            "\nIt is also worth setting, so that meeting requests come as iCalendar and not as links, and so that Exchange "
            "sends no read receipt for what is merely pulled:\n"
        )
        click.echo("\n".join(f"    {line}" for line in advice))


def _opened(quay: Quay, mailbox: Mailbox) -> str:
    """What was found in each folder. Somebody may have mended a moment ago what was refused, so it is asked anew."""
    if mailbox.auth != "password":
        quay.keeper(mailbox).ask_anew(quay.settings.account(mailbox))
    with logged_in(quay, mailbox, insist=True) as session:
        found = [session.source.open(folder, writable=False) for folder in mailbox.folders]
        session.source.finish()
    return ", ".join(f"{opened.folder} holds {opened.exists} messages" for opened in found)
