"""The messages in one batch file of the spool, wherever it was copied to: nothing of a spool is needed.

They come with the ids, mailbox and flags under which they are delivered. A batch is read and never changed.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator

from pipelines.message import Source
from worker.reading.place import Place, Trouble
from worker.spool import Batch

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_UNREADABLE = (
    zipfile.BadZipFile,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    EOFError,
    struct.error,
    # `zipfile` says these of a directory whose flags or methods were overwritten.
    RuntimeError,
    NotImplementedError,
)


def begins_batch(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a batch: a zip whose first member is the plan."""
    return head.startswith(b"PK\x03\x04") and head[_LOCAL_HEADER.size :].startswith(b"plan.json")


def messages(path: str) -> Iterator[Place | Trouble]:
    """Yield every message of a batch, or say that it is damaged.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:  # noqa: PTH123  (a path may be any bytes)
            batch = Batch.loads(archive.read("batch.json"))
            found = []
            for entry in batch.entries:
                header = archive.getinfo(entry.member).header_offset
                file.seek(header)
                fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                found.append(
                    Place(
                        label=f"{path}!{entry.member}",
                        path=path,
                        start=header + _LOCAL_HEADER.size + fields[-2] + fields[-1],
                        size=entry.size,
                        id=entry.id,
                        mailbox=batch.mailbox,
                        source=Source(batch.folder, batch.uidvalidity, entry.uid, entry.uidl, entry.flags),
                        received=entry.received,
                        sha256=entry.sha256 or None,
                    )
                )
    except _UNREADABLE:
        yield Trouble(
            path, "the batch is damaged: it was cut short, or overwritten after it had been written"
        )
        return
    yield from found
