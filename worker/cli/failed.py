"""`mailquay failed`: what waits for a person, to be listed, tried again, or dropped."""

from __future__ import annotations

import click
import orjson

from worker.cli.session import session
from worker.errors import Misconfigured
from worker.quay import Quay
from worker.spool import Ticket


@click.group("failed")
def command() -> None:
    """List, retry or drop the batches that wait for a person."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_failed(*, as_json: bool) -> None:
    """Show each failed batch with its reason."""
    with session() as quay:
        for ticket, reason in quay.spool.failed():
            if as_json:
                line = {
                    "batch": ticket.batch,
                    "mailbox": ticket.mailbox,
                    "messages": ticket.messages,
                    "reason": reason,
                }
                click.echo(orjson.dumps(line).decode())
            else:
                click.echo(f"{ticket.batch}  {ticket.mailbox}  {ticket.messages} messages  {reason}")


@command.command("retry")
@click.argument("batch")
def retry(*, batch: str) -> None:
    """Put a failed batch back into the spool; it is delivered next."""
    with session() as quay:
        quay.spool.retry(_found(quay, batch))


@command.command("drop")
@click.argument("batch")
@click.confirmation_option(prompt="Its messages will be gone from Mailquay. Go on?")
def drop(*, batch: str) -> None:
    """Throw a failed batch away for good."""
    with session() as quay:
        quay.spool.drop(_found(quay, batch))


def _found(quay: Quay, batch: str) -> Ticket:
    for ticket, _ in quay.spool.failed():
        if ticket.batch == batch:
            return ticket
    raise Misconfigured(f"there is no failed batch {batch}; `mailquay failed list` shows them")
