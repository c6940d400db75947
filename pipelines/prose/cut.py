"""HTML without some of its lines, with every element closed that it opens.

What is left is the sender's own HTML, piece by piece, and as safe or unsafe as that; comments, scripts and empty shells of
what was left out are gone.
"""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from pipelines.prose.body import Page
from pipelines.prose.line import Line

_VOID = frozenset(
    {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_LEFT_OUT = frozenset({"script", "noscript", "base"})


def keep(page: Page, kept: AbstractSet[int], *, longest: int) -> str:
    """Return the HTML of those lines whose number is in `kept`, up to `longest` characters and what closes them."""
    written = [number for number, line in enumerate(page.lines) if line.tokens[0] >= 0]
    ends = [page.lines[number].tokens[1] for number in written]
    cutter = _Cutter(longest)
    for position, token in enumerate(page.pieces):
        # A piece belongs to the next line that has words: what opens before a line is there for its sake.
        next_line = bisect_left(ends, position)
        at = written[next_line] if next_line < len(written) else written[-1] if written else -1
        is_kept = at in kept
        source = page.markup[token.start : token.end]
        if token.name:
            cutter.take(token.name, source, is_end=token.closing, kept=is_kept)
        else:
            cutter.text(_kept_text(source, page.lines, written, kept, start=next_line, position=position))
        if cutter.is_full:
            break
    return cutter.finish()


def _kept_text(
    source: str,
    lines: Sequence[Line],
    written: Sequence[int],
    kept: AbstractSet[int],
    *,
    start: int,
    position: int,
) -> str:
    """Return what is kept of one text, which has several lines if it is preformatted; they begin at `start`."""
    here: list[int] = []
    index = start
    while index < len(written) and lines[written[index]].tokens[0] <= position:
        here.append(written[index])
        index += 1
    following = written[index] if index < len(written) else -1
    if not here:
        return source if following in kept else ""
    left = [number for number in here if number in kept]
    if len(left) == len(here):
        return source
    return html.escape("\n".join(lines[number].text for number in left), quote=False) + "\n" * bool(left)


class _Cutter:
    """Writes pieces; a start tag among what is left out is written when something is kept within it."""

    def __init__(self, longest: int) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._longest = longest
        # Open elements: name, source, whether it was written. Those from `_written` on were not.
        self._stack: list[tuple[str, str]] = []
        self._written = 0
        self._open: dict[str, int] = {}
        self._silent = ""

    @property
    def is_full(self) -> bool:
        return self._length > self._longest

    def take(self, name: str, source: str, *, is_end: bool, kept: bool) -> None:
        """Go on by one tag."""
        if name in _LEFT_OUT:
            self._silent = "" if is_end else name if name == "script" else self._silent
        elif name in _VOID:
            if kept and not is_end:
                self._write(source)
        elif not is_end:
            self._stack.append((name, source))
            self._open[name] = self._open.get(name, 0) + 1
            if kept:
                self._write("")
        elif self._open.get(name):
            self._end(name, source)

    def text(self, text: str) -> None:
        """Go on by a text."""
        if text and not self._silent:
            left = max(0, self._longest - self._length)
            self._write(text[:left])
            # What was cut makes it full.
            self._length += len(text) - len(text[:left])

    def finish(self) -> str:
        """Return what was written, every element closed."""
        self._pieces += [f"</{name}>" for name, _ in reversed(self._stack[: self._written])]
        return "".join(self._pieces)

    def _write(self, text: str) -> None:
        for _, source in self._stack[self._written :]:
            self._pieces.append(source)
            self._length += len(source)
        self._written = len(self._stack)
        self._pieces.append(text)
        self._length += len(text)

    def _end(self, name: str, source: str) -> None:
        """Close the innermost element of a name, and with it what was left open within."""
        while True:
            opened, _ = self._stack.pop()
            self._open[opened] -= 1
            was_written = len(self._stack) < self._written
            self._written = min(self._written, len(self._stack))
            if opened == name:
                if was_written:
                    self._pieces.append(source)
                    self._length += len(source)
                return
            if was_written:
                closing = f"</{opened}>"
                self._pieces.append(closing)
                self._length += len(closing)
