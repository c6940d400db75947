"""Finds the new words of a message, without those it quotes and without its signature.

Plain text and HTML are looked at both; the rules are in `pipelines.prose.replies`. No library does it: of those that are
alive, quotequail knows nine languages and reads HTML with lxml only. A message that quotes nothing is all new words. One that only
passes on another has none: its `reply` is empty.

It finds `{"reply", "quoted", "signature", "html"}`: `quoted` says whether anything was left out as quoted, `signature` is
null without one, `html` is the sender's HTML without the quoted parts and without the signature, null if there is no HTML.
It is not made safe to show.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.options import Flag
from pipelines.prose.body import Page, has_words, read_html, read_plain
from pipelines.prose.cut import keep
from pipelines.prose.line import Line
from pipelines.prose.replies import Kind, Split, split
from pipelines.stage import Stage, StageOptions


class ReplyOptions(StageOptions):
    """What the reply stage can be told."""

    html: Flag = Field(
        default=True,
        description="Whether the new words are given as HTML too, if the message has any.",
        examples=["no"],
    )
    longest: int = Field(
        default=1_000_000,
        ge=1,
        le=10_000_000,
        description="Characters of `reply`, `signature` and `html`, each; what lies beyond is left out.",
        examples=["100000"],
    )


class ReplyStage(Stage):
    """Adds what a person wrote just now."""

    type_name: ClassVar[str] = "reply"
    Options: ClassVar[type[StageOptions]] = ReplyOptions
    options: ReplyOptions

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        longest = self.options.longest
        plain = split(_plain_lines(message))
        pages = [
            read_html(message, part, longest=2 * longest)
            for part in message.html_body
            if part.type == "text/html"
        ]
        pages = [page for page in pages if has_words(page.lines)]
        joined = [line for page in pages for line in page.lines]
        marked = split(joined)
        has_plain = bool(plain.reply or plain.is_quoted or plain.signature)
        # HTML says more clearly what is quoted; plain text says more clearly what was written.
        chosen = plain if has_plain and (plain.is_quoted or not marked.is_quoted) else marked
        signature = chosen.signature or plain.signature or marked.signature
        found = {
            "reply": chosen.reply[:longest],
            "quoted": plain.is_quoted or marked.is_quoted,
            "signature": None if signature is None else signature[:longest],
            "html": _kept_html(pages, marked, longest=longest) if self.options.html and pages else None,
        }
        return message.with_findings(self.name, found)


def _plain_lines(message: Message) -> list[Line]:
    """Return the lines of all plain texts, one below the other."""
    lines: list[Line] = []
    for part in message.text_body:
        if part.type == "text/plain":
            found, _ = read_plain(message, part)
            lines += [*([Line("")] if lines else []), *found]
    return lines


def _kept_html(pages: list[Page], marked: Split, *, longest: int) -> str:
    """Return the new words of all HTML texts."""
    written = ""
    offset = 0
    for page in pages:
        kinds = marked.kinds[offset : offset + len(page.lines)]
        offset += len(page.lines)
        kept = {number for number, kind in enumerate(kinds) if kind is Kind.NEW}
        written += keep(page, kept, longest=longest - len(written))
    return written.strip()
