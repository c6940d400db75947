"""The text of a message for search and for tables: its plain text, or its HTML converted, one part below the other."""

from __future__ import annotations

from pipelines.message import Message
from pipelines.prose.body import read_html, read_plain
from pipelines.prose.line import Line, write

LONGEST = 1_000_000


def readable_text(message: Message) -> str:
    """Return what a person reads, at most a million characters; attachments are not read."""
    lines: list[Line] = []
    for part in message.text_body:
        if part.type == "text/html":
            lines += read_html(message, part, longest=LONGEST).lines
        elif part.type.startswith("text/"):
            lines += read_plain(message, part)[0]
    return write(lines)[:LONGEST]
