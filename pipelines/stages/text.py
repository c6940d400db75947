"""Finds a readable plain text, whatever a message has: its own, or its HTML converted.

Plain text in format=flowed is unwrapped (RFC 3676). HTML is converted as `pipelines.prose.render` describes; it is not
made safe, because nothing of it is left. Attachments are not read. It finds `{"text", "from", "isTruncated"}`, where
`from` is `plain`, `html` as soon as some of it was converted, or `none`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from pipelines.message import Message, Part
from pipelines.options import Flag
from pipelines.prose.body import has_words, read_html, read_plain
from pipelines.prose.line import Line, write
from pipelines.stage import Stage, StageOptions

Origin = Literal["plain", "html", "none"]


class TextOptions(StageOptions):
    """What the text stage can be told."""

    prefer: Literal["plain", "html"] = Field(
        default="plain", description="Which text is taken when a message has both.", examples=["html"]
    )
    links: Flag = Field(
        default=False,
        description="Whether the address of a link stands in parentheses behind its words, when HTML is converted.",
        examples=["yes"],
    )
    longest: int = Field(
        default=1_000_000,
        ge=1,
        le=10_000_000,
        description="Characters that are kept; what lies beyond is left out, and `isTruncated` says so.",
        examples=["100000"],
    )


class TextStage(Stage):
    """Adds the text of a message, for people and for search."""

    type_name: ClassVar[str] = "text"
    Options: ClassVar[type[StageOptions]] = TextOptions
    options: TextOptions

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        first, second = message.text_body, message.html_body
        if self.options.prefer == "html":
            first, second = second, first
        read = self._read(message, first)
        if read.origin == "none":
            read = self._read(message, second)
        text = write(read.lines)
        cut = text[: self.options.longest]
        found = {
            "text": cut,
            "from": read.origin,
            "isTruncated": read.is_truncated or len(cut) < len(text),
        }
        return message.with_findings(self.name, found)

    def _read(self, message: Message, parts: Iterable[Part]) -> _Read:
        """Read the parts of one of the two lists of RFC 8621 one below the other."""
        lines: list[Line] = []
        origin: Origin = "none"
        is_truncated = False
        for part in parts:
            if part.type == "text/html":
                page = read_html(message, part, links=self.options.links, longest=self.options.longest)
                found, cut = page.lines, page.is_truncated
            else:
                found, cut = read_plain(message, part)
            is_truncated = is_truncated or cut
            if has_words(found):
                lines += [*([Line("")] if lines else []), *found]
                origin = "html" if part.type == "text/html" or origin == "html" else "plain"
        return _Read(lines, origin, is_truncated)


class _Read(NamedTuple):
    lines: list[Line]
    origin: Origin
    is_truncated: bool
