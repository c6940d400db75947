"""The MIME structure of a message (RFC 2046 section 5.1): found by its delimiters, cut into slices, not copied.

Bodies are searched for delimiters and otherwise not touched, but for text parts, which are decoded once because
the JSON holds them. Every repair of a broken structure keeps all content reachable and leaves a defect; limits on
parts and depth keep hostile structures from costing more than their bytes.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from pipelines import limits, transfer
from pipelines.charset import clean
from pipelines.defects import Code, Defects
from pipelines.description import describe
from pipelines.fields import read_head
from pipelines.headers import Headers
from pipelines.octets import Octets
from pipelines.parameters import Parameterized
from pipelines.part import Part

_DEFAULT = Parameterized("text/plain", {})
_OPAQUE = "application/octet-stream"
# A token of RFC 2045 section 5.1 has no special character.
_WORD = r"[^\s()<>@,;:\\\"/\[\]?=]++"
_TYPE = re.compile(rf"{_WORD}/{_WORD}")
# Beyond so many declared types no other one is tried, so that finding one stays linear.
_MOST_TYPES = 4
# What may follow a boundary on its line; another character that boundaries are made of makes it another boundary.
_REST_OF_DELIMITER = re.compile(rb"(--[-]*+)?+(?![\w'()+,./:=?-])")
# A line that opens a part, for multiparts that do not name their boundary: a part's header must follow.
_LIKELY_DELIMITER = re.compile(rb"(?:^|[\r\n])--([!-~]{1,70}+)[ \t]*+\r?\n(?i:content-[a-z-]{2,25}:)")
_GUESS_WITHIN = 8 << 10


class _Delimiter(NamedTuple):
    """Where the content before a delimiter ends, where the content after it begins, and whether it closes."""

    before: int
    after: int
    closes: bool


class Structure:
    """Reads the parts of one message; `decoded` keeps the text parts that had to be decoded to be measured."""

    def __init__(self, octets: Octets, *, blob_prefix: str, defects: Defects) -> None:
        self.decoded: dict[str, bytes] = {}
        self._octets = octets
        self._blob_prefix = blob_prefix
        self._defects = defects
        self._parts = 0
        self._false_delimiters = 0
        self._decoded_bytes = 0

    def read(self, headers: Headers, start: int, end: int) -> Part:
        """Read the body between `start` and `end` that belongs to the message's own headers."""
        return self._part(headers, start, end, number="", depth=0, default=_DEFAULT)

    def _part(
        self, headers: Headers, start: int, end: int, *, number: str, depth: int, default: Parameterized
    ) -> Part:
        content_type = self._content_type(headers, number=number, default=default)
        if headers.repeats("Content-Type") and not content_type.value.startswith("multipart/"):
            content_type = self._multipart_meant(headers, start, end) or content_type
        if not content_type.value.startswith("multipart/"):
            return self._leaf(headers, start, end, number=number or "1", content_type=content_type)
        if depth == limits.DEPTH:
            self._defects.add(Code.LIMIT_DEPTH, f"part {number}: kept whole, as an attachment")
            return self._opaque(headers, start, end, number=number)
        boundary, delimiters = self._delimiters(content_type, start, end, number=number)
        if not delimiters:
            self._defects.add(
                Code.BOUNDARY_MISSING, f"{_named(number)}: a multipart without parts was read as text"
            )
            return self._leaf(headers, start, end, number=number or "1", content_type=_DEFAULT)
        children = self._children(delimiters, end, boundary=boundary, number=number, depth=depth,
                                  digest=content_type.value == "multipart/digest")  # fmt: skip
        return Part(
            part_id=None,
            type=content_type.value,
            charset=None,
            sub_parts=tuple(children),
            headers=headers,
            **describe(headers, content_type, where=_named(number), defects=self._defects),
        )

    def _children(
        self,
        delimiters: list[_Delimiter],
        end: int,
        *,
        boundary: bytes,
        number: str,
        depth: int,
        digest: bool,
    ) -> list[Part]:
        """Read what stands between delimiters; what stands before the first and after a closing one is not MIME."""
        children: list[Part] = []
        default = Parameterized("message/rfc822", {}) if digest else _DEFAULT
        index, closed = 0, False
        while index < len(delimiters):
            delimiter = delimiters[index]
            index += 1
            if delimiter.closes:
                closed = True
                continue
            if closed:
                self._defects.add(
                    Code.PART_AFTER_CLOSE, f"{_named(number)}: parts after its end were read too"
                )
            start = delimiter.after
            stop = max(start, delimiters[index].before) if index < len(delimiters) else end
            if index == len(delimiters) and not self._octets.take(start, min(end, start + 80)).strip():
                break
            child = f"{number}.{len(children) + 1}" if number else str(len(children) + 1)
            self._parts += 1
            if self._parts > limits.PARTS:
                self._defects.add(
                    Code.LIMIT_PARTS, f"part {child}: it and all that follows it were kept as one"
                )
                children.append(self._opaque(Headers.empty(), start, end, number=child))
                break
            head = read_head(self._octets, start, stop, defects=self._defects, part_id=child)
            headers = Headers(head.fields, defects=self._defects, part_id=child)
            if _boundary(headers) == boundary:
                self._defects.add(
                    Code.BOUNDARY_REUSED, f"part {child}: it has the boundary of the part around it"
                )
                while index < len(delimiters) and not delimiters[index].closes:
                    index += 1
                stop = delimiters[index].after if index < len(delimiters) else end
                index += 1
            children.append(
                self._part(headers, head.body, stop, number=child, depth=depth + 1, default=default)
            )
        if not any(delimiter.closes for delimiter in delimiters):
            self._defects.add(Code.BOUNDARY_UNCLOSED, f"{_named(number)}: its end is missing")
        return children

    def _delimiters(
        self, content_type: Parameterized, start: int, end: int, *, number: str
    ) -> tuple[bytes, list[_Delimiter]]:
        """Find the delimiters of the declared boundary, or of the one that the body seems to use."""
        declared = content_type.parameters.get("boundary", "").rstrip()
        for text in dict.fromkeys((declared, declared.partition(" ")[0])):
            boundary = text.encode("utf-8", "replace")
            delimiters = self._find_delimiters(boundary, start, end) if boundary else []
            if delimiters:
                return boundary, delimiters
        likely = _LIKELY_DELIMITER.search(self._octets.take(start, min(end, start + _GUESS_WITHIN)))
        if likely is None:
            return b"", []
        self._defects.add(
            Code.BOUNDARY_GUESSED, f"{_named(number)}: the boundary that its body uses was taken"
        )
        return likely[1], self._find_delimiters(likely[1], start, end)

    def _find_delimiters(self, boundary: bytes, start: int, end: int) -> list[_Delimiter]:
        """Find every line that begins with two hyphens and the boundary (RFC 2046 section 5.1.1)."""
        octets, wanted = self._octets, b"--" + boundary
        delimiters: list[_Delimiter] = []
        position = start
        while len(delimiters) <= limits.PARTS - self._parts + 1:
            found = octets.find(wanted, position, end)
            if found == -1:
                break
            position = found + len(wanted)
            around = octets.take(max(start, found - 2), min(end, position + 80))
            offset = found - max(start, found - 2)
            rest = _REST_OF_DELIMITER.match(around, offset + len(wanted))
            if rest is None or around[:offset][-1:] not in {b"", b"\n", b"\r"}:
                self._false_delimiters += 1
                if self._false_delimiters > limits.FALSE_DELIMITERS:
                    self._defects.add(
                        Code.LIMIT_DELIMITERS, "too many lines look like a delimiter and are none"
                    )
                    break
                continue
            line_end = octets.find(b"\n", position, end)
            after = line_end + 1 if line_end != -1 else end
            before = found - (
                len(around[:offset]) - len(around[:offset].removesuffix(b"\n").removesuffix(b"\r"))
            )
            delimiters.append(_Delimiter(before, after, closes=rest[1] is not None))
            position = after
        return delimiters

    def _content_type(self, headers: Headers, *, number: str, default: Parameterized) -> Parameterized:
        content_type = headers.parameterized("Content-Type")
        if content_type is None:
            return default
        meant = _TYPE.match(content_type.value)
        if meant is not None and meant.end() < len(content_type.value):
            self._defects.add(
                Code.CONTENT_TYPE_DAMAGED, f"{_named(number)}: what stands behind its type was ignored"
            )
            return Parameterized(meant[0], content_type.parameters)
        if meant is None:
            self._defects.add(Code.CONTENT_TYPE_DAMAGED, f"{_named(number)}: it was taken for text/plain")
            return Parameterized("text/plain", content_type.parameters)
        return content_type

    def _multipart_meant(self, headers: Headers, start: int, end: int) -> Parameterized | None:
        """Return the multipart among several declared types that stands in the body from its first delimiter to its last."""
        for single in islice(headers.singly("Content-Type"), _MOST_TYPES):
            boundary = _boundary(single)
            delimiters = self._find_delimiters(boundary, start, end) if boundary else []
            if delimiters and not delimiters[0].closes and delimiters[-1].closes:
                return single.parameterized("Content-Type")
        return None

    def _leaf(
        self, headers: Headers, start: int, end: int, *, number: str, content_type: Parameterized
    ) -> Part:
        declared = content_type.parameters.get("charset")
        if declared is not None:
            declared = declared.partition("(")[0].strip(" \t'\"") or None
        is_text = content_type.value.startswith("text/")
        content = self._octets.view(start, max(start, end))
        encoding = self._encoding(headers, number=number)
        if is_text and encoding == "base64" and transfer.is_plain_text(content):
            self._defects.add(
                Code.BASE64_DAMAGED, f"part {number}: it is no base64 and was left as it stands"
            )
            encoding = "unknown"
        return Part(
            part_id=number,
            blob_id=f"{self._blob_prefix}.{number}",
            size=self._size(content, encoding, number=number, is_text=is_text),
            type=content_type.value,
            charset=clean(declared) if declared is not None else ("us-ascii" if is_text else None),
            headers=headers,
            encoding=encoding,
            content=content,
            **describe(headers, content_type, where=_named(number), defects=self._defects),
        )

    def _opaque(self, headers: Headers, start: int, end: int, *, number: str) -> Part:
        """Keep what is beyond a limit as one attachment."""
        return self._leaf(headers, start, end, number=number, content_type=Parameterized(_OPAQUE, {}))

    def _encoding(self, headers: Headers, *, number: str) -> str:
        value = headers.text("Content-Transfer-Encoding")
        if value is None or not value.strip():
            return "7bit"
        encoding = transfer.known_encoding(value)
        if encoding is None:
            self._defects.add(
                Code.TRANSFER_ENCODING_UNKNOWN, f"part {number}: its content was taken as it stands"
            )
            return "unknown"
        return encoding

    def _size(self, content: memoryview, encoding: str, *, number: str, is_text: bool) -> int:
        if is_text and encoding in {"base64", "quoted-printable", "x-uuencode"}:
            self._decoded_bytes += len(content)
            if self._decoded_bytes <= limits.BODY_VALUE_BYTES:
                data, damaged = transfer.decode(content, encoding)
                self.decoded[number] = data
                self._note_damage(damaged, encoding, number=number)
                return len(data)
        size, damaged = transfer.measure(content, encoding)
        self._note_damage(damaged, encoding, number=number)
        return size

    def _note_damage(self, damaged: bool, encoding: str, *, number: str) -> None:
        if damaged and encoding == "x-uuencode":
            self._defects.add(Code.UUENCODE_DAMAGED, f"part {number}: what is uuencode in it was decoded")
        elif damaged:
            self._defects.add(Code.BASE64_DAMAGED, f"part {number}: what is base64 in it was decoded")


def _boundary(headers: Headers) -> bytes | None:
    """The boundary that a part declares, if it is a multipart."""
    content_type = headers.parameterized("Content-Type")
    if content_type is None or not content_type.value.startswith("multipart/"):
        return None
    return content_type.parameters.get("boundary", "").rstrip().encode("utf-8", "replace")


def _named(number: str) -> str:
    return f"part {number}" if number else "message"
