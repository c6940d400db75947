"""The contract of a place for objects: S3 and what speaks like it, Google's, Azure's, or a folder of this machine.

What `add` and `replace` return from is durable: a store that has answered holds the object, and of a folder file and
names are synced. An object appears whole or not at all. Nothing is tried again here, every request has a deadline, and a
`StoreError` names no object, because names hold what strangers wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

# Up to here an object is one request, which can be made conditional; beyond, it goes in parts of this size, so that
# TIMEOUT bounds the time for a part and not for an attachment of any size. S3 takes no part under 5 MiB.
PART_BYTES = 8 << 20


class StoreError(Exception):
    """The store did not take an object; the sentence names the server and what it answered.

    `refused`: it will never take this one. `unreachable`: it takes nothing now, so others need not be tried.
    `status`: what it answered, in HTTP's words, or None without an answer.
    """

    def __init__(
        self, sentence: str, *, refused: bool = False, unreachable: bool = False, status: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.refused = refused
        self.unreachable = unreachable
        self.status = status


class Content:
    """The bytes of an object: `size` of them, from an iterator that is asked for once more at each attempt."""

    def __init__(self, size: int, pieces: Callable[[], Iterable[bytes]]) -> None:
        self.size = size
        self.pieces = pieces

    @classmethod
    def of(cls, data: bytes | memoryview) -> Content:
        """Return bytes that are in memory, or mapped into it, as content; they are copied part by part."""
        view = memoryview(data)

        def pieces() -> Iterator[bytes]:
            # Copies, because a store may hold on to what it got when the file behind a mapping is closed.
            for start in range(0, len(view), PART_BYTES):
                yield bytes(view[start : start + PART_BYTES])

        return cls(len(view), pieces)


class ObjectStore(ABC):
    """A place for objects. Keys are relative to its URL, with `/` between their steps."""

    @abstractmethod
    def add(self, key: str, content: Content, *, media_type: str) -> bool:
        """Put an object where none is; return False, and change nothing, where one is.

        Raises:
            StoreError: it may be there or not.
        """

    @abstractmethod
    def replace(self, key: str, content: Content, *, media_type: str) -> None:
        """Put an object, also in the place of one that is there.

        Raises:
            StoreError: it may be there or not.
        """

    @abstractmethod
    def holds(self, key: str) -> bool:
        """Tell whether an object is there.

        Raises:
            StoreError: the store does not say.
        """
