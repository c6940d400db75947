"""Files each message in a folder of its own: the raw message, its JSON, and its attachments under safe names.

The folder is written under `.tmp` of PATH, synced, and renamed, so whoever watches PATH sees whole messages only. Its
place follows from the message alone, so a message that comes again is recognised while its folder is there; nothing in
it is touched then. Names are made of what Mailquay knows and of what `pipelines.file_name` leaves of a stranger's words:
no message leads out of PATH. A receipt says accepted only when everything is on the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import orjson
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pipelines.attachments import Folder, attachments
from pipelines.message import Message
from pipelines.options import FilePath, Names
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Retry
from pipelines.outputs.appended_file import sync
from pipelines.outputs.name_pattern import check_pattern, expand

# So long nobody works on one message.
ABANDONED_SECONDS = 36 * 3600
_KINDS = frozenset({"raw", "json", "attachments"})


class FilesOptions(OutputOptions):
    """Where the folders go, and what is in them."""

    path: FilePath = Field(
        description="Folder that holds the folders of messages; it is made when it is missing.",
        examples=["/data/mail"],
    )
    pattern: str = Field(
        default="{mailbox}/{received:%Y/%m/%d}/{id}",
        description="Place of a message's folder in PATH; {id} is in it. Days are those of UTC.",
        examples=["{received:%Y-%m}/{id}"],
    )
    contents: Names = Field(
        default=("raw", "json", "attachments"),
        description="What is written: `raw` as `message.eml`, `json` as `message.json`, `attachments` to a folder "
        "of that name, with `attachments.json` that lists them.",
    )

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        return check_pattern(pattern, needed=("id",))

    @field_validator("contents")
    @classmethod
    def _are_kinds(cls, contents: tuple[str, ...]) -> tuple[str, ...]:
        if not contents or not _KINDS.issuperset(contents):
            raise PydanticCustomError("contents", "write one or more of raw, json and attachments")
        return contents


class FilesOutput(Output):
    """Puts each message into a folder of its own in PATH."""

    type_name: ClassVar[str] = "files"
    Options: ClassVar[type[OutputOptions]] = FilesOptions
    dedupes: ClassVar[bool] = True

    options: FilesOptions

    def __init__(self, name: str, options: FilesOptions, *, clock: Callable[[], float] = time.time) -> None:
        """Remember the options; `clock`, in Unix seconds, tells what in `.tmp` is abandoned."""
        super().__init__(name, options)
        self._clock = clock
        self._tmp = options.path / ".tmp"

    def open(self) -> None:
        """Make PATH and remove what dead writers left in `.tmp`.

        Raises:
            OSError: a folder cannot be made or read.
        """
        self.options.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tmp.mkdir(mode=0o700, exist_ok=True)
        for left in self._tmp.iterdir():
            with suppress(FileNotFoundError):
                # Its last change, which nobody can set, unlike its other times.
                if left.stat().st_ctime < self._clock() - ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """File the messages that are not there yet.

        All are written before the first is synced, so that the disk can put them down together.
        """
        # A dict, because one call may hold the same message twice.
        wanted = {message.id: message for message in messages}
        drafts: dict[str, Path] = {}
        receipts: dict[str, Receipt] = {}
        for id_, message in wanted.items():
            try:
                if not self._place(message).is_dir():
                    drafts[id_] = self._draft(message)
            except OSError as error:
                receipts[id_] = self._retry(error)
        for id_, message in wanted.items():
            if id_ not in receipts:
                receipts[id_] = self._file(drafts.get(id_), self._place(message))
        return [receipts[message.id] for message in messages]

    def _place(self, message: Message) -> Path:
        return self.options.path / expand(self.options.pattern, message)

    def _draft(self, message: Message) -> Path:
        """Write a message to `.tmp`, in a folder that no other process uses."""
        draft = Path(tempfile.mkdtemp(dir=self._tmp, prefix=f"{message.id}."))
        try:
            if "raw" in self.options.contents:
                _write(draft / "message.eml", message.raw)
            if "json" in self.options.contents:
                _write(draft / "message.json", message.to_json())
            if "attachments" in self.options.contents:
                _write_attachments(draft, message)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return draft

    def _file(self, draft: Path | None, place: Path) -> Receipt:
        """Put a draft into its place durably; without one, see that what is there is durable."""
        try:
            if draft is not None:
                _sync_tree(draft)
                for folder in reversed(place.parents[: self._depth(place) - 1]):
                    folder.mkdir(mode=0o700, exist_ok=True)
                _rename(draft, place)
            # Also for a message that was there already: whoever filed it may have died before this line. A folder that
            # has not changed costs nothing.
            for folder in place.parents[: self._depth(place) + 1]:
                sync(folder)
        except OSError as error:
            return self._retry(error)
        finally:
            # What another process filed first is not needed, nor what could not be filed.
            if draft is not None and draft.exists():
                shutil.rmtree(draft, ignore_errors=True)
        return Accepted()

    def _depth(self, place: Path) -> int:
        """Count the steps from PATH down to a place."""
        return len(place.relative_to(self.options.path).parts)

    def _retry(self, error: OSError) -> Retry:
        return Retry(f"{self.options.path} cannot be written: {error.strerror}")


def _write(path: Path, octets: bytes | memoryview) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb", buffering=0) as out:
        rest = memoryview(octets)
        while rest:
            rest = rest[out.write(rest) :]


def _write_attachments(draft: Path, message: Message) -> None:
    """Write the attachments, decoded, and which file is which; nothing for a message without."""
    parts = list(attachments(message))
    if not parts:
        return
    with Folder(draft / "attachments") as folder:
        listed = [
            {
                "file": written.file,
                "partId": written.part_id,
                "name": written.name,
                "type": written.type,
                "size": written.size,
                "sha256": written.sha256,
            }
            for written in map(folder.write, parts)
        ]
    _write(draft / "attachments.json", orjson.dumps(listed))


def _rename(draft: Path, place: Path) -> None:
    """Let the folder appear in its place, unless one is there."""
    try:
        draft.rename(place)
    except OSError as error:
        # Another process was faster, and what it filed is whole.
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise


def _sync_tree(folder: Path) -> None:
    """Wait until all files below a folder, and their names, are on the disk."""
    for path, _, names in os.walk(folder):
        for name in names:
            sync(Path(path, name))
        sync(Path(path))
