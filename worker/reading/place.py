"""Where one message lies, and how it is read from there."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field, replace
from datetime import datetime

from pipelines.message import Message, Source
from pipelines.parse import parse
from worker.reading.mbox import unquoted

# From here on a file is mapped instead of read: attachments are then never in memory as a whole.
_MAPPED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """One message: a whole file, or `size` bytes of it from `start` on, or `raw` itself when it came through a pipe.

    `label` names it for people. `id`, `mailbox`, `source` and `received` (ISO 8601) are what is known of it beside its
    bytes, and `sha256` what they have to be. `is_quoted` is true in an mbox.
    """

    label: str
    path: str = ""
    start: int = 0
    size: int | None = None
    raw: bytes | memoryview | None = None
    is_quoted: bool = False
    id: str | None = None
    mailbox: str = ""
    source: Source = field(default_factory=Source)
    received: str | None = None
    sha256: str | None = None

    @property
    def weight(self) -> int:
        """About how many bytes it has: a whole file is not measured before it is read."""
        return 16_384 if self.size is None else self.size

    def shipped(self) -> Place:
        """The same for another process."""
        return replace(self, raw=bytes(self.raw)) if isinstance(self.raw, memoryview) else self


@dataclass(frozen=True, slots=True)
class Trouble:
    """Where there is no message, and why: the sentence follows the label and a colon."""

    label: str
    sentence: str


def unreadable(label: str, error: OSError) -> Trouble:
    """Say that something cannot be read."""
    return Trouble(label, f"cannot be read: {error.strerror or 'it is no file'}")


def read(place: Place) -> Message:
    """Parse the message at a place.

    Raises:
        OSError: it cannot be read.
    """
    raw = _slice(place) if place.raw is None else place.raw
    return parse(
        unquoted(raw) if place.is_quoted else raw,
        id=place.id,
        mailbox=place.mailbox,
        source=place.source,
        received_at=datetime.fromisoformat(place.received) if place.received else None,
    )


def _slice(place: Place) -> bytes | memoryview:
    with open(place.path, "rb", buffering=0) as file:  # noqa: PTH123  (a path may be any bytes)
        size = os.fstat(file.fileno()).st_size - place.start if place.size is None else place.size
        if size < _MAPPED_BYTES:
            file.seek(place.start)
            return file.read(max(0, size)) or b""
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return mapped[place.start : place.start + size]
