"""Yes or no to a message, by an expression over its JSON in CEL, the Common Expression Language.

CEL because it always ends and because it is checked before the first message: the types of the fields are declared, so
a field that does not exist or a text compared with a number is an error of the configuration. Its `matches` is RE2,
linear in the text whatever the pattern, and an evaluation has a budget. The library is cel-expr-python (Apache-2.0, by
the makers of CEL, wheels for Python 3.11 to 3.14 without dependencies). Weighed against it: jmespath has no regular
expressions and writes every literal in backticks; rule-engine matches with Python's backtracking `re`; cel-python is
slower, untyped and brings four libraries; common-expression-language checks no types and brings a command line;
simpleeval and asteval run Python's own syntax and have a history of ways out.

The fields are those of the JSON, with empty texts and lists in the place of nulls, and `headers["X-Spam-Flag"]`, any header
field by its name, empty when it is not there. What an expression without an answer means is for its caller to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from pydantic_core import PydanticCustomError

from pipelines.charset import clean
from pipelines.message import Message

TEXTS = ("id", "mailbox", "digest", "receivedAt", "subject", "sentAt", "preview")
TEXT_LISTS = ("messageId", "inReplyTo", "references")
ADDRESS_LISTS = ("sender", "from", "to", "cc", "bcc", "replyTo")
OBJECTS = ("source", "findings", "keywords", "bodyStructure", "bodyValues")
PART_LISTS = ("textBody", "htmlBody", "attachments")

_LONGEST_EXPRESSION = 10_000
_PLACE = re.compile(r"<input>:\d+:(\d+): ([^\n]*)")
# The pattern of a `matches`, where it is written out.
_PATTERN = re.compile(r"""\bmatches\s*\([^"'()]*?(r?"(?:[^"\\]|\\.)*+"|r?'(?:[^'\\]|\\.)*+')""")


# The name of a header field that is looked at.
_HEADER = re.compile(r"""\bheaders\s*\[\s*r?["']([^"']+)["']\s*\]""")


class Expression:
    """An expression that was checked and compiled."""

    def __init__(self, text: str) -> None:
        """Compile `text`.

        Raises:
            PydanticCustomError: a ValueError; it does not compile, gives no truth value, or holds a pattern that RE2 does not
                take. The sentence quotes nothing of it but names of CEL's own.
        """
        _check(text)
        self._compiled = _compile(text)
        self._headers = tuple(dict.fromkeys(_HEADER.findall(text)))

    def holds(self, message: Message) -> bool | str:
        """Whether it is true for a message; a text says why there is no answer."""
        try:
            found = self._compiled.eval(data=_view(message, self._headers)).value()
        except RuntimeError as error:
            # A budget was exceeded: lists of ten thousand addresses are walked through, and nothing that is far beyond.
            found = str(error)
        if isinstance(found, bool):
            return found
        return clean(found[:200]) if isinstance(found, str) else "it is neither true nor false"


def _view(message: Message, headers: Sequence[str]) -> dict[str, Any]:
    """Return the JSON with empty texts and lists in the place of nulls, so that each field is of one type."""
    view: dict[str, Any] = orjson.loads(message.to_json())
    view |= {name: view[name] or "" for name in TEXTS}
    view |= {name: view[name] or [] for name in TEXT_LISTS}
    for name in (*ADDRESS_LISTS, *PART_LISTS):
        view[name] = [
            {key: "" if value is None else value for key, value in item.items()} for item in view[name] or ()
        ]
    view["headers"] = {name: clean(message.header(name) or "") for name in headers}
    return view


def _compile(expression: str) -> Any:
    """Compile an expression against the types of a message's fields.

    Raises:
        RuntimeError: it does not compile.
    """
    type_ = cel.Type
    anything = type_.Map(type_.STRING, type_.DYN)
    variables = {
        "version": type_.INT,
        "size": type_.INT,
        "hasAttachment": type_.BOOL,
        "headers": type_.Map(type_.STRING, type_.STRING),
        **dict.fromkeys(TEXTS, type_.STRING),
        **dict.fromkeys(TEXT_LISTS, type_.List(type_.STRING)),
        **dict.fromkeys(ADDRESS_LISTS, type_.List(type_.Map(type_.STRING, type_.STRING))),
        **dict.fromkeys(OBJECTS, anything),
        **dict.fromkeys(("defects", *PART_LISTS), type_.List(anything)),
    }
    extensions = [ext_strings.ExtStrings(), ext_optional.ExtOptional()]
    return cel.NewEnv(variables=variables, extensions=extensions).compile(expression)


def _check(expression: str) -> None:
    """Find out whether an expression can be used; the sentence quotes nothing of it but names of CEL's own.

    Raises:
        PydanticCustomError: it does not compile, gives no truth value, or holds a pattern that RE2 does not take.
    """
    if len(expression) > _LONGEST_EXPRESSION:
        raise PydanticCustomError("expression", f"must have at most {_LONGEST_EXPRESSION} characters")
    try:
        compiled = _compile(expression)
    except (RuntimeError, TypeError, ValueError) as error:
        raise PydanticCustomError("expression", "{why}", {"why": _why(str(error))}) from None
    if compiled.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        raise PydanticCustomError(
            "expression", "must be true or false, and is a value of another kind; compare it with something"
        )
    for number, pattern in enumerate(_PATTERN.findall(expression), 1):
        try:
            tried = _compile(f'"".matches({pattern})').eval(data={}).value()
        except RuntimeError:
            continue
        if not isinstance(tried, bool):
            raise PydanticCustomError(
                "expression", f"pattern {number} in it is no regular expression that RE2 knows"
            )


def _why(error: str) -> str:
    """Say in words where and why an expression does not compile."""
    place = _PLACE.search(error)
    if place is None:
        return "is no expression in CEL: it is nested too deeply or holds characters that are no text"
    column, kind = place[1], place[2]
    if kind.startswith("undeclared reference"):
        what = "there is no such field or function; the fields are those of the JSON, such as subject or from"
    elif kind.startswith("found no matching overload"):
        what = kind.removesuffix(" (in container '')")
    else:
        what = "the syntax is wrong"
    return f"is no expression in CEL, at character {column}: {what}"
