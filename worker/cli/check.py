"""`mailquay check`: every configuration problem at once; `--connect` also signs in and opens every mailbox."""

from __future__ import annotations

import sys

import click

from pipelines.account import AccountOptions, CannotSignIn, SignsIn
from worker.cli.session import session
from worker.errors import MailquayError
from worker.exchange import access_lines, advice_lines
from worker.login import logged_in
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.settings import Settings


@click.command("check")
@click.option(
    "--connect",
    is_flag=True,
    help="Also sign in to every mailbox, open its folders, and sign in for outputs.",
)
def command(*, connect: bool) -> None:
    """Check the configuration. Exits 2 when it is wrong, 1 when a mailbox or the server of an output lets nobody in."""
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
        for name, output in sorted(said.outputs.items()) if connect else ():
            if isinstance(output.options, AccountOptions):
                trouble = _trouble(quay, name)
                failed += bool(trouble)
                click.echo(f"output {name}: {trouble or 'ok, signed in'}")
        if failed or not connect:
            _show_access(said)
    sys.exit(1 if failed else 0)


def _show_access(said: Settings) -> None:
    """What somebody has to permit in Exchange Online, and what he had better set, if he has not done so already."""
    lines = access_lines(said.signers, said.registration, cloud=said.entra.cloud)
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


def _trouble(quay: Quay, output: str) -> str:
    """Why an output cannot sign in to its mail server; nothing when it can. The provider is asked anew, as for a mailbox."""
    try:
        for signer in quay.settings.output_signers:
            if signer.output == output:
                quay.keeper(signer).ask_anew(quay.settings.account(signer))
        made = quay.output(output)
        if isinstance(made, SignsIn):
            made.try_sign_in()
    except CannotSignIn as error:
        return str(error)
    except MailquayError as error:
        return f"{error.state}: {error.sentence}"
    return ""


def _opened(quay: Quay, mailbox: Mailbox) -> str:
    """What was found in each folder. Somebody may have mended a moment ago what was refused, so it is asked anew."""
    if mailbox.auth != "password":
        quay.keeper(mailbox).ask_anew(quay.settings.account(mailbox))
    with logged_in(quay, mailbox, insist=True) as session:
        found = [session.source.open(folder, writable=False) for folder in mailbox.folders]
        session.source.finish()
    return ", ".join(f"{opened.folder} holds {opened.exists} messages" for opened in found)
