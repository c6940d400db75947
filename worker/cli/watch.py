"""`mailquay watch`: the role that hears of new mail; see `worker.watch`."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import socket

import click

from worker import log
from worker.quay import Quay, quay
from worker.shares import Shares
from worker.tasks import ring_for_news
from worker.watch import Watcher

_OPEN_FILES = 65_536
"""Each mailbox is one open connection, and many systems allow 1,024 of them unless they are asked."""


@click.command("watch")
def command() -> None:
    """Wait for new mail in mailboxes with PUSH=yes, until SIGTERM or Ctrl-C. `mailquay up` starts it by itself."""
    here = quay()
    log.configure(level=here.settings.log_level, form=here.settings.log_format)
    if not any(mailbox.push and mailbox.enabled for mailbox in here.settings.mailboxes.values()):
        click.echo("No mailbox has PUSH=yes: there is nothing to watch yet.", err=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    asyncio.run(_watch(here))


async def _watch(here: Quay) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    await Watcher(here, Shares(here.client, name, ttl=here.lease_seconds), ring_for_news).run(stop)
