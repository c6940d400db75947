"""What the headers of a part say of it: name, disposition, content id, language and location.

These are the properties of RFC 8621's EmailBodyPart (section 4.1.4) that need nothing but headers.
"""

from __future__ import annotations

import re
from typing import TypedDict

from pipelines.defects import Defects
from pipelines.headers import Headers
from pipelines.parameters import Parameterized
from pipelines.words import decode_words

_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_COMMENT = re.compile(r"\([^()]*+\)")


class Description(TypedDict):
    """The properties of a part that stand in its headers, named as in `Part`."""

    name: str | None
    disposition: str | None
    cid: str | None
    language: tuple[str, ...] | None
    location: str | None


def describe(headers: Headers, content_type: Parameterized, *, where: str, defects: Defects) -> Description:
    """Read the description of a part; `where` names it in a defect.

    The name is the file name of Content-Disposition, else the name of Content-Type, with RFC 2231 and encoded
    words decoded. It comes from a stranger: it may be a path, and it must never be used as one.
    """
    disposition = headers.parameterized("Content-Disposition")
    name = None if disposition is None else disposition.parameters.get("filename")
    if name is None:
        name = content_type.parameters.get("name")
    if name is not None:
        name = _CONTROLS.sub("", decode_words(name, where=f"{where}: name", defects=defects))
    return {
        "name": name if name and not name.isspace() else None,
        "disposition": None if disposition is None else disposition.value.partition("/")[0] or None,
        "cid": _content_id(headers.text("Content-ID")),
        "language": _languages(headers.text("Content-Language")),
        "location": _location(headers.text("Content-Location")),
    }


def _content_id(text: str | None) -> str | None:
    if text is None:
        return None
    start, end = text.find("<"), text.rfind(">")
    inner = text[start + 1 : end] if -1 < start < end else _COMMENT.sub("", text)
    return inner.strip(" \t<>") or None


def _languages(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(filter(None, (tag.strip() for tag in _COMMENT.sub("", text).split(",")))) or None


def _location(text: str | None) -> str | None:
    return None if text is None else "".join(text.split()) or None
