"""Notes beside the batches in an object store: one small object each, there as it was given or not at all.

Names are those of the file spool. Each poll of a mailbox lists its notes on withheld messages, and where AFTER does something
those on what may be settled: one request each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from worker.spool.bucket import Bucket
from worker.spool.notes import day


class ObjectNotes:
    """The notes in a bucket. All methods raise SpoolUnavailable."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def remember(self, mailbox: str, note: Mapping[str, Any]) -> None:
        """Replace the note of a mailbox."""
        self._bucket.put(f"notes/{mailbox}.json", orjson.dumps(note))

    def recall(self, mailbox: str) -> Mapping[str, Any] | None:
        """The note of a mailbox, or None."""
        return self._read(f"notes/{mailbox}.json")

    def forget(self, mailbox: str) -> None:
        """Delete the note of a mailbox."""
        self._bucket.delete([f"notes/{mailbox}.json"])

    def noted(self) -> list[str]:
        """The names in `notes/`, `withheld/` and `released/`."""
        notes = [one.key.rpartition("/")[2].removesuffix(".json") for one in self._bucket.listed("notes")]
        return sorted({*notes, *self._bucket.folders("withheld"), *self._bucket.folders("released")})

    def note_message(self, mailbox: str, id: str, note: Mapping[str, Any]) -> None:  # noqa: A002
        """Write or replace `withheld/MAILBOX/ID.json`."""
        self._bucket.put(f"withheld/{mailbox}/{id}.json", orjson.dumps(note))

    def noted_messages(self, mailbox: str) -> list[Mapping[str, Any]]:
        """Read every note in `withheld/MAILBOX/`; one that is taken away meanwhile is none."""
        notes = [self._read(found.key) for found in self._bucket.listed(f"withheld/{mailbox}")]
        return [note for note in notes if note is not None]

    def forget_message(self, mailbox: str, id: str) -> None:  # noqa: A002
        """Delete a note."""
        self._bucket.delete([f"withheld/{mailbox}/{id}.json"])

    def note_release(self, mailbox: str, at: int, name: str, note: Mapping[str, Any]) -> None:
        """Write `released/MAILBOX/DAY/NAME.json`."""
        self._bucket.put(_release(mailbox, at, name), orjson.dumps(note))

    def releases(self, mailbox: str, until: int | None = None) -> Iterator[str]:
        """List `released/MAILBOX/`, which stores do by name, as far as it is asked for."""
        last = "~" if until is None else f"{until:011d}~"
        for found in self._bucket.listed(f"released/{mailbox}"):
            name = found.key.rpartition("/")[2]
            if name >= last:
                return
            yield name.removesuffix(".json")

    def release(self, mailbox: str, at: int, name: str) -> Mapping[str, Any] | None:
        """Read a note; one that cannot be read is none."""
        try:
            return self._read(_release(mailbox, at, name))
        except ValueError:
            return None

    def forget_release(self, mailbox: str, at: int, name: str) -> None:
        """Delete a note."""
        self._bucket.delete([_release(mailbox, at, name)])

    def _read(self, key: str) -> Mapping[str, Any] | None:
        found = self._bucket.get(key)
        note: Mapping[str, Any] | None = orjson.loads(found.data) if found else None
        return note


def _release(mailbox: str, at: int, name: str) -> str:
    return f"released/{mailbox}/{day(at)}/{name}.json"
