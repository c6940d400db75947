"""`mailquay status`: how each mailbox and each account stands, for people as tables and for programs as JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from worker.accounts import ENDING, NEVER, OK, Access, AccountStanding, CredentialStanding, access
from worker.backlog import Waiting, backlogs
from worker.backlog import waiting as look
from worker.cli.backlog_shown import outputs_table, room, room_line, room_told, told
from worker.cli.moment import ago, ahead
from worker.cli.session import session
from worker.errors import HostBusy
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.standing import Standing
from worker.timetable import pull_entry


@dataclass(frozen=True, slots=True)
class Line:
    """One mailbox's line: its standing, what waits in the spool, and when it is pulled next (Unix seconds).

    `withheld` are messages that its server lists and does not give, `unsettled` those that were handed over and that
    AFTER is still to be done to; `going_back` says of each folder that is gone back over how much is done, from 0 to 1.
    """

    mailbox: str
    standing: Standing
    waiting: int
    failed: int
    next_at: float | None
    withheld: int = 0
    unsettled: int = 0
    going_back: Mapping[str, float] = field(default_factory=dict)


def lines(quay: Quay, found: Waiting | None = None) -> list[Line]:
    """How every configured mailbox stands; `found` is what waits, when that was looked at already."""
    waiting: Counter[str] = Counter()
    for ticket in (found or look(quay)).tickets:
        waiting[ticket.mailbox] += ticket.messages
    failed: Counter[str] = Counter()
    for ticket, _ in quay.spool.failed():
        failed[ticket.mailbox] += ticket.messages
    return [
        Line(
            name,
            _standing(quay, name, mailbox),
            waiting[name],
            failed[name],
            quay.timetable.due(pull_entry(name)) if mailbox.enabled else None,
            len(quay.repairs.of(name)),
            quay.releases.waiting(name),
            {folder: going.share for folder, going in quay.checkpoints.backfills(name).items()},
        )
        for name, mailbox in sorted(quay.settings.mailboxes.items())
    ]


def _standing(quay: Quay, name: str, mailbox: Mailbox) -> Standing:
    """How a mailbox stands, unless it waits for its host: that is the host's matter, and kept there."""
    standing = quay.standings.of(name)
    waiting = quay.hosts.waits(mailbox) if mailbox.enabled else None
    return replace(standing, state=waiting.state, sentence=waiting.sentence) if waiting else standing


def table(found: list[Line], now: float) -> Table:
    """The lines as a table for a terminal."""
    grid = Table("mailbox", "state", "last pull", "next", box=None, pad_edge=False, header_style="bold")
    # Hardly anybody has messages that do not come, and terminals are narrow.
    withheld = any(line.withheld for line in found)
    # Nor have most a stage that drops mail on purpose.
    dropped = any(line.standing.dropped for line in found)
    for counter in (
        "pulled",
        "delivered",
        *(["dropped"] if dropped else []),
        "waiting",
        "failed",
        *(["withheld"] if withheld else []),
    ):
        grid.add_column(counter, justify="right")
    grid.add_column("what to do", overflow="fold")
    for line in found:
        standing = line.standing
        style = {"ok": "green", "new": "dim", HostBusy.state: "yellow"}.get(standing.state, "red")
        grid.add_row(
            line.mailbox,
            f"[{style}]{standing.state}[/]",
            ago(standing.pulled_at, now),
            ahead(line.next_at, now),
            str(standing.pulled),
            str(standing.delivered),
            *([str(standing.dropped)] if dropped else []),
            str(line.waiting),
            f"[red]{line.failed}[/]" if line.failed else "0",
            *([f"[yellow]{line.withheld}[/]"] if withheld else []),
            escape(_said(line)),
        )
    return grid


def _said(line: Line) -> str:
    going = [f"{folder} is gone back over: {share:.0%}." for folder, share in line.going_back.items()]
    return " ".join(filter(None, [line.standing.sentence, *going]))


def accounts_table(found: Access, now: float) -> Table:
    """Who signs in with OAuth 2.0, as a table for a terminal."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("account", overflow="fold")
    for column in ("state", "signed in", "renewed", "ends"):
        grid.add_column(column)
    grid.add_column("mailboxes", justify="right")
    grid.add_column("what to do", overflow="fold")
    for account in found.accounts:
        grid.add_row(
            escape(account.account),
            _state(account),
            # An application on its own never signs in.
            ago(account.signed_in_at, now) if account.signed_in_at or account.state == NEVER else "-",
            ago(account.renewed_at, now),
            _end(account.ends_at, now),
            str(len(account.mailboxes)),
            escape(account.sentence),
        )
    return grid


def credentials_table(found: Access, now: float) -> Table:
    """What applications prove themselves with and when it ends, as a table for a terminal."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("app registration", overflow="fold")
    for column in ("credential", "state", "ends"):
        grid.add_column(column)
    grid.add_column("what to do", overflow="fold")
    for credential in found.credentials:
        grid.add_row(
            escape(credential.client_id),
            credential.kind,
            _state(credential),
            _end(credential.ends_at, now),
            escape(credential.sentence),
        )
    return grid


def _state(found: AccountStanding | CredentialStanding) -> str:
    style = {OK: "green", ENDING: "yellow"}.get(found.state, "red")
    return f"[{style}]{found.state}[/]"


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """Show each mailbox, output and account: what was pulled, what waits, who is away, and what a person has to do."""
    with session() as quay:
        waits = look(quay)
        found, people = lines(quay, waits), access(quay)
        outputs, unread = backlogs(quay, waits)
        full = room(quay, waits)
        if as_json:
            mailboxes = [
                {
                    "mailbox": line.mailbox,
                    **asdict(line.standing),
                    "waiting": line.waiting,
                    "failed": line.failed,
                    "withheld": line.withheld,
                    "unsettled": line.unsettled,
                    "going_back": line.going_back,
                    "next_at": line.next_at,
                }
                for line in found
            ]
            status = {
                "mailboxes": mailboxes,
                "accounts": [asdict(account) for account in people.accounts],
                "credentials": [asdict(credential) for credential in people.credentials],
                "outputs": [told(backlog) for backlog in outputs],
                "spool": room_told(full, unread),
            }
            click.echo(orjson.dumps(status).decode())
        elif not found:
            click.echo("No mailbox is configured yet: describe one in .env (see docs/configuration.md).")
        else:
            console, now = Console(), time.time()
            console.print(table(found, now))
            console.print("", outputs_table(outputs, now), "", room_line(full, unread), sep="\n")
            if people.accounts:
                console.print("", accounts_table(people, now), sep="\n")
            if people.credentials:
                console.print("", credentials_table(people, now), sep="\n")


def _end(moment: float | None, now: float) -> str:
    return ago(moment, now) if moment and moment <= now else ahead(moment, now)
