"""A folder of this machine as an object store, for whoever has no other, and for tests.

The library would write there too, but waits for no disk. Files have mode 0600; no unfinished one has a name outside of
`.drafts`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.outputs.stores import Content, ObjectStore, StoreError

_ABANDONED_SECONDS = 36 * 3600


class Folder(ObjectStore):
    """A folder of this machine; the library would write there too, but waits for no disk."""

    def __init__(self, root: Path, *, clock: Callable[[], float]) -> None:
        self._root = root
        self._drafts = root / ".drafts"
        self._drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._drafts.iterdir():
            with suppress(FileNotFoundError):
                if left.stat().st_ctime < clock() - _ABANDONED_SECONDS:
                    left.unlink()

    def add(self, key: str, content: Content, *, media_type: str) -> bool:
        """Write a file where none is; where one is, see to it that its name is on the disk."""
        if not self.holds(key):
            self.replace(key, content, media_type=media_type)
            return True
        # Whoever put it there may have died before.
        with self._explained():
            self._sync_folders(self._root / key)
        return False

    def replace(self, key: str, content: Content, *, media_type: str) -> None:  # noqa: ARG002  (a file has no type)
        """Write a draft, wait for the disk, and give it its name."""
        path = self._root / key
        with self._explained():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._drafts)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.writelines(content.pieces())
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            self._sync_folders(path)

    def holds(self, key: str) -> bool:
        """Tell whether a file is there."""
        return (self._root / key).exists()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self._root} cannot be written: {error.strerror}") from None

    def _sync_folders(self, path: Path) -> None:
        """Make the names on the way to a file as durable as its bytes."""
        for folder in path.parents:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if folder == self._root:
                return
