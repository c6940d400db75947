"""Addresses and groups of address headers (RFC 5322 section 3.4), read as RFC 8621 section 4.1.2.3 asks: best effort.

A tokenizer of its own rather than the `email` package's, which raises on some input, drops addresses of other,
and takes quadratic time for hostile one. Here no input raises and the work is linear.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines import limits
from pipelines.comments import end_of_comment, without_comments
from pipelines.defects import Code, Defects
from pipelines.words import decode_words

# A list without any of these needs no tokenizer: most lists are plain.
_INTRICATE = re.compile(r"[\"(:;\\]|=\?")
_PLAIN = re.compile(r"(?P<name>[^<>@]*+)<(?P<angle>[^\s<>@]++@[^\s<>@]++)>|(?P<bare>[^\s<>@]++@[^\s<>@]++)")
_TOKEN = re.compile(
    r"""(?P<quoted> "(?:[^"\\]|\\.)*+" )
      | (?P<special> [,;:<(] )
      | (?P<text> \s++ | =\?[^?\s]{1,75}+\?[bBqQ]\?[^?]*+\?= | (?:\\.|[^\s",;:<(=\\])++ | . )""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_LOOSE_DOT = re.compile(r"(?<!\s)\s*+\.\s++(?=[\w-]++\s*+(?:\.|$))|(?<!\s)\s++\.")
_DOT = re.compile(r"(?<!\s)\s*+\.\s*+")
_SPACE = re.compile(r"\s++")
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*+)"\s++([^\s"<>@]++@[^\s"<>@]++)')
_WHOLE = re.compile(r"([^<>]*+)<([^\s<>@]++@[^\s<>@]++)>\s*+")


class Address(NamedTuple):
    """A mailbox as RFC 8621's EmailAddress: a decoded name or None, and the address as well as it can be read."""

    name: str | None
    email: str


class Group(NamedTuple):
    """Addresses that stand together under a name (RFC 5322 section 3.4), or under None outside of any group."""

    name: str | None
    addresses: tuple[Address, ...]


def parse_addresses(text: str, *, where: str, defects: Defects) -> tuple[Group, ...]:
    """Read an unfolded address list as RFC 8621's GroupedAddresses form; `where` names the header in a defect."""
    if _INTRICATE.search(text) is None and text.count(",") < limits.ADDRESSES:
        plain = _parse_plain(text)
        if plain is not None:
            return (Group(None, plain),) if plain else ()
    return _Parser(text, where=where, defects=defects).parse()


def _parse_plain(text: str) -> tuple[Address, ...] | None:
    """Read a list of nothing but `a@b` and `Name <a@b>`, or return None if there is anything else."""
    addresses = []
    for piece in text.split(","):
        stripped = piece.strip()
        match = _PLAIN.fullmatch(stripped)
        if match is None:
            if stripped:
                return None
            continue
        name = match["name"]
        if name and not name.isascii():
            return None
        addresses.append(
            Address(" ".join(name.split()) or None if name else None, match["angle"] or match["bare"])
        )
    return tuple(addresses)


def _name(phrase: str, source: str) -> str:
    """Return a display name without a quote that opens it and is not closed."""
    if '"' not in source:
        return phrase.strip(" >")
    return phrase[1:].lstrip() if source.startswith('"') and source.count('"') == 1 else phrase


class _Parser:
    """Reads one list from left to right; an address is finished at a comma, a semicolon or the end."""

    def __init__(self, text: str, *, where: str, defects: Defects) -> None:
        self._text = text
        self._where = where
        self._defects = defects
        self._count = 0
        self._groups: list[Group] = []
        self._group: str | None = None
        self._addresses: list[Address] = []
        self._last_bracket = text.rfind(">")
        self._last_parenthesis = text.rfind(")")
        # Of the address that is being read: what stands there, its words, its comments, what is in angles.
        self._source: list[str] = []
        self._phrase: list[str] = []
        self._comments: list[str] = []
        self._angle: str | None = None
        self._has_at = False
        self._phrase_before_angle = 0

    def parse(self) -> tuple[Group, ...]:
        position = 0
        while position < len(self._text) and self._count < limits.ADDRESSES:
            match = _TOKEN.match(self._text, position)
            assert match is not None
            position = match.end()
            if match["quoted"]:
                self._add_to_source(match[0])
                self._phrase.append(_QUOTED_PAIR.sub(r"\1", match[0][1:-1]))
            elif match["text"]:
                self._add_to_source(match[0])
                self._add_to_phrase(match[0])
            else:
                position = self._special(match[0], position)
        if self._count >= limits.ADDRESSES:
            detail = f"{self._where}: addresses beyond the first {limits.ADDRESSES} were not read"
            self._defects.add(Code.LIMIT_ADDRESSES, detail)
        else:
            self._end_address()
        self._end_group()
        return tuple(self._groups)

    def _special(self, character: str, position: int) -> int:
        """Act on a character with a meaning; return where to go on."""
        if character == "<":
            return self._read_angle(position)
        if character == "(":
            return self._read_comment(position)
        if character == ":":
            if self._group is None and self._angle is None and not self._has_at:
                name = self._decoded("".join(self._phrase))
                self._begin_address()
                if name.lower() != "mailto":
                    self._end_group()
                    self._group = name
            else:
                self._source.append(character)
                self._phrase.append(character)
            return position
        self._end_address()
        if character == ";" and self._group is not None:
            self._end_group()
        return position

    def _add_to_source(self, text: str) -> None:
        self._source.append(text)
        self._has_at = self._has_at or "@" in text

    def _add_to_phrase(self, text: str) -> None:
        if not text.isspace():
            if self._phrase and self._angle is None:
                # A comment between words of an address, as in RFC 5322 section A.5, is no name.
                self._comments.clear()
            self._phrase.append(_QUOTED_PAIR.sub(r"\1", text) if "\\" in text else text)
        elif self._phrase and self._phrase[-1] != " ":
            self._phrase.append(" ")

    def _read_angle(self, position: int) -> int:
        """Read what stands in angle brackets; without a closing one, up to the next comma."""
        if self._angle is not None:
            # A comma is missing; the words since the last address are the name of this one.
            name = self._phrase[self._phrase_before_angle :]
            del self._phrase[self._phrase_before_angle :]
            self._end_address()
            self._phrase = name
        self._phrase_before_angle = len(self._phrase)
        if position > self._last_bracket:
            self._damaged("has an angle bracket that is not closed")
            comma = self._text.find(",", position)
            end = after = comma if comma != -1 else len(self._text)
        else:
            end = self._text.find(">", position)
            if self._text.count('"', position, end) % 2:
                quote = self._text.find('"', end)
                later = self._text.find(">", quote) if quote != -1 else -1
                end = later if later != -1 else end
            after = end + 1
        inner = self._text[position:end].strip(" \t<")
        if "(" in inner and '"' not in inner:
            inner = without_comments(inner)
        if inner.startswith("@") and ":" in inner:
            inner = inner.rpartition(":")[2]
        if inner[:7].lower() == "mailto:":
            inner = inner[7:]
        self._angle = inner.strip() if '"' in inner else _SPACE.sub("", inner)
        return after

    def _read_comment(self, position: int) -> int:
        """Read a comment, which may hold others; one that is not closed is junk."""
        if position > self._last_parenthesis:
            return position
        end = end_of_comment(self._text, position)
        if end != -1:
            self._comments.append(_QUOTED_PAIR.sub(r"\1", self._text[position : end - 1]))
            return end
        self._last_parenthesis = -1
        self._damaged("has a comment that is not closed")
        return position

    def _begin_address(self) -> None:
        self._source, self._phrase, self._comments, self._angle = [], [], [], None
        self._has_at = False

    def _end_address(self) -> None:
        phrase = self._decoded("".join(self._phrase))
        source = "".join(self._source).strip()
        comment = self._decoded(self._comments[-1]) if self._comments else ""
        if self._angle is not None:
            name = (_name(phrase, source) or comment) or None
            for email in self._emails_in_angle(self._decoded(self._angle)):
                self._add(name, email)
        elif phrase:
            whole = _WHOLE.fullmatch(phrase) if "=?" in source else None
            if whole is not None:
                self._add(whole[1].strip(' "') or None, whole[2])
            else:
                self._add_bare(phrase if "=?" in source else source, phrase=phrase, comment=comment or None)
        self._begin_address()

    def _emails_in_angle(self, angle: str) -> list[str]:
        """Return what stands in angle brackets, which some programs put around a whole list."""
        emails = angle.split(",", limits.ADDRESSES - self._count)[: limits.ADDRESSES - self._count]
        return emails if all(email.count("@") == 1 for email in emails) and '"' not in angle else [angle]

    def _add_bare(self, source: str, *, phrase: str, comment: str | None) -> None:
        """Add what stands without angle brackets: an address, a name with an address, or no address at all."""
        quoted = _QUOTED_NAME.fullmatch(source)
        if quoted is not None:
            self._add(self._decoded(_QUOTED_PAIR.sub(r"\1", quoted[1])) or comment, quoted[2])
            return
        local, at, domain = source.rpartition('"@') if '"@' in source else source.partition("@")
        # White space around dots is obsolete (RFC 5322 section 4.4) and means nothing.
        domain = _LOOSE_DOT.sub(".", domain.strip())
        words = (local + at + domain).split()
        with_at = [word for word in words if "@" in word.strip("@")]
        if '"@' in source or len(words) == 1:
            self._add(comment, local + at + domain if '"' in source else "".join(words))
        elif at and not _SPACE.search(joined := _DOT.sub(".", local.strip()) + at + domain):
            self._add(comment, joined)
        elif len(with_at) == len(words):
            for word in words:
                self._add(None, word)
        elif len(with_at) == 1:
            name = " ".join(word for word in words if word != with_at[0]).strip('"')
            self._add(name or comment, with_at[0].strip("<>"))
        elif "@" in source:
            self._add(comment, "".join(words))
        else:
            self._add(comment, phrase)

    def _add(self, name: str | None, email: str) -> None:
        if "@" not in email:
            if not email and not name:
                return
            self._damaged("holds something that is no address")
        self._addresses.append(Address(name, email))
        self._count += 1

    def _end_group(self) -> None:
        if self._group is not None or self._addresses:
            self._groups.append(Group(self._group or None, tuple(self._addresses)))
        self._group, self._addresses = None, []

    def _decoded(self, text: str) -> str:
        return decode_words(text.strip(), where=self._where, defects=self._defects).strip()

    def _damaged(self, what: str) -> None:
        self._defects.add(Code.ADDRESS_DAMAGED, f"{self._where} {what}")
