"""HTML as lines of plain text, in the way a browser would show it, and in linear time.

Kept are paragraphs, line breaks, lists, tables row by row, headings, rules, quotes, preformatted text, and the
alternative text of pictures. Left out is what a browser does not show: scripts, styles, titles, hidden elements. How
things look is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipelines.prose import marks
from pipelines.prose.line import Line
from pipelines.prose.marks import Mark
from pipelines.prose.markup import Token, attributes, unescape

# Beyond this many pieces of HTML the rest is left out: a long newsletter has some ten thousand.
TOKENS = 100_000

_VOID = frozenset(
    {
        "area",
        "base",
        "basefont",
        "bgsound",
        "br",
        "col",
        "embed",
        "frame",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    }
)
_PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "pre", "figure", "fieldset"}
)
_BLOCKS = _PARAGRAPHS | frozenset(
    {
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dt",
        "footer",
        "form",
        "header",
        "html",
        "legend",
        "li",
        "main",
        "nav",
        "option",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "tr",
    }
)
_TABLE = frozenset({"table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"})
_CELLS = frozenset({"td", "th"})
_STRUCTURE = _BLOCKS | _CELLS
# An element that ends where the next of these begins: which one, and what it never reaches beyond.
_ENDED_BY: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "li": (frozenset({"li"}), frozenset({"ul", "ol"})),
    "tr": (frozenset({"tr"}), frozenset({"table"})),
    "td": (_CELLS, frozenset({"table", "tr"})),
    "th": (_CELLS, frozenset({"table", "tr"})),
    "dt": (frozenset({"dt", "dd"}), frozenset({"dl"})),
    "dd": (frozenset({"dt", "dd"}), frozenset({"dl"})),
}
_PARAGRAPH = (frozenset({"p"}), _TABLE | {"div", "blockquote", "li"})
# How far back an element is looked for that an end tag could end.
_REACH = 100
_DEEPEST_QUOTE, _WIDEST_INDENT = 30, 20

_SPACES = re.compile(r"[ \t\n\f\r]+")
# Characters without ink: soft hyphens and what newsletters fill the preview of mail readers with.
_NO_INK = re.compile("[\u00ad\u034f\u200b\u2060\ufeff]")
_FILLER = re.compile("[\\s\u00ad\u034f\u200b-\u200f\u2007\u2060\u2800\ufeff]*+")
_NO_MARGIN = re.compile(
    r"(?:^|;)\s*margin(?:\s*:\s*(?:0(?:px|pt|cm|in)?\s*){1,4}(?:;|$)|-bottom\s*:\s*0(?:px|pt|cm|in|\.0*1pt)?\s*(?:;|$))",
    re.IGNORECASE,
)
_NO_TOP = re.compile(r"(?:^|;)\s*margin(?:-top)?\s*:\s*0(?![.\d])", re.IGNORECASE)
_KEEPS_SPACE = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)", re.IGNORECASE)
_FILE_NAME = re.compile(r"[^\s]*\.(?:png|gif|jpe?g|bmp|svg)", re.IGNORECASE)
_LINK = re.compile(r"(?:https?://|mailto:|tel:)\S+", re.IGNORECASE)
_LONGEST_LINK = 2000


class _Inside(NamedTuple):
    """What holds for text at one place."""

    hidden: bool = False
    depth: int = 0
    mark: Mark = ""
    box: int = 0
    is_cut: bool = False
    preformatted: bool = False
    indent: int = 0


class _Element:
    """An open element; `count` numbers the items of an ordered list.

    `seen` is where a row or a link begins: how many lines were begun before it, and how many pieces its line had.
    """

    __slots__ = ("count", "inside", "link", "margin", "name", "seen")

    def __init__(self, name: str, inside: _Inside) -> None:
        self.name = name
        self.inside = inside
        self.count: int | None = None
        self.margin = 1
        self.seen = (0, 0)
        self.link = ""


class Rendering(NamedTuple):
    """The lines of some HTML, and whether a limit cut them."""

    lines: list[Line]
    is_truncated: bool


def render(markup: str, pieces: Sequence[Token], *, links: bool = False, longest: int) -> Rendering:
    """Return up to `longest` characters of the lines of HTML that was cut into `pieces`.

    With `links`, the address of a link stands in parentheses behind its words, unless it is the same.
    """
    renderer = _Renderer(links=links)
    for number, token in enumerate(pieces[:TOKENS]):
        if renderer.length > longest:
            return Rendering(renderer.finish(), is_truncated=True)
        renderer.take(markup, token, number)
    return Rendering(renderer.finish(), is_truncated=len(pieces) > TOKENS)


class _Renderer:
    def __init__(self, *, links: bool) -> None:
        self.length = 0
        self._links = links
        self._lines: list[Line] = []
        self._stack = [_Element("", _Inside())]
        self._open: dict[str, int] = {}
        self._boxes = 0
        self._cut = False
        # The line that is being written; `_gap` is how many line ends come before the next text.
        self._line: list[str] = []
        self._ink = False
        self._gap = 0
        self._cell = False
        self._marker = ""
        self._state = _Inside()
        self._first = self._last = 0
        # How many lines were begun.
        self._begun = 0

    def take(self, markup: str, token: Token, number: int) -> None:
        """Go on by one piece."""
        if not token.name:
            inside = self._stack[-1].inside
            if not inside.hidden:
                self._text(unescape(markup[token.start : token.end]), inside, number)
        elif token.closing:
            self._end(token.name, number)
        else:
            self._start(token, number)

    def finish(self) -> list[Line]:
        """Return the lines, without blank ones around them."""
        self._commit()
        return self._lines

    # -- elements ----------------------------------------------------------------------------------------------------

    def _start(self, token: Token, number: int) -> None:
        name = token.name
        found = attributes(token.rest) if token.rest and not token.rest.isspace() else {}
        outer = self._stack[-1].inside
        if name in _VOID:
            if not outer.hidden:
                self._void(name, found, outer, number)
            return
        if name in _STRUCTURE:
            if self._open.get("p") and name not in _TABLE:
                self._end_before(*_PARAGRAPH)
            if name in _ENDED_BY:
                self._end_before(*_ENDED_BY[name])
        element = _Element(name, self._inside(name, found))
        if name in _STRUCTURE and not element.inside.hidden:
            self._begin_block(element, found)
        elif name == "a" and self._links and not outer.hidden:
            href = found.get("href", "").strip()
            element.link = href if len(href) <= _LONGEST_LINK and _LINK.fullmatch(href) else ""
            element.seen = (self._begun, len(self._line))
        self._stack.append(element)
        self._open[name] = self._open.get(name, 0) + 1

    def _inside(self, name: str, found: Mapping[str, str]) -> _Inside:
        """Return what holds within a new element."""
        outer = self._stack[-1].inside
        if name in marks.HIDDEN:
            return outer._replace(hidden=True)
        if name == "pre" or name == "blockquote":  # noqa: PLR1714  one of them is looked at again
            depth = outer.depth + (name == "blockquote" and marks.is_quote(found))
            outer = outer._replace(
                preformatted=outer.preformatted or name == "pre", depth=min(depth, _DEEPEST_QUOTE)
            )
        elif name in {"ul", "ol", "dd"} and self._open.get("li" if name != "dd" else "dl"):
            outer = outer._replace(indent=min(outer.indent + 2, _WIDEST_INDENT))
        if not found:
            return outer
        if marks.is_hidden(found):
            return outer._replace(hidden=True)
        if _KEEPS_SPACE.search(found.get("style", "")[:1000]):
            outer = outer._replace(preformatted=True)
        if "class" in found or "id" in found or "style" in found:
            if not self._cut and marks.is_cut(found):
                self._cut = True
                self._gap = max(self._gap, 1)
            if not outer.box and marks.is_box(found):
                self._boxes += 1
                outer = outer._replace(box=self._boxes)
            mark = marks.mark_of(found)
            if mark and not outer.mark:
                outer = outer._replace(mark=mark)
        return outer

    def _begin_block(self, element: _Element, found: Mapping[str, str]) -> None:
        name = element.name
        if name in _CELLS:
            self._begin_cell()
        else:
            element.margin = _margin(name, found, nested=element.inside.indent > 0)
            self._break(1 if _NO_TOP.search(found.get("style", "")[:1000]) else element.margin)
        if name == "tr":
            element.seen = (self._begun, 0)
        elif name == "ol":
            element.count = _number(found.get("start", "1"))
        elif name == "li":
            self._marker = self._next_marker(found)

    def _begin_cell(self) -> None:
        """Go on in the line of the row, or in a new one if the row has more than one already."""
        for element in self._stack[:-_REACH:-1]:
            if element.name == "tr":
                if self._ink and element.seen[0] + 1 == self._begun:
                    self._gap = 0
                    self._cell = True
                    return
                break
        self._break(1)

    def _next_marker(self, found: Mapping[str, str]) -> str:
        for element in self._stack[:-_REACH:-1]:
            if element.name == "ul":
                break
            if element.name == "ol" and element.count is not None:
                number = _number(found["value"]) if "value" in found else element.count
                element.count = number + 1
                return f"{number}. "
        return "* "

    def _end(self, name: str, number: int) -> None:
        if name in {"html", "body"}:
            return
        if name == "p" and not self._open.get("p"):
            self._break(2)
        if name == "br":
            self._void("br", {}, self._stack[-1].inside, number)
        if not self._open.get(name):
            return
        for back, element in enumerate(self._stack[:-_REACH:-1]):
            if element.name == name:
                for _ in range(back + 1):
                    self._pop(number)
                return
            if _is_barrier(element.name, name):
                return

    def _end_before(self, ended: frozenset[str], barrier: frozenset[str]) -> None:
        """End the innermost of some elements, because another begins, unless a barrier stands between."""
        for back, element in enumerate(self._stack[:-_REACH:-1]):
            if element.name in ended:
                for _ in range(back + 1):
                    self._pop(-1)
                return
            if element.name in barrier:
                return

    def _pop(self, number: int) -> None:
        if len(self._stack) == 1:
            return
        element = self._stack.pop()
        self._open[element.name] -= 1
        if element.inside.hidden:
            return
        if element.link and number >= 0:
            self._write_link(element, number)
        if element.name in _BLOCKS:
            # An empty cell at its end does not make the next row go on in this one.
            self._cell = self._cell and element.name not in {"tr", "table"}
            self._break(element.margin)
        if element.name == "li":
            self._marker = ""

    def _write_link(self, element: _Element, number: int) -> None:
        lines, position = element.seen
        words = "".join(self._line[position:] if lines == self._begun else self._line)
        address = re.sub(r"^(?:mailto|tel):", "", element.link, flags=re.IGNORECASE)
        if words.strip() and _bare(words) != _bare(address):
            self._text(f" ({address})", element.inside._replace(preformatted=False), number)

    def _void(self, name: str, found: Mapping[str, str], inside: _Inside, number: int) -> None:
        if name == "br":
            self._cell = False
            self._break(1 if not self._gap and self._ink else 2)
        elif name == "hr":
            self._break(1)
            self._cut = self._cut or marks.is_cut(found)
            self._text("---", inside, number)
            self._break(1)
        elif name == "img" and not marks.is_hidden(found):
            words = " ".join(found.get("alt", "").split())
            tiny = {found.get("width", "").removesuffix("px"), found.get("height", "").removesuffix("px")} & {
                "0",
                "1",
            }
            if words and not tiny and not _FILE_NAME.fullmatch(words):
                self._text(f"[{words[:500]}]", inside, number)

    # -- lines -------------------------------------------------------------------------------------------------------

    def _break(self, count: int) -> None:
        """Let the next text begin a new line, with two after a blank one; not right behind the edge of a cell."""
        if not self._cell:
            self._gap = max(self._gap, count)

    def _text(self, text: str, inside: _Inside, number: int) -> None:
        if inside.preformatted:
            for index, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")):
                if index:
                    self._commit()
                    self._gap = 1 if not self._gap else 2
                if line:
                    self._write(line.expandtabs(8) if len(line) < 10_000 else line, inside, number)
            return
        text = _SPACES.sub(" ", text)
        has_ink = text != " " and _FILLER.fullmatch(text) is None
        if not has_ink and (not self._ink or self._gap):
            # What has no ink makes an empty paragraph as high as a line, as Outlook writes them.
            if "\u00a0" in text and self._gap:
                self._gap = 2
            return
        if self._gap or not self._line or self._line[-1].endswith(" "):
            text = text.lstrip(" ")
        if text:
            self._write(text, inside, number)

    def _write(self, text: str, inside: _Inside, number: int) -> None:
        state = inside._replace(is_cut=self._cut)
        if self._gap or (self._ink and state[1:5] != self._state[1:5]):
            self._commit()
        if not self._ink:
            if self._gap == 2 and self._lines:
                self._lines.append(Line("", min(self._lines[-1].depth, inside.depth)))
            self._gap = 0
            self._line = [" " * inside.indent + self._marker] if inside.indent or self._marker else []
            self._state, self._first = state, number
            self._marker, self._ink, self._cell = "", True, False
            self._begun += 1
        elif self._cell:
            self._line.append(" | ")
            self._cell = False
        self._line.append(text)
        self._last = number
        self.length += len(text) + state.depth + 2

    def _commit(self) -> None:
        """Put the line that is being written behind the others."""
        if not self._ink:
            return
        text = _NO_INK.sub("", "".join(self._line)).replace("\u00a0", " ").rstrip()
        state = self._state
        mark: Mark = "quote" if state.is_cut else state.mark
        self._lines.append(Line(text, state.depth, mark, state.box, (self._first, self._last)))
        self._line, self._ink = [], False


def _is_barrier(element: str, ended: str) -> bool:
    """Whether an end tag does not reach beyond an open element: neither out of a block nor out of a cell."""
    if ended in _TABLE:
        return element == "table" and ended != "table"
    return element in _CELLS or (ended not in _BLOCKS and element in _BLOCKS)


def _margin(name: str, found: Mapping[str, str], *, nested: bool) -> int:
    """Return 2 for elements with a blank line around them."""
    if name not in _PARAGRAPHS or nested:
        return 1
    # Outlook writes every line as a paragraph without a margin, and a blank one as one with nothing in it.
    plain = found.get("class", "").startswith(("Mso", "xMso", "x_Mso")) or _NO_MARGIN.search(
        found.get("style", "")[:1000]
    )
    return 1 if plain else 2


def _number(text: str) -> int:
    """Return the number of a list's item; lists that claim odd ones begin with 1."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,8}", text.strip()) else 1


def _bare(address: str) -> str:
    return re.sub(r"^https?://(?:www\.)?", "", address.strip().lower()).rstrip("/")
