"""`mailquay login ACCOUNT`: sign an account in by device code (RFC 8628)."""

from __future__ import annotations

import click

from worker.cli.session import session
from worker.sign_in import by_device_code


@click.command("login")
@click.argument("account")
def command(*, account: str) -> None:
    """Sign in as ACCOUNT: open the address that is shown, type the code, approve. Its mailboxes go on at once."""
    with session() as quay:
        by_device_code(
            quay,
            account,
            show=lambda address, code: click.echo(
                f"Open {address} in a browser, enter the code {code}, and sign in as {account}."
            ),
        )
        click.echo(f"{account} is signed in.")
