"""Plain text as lines: quotes told by their marks, and format=flowed made whole again (RFC 3676)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.prose.line import Line

# "> > text" and ">> text", as they come; ">From" is what mbox files made of "From".
_QUOTE = re.compile(r"(?:> ?)*+")
_ESCAPED_FROM = re.compile(r">From [^\n]")
_DEEPEST = 30
# A line of a paragraph that never ends is cut here, as if its sender had ended it.
_LONGEST = 100_000


def plain_lines(text: str) -> Iterator[Line]:
    """Yield the lines of a text with LF line ends, each with the depth of its quote."""
    for line in text.split("\n"):
        depth, content = _cut_marks(line)
        yield Line(content.rstrip(), depth)


def flowed_lines(text: str, *, delete_space: bool) -> Iterator[Line]:
    """Yield the paragraphs of a text in format=flowed; `delete_space` is its parameter DelSp (RFC 3676 section 4.5).

    A line that ends in a space goes on in the next one of the same depth; the signature's `-- ` never does.
    """
    pieces: list[str] = []
    open_depth = length = 0
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        content = line[depth:].removeprefix(" ")
        flows = content.endswith(" ") and content != "-- "
        if pieces and (depth != open_depth or content == "-- " or length > _LONGEST):
            yield Line("".join(pieces).rstrip(), min(open_depth, _DEEPEST))
            pieces, length = [], 0
        pieces.append(content[:-1] if flows and delete_space else content)
        length += len(content)
        open_depth = depth
        if not flows:
            yield Line("".join(pieces).rstrip(), min(depth, _DEEPEST))
            pieces, length = [], 0
    if pieces:
        yield Line("".join(pieces).rstrip(), min(open_depth, _DEEPEST))


def _cut_marks(line: str) -> tuple[int, str]:
    """Return the depth of a quoted line and what stands behind its marks."""
    if not line.startswith((">", " >")) or _ESCAPED_FROM.match(line):
        return 0, line
    quoted = line.removeprefix(" ")
    marks = _QUOTE.match(quoted)
    assert marks is not None
    return min(marks[0].count(">"), _DEEPEST), quoted[marks.end() :]
