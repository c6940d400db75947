"""Searching raw bytes that may be a mapped file, without copying them.

A memoryview cannot be searched, and a message may have 150 MB. `Octets` searches any buffer: small ones as
plain bytes, large ones through a window that moves along.
"""

from __future__ import annotations

WINDOW = 1 << 20


class Octets:
    """A buffer that can be searched and sliced; it never changes and is never copied as a whole when large."""

    __slots__ = ("_begin", "_bytes", "_view", "_window")

    def __init__(self, raw: bytes | memoryview) -> None:
        self._view = memoryview(raw)
        if self._view.format != "B" or self._view.ndim != 1 or not self._view.c_contiguous:
            self._view = memoryview(self._view.tobytes())
        self._bytes: bytes | None = None
        if isinstance(raw, bytes):
            self._bytes = raw
        elif len(self._view) <= WINDOW:
            self._bytes = bytes(self._view)
        self._begin = 0
        self._window = b""

    def __len__(self) -> int:
        return len(self._view)

    def take(self, start: int, end: int) -> bytes:
        """Return a copy of the bytes from `start` up to `end`."""
        if self._bytes is not None:
            return self._bytes[start:end]
        return bytes(self._view[start:end])

    def view(self, start: int, end: int) -> memoryview:
        """Return the bytes from `start` up to `end` without copying them."""
        return self._view[start:end]

    def find(self, wanted: bytes, start: int, end: int) -> int:
        """Return where `wanted` next lies as a whole between `start` and `end`, or -1."""
        if self._bytes is not None:
            return self._bytes.find(wanted, start, end)
        while start + len(wanted) <= end:
            if not self._begin <= start < self._begin + len(self._window) - len(wanted):
                self._begin = start
                self._window = bytes(self._view[start : start + WINDOW])
            found = self._window.find(wanted, start - self._begin, end - self._begin)
            if found != -1:
                return self._begin + found
            if self._begin + len(self._window) >= end:
                return -1
            start = self._begin + len(self._window) - len(wanted) + 1
        return -1
