"""Comments of structured headers (RFC 5322 section 3.2.2): in parentheses, nested, with escapes.

Taken out of a text in linear time, whatever it holds. What they say is not read here, and quoted strings are not known here:
whoever expects one looks for it first.
"""

from __future__ import annotations

import re

_PARENTHESIS = re.compile(r"\\.|[()]", re.DOTALL)


def end_of_comment(text: str, start: int) -> int:
    """Return the position behind the parenthesis that closes the comment whose words begin at `start`, or -1 without one."""
    depth = 1
    for match in _PARENTHESIS.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return -1


def without_comments(text: str, instead: str = "") -> str:
    """Return the text with `instead` in the place of each comment; one that is not closed stays."""
    if "(" not in text:
        return text
    pieces: list[str] = []
    position = 0
    while (start := text.find("(", position)) != -1:
        end = end_of_comment(text, start + 1)
        if end == -1:
            break
        pieces += [text[position:start], instead]
        position = end
    return "".join(pieces) + text[position:]
