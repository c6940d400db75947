"""Writes each call's messages into a Parquet file, in folders by day of receipt, on a disk or in an object store.

The file is named after the ids in it, so a call that is repeated replaces its own file. A message that comes again in
other company has a second row, with the same id: whoever reads counts ids. A receipt says accepted when the file is
complete and durable; no reader ever sees an unfinished one. Files are never changed otherwise, joined or removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import IO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.message import Message
from pipelines.options import Flag
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Retry
from pipelines.outputs.mail_table import SCHEMA, row
from pipelines.outputs.name_pattern import UNDATED, expand
from pipelines.outputs.stores import PART_BYTES, Content, ObjectStore, StoreError
from pipelines.outputs.stores.opening import open_store
from pipelines.outputs.stores.options import StoreOptions

# Rows of about so many bytes are in memory at once; more begin a new row group.
GROUP_BYTES = 16 << 20
# Of a column that is not here the writer would gather every value once more, and a message is a large value.
_OF_FEW_VALUES = ["mailbox", "folder", "from_name", "from_email"]
_LOOKED_UP = ["id", "mailbox", "folder", "from_email", "sent_at", "received_at", "size"]
# What Hive and all that read its folders take for no value.
_NO_DATE = "__HIVE_DEFAULT_PARTITION__"


class ParquetOptions(StoreOptions):
    """Where the files go, and what is in them beside the columns that are always there."""

    raw: Flag = Field(default=False, description="Whether the column `raw` holds the message itself.")
    attachments: Flag = Field(
        default=False, description="Whether the column `attachments` holds their decoded contents."
    )


class ParquetOutput(Output):
    """Writes files `received_date=2026-11-24/….parquet` under URL."""

    type_name: ClassVar[str] = "parquet"
    Options: ClassVar[type[OutputOptions]] = ParquetOptions
    # A file a call: small files are what makes reading slow.
    batch_size = 1000

    options: ParquetOptions
    _store: ObjectStore

    def __init__(self, name: str, options: ParquetOptions) -> None:
        """Remember the options."""
        super().__init__(name, options)

    def open(self) -> None:
        """Make the client, or the folder of a file URL.

        Raises:
            OSError: CA_FILE cannot be read, a folder cannot be made, or the options do not make a store.
        """
        self._store = open_store(self.options)

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """Write a file for each day of receipt; when one cannot be written, the later ones are not tried.

        Raises:
            OSError: there is no room to put a file together.
        """
        days: dict[str, dict[str, Message]] = {}
        for message in messages:
            # By id, because one call may hold the same message twice.
            days.setdefault(_day(message), {})[message.id] = message
        receipts: dict[str, Receipt] = {}
        trouble: Retry | None = None
        for day, some in sorted(days.items()):
            trouble = trouble or self._write(day, some)
            receipts |= dict.fromkeys(some, trouble or Accepted())
        return [receipts[message.id] for message in messages]

    def _write(self, day: str, messages: dict[str, Message]) -> Retry | None:
        # The same messages make the same name, in whatever order they come.
        name = sha256("\n".join(sorted(messages)).encode()).hexdigest()[:32]
        with tempfile.TemporaryFile() as file:
            with pq.ParquetWriter(
                file, SCHEMA, compression="zstd", use_dictionary=_OF_FEW_VALUES, write_statistics=_LOOKED_UP
            ) as writer:
                for rows in self._row_groups(messages.values()):
                    writer.write_table(rows)
            # Else it keeps what the largest message took.
            pa.default_memory_pool().release_unused()
            try:
                self._store.replace(
                    f"received_date={day}/{name}.parquet",
                    Content(file.tell(), lambda: _pieces(file)),
                    media_type="application/vnd.apache.parquet",
                )
            except StoreError as error:
                return Retry(str(error))
        return None

    def _row_groups(self, messages: Iterable[Message]) -> Iterator[pa.Table]:
        rows, size = [], 0
        for message in messages:
            rows.append(row(message, raw=self.options.raw, contents=self.options.attachments))
            size += message.size
            if size >= GROUP_BYTES:
                yield pa.Table.from_pylist(rows, schema=SCHEMA)
                rows, size = [], 0
        if rows:
            yield pa.Table.from_pylist(rows, schema=SCHEMA)


def _day(message: Message) -> str:
    day = expand("{received:%Y-%m-%d}", message)
    return _NO_DATE if day == UNDATED else day


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(PART_BYTES):
        yield piece
