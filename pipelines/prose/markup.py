"""HTML cut into tags and text, as browsers cut it, in linear time.

Python's own `html.parser` is not used because it takes quadratic time for unfinished tags and comments: two minutes for
60 kB of `<a ` on Python 3.11. What is cut here follows the tokenizer of the HTML standard (section 13.2.5) in what
matters for reading: comments, raw text elements, quotes in attributes, and what happens where the input ends too early.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.charset import clean

_ATTRIBUTES = 60
# Every other < is text.
_TAG = re.compile(r"<[a-zA-Z!?/]")
_NAME = re.compile(r"/?+[a-zA-Z][^\s/>]*+")
# Quotes count after an equals sign and nowhere else; a quote that is never closed is an ordinary character.
_REST_OF_TAG = re.compile(r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""")
_ATTRIBUTE = re.compile(r"""([^\s/>="']++)\s*+(?:=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]*+)))?+""")
_COMMENT_END = re.compile(r"--!?>")
_RAW_TEXT = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "title", "xmp", "iframe", "noembed", "noframes", "textarea")
}
# Numbers of any length would be converted; seven digits hold every character there is.
_LONG_NUMBER = re.compile(r"&#(?:0*+[0-9]{8,}+|[xX]0*+[0-9a-fA-F]{7,}+);?")
_LONGEST_NAME = 50


class Token(NamedTuple):
    """A piece of HTML from `start` to `end`: a tag with its lower-case `name`, or text without one.

    `closing` tells an end tag; `rest` is what stands in a tag behind its name. Comments are no tokens.
    """

    start: int
    end: int
    name: str
    closing: bool
    rest: str


def tokens(markup: str) -> Iterator[Token]:
    """Yield tags and texts in their order; raw text elements such as scripts have their text as one token."""
    position, end = 0, len(markup)
    quotes_close = True
    while position < end:
        found = _TAG.search(markup, position)
        opening = end if found is None else found.start()
        if opening > position:
            yield Token(position, opening, "", closing=False, rest="")
        if opening == end:
            return
        name = _NAME.match(markup, opening + 1)
        if name is None:
            position = _after_declaration(markup, opening)
            continue
        rest = _REST_OF_TAG.match(markup, name.end()) if quotes_close else None
        if rest is None:
            # Once a quote swallows all that follows, tags end where the next > stands, which stays linear.
            quotes_close = False
            closing = markup.find(">", name.end())
            if closing == -1:
                return
            position = closing + 1
        else:
            position = rest.end()
        word = name[0].lower()
        tag = word.lstrip("/")[:_LONGEST_NAME]
        yield Token(opening, position, tag, word.startswith("/"), markup[name.end() : position - 1])
        if tag in _RAW_TEXT and not word.startswith("/"):
            ending = _RAW_TEXT[tag].search(markup, position)
            # Without an end tag it goes on to the end.
            stop = end if ending is None else ending.start()
            if stop > position:
                yield Token(position, stop, "", closing=False, rest="")
            position = stop


def attributes(rest: str) -> dict[str, str]:
    """Return the attributes of a tag by their lower-case names; the first of a name counts."""
    found: dict[str, str] = {}
    for count, match in enumerate(_ATTRIBUTE.finditer(rest)):
        if count == _ATTRIBUTES:
            break
        value = match[2] or match[3] or match[4] or ""
        found.setdefault(match[1].lower(), unescape(value) if "&" in value else value)
    return found


def unescape(text: str) -> str:
    """Return the text with its character references resolved, clean, for any number of digits."""
    if "&" not in text:
        return text
    return clean(html.unescape(_LONG_NUMBER.sub("\ufffd", text)))


def _after_declaration(markup: str, opening: int) -> int:
    """Return where to go on after a comment, a doctype, a conditional comment or a processing instruction."""
    if markup.startswith("<!--", opening):
        if markup.startswith((">", "->"), opening + 4):
            return markup.index(">", opening) + 1
        ending = _COMMENT_END.search(markup, opening + 4)
        return len(markup) if ending is None else ending.end()
    ending_at = markup.find(">", opening)
    return len(markup) if ending_at == -1 else ending_at + 1
