"""`mailquay tokens`: what is stored for accounts, and the keys that seal it. No token is ever shown."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass

import click
import orjson
from cryptography.fernet import Fernet
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from worker.cli.moment import ago
from worker.cli.session import session
from worker.errors import Misconfigured, TokensUnreadable
from worker.quay import Quay


@dataclass(frozen=True, slots=True)
class Line:
    """What is stored for one account. Times are Unix seconds, 0 for never; `mailboxes` are those that use it."""

    account: str
    client_id: str
    signed_in_at: float
    renewed_at: float
    mailboxes: tuple[str, ...]


def lines(quay: Quay) -> list[Line]:
    """Every account that something is stored for, also when no mailbox uses it any more."""
    used = quay.settings.accounts()
    found = []
    for account in quay.token_store.accounts():
        stored = quay.token_store.glance(account)
        mailboxes = tuple(sorted(mailbox.name for mailbox in used.get(account, ())))
        found.append(Line(account, stored.client_id, stored.signed_in_at, stored.renewed_at, mailboxes))
    return found


@click.group("tokens")
def command() -> None:
    """List or forget what is stored for accounts, make a new key, and seal everything anew with it."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_tokens(*, as_json: bool) -> None:
    """Show every account that something is stored for; how the accounts stand shows `mailquay status`."""
    with session() as quay:
        found = lines(quay)
    if as_json:
        for line in found:
            click.echo(orjson.dumps(asdict(line)).decode())
    elif not found:
        click.echo("Nothing is stored: no account has signed in yet.")
    else:
        columns = ("account", "signed in", "renewed", "mailboxes")
        grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
        now = time.time()
        for line in found:
            signed_in, renewed = ago(line.signed_in_at, now), ago(line.renewed_at, now)
            grid.add_row(escape(line.account), signed_in, renewed, ", ".join(line.mailboxes) or "none")
        Console().print(grid)


@command.command("rotate")
def rotate() -> None:
    """Seal everything anew with the newest key, while the workers run. Exits 1 when something cannot be opened."""
    console = Console(stderr=True)
    sealed, troubles = 0, []
    with session() as quay:
        if quay.settings.dangerously_store_tokens_in_clear:
            raise Misconfigured("DANGEROUSLY_STORE_TOKENS_IN_CLEAR is on, so nothing is sealed")
        accounts = quay.token_store.accounts()
        for account in track(accounts, "sealing", console=console, disable=not console.is_terminal):
            try:
                sealed += _sealed_anew(quay, account)
            except TokensUnreadable as error:
                troubles.append(error.sentence)
    for trouble in troubles:
        click.echo(trouble, err=True)
    click.echo(f"{sealed} sealed with the newest key, {len(troubles)} cannot be opened")
    if troubles:
        sys.exit(1)


def _sealed_anew(quay: Quay, account: str) -> bool:
    """Whether there was something to seal. A worker that refreshes meanwhile may have used the key of before."""
    while not quay.token_store.reseal(account):
        if not quay.token_store.glance(account).version:
            return False
    return True


@command.command("forget")
@click.argument("account")
@click.confirmation_option(prompt="Its mailboxes stop until somebody signs in again. Go on?")
def forget(*, account: str) -> None:
    """Delete what is stored for ACCOUNT. The provider is not told: end the sign-in there as well."""
    with session() as quay:
        if not quay.token_store.forget(account):
            raise Misconfigured(
                f"nothing is stored for {account}; `mailquay tokens list` shows for whom there is"
            )


@command.command("new-key")
@click.option("--print", "show", is_flag=True, help="Print the key, and leave the file alone.")
def new_key(*, show: bool) -> None:
    """Put a new key in front of the file of keys: from now on it seals, and the others still open.

    Where several machines use one Redis each needs the key before one of them seals with it: make it with --print, add it
    as the last line of the file on each machine, and then move it to the first line.
    """
    key = Fernet.generate_key().decode()
    if show:
        # Nothing else on standard output: it may go into a file.
        click.echo(key)
    else:
        with session() as quay:
            quay.token_keys.put_in_front(key)
    click.echo(
        "Next: when the key is the first line of the file, run `mailquay tokens rotate`; then remove the other lines. The "
        "workers read the file again by themselves.",
        err=True,
    )
