"""`mailquay up`: every role under one supervisor, with the embedded server when REDIS_URL is unset."""

from __future__ import annotations

import os
import signal

import click

from worker.cli.session import configured, redis_url
from worker.supervisor import Supervisor, roles


@click.command("up")
def command() -> None:
    """Run every role until SIGTERM or Ctrl-C (the watcher when a mailbox has PUSH=yes); one that dies is started again."""
    said = configured(quiet=False)
    if not said.mailboxes:
        click.echo(
            "No mailbox is configured yet: describe one in .env (see docs/configuration.md).", err=True
        )
    with redis_url(said) as url:
        supervisor = Supervisor(roles(said), {**os.environ, "REDIS_URL": url})
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop.set())
        supervisor.run()
