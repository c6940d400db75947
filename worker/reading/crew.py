"""Messages on all cores, in their order, a bounded number of them at a time.

A few messages are done in this process; of more, pieces go to processes of their own (`worker.reading.pool`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from worker.reading.place import Place, Trouble
from worker.reading.work import Outcome, Task, do

Piece = list[Place | Trouble]

_PIECE_MESSAGES = 64
_PIECE_BYTES = 4 << 20
# So much is done before another process would have begun.
_ALONE = 3


def cores() -> int:
    """How many of the machine's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(task: Task, places: Iterable[Place | Trouble], *, processes: int) -> Iterator[Outcome]:
    """Do the task with every message; outcomes come in the order of the places."""
    pieces = _pieces(places)
    first = list(islice(pieces, _ALONE + 1))
    if processes < 2 or len(first) <= _ALONE:
        for piece in chain(first, pieces):
            for place in piece:
                yield from do(task, [place])
        return
    # Only now: to import it takes longer than to parse a message.
    from worker.reading.pool import together

    yield from together(task, chain(first, pieces), processes=processes)


def _pieces(places: Iterable[Place | Trouble]) -> Iterator[Piece]:
    """Cut the places into pieces that are worth sending to another process, and small enough to wait for."""
    piece: Piece = []
    weight = 0
    for place in places:
        piece.append(place)
        weight += place.weight if isinstance(place, Place) else 0
        if len(piece) == _PIECE_MESSAGES or weight >= _PIECE_BYTES:
            yield piece
            piece, weight = [], 0
    if piece:
        yield piece
