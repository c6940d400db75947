"""The first words of a message as plain text (RFC 8621 section 4.1.4, `preview`).

From HTML only what it takes: markup, styles and scripts are dropped up to the first few words. A faithful
conversion to text is the business of a stage.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from pipelines import limits
from pipelines.body import BodyValue
from pipelines.part import Part

_HIDDEN = re.compile(r"(?:style|script|head|title|template)\b", re.IGNORECASE)
# Text that is looked at to fill the preview, once white space is collapsed.
_ENOUGH = 4 * limits.PREVIEW_CHARACTERS


def preview(parts: Sequence[Part], values: Mapping[str, BodyValue]) -> str:
    """Return up to `limits.PREVIEW_CHARACTERS` of the first text that says something, white space collapsed."""
    for part in parts:
        value = values.get(part.part_id or "")
        if value is None:
            continue
        text = _visible(value.value) if part.type == "text/html" else value.value.lstrip()[:_ENOUGH]
        words = " ".join(text.split())
        if words:
            return words[: limits.PREVIEW_CHARACTERS].rstrip()
    return ""


def _visible(markup: str) -> str:
    """Return the beginning of the text between tags, without what browsers do not show."""
    pieces: list[str] = []
    length = position = 0
    end = min(len(markup), limits.PREVIEW_HTML_CHARACTERS)
    unclosed: set[str] = set()
    while position < end and length < _ENOUGH:
        tag = markup.find("<", position, end)
        if tag == -1:
            tag = end
        piece = html.unescape(markup[position:tag][:_ENOUGH].strip())
        if piece:
            pieces.append(piece)
            length += len(piece)
        position = _after_tag(markup, tag, end, unclosed=unclosed)
    return " ".join(pieces)


def _after_tag(markup: str, tag: int, end: int, *, unclosed: set[str]) -> int:
    """Return where to go on after the tag at `tag`, or after the whole element if it is a hidden one.

    A hidden element without its end tag, such as a head that was never closed, hides nothing; its name goes to
    `unclosed`, so that its end is looked for once.
    """
    if markup.startswith("<!--", tag):
        close = markup.find("-->", tag, end)
        return close + 3 if close != -1 else end
    close = markup.find(">", tag, end)
    if close == -1:
        return end
    hidden = _HIDDEN.match(markup, tag + 1)
    name = hidden[0].lower() if hidden else ""
    if not name or name in unclosed:
        return close + 1
    ending = markup.find("</", close, end)
    while ending != -1 and markup[ending + 2 : ending + 2 + len(name)].lower() != name:
        ending = markup.find("</", ending + 2, end)
    if ending == -1:
        unclosed.add(name)
        return close + 1
    return ending
