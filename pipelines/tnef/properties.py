"""The MAPI properties within a TNEF attribute (MS-OXTNEF section 2.1.3.4), read as text, number, moment or bytes.

Reading never raises: a list that is damaged gives the properties before the damage, and a property that is missing or of
another type is None. Nothing is copied until somebody asks.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from itertools import repeat

from pipelines import charset

# Values of all properties of one stream, those of its attachments and the messages within it among them.
VALUES = 50_000

_LONG = struct.Struct("<I")
_TAG = struct.Struct("<HH")
_MULTIPLE = 0x1000
_SHORT, _INTEGER, _BOOLEAN, _INTEGER64, _TIME = 0x0002, 0x0003, 0x000B, 0x0014, 0x0040
_OBJECT, _STRING8, _UNICODE, _BINARY = 0x000D, 0x001E, 0x001F, 0x0102
_SIZES = {_SHORT: 2, _INTEGER: 4, 0x0004: 4, 0x0005: 8, 0x0006: 8, 0x0007: 8, 0x000A: 4, _BOOLEAN: 2, _INTEGER64: 8,
          _TIME: 8, 0x0048: 16}  # fmt: skip
_VARIABLE = frozenset({_OBJECT, _STRING8, _UNICODE, _BINARY})
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)

# A property's id, or of a named one the set's GUID as it stands in the stream and the number or name within.
Key = int | tuple[bytes, int | str]

_CODE_PAGES = {
    1200: "utf-16-le", 1201: "utf-16-be", 10000: "macintosh", 20127: "us-ascii", 20866: "koi8-r", 20932: "euc-jp",
    21866: "koi8-u", 50220: "iso-2022-jp", 50221: "iso-2022-jp", 50222: "iso-2022-jp", 50225: "iso-2022-kr",
    51932: "euc-jp", 51936: "gb2312", 51949: "euc-kr", 52936: "hz-gb-2312", 54936: "gb18030", 65000: "utf-7", 65001: "utf-8",
} | {28590 + number: f"iso-8859-{number}" for number in range(1, 16)}  # fmt: skip


def charset_of(code_page: int | None) -> str | None:
    """Return the charset that a code page of Windows is, or None for no code page."""
    return None if not code_page else _CODE_PAGES.get(code_page, f"cp{code_page}")


class _Exhausted(ValueError):
    """More values than anybody needs."""


class Budget:
    """Counts the values that may still be read, for several lists together."""

    def __init__(self, left: int = VALUES) -> None:
        self._left = left

    def spend(self) -> None:
        """Count one value.

        Raises:
            ValueError: None is left.
        """
        if not self._left:
            raise _Exhausted("no value is left")
        self._left -= 1


class Properties:
    """The properties of a message or of an attachment; `declared` is the charset of strings that are not Unicode."""

    def __init__(self, budget: Budget, declared: str | None = None) -> None:
        self.declared = declared
        self._budget = budget
        self._values: dict[Key, tuple[int, memoryview]] = {}

    def read(self, data: memoryview, problems: dict[str, None]) -> None:
        """Add the properties of one list; damage and limits are added to `problems`."""
        try:
            self._read(data)
        except _Exhausted:
            problems["too-many-properties"] = None
        except (ValueError, struct.error):
            problems["properties-damaged"] = None

    def text(self, *keys: Key) -> str | None:
        """Return the first of these properties that is a text and says something, without NULs and surrogates."""
        for key in keys:
            kind, data = self._values.get(key, (0, memoryview(b"")))
            if kind in {_STRING8, _UNICODE}:
                label = "utf-16-le" if kind == _UNICODE else self.declared
                text = charset.decode(bytes(data), label).text
                if text.strip():
                    return text
        return None

    def number(self, *keys: Key) -> int | None:
        """Return the first of these properties that is a whole number or a Boolean."""
        for key in keys:
            kind, data = self._values.get(key, (0, memoryview(b"")))
            if kind in {_SHORT, _INTEGER, _BOOLEAN, _INTEGER64}:
                return int.from_bytes(data, "little", signed=True)
        return None

    def moment(self, *keys: Key) -> datetime | None:
        """Return the first of these properties that is a time, in UTC."""
        for key in keys:
            kind, data = self._values.get(key, (0, memoryview(b"")))
            if kind == _TIME:
                try:
                    return _EPOCH + timedelta(microseconds=int.from_bytes(data, "little") // 10)
                except OverflowError:
                    continue
        return None

    def data(self, key: Key) -> memoryview | None:
        """Return the bytes of a binary property or an object, or the undecoded ones of a text."""
        kind, data = self._values.get(key, (0, memoryview(b"")))
        return data if kind in _VARIABLE else None

    def _read(self, data: memoryview) -> None:
        """Raise ValueError or struct.error where the list is damaged, or where the budget ends."""
        (count,) = _LONG.unpack_from(data, 0)
        position = _LONG.size
        for _ in repeat(None, count):
            self._budget.spend()
            kind, id_ = _TAG.unpack_from(data, position)
            position += _TAG.size
            key: Key = id_
            if id_ >= 0x8000:
                key, position = _read_name(data, position)
            value, position = self._value(data, position, kind)
            self._values.setdefault(key, (kind, value))

    def _value(self, data: memoryview, position: int, kind: int) -> tuple[memoryview, int]:
        """Read one value; of several, the first is kept and all are passed over."""
        single = kind & ~_MULTIPLE
        count = 1
        if kind & _MULTIPLE or single in _VARIABLE:
            (count,) = _LONG.unpack_from(data, position)
            position += _LONG.size
        if single in _SIZES:
            size = _SIZES[single]
            value, _ = _take(data, position, size if count else 0)
            return value, position + (size + -size % 4) * count
        if single not in _VARIABLE:
            raise ValueError("unknown type")
        value = memoryview(b"")
        for number in range(count):
            self._budget.spend()
            (length,) = _LONG.unpack_from(data, position)
            found, position = _take(data, position + _LONG.size, length)
            value = value if number else found
        return value, position


def _read_name(data: memoryview, position: int) -> tuple[Key, int]:
    """Read the name of a named property (MS-OXTNEF section 2.1.3.4.1)."""
    set_ = bytes(data[position : position + 16])
    by_name, number = struct.unpack_from("<II", data, position + 16)
    position += 24
    if not by_name:
        return (set_, number), position
    name, position = _take(data, position, number)
    return (set_, charset.decode(bytes(name[:400]), "utf-16-le").text), position


def _take(data: memoryview, position: int, length: int) -> tuple[memoryview, int]:
    """Take bytes that are padded to a multiple of four."""
    if length > len(data) - position:
        raise ValueError("a length that lies")
    return data[position : position + length], position + length + -length % 4
