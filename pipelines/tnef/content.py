"""What a TNEF stream holds: a message with its bodies and attachments, and messages within it.

Reading never raises. It is bounded in depth, attachments and RTF over all messages of one stream; what lies beyond is
noted. The content of an attachment is a slice of the stream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from pipelines import charset
from pipelines.tnef.compressed_rtf import decompress
from pipelines.tnef.meeting import current_class, read_meeting
from pipelines.tnef.properties import Budget, Properties, charset_of
from pipelines.tnef.rtf import unwrap
from pipelines.tnef.stream import cut

ATTACHMENTS = 500
DEPTH = 5
RTF_BYTES = 2 << 20
BODY_BYTES = 2 << 20

# Attributes (MS-OXTNEF section 2.1.3.2).
_CODE_PAGE, _CLASS, _SUBJECT, _BODY, _PROPERTIES = 0x00069007, 0x00078008, 0x00018004, 0x0002800C, 0x00069003
_NEW_ATTACHMENT, _TITLE, _TRANSPORT_NAME = 0x00069002, 0x00018010, 0x00069001
_ATTACHED, _ATTACHMENT_PROPERTIES = 0x0006800F, 0x00069005
# Properties (MS-OXPROPS).
_BODY_TEXT, _BODY_RTF, _BODY_HTML, _BODY_CODE_PAGE = 0x1000, 0x1009, 0x1013, 0x3FDE
_DATA, _METHOD, _TYPE, _CONTENT_ID, _FLAGS, _HIDDEN = 0x3701, 0x3705, 0x370E, 0x3712, 0x3714, 0x7FFE
_NAMES = (0x3707, 0x3704)
_DISPLAY_NAME = 0x3001
_EMBEDDED = 5
_SHOWN_IN_HTML = 4
_IS_MESSAGE = UUID("00020307-0000-0000-c000-000000000046").bytes_le

_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_META_CHARSET = re.compile(rb"<meta[^>]{1,200}charset=[\"']?([\w.:-]{2,40})", re.IGNORECASE)
_NAME_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Body:
    """A body: `type` is text/html or text/plain; `source` the property that it was in, `html`, `rtf` or `text`."""

    type: Literal["text/html", "text/plain"]
    source: Literal["html", "rtf", "text"]
    text: str


@dataclass(slots=True)
class Attachment:
    """A file, whose `type` is None if nothing was declared, or a message, which has `message` and no content."""

    name: str | None = None
    type: str | None = None
    cid: str | None = None
    is_inline: bool = False
    content: memoryview = field(default=memoryview(b""), repr=False)
    message: Unpacked | None = None


@dataclass(slots=True)
class Unpacked:
    """A message of a stream; `meeting` is JSON if it is an invitation."""

    message_class: str | None = None
    subject: str | None = None
    bodies: list[Body] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    meeting: dict[str, object] | None = None


class Unpacker:
    """Unpacks one stream; `problems` are words for what was wrong, in the order in which they were met."""

    def __init__(self) -> None:
        self.problems: dict[str, None] = {}
        self._attachments = 0
        self._rtf_left = RTF_BYTES
        self._budget = Budget()

    def unpack(self, content: memoryview, *, depth: int = 0) -> Unpacked:
        """Read a stream; never raises."""
        written: dict[int, memoryview] = {}
        properties = Properties(self._budget)
        attached: list[dict[int, memoryview]] = []
        for attribute in cut(content, self.problems):
            if attribute.id == _CODE_PAGE:
                properties.declared = charset_of(int.from_bytes(attribute.data[:4], "little"))
            elif attribute.id == _PROPERTIES:
                properties.read(attribute.data, self.problems)
            elif attribute.id == _NEW_ATTACHMENT:
                attached.append({})
            elif attribute.id in {_ATTACHED, _TITLE, _TRANSPORT_NAME, _ATTACHMENT_PROPERTIES}:
                if not attached:
                    attached.append({})
                attached[-1].setdefault(attribute.id, attribute.data)
            else:
                written.setdefault(attribute.id, attribute.data)
        message_class = _text(written.get(_CLASS), properties) or properties.text(0x001A)
        result = Unpacked(
            message_class=None if message_class is None else current_class(message_class)[:_NAME_CHARACTERS],
            subject=_one_line(properties.text(0x0037) or _text(written.get(_SUBJECT), properties)),
            bodies=self._bodies(properties, _text(written.get(_BODY), properties)),
        )
        result.meeting = read_meeting(result.message_class or "", properties)
        for values in attached:
            self._attach(result, values, declared=properties.declared, depth=depth)
        return result

    def _bodies(self, properties: Properties, plain: str | None) -> list[Body]:
        """Return the HTML, if there is some, and the plain text; RTF counts for the one that is missing."""
        bodies: list[Body] = []
        html = properties.data(_BODY_HTML)
        if html is not None:
            data = bytes(self._cut(html))
            declared = _META_CHARSET.search(data[:2048])
            label = charset_of(properties.number(_BODY_CODE_PAGE)) or (
                declared and declared[1].decode("ascii")
            )
            text = properties.text(_BODY_HTML) or charset.decode(data, label).text
            bodies.append(Body("text/html", "html", text))
        text = properties.text(_BODY_TEXT) or plain or ""
        if text.strip():
            bodies.append(Body("text/plain", "text", text[:BODY_BYTES].replace("\r\n", "\n")))
        packed = properties.data(_BODY_RTF)
        if packed is None or html is not None:
            return bodies
        rtf = decompress(packed, most=self._rtf_left)
        self._rtf_left -= len(rtf.data)
        unwrapped = unwrap(rtf.data)
        if not (rtf.is_whole and unwrapped.is_whole):
            self.problems["rtf-damaged"] = None
        if unwrapped.kind == "html":
            bodies.insert(0, Body("text/html", "rtf", unwrapped.text))
        elif not bodies and unwrapped.text.strip():
            bodies.append(Body("text/plain", "rtf", unwrapped.text))
        return bodies

    def _cut(self, data: memoryview) -> memoryview:
        if len(data) > BODY_BYTES:
            self.problems["body-too-large"] = None
        return data[:BODY_BYTES]

    def _attach(
        self, result: Unpacked, values: dict[int, memoryview], *, declared: str | None, depth: int
    ) -> None:
        self._attachments += 1
        if self._attachments > ATTACHMENTS:
            self.problems["too-many-attachments"] = None
            return
        properties = Properties(self._budget, declared)
        if _ATTACHMENT_PROPERTIES in values:
            properties.read(values[_ATTACHMENT_PROPERTIES], self.problems)
        cid = (properties.text(_CONTENT_ID) or "").strip(" <>")[:_NAME_CHARACTERS] or None
        name = properties.text(*_NAMES) or _text(values.get(_TRANSPORT_NAME), properties)
        name = name or _text(values.get(_TITLE), properties) or properties.text(_DISPLAY_NAME)
        attachment = Attachment(
            name=_one_line(name),
            type=properties.text(_TYPE),
            cid=cid,
            is_inline=cid is not None
            and bool((properties.number(_FLAGS) or 0) & _SHOWN_IN_HTML or properties.number(_HIDDEN)),
        )
        object_ = properties.data(_DATA)
        if (
            object_ is not None
            and properties.number(_METHOD) == _EMBEDDED
            and bytes(object_[:16]) == _IS_MESSAGE
        ):
            if depth < DEPTH:
                attachment.message = self.unpack(object_[16:], depth=depth + 1)
            else:
                self.problems["too-deep"] = None
                return
        elif _ATTACHED in values:
            attachment.content = values[_ATTACHED]
        elif object_ is not None:
            # An object of OLE begins with the name of its interface.
            attachment.content = object_[16:] if properties.number(_METHOD) == 6 else object_
        else:
            # It is a link to a file that only the sender has.
            self.problems["attachment-without-content"] = None
            return
        result.attachments.append(attachment)


def _text(data: memoryview | None, properties: Properties) -> str | None:
    """Return an attribute that is a text, in the code page of the stream."""
    if data is None:
        return None
    return charset.decode(bytes(data[:BODY_BYTES]), properties.declared).text.strip(" \0") or None


def _one_line(text: str | None) -> str | None:
    return None if text is None else _CONTROLS.sub("", text).strip()[:_NAME_CHARACTERS] or None
