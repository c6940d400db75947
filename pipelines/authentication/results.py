"""The grammar of Authentication-Results (RFC 8601 section 2.2), as strict servers and Exchange write it.

Comments nest and stand anywhere, values may be quoted, properties may hold `=`, the authserv-id may be missing. What is
neither is skipped. Reads Received-SPF (RFC 7208 section 9.1) too. No input raises, and the work is linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Of one header field: verdicts, properties of a verdict, characters of a value.
RESULTS = 100
PROPERTIES = 50
VALUE_CHARACTERS = 500

_SPACE = re.compile(r"\s*+")
_NESTING = re.compile(r"\\.|[()]", re.DOTALL)
_WORD = re.compile(r"[^\s;=()\"]++")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_VALUE = re.compile(r"[^\s;()\"]++")
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_INSTANCE = re.compile(r"\s*+i\s*+=\s*+(\d{1,3})\s*+;")


@dataclass(slots=True)
class Verdict:
    """What one method said: `result` in lower case, `properties` as `smtp.mailfrom`, and the words around it."""

    method: str
    result: str
    reason: str | None = None
    comment: str | None = None
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """One header field: who judged (None if it does not say) and what."""

    authserv_id: str | None
    verdicts: tuple[Verdict, ...]


def read_results(text: str) -> Results:
    """Read the value of an Authentication-Results field."""
    scanner = _Scanner(text)
    authserv_id = scanner.authserv_id()
    return Results(authserv_id, tuple(scanner.verdicts()))


def read_arc_results(text: str) -> tuple[int, Results] | None:
    """Read the value of an ARC-Authentication-Results field (RFC 8617 section 4.1.1) with its instance, or None."""
    match = _INSTANCE.match(text)
    return None if match is None else (int(match[1]), read_results(text[match.end() :]))


def read_received_spf(text: str) -> Verdict | None:
    """Read the value of a Received-SPF field as a verdict, or None; its pairs are properties without a type."""
    found = list(_Scanner(f"spf={text}").verdicts())
    verdict = found[0] if found else None
    if verdict is None or verdict.method != "spf" or not verdict.result:
        return None
    for other in found[1:]:
        verdict.properties[other.method] = other.result
        verdict.properties |= other.properties
    return verdict


class _Scanner:
    """Reads a value from left to right; comments are skipped wherever they stand, the first of a verdict is kept."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._comment: str | None = None

    def authserv_id(self) -> str | None:
        """Read the id and its version, or nothing where a verdict stands in its place, as Exchange has it."""
        self._skip()
        begin = self._position
        name = self._quoted() or self._match(_WORD)
        self._skip()
        if name is None or self._next() in {"=", "/", "."}:
            self._position, self._comment = begin, None
            return None
        while self._next() not in {";", ""}:
            self._position += 1
            self._skip()
        self._comment = None
        return name[:VALUE_CHARACTERS]

    def verdicts(self) -> list[Verdict]:
        """Read all `method=result` with what belongs to them, up to the next semicolon each."""
        found: list[Verdict] = []
        current: Verdict | None = None
        while len(found) < RESULTS:
            self._skip()
            if self._next() in {";", ""}:
                self._close(current)
                if self._next() == "":
                    break
                current = None
                self._position += 1
                continue
            key = self._key()
            if key is None:
                continue
            value = self._value()
            if current is None:
                method = key.partition("/")[0]
                # What counts is the comment behind the result.
                self._comment = None
                current = Verdict(method, value)
                found.append(current)
            elif key == "reason":
                current.reason = value
            elif len(current.properties) < PROPERTIES:
                current.properties.setdefault(key, value)
        self._close(current)
        return found

    def _close(self, verdict: Verdict | None) -> None:
        """Give a verdict that ends the comment that was met since it began."""
        if verdict is not None and self._comment:
            verdict.comment = " ".join(self._comment.split())
        self._comment = None

    def _key(self) -> str | None:
        """Read `method`, `method/version` or `ptype.property` up to its `=`; None for a stray word."""
        key = ""
        while True:
            word = self._match(_WORD)
            if word is None:
                # A quoted string or a lone bracket or sign: nothing that could be a key.
                if (self._quoted() is None and self._next() not in {"=", ";", ""}) or self._next() == "=":
                    self._position += 1
                return None
            joined = key == "" or key.endswith((".", "/")) or word.startswith((".", "/"))
            key = (key + word if joined else word)[:VALUE_CHARACTERS]
            self._skip()
            if self._next() == "=":
                self._position += 1
                return key.lower()
            if self._next() in {";", "", '"'}:
                return None

    def _value(self) -> str:
        self._skip()
        quoted = self._quoted()
        if quoted is None:
            self._skip()
        rest = self._match(_VALUE)
        return ((quoted or "") + (rest or ""))[:VALUE_CHARACTERS]

    def _quoted(self) -> str | None:
        if self._next() != '"':
            return None
        match = _QUOTED.match(self._text, self._position)
        if match is None:
            # A quote that never closes: it is taken for none.
            self._text = self._text[: self._position] + self._text[self._position :].replace('"', " ")
            return None
        self._position = match.end()
        return _PAIR.sub(r"\1", match[1])

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._position)
        if match is None:
            return None
        self._position = match.end()
        return match[0]

    def _next(self) -> str:
        return self._text[self._position : self._position + 1]

    def _skip(self) -> None:
        """Skip white space and comments; one that never closes reaches to the end."""
        while True:
            space = _SPACE.match(self._text, self._position)
            self._position = space.end() if space else self._position
            if self._next() != "(":
                return
            begin, depth = self._position + 1, 0
            for match in _NESTING.finditer(self._text, self._position):
                depth += {"(": 1, ")": -1}.get(match[0], 0)
                if depth == 0:
                    self._position = match.end()
                    break
            else:
                self._position = len(self._text)
            if self._comment is None:
                self._comment = self._text[begin : self._position].removesuffix(")")[:VALUE_CHARACTERS]
