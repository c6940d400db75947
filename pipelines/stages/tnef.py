"""Unpacks winmail.dat (TNEF, MS-OXTNEF), in which Outlook hides attachments, the body and invitations from everyone else.

The attachments of the message are then the real ones, each a part like any other; winmail.dat goes, unless something of
it could not be read. A body that the message itself has not becomes its body. The MIME structure is left as it was sent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from mimetypes import MimeTypes
from typing import Any, ClassVar

from pydantic import Field

from pipelines import limits, sniff
from pipelines.body import BodyValue
from pipelines.defects import Defects
from pipelines.headers import Headers
from pipelines.message import Message
from pipelines.options import ByteSize
from pipelines.part import Part
from pipelines.preview import preview
from pipelines.stage import Stage, StageOptions
from pipelines.tnef.content import Attachment, Body, Unpacked, Unpacker
from pipelines.tnef.stream import SIGNATURE

TYPES = frozenset({"application/ms-tnef", "application/vnd.ms-tnef"})
# The first number stands before the dot when a program renamed the second of several.
NAME = re.compile(r"winmail\d{0,9}\.dat", re.IGNORECASE)
TYPE = re.compile(r"[!-@\[-~]{1,100}/[!-@\[-~]{1,100}")

STREAMS = 3


class TnefOptions(StageOptions):
    """What the `tnef` stage can be told."""

    largest: ByteSize = Field(
        default=50_000_000,
        description="A winmail.dat above this size is left as it is, since it is unpacked in memory.",
        examples=["25MB"],
    )


class TnefStage(Stage):
    """Puts what is in winmail.dat in its place."""

    type_name: ClassVar[str] = "tnef"
    Options: ClassVar[type[StageOptions]] = TnefOptions

    def apply(self, message: Message) -> Message:
        """Return the message with real attachments and its finding."""
        assert isinstance(self.options, TnefOptions)
        files: list[dict[str, object]] = []
        problems: list[dict[str, object]] = []
        streams = tnef_parts(message)
        for number, part in enumerate(streams):
            words = []
            if part.size > self.options.largest:
                words = ["too-large"]
            elif number >= STREAMS:
                words = ["too-many-streams"]
            else:
                opened = Opened(part, message)
                files.append(opened.finding)
                words = list(opened.problems)
                message = placed(message, part, opened)
            problems += [{"problem": word, "partId": part.part_id} for word in words]
        return message.with_findings(self.name, {"files": files, "problems": problems})


class Opened:
    """One winmail.dat, unpacked: the parts that are in it, numbered below its own number, and what is to be said of it.

    Of its bodies `html` and `text` are those that the message itself has not.
    """

    def __init__(self, part: Part, message: Message) -> None:
        content = part.content if part.encoding in {"7bit", "8bit", "binary"} else memoryview(part.decode())
        unpacker = Unpacker()
        unpacked = unpacker.unpack(content)
        self.html: tuple[Part, ...] = ()
        self.text: tuple[Part, ...] = ()
        self.attachments: list[Part] = []
        self.values: dict[str, BodyValue] = {}
        self.problems = unpacker.problems
        self._part_id, self._blob_prefix, self._count = part.part_id, message.digest[:32], 0
        bodies = [self._take_body(body, message) for body in unpacked.bodies]
        self.finding = {"partId": part.part_id, **self._describe(unpacked, bodies)}

    def _take_body(self, body: Body, message: Message) -> Part | None:
        """Make a part of a body that the message has not, and None of one that it has."""
        if body.type == "text/html" and not has_html(message):
            part = self._body_part(body)
            self.html = (part,)
        elif body.type == "text/plain" and not has_text(message):
            part = self._body_part(body)
            self.text = (part,)
        else:
            return None
        # A character has at most four bytes.
        most = limits.BODY_VALUE_BYTES // 4
        self.values[str(part.part_id)] = BodyValue(body.text[:most], is_truncated=len(body.text) > most)
        return part

    def _describe(self, unpacked: Unpacked, bodies: Sequence[Part | None]) -> dict[str, object]:
        """Tell of a message whose bodies are these parts, and make its attachments."""
        return {
            "messageClass": unpacked.message_class,
            "subject": unpacked.subject,
            "bodies": [
                {"partId": part and part.part_id, "type": body.type, "source": body.source}
                for body, part in zip(unpacked.bodies, bodies, strict=True)
            ],
            "attachments": [self._describe_attachment(attachment) for attachment in unpacked.attachments],
            "meeting": unpacked.meeting,
        }

    def _describe_attachment(self, attachment: Attachment) -> dict[str, object]:
        if attachment.message is not None:
            return self._describe_message(attachment, attachment.message)
        part = self._part(
            attachment.content,
            type=media_type(attachment),
            name=attachment.name,
            cid=attachment.cid,
            disposition="inline" if attachment.is_inline else "attachment",
        )
        self.attachments.append(part)
        described = {
            key: part.to_dict()[key] for key in ("partId", "name", "type", "size", "cid", "disposition")
        }
        return {**described, "sha256": part.sha256(), "message": None}

    def _describe_message(self, attachment: Attachment, message: Unpacked) -> dict[str, object]:
        """Attach what an attached message holds: each of its bodies as a file, and its attachments."""
        name = message.subject or attachment.name or "message"
        suffixes = {"text/html": ".html", "text/plain": ".txt"}
        parts = [self._body_part(body, name=name + suffixes[body.type]) for body in message.bodies]
        self.attachments += parts
        silent = dict.fromkeys(("type", "size", "cid", "disposition", "sha256"))
        return {"partId": None, "name": name, **silent, "message": self._describe(message, parts)}

    def _body_part(self, body: Body, *, name: str | None = None) -> Part:
        return self._part(
            memoryview(body.text.encode("utf-8")),
            type=body.type,
            charset="utf-8",
            name=name,
            disposition=None if name is None else "attachment",
            headers=Headers([("Content-Type", f"{body.type}; charset=utf-8".encode())], defects=Defects()),
        )

    def _part(self, content: memoryview, **properties: Any) -> Part:
        self._count += 1
        number = f"{self._part_id}.{self._count}"
        return Part(
            **{"charset": None, **properties},
            part_id=number,
            blob_id=f"{self._blob_prefix}.{number}",
            size=len(content),
            encoding="binary",
            content=content,
        )


def tnef_parts(message: Message) -> list[Part]:
    """Return the parts that are TNEF by their type, or by their name and their first bytes."""
    return [
        part
        for part in message.structure.walk()
        if part.sub_parts is None
        and (part.type in TYPES or (NAME.fullmatch(part.name or "") and part.open().read(4) == SIGNATURE))
    ]


def has_html(message: Message) -> bool:
    """Whether the message has a body in HTML."""
    return any(body.type == "text/html" for body in message.html_body)


def has_text(message: Message) -> bool:
    """Whether the message says anything; beside a winmail.dat that holds the body often stands an empty text."""
    return bool(message.preview)


def placed(message: Message, part: Part, opened: Opened) -> Message:
    """Return the message with what was unpacked in the place of `part`, which stays only if it may hold more."""
    stays = not opened.problems.keys() <= {"checksum-wrong"}
    attachments: list[Part] = []
    for attachment in message.attachments:
        if attachment.part_id != part.part_id or stays:
            attachments.append(attachment)
        if attachment.part_id == part.part_id:
            attachments += opened.attachments
    if all(attachment.part_id != part.part_id for attachment in message.attachments):
        # It came as a text, whatever its name.
        attachments += opened.attachments
    text_body, html_body = message.text_body, message.html_body
    if not has_text(message):
        text_body = opened.text or opened.html or text_body
        html_body = html_body if has_html(message) else opened.text or html_body
    html_body = opened.html or html_body
    values = {**message.body_values, **opened.values}
    return dataclasses.replace(
        message,
        attachments=tuple(attachments),
        text_body=text_body,
        html_body=html_body,
        body_values=values,
        preview=message.preview or preview((*text_body, *html_body), values),
    )


def media_type(attachment: Attachment) -> str:
    """Return the declared type in lower case, else the one that the name or the first bytes speak for."""
    declared = (attachment.type or "").strip().lower()
    if TYPE.fullmatch(declared):
        return declared
    # An instance of its own knows the same names on every machine.
    guessed, encoding = MimeTypes().guess_type((attachment.name or "").rpartition("/")[2], strict=True)
    if guessed is not None and encoding is None:
        return guessed
    return sniff.sniff(bytes(attachment.content[: sniff.HEAD_BYTES])) or "application/octet-stream"
