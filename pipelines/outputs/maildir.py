"""Files each message, byte for byte, in a Maildir that any mail program can read.

The name of the file is the message id, so a message that comes again is recognised in `new/` and, with whatever flags a
mail program gave it, in `cur/`. A receipt says accepted only when file and name are on the disk. A message that a
person deleted from the Maildir is not remembered. Files have mode 0600 and, when the server told, the time of receipt.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipelines.message import Message
from pipelines.options import FilePath
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Retry

SUFFIX = ".mailquay"
# Mail programs remove what lies in tmp/ for 36 hours; we do so with our own files, for nobody may read this Maildir.
ABANDONED_SECONDS = 36 * 3600


class MaildirOptions(OutputOptions):
    """Where the Maildir is."""

    path: FilePath = Field(
        description="Folder of the Maildir; it is made, with tmp, new and cur, when it is missing.",
        examples=["/data/Maildir"],
    )


class MaildirOutput(Output):
    """Puts messages into `new/` of the Maildir PATH."""

    type_name: ClassVar[str] = "maildir"
    Options: ClassVar[type[OutputOptions]] = MaildirOptions
    dedupes: ClassVar[bool] = True

    options: MaildirOptions

    def __init__(self, name: str, options: MaildirOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, tells what in `tmp/` is abandoned."""
        super().__init__(name, options)
        self._clock = clock
        self._tmp, self._new, self._cur = (options.path / folder for folder in ("tmp", "new", "cur"))

    def open(self) -> None:
        """Make the Maildir and remove what dead writers left in `tmp/`.

        Raises:
            OSError: a folder cannot be made or read.
        """
        for folder in (self.options.path, self._tmp, self._new, self._cur):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._tmp.glob(f"*{SUFFIX}.*"):
            with suppress(FileNotFoundError):
                # Its last change, which nobody can set, unlike its other times.
                if left.stat().st_ctime < self._clock() - ABANDONED_SECONDS:
                    left.unlink()

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """File the messages that are not there yet.

        All are written before the first is synced, which is a third faster than one after the other.

        Raises:
            OSError: a folder cannot be read or synced.
        """
        if not messages:
            return []
        # A dict, because one call may hold the same message twice.
        missing = {message.id: message for message in messages if not self._place(message.id).exists()}
        for id_ in self._filed(missing.keys()):
            del missing[id_]
        drafts: dict[str, Path] = {}
        failures: dict[str, Retry] = {}
        for id_, message in missing.items():
            try:
                drafts[id_] = self._draft(message)
            except OSError as error:
                failures[id_] = self._retry(error)
        for id_, draft in drafts.items():
            try:
                _sync(draft)
                draft.rename(self._place(id_))
            except OSError as error:
                draft.unlink(missing_ok=True)
                failures[id_] = self._retry(error)
        # Also for messages that were there already: whoever filed them may have died before this line.
        _sync(self._new)
        return [failures.get(message.id) or Accepted() for message in messages]

    def _place(self, id_: str) -> Path:
        return self._new / f"{id_}{SUFFIX}"

    def _filed(self, ids: Collection[str]) -> set[str]:
        """Find those ids that a mail program moved to `cur/`: one walk over the folder a call, in flat memory.

        It comes after the look into `new/`, so that a message on its way from there to here is seen.
        """
        if not ids:
            return set()
        with os.scandir(self._cur) as entries:
            names = (entry.name.partition(SUFFIX)[0] for entry in entries)
            return {name for name in names if name in ids}

    def _draft(self, message: Message) -> Path:
        """Write a message to `tmp/` under a name that no other process uses."""
        file, name = tempfile.mkstemp(dir=self._tmp, prefix=f"{message.id}{SUFFIX}.")
        draft = Path(name)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(message.raw)
            self._date(draft, message.received_at)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        return draft

    def _date(self, draft: Path, received_at: datetime | None) -> None:
        """Set the time of the file, which mail programs show as the date of receipt."""
        if received_at is not None:
            # A server may claim a date that no file system can hold; the message matters more.
            with suppress(OSError, OverflowError):
                os.utime(draft, times=(self._clock(), received_at.timestamp()))

    def _retry(self, error: OSError) -> Retry:
        return Retry(f"{self.options.path} cannot be written: {error.strerror}")


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
