"""Takes the attachments out of messages into one folder, and says of each where it is.

The files are not made durable: whoever needs that has the message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson
from rich.filesize import decimal

from pipelines.attachments import Folder, Written, attachments
from pipelines.message import Message
from worker.reading.place import Place, Trouble
from worker.reading.shown import shown
from worker.reading.work import Outcome, take


def extract(
    places: Iterable[Place | Trouble], folder: Folder, *, stages: tuple[str, ...], as_json: bool
) -> Iterator[Outcome]:
    """Write the attachments of all messages, one message after the other: names are the same each time."""
    for place in places:
        taken = take(stages, place)
        message, trouble, lines = taken.message, taken.trouble, []
        for part in () if message is None else attachments(message):
            assert message is not None
            try:
                written = folder.write(part)
            except OSError as error:
                trouble = f"part {part.part_id} cannot be written: {error.strerror}"
            else:
                lines.append(
                    _as_json(written, folder.path, message) if as_json else _plain(written, folder.path)
                )
        is_dropped = message is None and trouble is None
        yield Outcome(place.label, taken.size, tuple(lines), trouble=trouble, is_dropped=is_dropped)


def _plain(written: Written, folder: Path) -> bytes:
    """Say it in a line."""
    file = shown(str(folder / written.file), most=2000)
    return f"{file}  {decimal(written.size)}  {shown(written.type)}".encode()


def _as_json(written: Written, folder: Path, message: Message) -> bytes:
    """Say it as one JSON object."""
    found = {
        "file": os.fsencode(folder / written.file).decode("utf-8", "replace"),
        "message": message.id,
        "partId": written.part_id,
        "name": written.name,
        "type": written.type,
        "size": written.size,
        "sha256": written.sha256,
    }
    return orjson.dumps(found)
