"""Which parts make up the text of a message, and their text (RFC 8621 section 4.1.4).

Sorting parts into text, HTML and attachments needs nothing but their descriptions; reading their text is bounded
for the whole message. Attachments are never decoded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipelines import charset, limits, transfer
from pipelines.defects import Code, Defects
from pipelines.part import Part

_UUENCODED = re.compile(r"^begin [0-7]{3,4} \S.*\n[!-M][ -`]{1,84}\n", re.MULTILINE)
_META_CHARSET = re.compile(rb"<meta[^<>]{0,200}?charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)


class BodyValue(NamedTuple):
    """The text of a part as RFC 8621's EmailBodyValue: LF line ends, and what happened to it."""

    value: str
    is_encoding_problem: bool = False
    is_truncated: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return the JSON of RFC 8621's EmailBodyValue."""
        return {
            "value": self.value,
            "isEncodingProblem": self.is_encoding_problem,
            "isTruncated": self.is_truncated,
        }


class Body(NamedTuple):
    """The parts to show as plain text, to show as HTML, and to offer as attachments."""

    text: tuple[Part, ...]
    html: tuple[Part, ...]
    attachments: tuple[Part, ...]


def arrange(structure: Part) -> Body:
    """Sort the parts of a message by the algorithm that RFC 8621 section 4.1.4 suggests."""
    text: list[Part] = []
    html: list[Part] = []
    attachments: list[Part] = []
    _arrange([structure], "mixed", in_alternative=False, text=text, html=html, attachments=attachments)
    return Body(tuple(text), tuple(html), tuple(attachments))


def _arrange(
    parts: Iterable[Part],
    kind: str,
    *,
    in_alternative: bool,
    text: list[Part] | None,
    html: list[Part] | None,
    attachments: list[Part],
) -> None:
    """Sort the parts of one multipart; below an alternative, a list that is None takes no more parts."""
    text_before = len(text) if text is not None else -1
    html_before = len(html) if html is not None else -1
    for index, part in enumerate(parts):
        if part.sub_parts is not None:
            below = part.type.removeprefix("multipart/")
            _arrange(part.sub_parts, below, in_alternative=in_alternative or below == "alternative",
                     text=text, html=html, attachments=attachments)  # fmt: skip
        elif not _is_inline(part, index=index, kind=kind):
            attachments.append(part)
        elif kind == "alternative":
            chosen = {"text/plain": text, "text/html": html}.get(part.type)
            (attachments if chosen is None else chosen).append(part)
        else:
            if in_alternative:
                text = None if part.type == "text/html" else text
                html = None if part.type == "text/plain" else html
            for shown in (text, html):
                if shown is not None:
                    shown.append(part)
            if (text is None or html is None) and _is_media(part):
                attachments.append(part)
    if kind == "alternative" and text is not None and html is not None:
        if len(text) == text_before and len(html) != html_before:
            text += html[html_before:]
        elif len(html) == html_before and len(text) != text_before:
            html += text[text_before:]


def _is_inline(part: Part, *, index: int, kind: str) -> bool:
    """Whether a part belongs to the text: a named text that is not the first part is taken for an attachment."""
    if part.disposition == "attachment" or not (part.type in {"text/plain", "text/html"} or _is_media(part)):
        return False
    return index == 0 or (kind != "related" and (_is_media(part) or not part.name))


def _is_media(part: Part) -> bool:
    return part.type.startswith(("image/", "audio/", "video/"))


def read_values(body: Body, *, decoded: Mapping[str, bytes], defects: Defects) -> dict[str, BodyValue]:
    """Return the text of every text part to show, by part id, up to `limits.BODY_VALUE_BYTES` in all.

    `decoded` holds the content of the parts whose transfer encoding was undone before.
    """
    values: dict[str, BodyValue] = {}
    left = limits.BODY_VALUE_BYTES
    for part in (*body.text, *body.html):
        if part.part_id is None or part.part_id in values or not part.type.startswith("text/"):
            continue
        data = decoded.get(part.part_id)
        if data is None:
            data = _beginning(part, left)
        values[part.part_id] = _value(part, data[:left], defects=defects)
        left -= min(len(data), left)
    return values


def _beginning(part: Part, size: int) -> bytes:
    """Decode at least the first `size` bytes of a part, and not much more."""
    factor = {"base64": 2, "quoted-printable": 4}.get(part.encoding, 1)
    return transfer.decode(part.content[: size * factor], part.encoding).data


def _charset_of_markup(data: bytes) -> str | None:
    """Return the charset that HTML declares itself, which counts if the part declares none."""
    meta = _META_CHARSET.search(data[:2048])
    return None if meta is None or data.isascii() else meta[1].decode("ascii")


def _value(part: Part, data: bytes, *, defects: Defects) -> BodyValue:
    truncated = len(data) < part.size
    declared = part.declared_charset()
    if declared is None and part.type == "text/html":
        declared = _charset_of_markup(data)
    decoded = charset.decode(data, declared, partial=truncated)
    if decoded.problem is not None:
        defects.add(decoded.problem, f"part {part.part_id}: it was read as {decoded.codec}")
    guessed_well = (
        decoded.problem is Code.CHARSET_GUESSED and decoded.codec == "utf_8" and "\ufffd" not in decoded.text
    )
    value = decoded.text.replace("\r\n", "\n")
    if "begin " in value and _UUENCODED.search(value) is not None:
        defects.add(
            Code.UUENCODE_IN_TEXT, f"part {part.part_id}: a file stands in its text and was left there"
        )
    if truncated and part.type == "text/html" and value.rfind("<") > value.rfind(">"):
        value = value[: value.rfind("<")]
    problem = part.encoding == "unknown" or (decoded.problem is not None and not guessed_well)
    return BodyValue(value, is_encoding_problem=problem, is_truncated=truncated)
