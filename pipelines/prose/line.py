"""One line of readable text, and what is known of it: the common tongue of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipelines.prose.marks import Mark


class Line(NamedTuple):
    """A line without its quote marks; `depth` says how many it has.

    For HTML, `box` numbers the quoting element around it, 0 without one, `mark` is what its program says of it, and
    `tokens` are the numbers of the first and the last piece of HTML that its words came from.
    """

    text: str
    depth: int = 0
    mark: Mark = ""
    box: int = 0
    tokens: tuple[int, int] = (-1, -1)


def write(lines: Iterable[Line]) -> str:
    """Return lines as a text in which quoted ones begin with one `>` for each depth, and never more than two are blank."""
    return "\n".join(_spaced(lines)).strip("\n")


def _spaced(lines: Iterable[Line]) -> Iterator[str]:
    blank = 0
    for line in lines:
        text = f"{'>' * line.depth} {line.text}".rstrip() if line.depth else line.text.rstrip()
        blank = blank + 1 if not line.text.strip() else 0
        if blank <= 2:
            yield text
