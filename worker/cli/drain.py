"""`mailquay drain`: deliver what is in the spool, and wait until it is empty."""

from __future__ import annotations

import sys
import time

import click
import orjson

from worker import once
from worker.backlog import Backlog, backlogs, waiting
from worker.cli.backlog_shown import told
from worker.cli.bar import bar
from worker.cli.moment import Span, ahead, at
from worker.cli.once import run
from worker.cli.session import session
from worker.drain import Drain
from worker.quay import Quay
from worker.reading.shown import shown


@click.command("drain")
@click.option(
    "--timeout", type=Span(), help="Stop waiting after that time, such as 10m, and say what still waits."
)
@click.option("--no-wait", is_flag=True, help="Deliver what is due now, and do not wait for the rest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(*, timeout: float | None, no_wait: bool, as_json: bool) -> None:
    """Deliver every batch, without pulling, and wait for what is due later or for an output that is away.

    Exits 0 when the spool is empty and nothing failed meanwhile, 1 when something still waits or failed, 2 when the command
    or the configuration is wrong. While others go on pulling, there may always be something.
    """
    if no_wait and timeout is not None:
        raise click.UsageError("--timeout goes with waiting, and not with --no-wait")
    with session() as quay:
        if no_wait:
            run(quay, [], drain=True, as_json=as_json)
        else:
            _drain(quay, timeout, as_json=as_json)


def _drain(quay: Quay, timeout: float | None, *, as_json: bool) -> None:
    begun = time.monotonic()
    with bar("delivered") as show:
        patience = Drain(quay, limit=timeout, show=show)
        totals = once.run(quay, [], progress=patience.progress, go_on=patience.go_on)
    seconds = round(time.monotonic() - begun, 3)
    found = [backlog for backlog in backlogs(quay, waiting(quay))[0] if backlog.messages]
    is_well = not totals.waiting and not totals.failed
    if as_json:
        line = {
            "delivered": totals.delivered,
            "dropped": totals.dropped,
            "waiting": totals.waiting,
            "failed": totals.failed,
            "seconds": seconds,
            "outputs": [told(backlog) for backlog in found],
            "troubles": totals.troubles,
        }
        click.echo(orjson.dumps(line).decode())
    else:
        dropped = f"{totals.dropped} dropped by stages, " if totals.dropped else ""
        click.echo(
            f"{totals.delivered} delivered, {dropped}{totals.waiting} waiting, {totals.failed} failed in {seconds:.1f} s"
        )
        for backlog in found:
            click.echo(_sentence(backlog), err=True)
        # What was in the way for a while, and is no more, is nobody's trouble.
        for trouble in () if is_well else totals.troubles:
            click.echo(shown(trouble, most=2000), err=True)
    if not is_well:
        sys.exit(1)


def _sentence(backlog: Backlog) -> str:
    count = f"{backlog.messages} {'message waits' if backlog.messages == 1 else 'messages wait'}"
    said = f": {shown(backlog.reason, most=2000)}" if backlog.reason else ""
    if backlog.circuit is None:
        return f"{backlog.output}: {count} since {at(backlog.since)}; it is not away{said}"
    probe = ahead(backlog.circuit.probe_at, time.time())
    away = f"away since {at(backlog.circuit.since)}, asked again {probe}"
    return f"{backlog.output}: {count} since {at(backlog.since)}; it is {away}{said}"
