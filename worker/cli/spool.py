"""`mailquay spool migrate`: move all that waits, has failed or is kept to another spool."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import click

from worker.cli.bar import bar
from worker.cli.session import session
from worker.cli.words import counted
from worker.errors import Misconfigured
from worker.migrate import migrate
from worker.quay import Quay
from worker.spool_settings import checked_url


@click.group("spool")
def command() -> None:
    """Move the spool."""


@command.command("migrate")
@click.option("--to", "target", required=True, metavar="URL|PATH", help="s3://bucket/prefix, or a folder.")
def move(*, target: str) -> None:
    """Move every batch and every note from the configured spool to another one, and say what to set afterwards.

    A store is signed in to with SPOOL_ENDPOINT, SPOOL_ACCESS_KEY and so on, which speak for either side. Stop all workers
    first. It can be interrupted and begun again. Exits 1 when batches that cannot be read stayed behind.
    """
    with session() as quay:
        place = _place(target)
        if _variable(quay, place) == _variable(quay, quay.settings.spool_url or _usual(quay)):
            raise Misconfigured("--to names the spool that is configured")
        with bar("batches moved") as show:
            done = migrate(quay, quay.spool_at(place), show=lambda count, of: show(count, of, ""))
        moved = f"{counted(done.messages, 'message')} in {counted(done.batches, 'batch')}"
        click.echo(f"{moved} and {counted(done.notes, 'note')} moved")
        click.echo(f"now {_variable(quay, place)}, then start the workers")
        for sentence in done.stayed:
            click.echo(f"stayed: {sentence}", err=True)
    if done.stayed:
        sys.exit(1)


def _place(target: str) -> str | Path:
    """A URL, or a folder."""
    if "://" not in target:
        return Path(target).absolute()
    try:
        return checked_url(target.rstrip("/"))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from None


def _usual(quay: Quay) -> Path:
    return (quay.settings.data_dir / "spool").absolute()


def _variable(quay: Quay, place: str | Path) -> str:
    """What to do with SPOOL_URL, so that it names a place."""
    url = place.rstrip("/") if isinstance(place, str) else f"file://{quote(str(place))}"
    return "unset SPOOL_URL" if url == f"file://{quote(str(_usual(quay)))}" else f"set SPOOL_URL={url}"
