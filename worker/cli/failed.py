"""`mailquay failed`: what waits for a person, to be listed, looked into, tried again, or dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce, wraps
from typing import Any

import click
import orjson

from worker.cli.bar import bar
from worker.cli.failed_shown import as_json_line, described, one_line
from worker.cli.moment import Moment
from worker.cli.session import session
from worker.cli.words import counted
from worker.failed import Failed, Wanted, failed
from worker.quay import Quay
from worker.spool import Ticket

Command = Callable[..., None]

_FILTERS = (
    click.argument("batch", default=""),
    click.option("--mailbox", multiple=True, metavar="NAME", help="Only of this mailbox; may be repeated."),
    click.option("--output", multiple=True, metavar="NAME", help="Only what this output did not take; may be repeated."),
    click.option("--older-than", type=Moment(), help="Only what failed before then: 2d is two days ago, or a date."),
    click.option("--newer-than", type=Moment(), help="Only what failed since then."),
    click.option("--reason", default="", metavar="TEXT", help="Only with this in the reason, in any case."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line."),
)  # fmt: skip
_ALL = click.option(
    "--all", "everything", is_flag=True, help="Every failed batch, when nothing else is said."
)


def _filtered(command: Command) -> Command:
    """Let a command take one BATCH or filters; it gets them as `wanted`."""

    # `wraps` also hands on the options that stand between.
    @wraps(command)
    def with_wanted(
        *,
        batch: str,
        mailbox: Sequence[str],
        output: Sequence[str],
        older_than: float | None,
        newer_than: float | None,
        reason: str,
        **more: Any,
    ) -> None:
        chosen = Wanted(batch, frozenset(mailbox), frozenset(output), reason, older_than, newer_than)
        command(wanted=chosen, **more)

    decorated: Command = reduce(lambda inner, said: said(inner), reversed(_FILTERS), with_wanted)
    return decorated


@click.group("failed")
def command() -> None:
    """List, look into, retry or drop the batches that wait for a person.

    BATCH is an id, or its first letters; without it and without filters all of them are meant.
    """


@command.command("list")
@_filtered
def list_failed(*, wanted: Wanted, as_json: bool) -> None:
    """Show each failed batch: its messages, who did not take them, since when, and why."""
    with session() as quay:
        for found in failed(quay.spool, wanted):
            click.echo(orjson.dumps(as_json_line(found)).decode() if as_json else one_line(found))


@command.command("show")
@_filtered
@click.option("--content", is_flag=True, help="Also the subjects and the names of attachments.")
def show(*, wanted: Wanted, as_json: bool, content: bool) -> None:
    """Show all that is known of a failed batch: its history, and the structure of each of its messages.

    Without --content nothing is shown that the sender wrote. A body never is: `mailquay parse` prints it.
    """
    with session() as quay:
        for found in failed(quay.spool, wanted):
            for line in described(quay.spool, found, content=content, as_json=as_json):
                click.echo(line)


@command.command("retry")
@_filtered
@_ALL
def retry(*, wanted: Wanted, everything: bool, as_json: bool) -> None:
    """Put failed batches back into the spool; they are delivered next, and their RETRY_FOR begins anew."""
    with session() as quay:
        found = _meant(quay, wanted, everything=everything)
        _each(found, quay.spool.retry, "retried", as_json=as_json)


@command.command("drop")
@_filtered
@_ALL
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(*, wanted: Wanted, everything: bool, yes: bool, as_json: bool) -> None:
    """Throw failed batches away for good."""
    with session() as quay:
        found = _meant(quay, wanted, everything=everything)
        if found and not yes:
            click.confirm(f"{_counted(found)} will be gone from Mailquay. Go on?", abort=True, err=True)
        _each(found, quay.spool.drop, "dropped", as_json=as_json)


def _meant(quay: Quay, wanted: Wanted, *, everything: bool) -> list[Failed]:
    if wanted.everything and not everything:
        raise click.UsageError("say which: a BATCH, a filter such as --output, or --all")
    return list(failed(quay.spool, wanted))


def _each(found: Sequence[Failed], do: Callable[[Ticket], object], done: str, *, as_json: bool) -> None:
    """Do it to each, and say how many there were, also when something ends it half-way."""
    went: list[Failed] = []
    gone = 0
    try:
        with bar(done) as progress:
            for one in found:
                try:
                    do(one.ticket)
                    went.append(one)
                except FileNotFoundError:
                    gone += 1
                progress(len(went) + gone, len(found), "")
    finally:
        if as_json:
            messages = sum(one.ticket.messages for one in went)
            click.echo(orjson.dumps({done: len(went), "messages": messages, "gone": gone}).decode())
        else:
            click.echo(f"{_counted(went)} {done}")
            if gone:
                click.echo(f"{gone} were gone: somebody else was faster", err=True)


def _counted(found: Sequence[Failed]) -> str:
    messages = sum(one.ticket.messages for one in found)
    return f"{counted(len(found), 'batch')} with {counted(messages, 'message')}"
