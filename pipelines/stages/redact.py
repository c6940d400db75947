"""Replaces what nobody should read by a mark: in the JSON, in the text and in the header fields of a message.

It looks at the subject, the preview, the texts of the body, the names of addresses and attachments, the headers in all
forms, and at whatever text earlier stages found. `pipelines.confidential` says what it finds, and what it does not. Ids (of
messages, threads, events) are left as they are, because systems compare them. It finds `{"cards": 2, …}`: how often each
kind was replaced in the JSON, headers aside.

It does not look into attachments, and it does not change `raw`, `size` and `digest`: the raw bytes stay as the server sent
them, and an output that passes them on, such as a Maildir, passes on everything. With DROP_RAW=yes the outputs get instead
a small message made of the redacted head and text, without attachments; what waits in the spool is whole all the same.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipelines import limits
from pipelines.addresses import Address, Group
from pipelines.charset import clean
from pipelines.confidential import KINDS, Span
from pipelines.headers import Headers
from pipelines.message import Message
from pipelines.options import Flag, Names
from pipelines.part import Part
from pipelines.preview import preview
from pipelines.stage import Stage, StageOptions

ENVELOPE = frozenset({"from", "sender", "to", "cc", "bcc", "reply-to"})
ID_FIELDS = frozenset({"message-id", "in-reply-to", "references", "content-id"})
# What stages call an id in their findings.
ID_KEYS = frozenset({"id", "key", "uid", "cid", "messageId", "inReplyTo", "references"})
_ADDRESS_LISTS = ("sender", "from_", "to", "cc", "bcc", "reply_to")
PARAMETERIZED = frozenset({"content-type", "content-disposition"})
# RE2 is linear for one search, and each match is followed by another one over what is left: this many bytes, in one
# message, take seconds. Beyond it the rest of a text is replaced as a whole.
LONGEST_PATTERN = 10_000
MOST_BYTES = 1 << 30


class RedactOptions(StageOptions):
    """What is replaced, and by what."""

    kinds: Names = Field(
        default=("cards", "ibans"),
        description="What is replaced: cards, ibans, emails, phones; empty for what PATTERN says alone.",
        examples=["cards,ibans,emails,phones"],
    )
    pattern: str | None = Field(
        default=None,
        max_length=LONGEST_PATTERN,
        description="Regular expression, in the syntax of RE2, of what is replaced as well.",
        examples=[r"(?i)\bcustomer no\. \d{6}\b"],
    )
    mark: str = Field(default="[redacted]", description="What stands in its place.", examples=["***"])
    envelope: Flag = Field(
        default=False,
        description="Whether the addresses in from, sender, to, cc, bcc and replyTo are replaced as well; their names "
        "always are.",
        examples=["yes"],
    )
    drop_raw: Flag = Field(
        default=False,
        description="Whether outputs get a message made of the redacted text in the place of the raw one, for outputs "
        "that pass raw messages on.",
        examples=["yes"],
    )

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not KINDS.keys() >= set(value):
            raise PydanticCustomError("kinds", f"must be some of {', '.join(KINDS)}")
        return value

    @field_validator("pattern")
    @classmethod
    def _can_be_searched(cls, value: str | None) -> str | None:
        if value is not None and _compile(value).search(b"") is not None:
            raise PydanticCustomError("pattern", "must not match an empty text: it would match everywhere")
        return value

    @field_validator("mark")
    @classmethod
    def _is_harmless(cls, value: str) -> str:
        # It stands in HTML as well, and among header fields.
        if len(value) > 100 or set(value) & set('<>&"') or not value.isprintable():
            raise PydanticCustomError(
                "mark", 'must have at most 100 printable characters, none of them <, >, & or "'
            )
        return value

    @model_validator(mode="after")
    def _something(self) -> RedactOptions:
        if not self.kinds and self.pattern is None:
            raise PydanticCustomError("redact", "a redact stage needs KINDS or PATTERN")
        return self


class RedactStage(Stage):
    """Answers with a redacted copy of the message."""

    type_name: ClassVar[str] = "redact"
    Options: ClassVar[type[StageOptions]] = RedactOptions

    options: RedactOptions

    def __init__(self, name: str, options: RedactOptions) -> None:
        """Compile the pattern."""
        super().__init__(name, options)
        self._pattern = None if options.pattern is None else _compile(options.pattern)

    def apply(self, message: Message) -> Message:
        """Return the copy, and how often each kind was replaced."""
        seen = _Marker(self.options, self._pattern)
        # For what shows the same words once more, so that they are counted once.
        unseen = _Marker(self.options, self._pattern)
        parts = _Parts(seen, unseen, self.options)
        names = {name: _addresses(seen, getattr(message, name), self.options) for name in _ADDRESS_LISTS}
        values = {
            id_: value._replace(value=seen.text(value.value)) for id_, value in message.body_values.items()
        }
        changed = dataclasses.replace(
            message,
            **names,
            subject=None if message.subject is None else seen.text(message.subject),
            # What is cut off in the middle of a number is not recognised, so it is cut off anew.
            preview=unseen.text(
                message.preview
                if values == message.body_values
                else preview((*message.text_body, *message.html_body), values)
            )[: limits.PREVIEW_CHARACTERS],
            headers=_headers(unseen, message.headers, self.options),
            body_values=values,
            structure=parts.changed(message.structure),
            text_body=tuple(map(parts.changed, message.text_body)),
            html_body=tuple(map(parts.changed, message.html_body)),
            attachments=tuple(map(parts.changed, message.attachments)),
            findings={stage: _finding(seen, found) for stage, found in message.findings.items()},
        )
        if self.options.drop_raw:
            changed = dataclasses.replace(changed, raw=_letter(changed))
        return changed.with_findings(self.name, dict(sorted(seen.counts.items())))


class _Marker:
    """Puts the mark into texts of one message, and counts."""

    def __init__(self, options: RedactOptions, pattern: Any) -> None:
        self._kinds = options.kinds
        self._mark = options.mark
        self._pattern = pattern
        self._left = MOST_BYTES
        self.counts: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """Return the text with the mark in the place of whatever is found."""
        if self._pattern is not None:
            text = self._marked(text, "pattern", self._matches)
        for kind in self._kinds:
            text = self._marked(text, kind, KINDS[kind])
        return text

    def _marked(self, text: str, kind: str, find: Callable[[str], Iterable[Span]]) -> str:
        pieces: list[str] = []
        end = 0
        for start, stop in sorted(find(text)):
            if stop <= end:
                continue
            if start >= end:
                pieces += (text[end:start], self._mark)
                self.counts[kind] += 1
            end = stop
        return "".join((*pieces, text[end:])) if pieces else text

    def _matches(self, text: str) -> list[Span]:
        """Find the own pattern, in UTF-8 because RE2 works on that; beyond the limit all the rest is one match."""
        spans: list[Span] = []
        data = text.encode("utf-8", "surrogatepass")
        behind = position = 0
        for match in self._pattern.finditer(data):
            start, end = match.span()
            if start == end:
                continue
            position += len(data[behind:start].decode("utf-8", "surrogatepass"))
            if self._left <= 0:
                return [*spans, (position, len(text))]
            self._left -= len(data) - start
            length = len(data[start:end].decode("utf-8", "surrogatepass"))
            spans.append((position, position + length))
            position, behind = position + length, end
        return spans


class _Parts:
    """Changes parts, each once, because a part stands in several lists."""

    def __init__(self, seen: _Marker, unseen: _Marker, options: RedactOptions) -> None:
        self._seen, self._unseen = seen, unseen
        self._options = options
        # The original is kept along, so that nothing else gets its number.
        self._known: dict[int, tuple[Part, Part]] = {}

    def changed(self, part: Part) -> Part:
        known = self._known.get(id(part))
        if known is None:
            known = self._known[id(part)] = (part, self._change(part))
        return known[1]

    def _change(self, part: Part) -> Part:
        return dataclasses.replace(
            part,
            name=None if part.name is None else self._seen.text(part.name),
            location=None if part.location is None else self._seen.text(part.location),
            headers=_headers(self._unseen, part.headers, self._options),
            sub_parts=None if part.sub_parts is None else tuple(map(self.changed, part.sub_parts)),
            content=memoryview(b"") if self._options.drop_raw else part.content,
        )


def _addresses(marker: _Marker, addresses: tuple[Address, ...] | None, options: RedactOptions) -> Any:
    return None if addresses is None else tuple(_address(marker, address, options) for address in addresses)


def _address(marker: _Marker, address: Address, options: RedactOptions) -> Address:
    name, email = address
    return Address(
        None if name is None else marker.text(name), marker.text(email) if options.envelope else email
    )


def _finding(marker: _Marker, found: object) -> object:
    """Redact the texts in what a stage found, at any depth."""
    if isinstance(found, str):
        return marker.text(found)
    if isinstance(found, Mapping):
        return {key: value if key in ID_KEYS else _finding(marker, value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finding(marker, value) for value in found]
    return found


def _headers(marker: _Marker, headers: Headers, options: RedactOptions) -> Headers:
    def change(name: str, field: Headers) -> str | None:
        """Return the new text of a field, or None for one that stays."""
        if name.lower() in ID_FIELDS:
            return None
        if name.lower() in ENVELOPE:
            groups = field.grouped_addresses(name) or ()
            redacted = [
                Group(group.name and marker.text(group.name), _addresses(marker, group.addresses, options))
                for group in groups
            ]
            return None if redacted == list(groups) else ", ".join(map(_group, redacted))
        if name.lower() in PARAMETERIZED and (said := field.parameterized(name)) is not None:
            parameters = {key: marker.text(value) for key, value in said.parameters.items()}
            written = "".join(f"; {key}={_quoted(value)}" for key, value in parameters.items())
            return None if parameters == said.parameters else said.value + written
        text = field.text(name) or ""
        redacted_text = marker.text(text)
        return None if redacted_text == text else redacted_text

    return headers.replaced(change)


def _group(group: Group) -> str:
    listed = ", ".join(map(_written, group.addresses))
    return listed if group.name is None else f"{_quoted(group.name)}: {listed};"


def _written(address: Address) -> str:
    return address.email if address.name is None else f"{_quoted(address.name)} <{address.email}>"


def _quoted(text: str) -> str:
    """Write a quoted string (RFC 5322 section 3.2.4)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _letter(message: Message) -> bytes:
    """Write a message (RFC 5322, RFC 6532) of what a redacted one shows: who, when, what about, and the text."""
    head = {name: message.header(name) for name in ("Date", "Message-ID", "In-Reply-To", "References")}
    head["Subject"] = message.subject
    for name, attribute in zip(
        ("Sender", "From", "To", "Cc", "Bcc", "Reply-To"), _ADDRESS_LISTS, strict=True
    ):
        head[name] = ", ".join(map(_written, getattr(message, attribute) or ())) or None
    plain = [part.part_id or "" for part in message.text_body if part.type == "text/plain"]
    shown = plain or [part.part_id or "" for part in message.html_body]
    texts = [message.body_values[id_].value for id_ in shown if id_ in message.body_values]
    head["MIME-Version"] = "1.0"
    head["Content-Type"] = f"text/{'plain' if plain else 'html'}; charset=utf-8"
    head["Content-Transfer-Encoding"] = "8bit"
    lines = [f"{name}: {' '.join(clean(text).split())}" for name, text in head.items() if text is not None]
    return "\r\n".join([*lines, "", *clean("\n".join(texts)).split("\n")]).encode("utf-8")


def _compile(pattern: str) -> Any:
    """Compile a pattern for RE2.

    Raises:
        PydanticCustomError: RE2 does not take it, or is not there.
    """
    try:
        import re2
    except ModuleNotFoundError:
        raise PydanticCustomError(
            "pattern", "needs the library google-re2, which is not installed: pip install 'mailquay[redact]'"
        ) from None
    said = re2.Options()
    # It would write the pattern to stderr.
    said.log_errors = False
    try:
        compiled = re2.compile(pattern, said)
    except re2.error:
        compiled = None
    # \C is one byte, perhaps of a letter that has several.
    if compiled is None or "\\C" in pattern:
        raise PydanticCustomError("pattern", "is no regular expression that RE2 knows")
    return compiled
