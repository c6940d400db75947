r"""RTF to the HTML or plain text that was packed into it (MS-OXRTFEX), or, where none was, to its bare text.

Exchange turns an HTML body into RTF that still holds every tag, in `{\*\htmltag …}`; what only RTF needs stands between
`\htmlrtf` and `\htmlrtf0`. Formatting of genuine RTF, its pictures and objects are dropped. Any bytes can be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pipelines.charset import clean, lookup

Kind = Literal["html", "text", "rtf"]

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32}+)(-?[0-9]{1,9}+)? ?"  # A control word with its number.
    rb"|\\'([0-9a-fA-F]{2})"  # A byte in the code page.
    rb"|\\([^a-zA-Z'])|([{}])|[\r\n]++|([^\\{}\r\n]++)",
    re.DOTALL,
)
_FROM = re.compile(rb"\\from(html|text)[1 \\\r\n]")
_FROM_WITHIN = 1_000
_DEEPEST = 1_000
_TOKENS = 300_000

# Destinations that hold no text of the body; all others that do not say so begin with \*.
_HIDDEN = frozenset({"fonttbl", "colortbl", "stylesheet", "info", "pict", "object", "header", "footer", "headerl", "headerr",
                     "footerl", "footerr", "headerf", "footerf", "footnote", "nonesttables", "mhtmltag"})  # fmt: skip
_CHARACTERS = {"par": "\n", "line": "\n", "sect": "\n", "page": "\n", "row": "\n", "tab": "\t", "cell": "\t", "nestcell": "\t",
               "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”", "bullet": "•", "endash": "–",
               "emdash": "—", "emspace": "\u2003", "enspace": "\u2002"}  # fmt: skip
_SYMBOLS = {b"~": "\xa0", b"_": "\u2011", b"\\": "\\", b"{": "{", b"}": "}", b"\n": "\n", b"\r": "\n"}
# Font character sets of Windows and their code pages.
_FONT_CODE_PAGES = {0: 1252, 77: 10000, 128: 932, 129: 949, 130: 1361, 134: 936, 136: 950, 161: 1253, 162: 1254, 163: 1258,
                    177: 1255, 178: 1256, 186: 1257, 204: 1251, 222: 874, 238: 1250}  # fmt: skip


class Unwrapped(NamedTuple):
    """The text, whether it is HTML, plain text or what was genuine RTF, and whether all of it was read."""

    text: str
    kind: Kind
    is_whole: bool


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits and its end undoes."""

    hidden: bool = False
    fonts: bool = False
    tag: bool = False
    rtf_only: bool = False
    codec: str = "cp1252"
    fallback: int = 1


def unwrap(rtf: bytes) -> Unwrapped:
    """Return the body that is in some RTF; never raises."""
    found = _FROM.search(rtf[:_FROM_WITHIN])
    kind: Kind = "rtf" if found is None else "html" if found[1] == b"html" else "text"
    # The number or bullet of a list item; in HTML the browser makes it.
    reader = _Reader(_HIDDEN | {"pntext"} if kind == "html" else _HIDDEN)
    is_whole = reader.read(rtf)
    return Unwrapped(reader.text(), kind, is_whole)


class _Reader:
    """Reads token after token; bytes are collected until their code page or place changes, and then decoded."""

    def __init__(self, hidden: frozenset[str]) -> None:
        self._hidden = hidden
        self._pieces: list[str] = []
        self._bytes = bytearray()
        self._state = _State()
        self._outer: list[_State] = []
        self._starred = False
        self._skip = 0
        self._font = 0
        self._font_codecs: dict[int, str] = {}
        self._default_codec = "cp1252"

    def read(self, rtf: bytes) -> bool:
        """Read all tokens up to a limit, and tell whether that was all."""
        position = 0
        for _ in range(_TOKENS):
            match = _TOKEN.match(rtf, position)
            if match is None:
                if position >= len(rtf):
                    return True
                position += 1
                continue
            position = match.end()
            word, number, byte, symbol, brace, text = match.groups()
            if word is not None:
                value = None if number is None else int(number)
                if word == b"bin":
                    position += max(0, value or 0)
                self._word(word.decode("ascii").lower(), value)
            elif text is not None:
                self._take(text)
            elif byte is not None:
                self._take(bytes.fromhex(byte.decode("ascii")))
            elif brace is not None:
                self._brace(brace)
            elif symbol is not None:
                self._symbol(symbol)
        return position >= len(rtf)

    def text(self) -> str:
        """Return what was read, with characters beyond 16 bits put together again."""
        self._flush()
        text = "".join(self._pieces)
        return clean(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))

    def _brace(self, brace: bytes) -> None:
        self._flush()
        self._skip = 0
        self._starred = False
        if brace == b"{":
            # Deeper groups share the state of the last one that counts.
            if len(self._outer) < _DEEPEST:
                self._outer.append(self._state)
        elif self._outer:
            self._state = self._outer.pop()

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._starred = True
        elif symbol in _SYMBOLS:
            self._put(_SYMBOLS[symbol])

    def _word(self, word: str, value: int | None) -> None:
        starred, self._starred = self._starred, False
        state = self._state
        if word == "u":
            self._put(chr((value or 0) & 0xFFFF))
            self._skip = state.fallback
        elif word in _CHARACTERS:
            self._put(_CHARACTERS[word])
        elif word == "htmltag":
            self._state = replace(state, tag=True, hidden=False)
        elif word == "htmlrtf":
            self._flush()
            self._state = replace(state, rtf_only=value != 0)
        elif starred or word in self._hidden:
            self._flush()
            self._state = replace(state, hidden=True, fonts=state.fonts or word == "fonttbl")
        elif word == "uc":
            self._state = replace(state, fallback=min(max(value or 0, 0), 100))
        elif word == "ansicpg":
            self._default_codec = _codec(value) or self._default_codec
            self._change(self._default_codec)
        elif word in {"f", "fcharset", "cpg", "plain", "deff"}:
            self._choose_font(word, value or 0)

    def _choose_font(self, word: str, value: int) -> None:
        if self._state.fonts:
            if word == "f":
                self._font = value
            elif word in {"fcharset", "cpg"}:
                codec = _codec(_FONT_CODE_PAGES.get(value) if word == "fcharset" else value)
                if codec is not None and len(self._font_codecs) < _DEEPEST:
                    self._font_codecs[self._font] = codec
        elif word == "f":
            self._change(self._font_codecs.get(value, self._default_codec))
        elif word == "plain":
            self._change(self._default_codec)

    def _change(self, codec: str) -> None:
        if codec != self._state.codec:
            self._flush()
            self._state = replace(self._state, codec=codec)

    def _take(self, data: bytes) -> None:
        """Take bytes of text, without those that stand for programs that know no Unicode."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        if not (self._state.hidden or self._state.rtf_only):
            self._bytes += data

    def _put(self, text: str) -> None:
        self._skip = 0
        if not (self._state.hidden or self._state.rtf_only):
            self._flush()
            self._pieces.append(text)

    def _flush(self) -> None:
        if self._bytes:
            self._pieces.append(self._bytes.decode(self._state.codec, "replace"))
            self._bytes.clear()


def _codec(code_page: int | None) -> str | None:
    return None if not code_page else lookup("utf-8" if code_page == 65001 else f"cp{code_page}")
