"""`mailquay parse FILE...`: one JSON object a line, for any file, without any configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.parse import parse


@click.command("parse")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
def command(*, files: tuple[Path, ...]) -> None:
    """Parse raw messages; `-` is standard input. A file that cannot be read is named, and the rest goes on."""
    unread = False
    for path in files:
        try:
            raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        except OSError as error:
            click.echo(f"{path}: cannot be read: {error.strerror}", err=True)
            unread = True
            continue
        sys.stdout.buffer.write(parse(raw).to_json() + b"\n")
        sys.stdout.buffer.flush()
    sys.exit(1 if unread else 0)
