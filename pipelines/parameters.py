"""Values with parameters: Content-Type and Content-Disposition (RFC 2045 section 5.1, RFC 2183, RFC 2231).

Accepts what mail has in practice: file names with spaces and no quotes, missing semicolons, encoded words
where RFC 2231 belongs, continuations out of order. The work is linear in the length of the value.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pipelines import charset, limits
from pipelines.defects import Code, Defects

_WORD = r"[^\s;,\"()=/]*+"
_MAIN = re.compile(rf"\s*+\"?+(?P<value>{_WORD}(?:\s*+/\s*+{_WORD})?+)\"?+(?P<name>\s*+=)?")
_PARAMETER = re.compile(
    r"""(?<![;\s])[;\s]++ ([^\s=;"]++) \s*+ = \s*+ ( "(?:[^"\\]|\\.)*+" | [^;]*+ )""", re.VERBOSE | re.DOTALL
)
_COMMENT = re.compile(r"\([^()]*+\)")
_SECTION = re.compile(r"([^*]+)(?:\*(\d{1,3}))?(\*)?")
_CHARSET_AND_LANGUAGE = re.compile(r"([\w-]*+)'[\w-]*+'(?s:(.*))")
_QUOTED_PAIR = re.compile(r'\\(["\\])')


class Parameterized(NamedTuple):
    """A value in lower case, such as `text/plain` or `attachment`, and its parameters by lower-case name."""

    value: str
    parameters: dict[str, str]


def parse_parameters(text: str, *, where: str, defects: Defects) -> Parameterized:
    """Read an unfolded header value; encoded words in parameters are left as they are."""
    main = _MAIN.match(text)
    assert main is not None
    if main["name"]:
        value, rest = "", text
    else:
        value, rest = "".join(main["value"].lower().split()), text[main.end() :]
    if "=" not in rest:
        return Parameterized(value, {})
    if not rest.startswith(";"):
        rest = ";" + _COMMENT.sub("", rest, count=1)
    plain: dict[str, str] = {}
    sections: dict[str, list[tuple[int, bool, str]]] = {}
    for count, match in enumerate(_PARAMETER.finditer(rest)):
        if count == limits.PARAMETERS:
            detail = f"{where}: parameters beyond the first {limits.PARAMETERS} were not read"
            defects.add(Code.LIMIT_PARAMETERS, detail)
            break
        name, content = match[1].lower(), _unquoted(match[2])
        section = _SECTION.fullmatch(name) if "*" in name else None
        if section is None or (section[2] is None and section[3] is None):
            if name == "charset" and charset.lookup(plain.get(name, "")) is None and charset.lookup(content):
                # Of several charsets the first one counts that somebody knows.
                plain[name] = content
            plain.setdefault(name, content)
        else:
            entry = (int(section[2] or 0), section[3] is not None, content)
            sections.setdefault(section[1], []).append(entry)
    for name, parts in sections.items():
        plain[name] = _joined(sorted(parts, key=lambda part: part[0]))
    return Parameterized(value, plain)


def _unquoted(content: str) -> str:
    r"""Take off quotes; a backslash escapes only quotes and itself, for the sake of `C:\report.pdf`."""
    if content.startswith('"'):
        if len(content) > 1 and content.endswith('"'):
            return _QUOTED_PAIR.sub(r"\1", content[1:-1]) if "\\" in content else content[1:-1]
        return content[1:].rstrip()
    return content.rstrip()


def _joined(sections: list[tuple[int, bool, str]]) -> str:
    """Join the sections of RFC 2231; the charset stands in the first one that is encoded."""
    declared: str | None = None
    data = b""
    _, encoded, content = sections[0]
    misplaced = None if encoded else _CHARSET_AND_LANGUAGE.fullmatch(content)
    if misplaced is not None and any(encoded for _, encoded, _ in sections):
        # Some programs give a charset in a first section that they do not mark as encoded.
        declared, sections = misplaced[1], [(0, False, misplaced[2]), *sections[1:]]
    for _, encoded, content in sections:
        if not encoded:
            data += content.encode("utf-8", "replace")
            continue
        if declared is None:
            name, quote, remainder = content.partition("'")
            _language, second, value = remainder.partition("'")
            declared, content = (name, value) if quote and second else ("", content)  # noqa: PLW2901
        data += unquote_to_bytes(content)
    return charset.decode(data, declared or "utf-8", detect=False).text
