"""What the object spool knows of a batch: one record, which alone counts, and the names under which objects lie.

    batches/CHAIN/record.json    where the batch waits, its ticket, its batch.json; each change is a swap
    batches/CHAIN/batch.zip      the raw messages, never changed; large ones in pieces, batch.zip.0000 and on
    PLACE/TICKET/CHAIN.MOVE      a pointer, empty: what a listing shows; PLACE is ready, parked/OUTPUT, failed, kept/DAY

A *chain* is the life of one batch from `commit` to its end; the same messages that are pulled twice are two chains. A
pointer has the number of the move that wrote it, so no pointer's name is ever used twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from worker.spool import Batch, Ticket

READY, FAILED, KEPT, OVER = "ready", "failed", "kept", ""
"""Places. `OVER`: the batch is done, and its objects are being removed."""

_POINTER = re.compile(r"(.+)/([^/]+)/([0-9a-f]{32})\.(\d{6})")


@dataclass(frozen=True, slots=True)
class Raw:
    """The zip of a batch: its size, where the data of each member begins, and in how many pieces; 0 when it is whole."""

    size: int = 0
    pieces: int = 0
    members: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What counts of a batch. `batch` is None when it could not be read and only its ticket is known.

    `stamp` is unlike that of any other write.
    """

    place: str
    ticket: Ticket
    batch: Batch | None
    raw: Raw
    move: int = 0
    reason: str = ""
    stamp: str = ""

    def dumps(self) -> bytes:
        """The record as JSON; `batch` and `version` are those of a batch.json."""
        return orjson.dumps(
            {
                "version": 1,
                "place": self.place,
                "ticket": str(self.ticket),
                "move": self.move,
                "reason": self.reason,
                "stamp": self.stamp,
                "raw": self.raw,
                "batch": self.batch,
            }
        )

    @classmethod
    def loads(cls, text: bytes) -> Record:
        """The record that `dumps` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it was overwritten, or written by a newer version.
        """
        said = orjson.loads(text)
        ticket = Ticket.parse(said["ticket"])
        if ticket is None:
            raise ValueError("the record names no ticket")
        batch = None if said["batch"] is None else Batch.loads(text)
        return cls(
            said["place"], ticket, batch, Raw(**said["raw"]), said["move"], said["reason"], said["stamp"]
        )


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What `Record.loads` raises."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a listing shows: that a chain was at a place under a ticket after so many moves."""

    place: str
    ticket: Ticket
    chain: str
    move: int

    @property
    def key(self) -> str:
        """Its name."""
        return f"{self.place}/{self.ticket}/{self.chain}.{self.move:06d}"

    @property
    def order(self) -> tuple[int, int, str, int]:
        """Of two pointers of a batch the higher one counts: the higher generation, the later pull, the later move."""
        return self.ticket.generation, self.ticket.sequence, self.chain, self.move

    @classmethod
    def parse(cls, key: str) -> Pointer | None:
        """The pointer that a name spells; None for an object that is not ours."""
        if not (found := _POINTER.fullmatch(key)):
            return None
        place, name, chain, move = found.groups()
        ticket = Ticket.parse(name)
        return cls(place, ticket, chain, int(move)) if ticket else None


def record_key(chain: str) -> str:
    """Where the record of a chain lies."""
    return f"batches/{chain}/record.json"


def raw_key(chain: str, piece: int | None = None) -> str:
    """Where its raw messages lie, or one piece of them."""
    whole = f"batches/{chain}/batch.zip"
    return whole if piece is None else f"{whole}.{piece:04d}"


def raw_keys(chain: str, pieces: int) -> list[str]:
    """Where all of its raw messages lie, in order."""
    return [raw_key(chain, number) for number in range(pieces)] if pieces else [raw_key(chain)]
