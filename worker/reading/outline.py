"""The MIME structure of a message as a tree of lines, for a terminal and for plain text.

Whatever strangers wrote is made harmless before it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.filesize import decimal

from pipelines.message import Message, Part
from worker.reading.shown import shown

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

# Most defects name the part that they are in.
_PART_OF_DEFECT = re.compile(r"part ([\d.]+)\b:? ?")
_UNICODE = ("├── ", "└── ", "│   ", "    ")
_ASCII = ("|-- ", "`-- ", "|   ", "    ")


@dataclass(frozen=True, slots=True)
class Outline:
    """One line: words, each with what it is (a style of rich, or nothing), and the lines below it."""

    words: tuple[tuple[str, str], ...]
    below: tuple[Outline, ...] = field(default=())

    def plain(self) -> str:
        """The line without colours."""
        return "  ".join(word for word, _ in self.words)


def outline(message: Message, *, words: bool = True) -> Outline:
    """Draw a message: its parts, which of its lists they belong to, and its defects, each where it is.

    Without `words` nothing is drawn that its sender wrote to be read: neither the subject nor the names of files.
    """
    defects = _Defects(message)
    lists = _lists(message)
    below = [_part(message.structure, "", lists=lists, defects=defects, words=words)]
    # A stage may have found attachments inside a part.
    inside = {id(part) for part in message.structure.walk()}
    below += [
        _part(part, part.part_id or "", lists=lists, defects=defects, words=words)
        for part in message.attachments
        if id(part) not in inside
    ]
    subject = (shown(message.subject), "bold") if message.subject else ("without a subject", "dim")
    first = (subject,) if words else ()
    return Outline((*first, (decimal(message.size), "dim")), (*below, *defects.rest()))


def plain(drawn: Outline, *, is_ascii: bool = False) -> Iterator[str]:
    """Yield the lines of the tree as text."""
    yield drawn.plain()
    yield from _branches(drawn, "", _ASCII if is_ascii else _UNICODE)


def coloured(drawn: Outline) -> Tree:
    """Return the tree for a terminal."""
    from rich.tree import Tree

    tree = Tree(_text(drawn), guide_style="dim")
    _grow(tree, drawn)
    return tree


def _branches(drawn: Outline, before: str, marks: tuple[str, str, str, str]) -> Iterator[str]:
    between, last, down, nothing = marks
    for number, line in enumerate(drawn.below, 1):
        is_last = number == len(drawn.below)
        yield before + (last if is_last else between) + line.plain()
        yield from _branches(line, before + (nothing if is_last else down), marks)


def _grow(tree: Tree, drawn: Outline) -> None:
    for line in drawn.below:
        _grow(tree.add(_text(line)), line)


def _text(drawn: Outline) -> Text:
    from rich.text import Text

    return Text("  ").join(Text(word, style) for word, style in drawn.words)


class _Defects:
    """The defects of a message by the number of the part they name; those that are not asked for are the message's."""

    def __init__(self, message: Message) -> None:
        self._of_part: dict[str, list[Outline]] = {}
        for defect in message.defects:
            found = _PART_OF_DEFECT.match(defect.detail)
            detail = defect.detail[found.end() :] if found else defect.detail.removeprefix("message: ")
            line = Outline((("!", "bold red"), (shown(defect.code), "red"), (shown(detail), "")))
            self._of_part.setdefault(found[1] if found else "", []).append(line)

    def of(self, number: str) -> list[Outline]:
        """Hand out those of a part, once."""
        return self._of_part.pop(number, [])

    def rest(self) -> list[Outline]:
        """Hand out all others."""
        return [line for number in list(self._of_part) for line in self.of(number)]


def _lists(message: Message) -> dict[int, list[str]]:
    lists: dict[int, list[str]] = {}
    for name, parts in (
        ("textBody", message.text_body),
        ("htmlBody", message.html_body),
        ("attachments", message.attachments),
    ):
        for part in parts:
            lists.setdefault(id(part), []).append(name)
    return lists


def _part(part: Part, number: str, *, lists: dict[int, list[str]], defects: _Defects, words: bool) -> Outline:
    """`number` is the part's number as IMAP counts; a multipart has one too, the message itself has none."""
    number = part.part_id or number
    told = [(number, "cyan"), (shown(part.type), "" if part.sub_parts is None else "dim")]
    if part.sub_parts is None:
        told += [
            (shown(part.charset or ""), "magenta"),
            (f'"{shown(part.name)}"' if part.name and words else "", "green"),
            (decimal(part.size), "dim"),
        ]
    told += [
        (shown(part.disposition or ""), "yellow"),
        (" ".join(lists.get(id(part), ())), "blue"),
    ]
    children = [
        _part(child, f"{number}.{index}" if number else str(index), lists=lists, defects=defects, words=words)
        for index, child in enumerate(part.sub_parts or (), 1)
    ]
    own = defects.of(number) if number else []
    return Outline(tuple(word for word in told if word[0]), (*own, *children))
