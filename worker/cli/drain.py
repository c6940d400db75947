"""`mailquay drain`: deliver what is in the spool."""

from __future__ import annotations

import click

from worker.cli.once import run
from worker.cli.session import session


@click.command("drain")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(*, as_json: bool) -> None:
    """Deliver every batch that is due, without pulling. Exits 1 when anything failed or still waits."""
    with session() as quay:
        run(quay, [], drain=True, as_json=as_json)
