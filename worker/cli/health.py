"""`mailquay health ROLE`: for container health checks."""

from __future__ import annotations

import sys

import click

from worker import health
from worker.quay import quay


@click.command("health")
@click.argument("role", type=click.Choice(health.ROLES))
def command(*, role: str) -> None:
    """Exit 0 when the role on this host does its work, else 1 with a sentence."""
    illness = health.illness(quay(), role)
    click.echo(illness or f"{role} is well")
    sys.exit(1 if illness else 0)
