"""`mailquay pull MAILBOX`: fill the spool and stop."""

from __future__ import annotations

import click

from worker.cli.once import run
from worker.cli.session import session
from worker.errors import Misconfigured


@click.command("pull")
@click.argument("mailbox")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(*, mailbox: str, as_json: bool) -> None:
    """Pull one mailbox into the spool; nothing is delivered."""
    with session() as quay:
        if mailbox not in quay.settings.mailboxes:
            known = ", ".join(sorted(quay.settings.mailboxes)) or "none"
            raise Misconfigured(f"there is no mailbox {mailbox}; configured are: {known}")
        run(quay, [mailbox], drain=False, as_json=as_json)
