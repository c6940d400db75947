"""The readable lines of a message: what its sender wrote as plain text, and what as HTML.

Read are the texts that the JSON shows (`bodyValues`), which are bounded; attachments are never read.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from pipelines.message import Message, Part
from pipelines.prose import render
from pipelines.prose.flowed import flowed_lines, plain_lines
from pipelines.prose.line import Line
from pipelines.prose.markup import Token, tokens

# Lines of plain text that are read of one part: no letter has as many, and each costs as much as many letters.
LINES = 50_000


class Page(NamedTuple):
    """One HTML text: its source, the pieces it was cut into, and its lines."""

    markup: str
    pieces: list[Token]
    lines: list[Line]
    is_truncated: bool


def read_plain(message: Message, part: Part) -> tuple[list[Line], bool]:
    """Return the lines of a text/plain part, and whether it was cut."""
    value = message.body_values.get(part.part_id or "")
    if value is None:
        return [], False
    content_type = part.headers.parameterized("Content-Type")
    parameters = {} if content_type is None else content_type.parameters
    if parameters.get("format", "").lower() == "flowed":
        delete_space = parameters.get("delsp", "").lower() == "yes"
        found = flowed_lines(value.value, delete_space=delete_space)
    else:
        found = plain_lines(value.value)
    lines = list(islice(found, LINES + 1))
    return lines[:LINES], value.is_truncated or len(lines) > LINES


def read_html(message: Message, part: Part, *, links: bool = False, longest: int) -> Page:
    """Return a text/html part with up to `longest` characters of its lines."""
    value = message.body_values.get(part.part_id or "")
    if value is None:
        return Page("", [], [], is_truncated=False)
    pieces = list(islice(tokens(value.value), render.TOKENS + 1))
    found = render.render(value.value, pieces, links=links, longest=longest)
    return Page(value.value, pieces, found.lines, found.is_truncated or value.is_truncated)


def has_words(lines: list[Line]) -> bool:
    """Whether any line says something."""
    return any(line.text and not line.text.isspace() for line in lines)
