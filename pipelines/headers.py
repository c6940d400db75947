"""The header fields of a message or a part, decoded in the forms of RFC 8621 section 4.1.2 when asked for.

Where a field stands several times, the last one counts (RFC 8621 section 4.1.3). No form raises: what cannot be
read is None or as much as could be read, and a defect of the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from pipelines import charset, limits
from pipelines.addresses import Address, Group, parse_addresses
from pipelines.dates import parse_date
from pipelines.defects import Code, Defects
from pipelines.fields import Field
from pipelines.parameters import Parameterized, parse_parameters
from pipelines.words import decode_words

_ANGLES = re.compile(r"<([^<>]*+)>")
_COMMENT = re.compile(r"\([^()]*+\)")
_SPACE = re.compile(r"\s++")

# Charsets that few words do not tell from one another; then Western Europe is the best guess.
_LATIN = frozenset({"cp1250", "cp1252", "cp1254"})

# Fields that RFC 5322 section 3.6 and RFC 2045 allow once.
_ONCE = (
    "from sender reply-to to cc bcc message-id in-reply-to references subject date mime-version content-type "
    "content-transfer-encoding content-disposition content-id"
)
_ONCE_NAMES = frozenset(_ONCE.split())


class Headers:
    """The header fields in their order. Names are compared without regard to case."""

    __slots__ = ("_charset", "_defects", "_fields", "_last", "_parameterized", "_repeated", "_where")

    def __init__(self, fields: Sequence[Field], *, defects: Defects, part_id: str | None = None) -> None:
        self._fields = fields
        self._defects = defects
        self._where = "" if part_id is None else f"part {part_id}: "
        self._charset: str | None = None
        self._last: dict[str, bytes] = {}
        self._parameterized: dict[str, Parameterized] = {}
        self._repeated: set[str] = set()
        for name, value in fields:
            key = name.lower()
            if key in self._last and key in _ONCE_NAMES:
                self._repeated.add(key)
                defects.add(
                    Code.DUPLICATE_HEADER, f"{self._where}{key} stands several times; the last one counts"
                )
            self._last[key] = value

    @classmethod
    def empty(cls) -> Headers:
        """Return headers without a field."""
        return cls((), defects=Defects())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield name and decoded text of every field, in their order."""
        for name, value in self._fields:
            yield name, self._decoded(name, value)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._last

    def repeats(self, name: str) -> bool:
        """Whether a field that may stand once stands several times."""
        return name.lower() in self._repeated

    def text(self, name: str) -> str | None:
        """Return the Text form (RFC 8621 section 4.1.2.2): unfolded, encoded words decoded, NFC."""
        value = self._last.get(name.lower())
        return None if value is None else self._decoded(name, value)

    def texts(self, name: str) -> list[str]:
        """Return the Text form of every field of that name, in their order."""
        key = name.lower()
        return [self._decoded(name, value) for found, value in self._fields if found.lower() == key]

    def raw(self, name: str) -> str | None:
        """Return the Raw form (RFC 8621 section 4.1.2.1), folds as CRLF, without white space at its beginning."""
        value = self._last.get(name.lower())
        if value is None:
            return None
        return "\r\n".join(self._characters(name, line) for line in value.split(b"\n"))

    def singly(self, name: str) -> Iterator[Headers]:
        """Yield headers with one field each, for every field of that name in their order, to be asked for any form."""
        key = name.lower()
        for field in self._fields:
            if field[0].lower() == key:
                single = Headers((field,), defects=self._defects)
                single.assume_charset(self._raw_charset())
                yield single

    def replaced(self, change: Callable[[str, Headers], str | None]) -> Headers:
        """Return a copy with new values in UTF-8 (RFC 6532) where `change`, given name and field, answers with one."""
        fields: list[Field] = []
        for name, value in self._fields:
            single = Headers(((name, value),), defects=self._defects)
            single.assume_charset(self._raw_charset())
            text = change(name, single)
            fields.append(
                (name, value if text is None else text.encode("utf-8", "replace").replace(b"\n", b" "))
            )
        copy = Headers(fields, defects=self._defects)
        copy.assume_charset(self._charset)
        return copy

    def addresses(self, name: str) -> tuple[Address, ...] | None:
        """Return the Addresses form (RFC 8621 section 4.1.2.3), groups dissolved, or None without the field."""
        groups = self.grouped_addresses(name)
        return None if groups is None else tuple(address for group in groups for address in group.addresses)

    def grouped_addresses(self, name: str) -> tuple[Group, ...] | None:
        """Return the GroupedAddresses form (RFC 8621 section 4.1.2.4), or None without the field."""
        text = self._unfolded(name)
        if text is None:
            return None
        return parse_addresses(text, where=self._where + name, defects=self._defects)

    def message_ids(self, name: str) -> tuple[str, ...] | None:
        """Return the MessageIds form (RFC 8621 section 4.1.2.5): ids without angle brackets.

        Ids that lost their brackets are accepted when they have an @ or stand alone. None if there is no id at all.
        """
        text = self._unfolded(name)
        if text is None:
            return None
        if "=?" in text:
            # Outlook writes long ids as encoded words, which have no place there.
            text = decode_words(text, where=self._where + name, defects=self._defects)
        ids = [_SPACE.sub("", _COMMENT.sub("", found)) for found in _ANGLES.findall(text)]
        if not any(ids):
            bare = _COMMENT.sub(" ", text).replace("<", " ").replace(">", " ").replace(",", " ")
            words = bare.split()
            ids = [word for word in words if "@" in word] if len(words) > 1 else words
            if text.strip():
                self._defects.add(Code.MESSAGE_ID_DAMAGED, f"{self._where}{name} has no id in angle brackets")
        if len(ids) > limits.MESSAGE_IDS:
            detail = f"{self._where}{name}: ids beyond the first {limits.MESSAGE_IDS} were not read"
            self._defects.add(Code.LIMIT_MESSAGE_IDS, detail)
        return tuple(filter(None, ids[: limits.MESSAGE_IDS])) or None

    def date(self, name: str) -> datetime | None:
        """Return the Date form (RFC 8621 section 4.1.2.6) as an aware moment, or None."""
        text = self._unfolded(name)
        if text is None:
            return None
        moment = parse_date(text)
        if moment is None:
            self._defects.add(Code.DATE_UNREADABLE, f"{self._where}{name}")
        return moment

    def urls(self, name: str) -> tuple[str, ...] | None:
        """Return the URLs form (RFC 8621 section 4.1.2.7) of a List-* header, or None if it has none."""
        text = self._unfolded(name)
        return None if text is None else tuple(_SPACE.sub("", url) for url in _ANGLES.findall(text)) or None

    def parameterized(self, name: str) -> Parameterized | None:
        """Return value and parameters (RFC 2045 section 5.1), or None without the field."""
        found = self._parameterized.get(name)
        if found is None:
            text = self._unfolded(name)
            if text is None:
                return None
            if text.lstrip().startswith("=?"):
                # Old programs of Apple encode a value with all its parameters.
                text = decode_words(text, where=self._where + name, defects=self._defects)
            found = parse_parameters(text, where=self._where + name, defects=self._defects)
            self._parameterized[name] = found
        return found

    def assume_charset(self, label: str | None) -> None:
        """Let raw bytes that are neither ASCII nor UTF-8 be read in the charset that the body declares."""
        self._charset = label

    def _unfolded(self, name: str) -> str | None:
        value = self._last.get(name.lower())
        return None if value is None else self._characters(name, value)

    def _decoded(self, name: str, value: bytes) -> str:
        text = self._characters(name, value).lstrip(" \t")
        return decode_words(text, where=self._where + name, defects=self._defects)

    def _characters(self, name: str, value: bytes) -> str:
        """Unfold a value (RFC 5322 section 2.2.3) and read it as ASCII or UTF-8 (RFC 6532), else as a guess."""
        if len(value) > limits.VALUE_BYTES:
            detail = f"{self._where}{name}: the value was read up to {limits.VALUE_BYTES} bytes"
            self._defects.add(Code.LIMIT_VALUE_BYTES, detail)
            value = value[: limits.VALUE_BYTES]
        value = value.replace(b"\n", b"").replace(b"\0", b"")
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            decoded = charset.decode(value, self._raw_charset(), detect=False)
            self._defects.add(Code.RAW_8BIT_HEADER, f"{self._where}{name} was read as {decoded.codec}")
            return decoded.text

    def _raw_charset(self) -> str:
        """Return the assumed charset, or once find out what the raw bytes of all fields look like together.

        Only a message's own headers are looked at so closely, as there may be very many parts.
        """
        if self._charset is None:
            self._charset = "us-ascii" if self._where else self._find_out_charset()
        return self._charset

    def _find_out_charset(self) -> str:
        raw = (value for _, value in self._fields if charset.strictly_utf8(value) is None)
        found = charset.find_out(b"\n".join(raw))
        return "us-ascii" if found is None or found in _LATIN else found
