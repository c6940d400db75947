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
# Plain text in which the preview is looked for: white space may come first.
_ENOUGH = 16 * limits.PREVIEW_CHARACTERS


def preview(parts: Sequence[Part], values: Mapping[str, BodyValue]) -> str:
    """Return up to `limits.PREVIEW_CHARACTERS` of the first text that says something, white space collapsed."""
    for part in parts:
        value = values.get(part.part_id or "")
        if value is None:
            continue
        text = _visible(value.value) if part.type == "text/html" else value.value[:_ENOUGH]
        words = " ".join(text.split())
        if words:
            return words[: limits.PREVIEW_CHARACTERS].rstrip()
    return ""


def _visible(markup: str) -> str:
    """Return the beginning of the text between tags, without what browsers do not show."""
    pieces: list[str] = []
    length = position = 0
    end = min(len(markup), limits.PREVIEW_HTML_CHARACTERS)
    while position < end and length < 2 * limits.PREVIEW_CHARACTERS:
        tag = markup.find("<", position, end)
        if tag == -1:
            tag = end
        text = html.unescape(markup[position:tag])
        if text and not text.isspace():
            pieces.append(text)
            length += len(text)
        position = _after_tag(markup, tag, end)
    return "".join(pieces) if length < 0 else " ".join(pieces)


def _after_tag(markup: str, tag: int, end: int) -> int:
    """Return where to go on after the tag at `tag`, or after the whole element if it is a hidden one."""
    if markup.startswith("<!--", tag):
        close = markup.find("-->", tag, end)
        return close + 3 if close != -1 else end
    close = markup.find(">", tag, end)
    hidden = _HIDDEN.match(markup, tag + 1)
    if hidden is None or close == -1:
        return close + 1 if close != -1 else end
    # Without its end tag a hidden element hides nothing, as with a head that was never closed.
    ending = markup.lower().find("</" + hidden[0].lower(), close, end)
    return close + 1 if ending == -1 else ending
