"""`mailquay repair`: messages that a server lists and does not give, to be listed, tried at once, or given up."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import orjson

from worker.catch_up import lease_of
from worker.cli.moment import ago
from worker.cli.session import session
from worker.errors import Misconfigured
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.repair import Repair
from worker.timetable import pull_entry


@click.group("repair")
def command() -> None:
    """List, retry or drop messages that a server lists and does not give."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_repairs(*, as_json: bool) -> None:
    """Show each message that is withheld: where it lies, since when, how often it was tried, and why it did not come."""
    with session() as quay:
        now = time.time()
        for mailbox, repair in _withheld(quay):
            place = repair.place
            if as_json:
                line = {
                    "message": repair.id,
                    "mailbox": mailbox.name,
                    "folder": place.folder,
                    "uidvalidity": place.uidvalidity,
                    "uid": place.uid,
                    "uidl": place.uidl,
                    "size": repair.size,
                    "since": repair.since,
                    "tries": repair.tries,
                    "next_at": repair.due,
                    "reason": repair.reason,
                }
                click.echo(orjson.dumps(line).decode())
            else:
                where = f"{place.folder} uid {place.uid}" if place.uid else f"UIDL {place.uidl}"
                tried = f"since {ago(repair.since, now)}, tries: {repair.tries}"
                click.echo(f"{repair.id}  {mailbox.name}  {where}  {tried}  {repair.reason}")


@command.command("retry")
@click.argument("message")
def retry(*, message: str) -> None:
    """Try a message again at the next pull, which is due now; also one that was too large for MESSAGE_MAX."""
    with session() as quay:
        mailbox, repair = _found(quay, message)
        with lease_of(quay, mailbox, sleep=time.sleep):
            quay.repairs.ask(mailbox.name, repair.id)
        quay.timetable.park(pull_entry(mailbox.name), quay.clock())


@command.command("drop")
@click.argument("message")
@click.confirmation_option(prompt="It stays on its server and is never asked for again. Go on?")
def drop(*, message: str) -> None:
    """Give a message up."""
    with session() as quay:
        mailbox, repair = _found(quay, message)
        with lease_of(quay, mailbox, sleep=time.sleep):
            quay.repairs.strike(mailbox.name, [repair.id])


def _withheld(quay: Quay) -> Iterator[tuple[Mailbox, Repair]]:
    for _, mailbox in sorted(quay.settings.mailboxes.items()):
        for repair in quay.repairs.of(mailbox.name):
            yield mailbox, repair


def _found(quay: Quay, message: str) -> tuple[Mailbox, Repair]:
    for mailbox, repair in _withheld(quay):
        if repair.id == message:
            return mailbox, repair
    raise Misconfigured(f"no message {message} is withheld; `mailquay repair list` shows those that are")
