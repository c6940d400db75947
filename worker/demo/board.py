"""What a person sees of the demo: sentences while it starts, then a live table; without a terminal a line now and then.

It shows what it is given and asks nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from worker.cli.moment import ago
from worker.cli.status import Line
from worker.mailbox import Mailbox

_LINE_SECONDS = 5.0
"""How often a line is printed where there is no terminal."""


@dataclass(frozen=True, slots=True)
class View:
    """One look at the demo: `brought` letters so far, how each mailbox stands, how many messages each output holds."""

    now: float
    seconds: float
    brought: int
    lines: Sequence[Line]
    mailboxes: Mapping[str, Mailbox]
    outputs: Mapping[str, int]
    places: Mapping[str, Path]

    @property
    def pulled(self) -> int:
        """Messages pulled from all mailboxes."""
        return sum(line.standing.pulled for line in self.lines)

    @property
    def delivered(self) -> int:
        """Messages that every output has accepted."""
        return sum(line.standing.delivered for line in self.lines)

    @property
    def waiting(self) -> int:
        """Messages in the spool."""
        return sum(line.waiting for line in self.lines)

    @property
    def failed(self) -> int:
        """Messages that wait for a person."""
        return sum(line.failed for line in self.lines)


class Board:
    """Shows views on a console for the length of a `with` block; the last one stays on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._printed = 0.0

    def __enter__(self) -> Self:
        """On a terminal, what others write to standard error appears above the table from now on."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence, above the table when there is one."""
        self._console.print(escape(sentence), highlight=False, soft_wrap=True)

    def show(self, view: View) -> None:
        """Bring the table up to date, or print a line when the last one is some seconds old."""
        if self._console.is_terminal:
            self._live.update(picture(view), refresh=True)
        elif view.seconds - self._printed >= _LINE_SECONDS:
            self._printed = view.seconds
            self.say(sentence(view))


def sentence(view: View) -> str:
    """A view in one line."""
    held = ", ".join(f"{count} in {name}" for name, count in view.outputs.items())
    return (
        f"{view.seconds:.0f} s: {view.brought} letters, {view.pulled} pulled, {view.delivered} delivered, "
        f"{view.waiting} waiting, {view.failed} failed; {held}"
    )


def picture(view: View) -> RenderableType:
    """A view as tables for a terminal."""
    mailboxes = Table(
        "mailbox", "protocol", "account", "last pull", box=None, header_style="bold", pad_edge=False
    )
    for counter in ("pulled", "delivered", "waiting", "failed"):
        mailboxes.add_column(counter, justify="right")
    for line in view.lines:
        mailbox, standing = view.mailboxes[line.mailbox], line.standing
        mailboxes.add_row(
            f"[cyan]{line.mailbox}[/]",
            mailbox.protocol.upper(),
            mailbox.account,
            ago(standing.pulled_at, view.now),
            str(standing.pulled),
            f"[green]{standing.delivered}[/]",
            str(line.waiting),
            f"[red]{line.failed}[/]" if line.failed else "0",
        )
    outputs = Table("output", "where", box=None, header_style="bold", pad_edge=False)
    outputs.add_column("messages", justify="right")
    for name, count in view.outputs.items():
        outputs.add_row(f"[cyan]{name}[/]", escape(_short(view.places[name])), f"[green]{count}[/]")
    troubles = [
        Text(f"{line.mailbox}: {line.standing.sentence}", style="red")
        for line in view.lines
        if line.standing.sentence
    ]
    foot = Text(f"{view.brought} letters in {view.seconds:.0f} s. Ctrl-C ends everything.", style="dim")
    return Group("", mailboxes, "", outputs, "", *troubles, foot)


def _short(path: Path) -> str:
    """A path as a person here would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
