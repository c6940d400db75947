"""The folder that a demo writes into: everything it makes lies here, and it empties no folder that it did not make.

A marker file says that a folder is the demo's. It is locked while a demo runs, so that a second one does not sweep the
floor under the first.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.errors import Misconfigured

MARKER = ".mailquay-demo"


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the three outputs of the demo leave on the disk; the last is what the webhook receiver accepted."""

    lines: Path
    maildir: Path
    receiver_log: Path


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The places in a demo's folder."""

    path: Path

    @property
    def env_file(self) -> Path:
        """What the installation is told; a verb in this folder finds it."""
        return self.path / ".env"

    @property
    def data(self) -> Path:
        """DATA_DIR: the spool, the embedded Valkey and the keys that seal tokens."""
        return self.path / "data"

    @property
    def servers(self) -> Path:
        """Certificates, secrets and the webhook receiver's log."""
        return self.path / "servers"

    @property
    def servers_log(self) -> Path:
        """What the demo's servers said."""
        return self.path / "servers.log"

    @property
    def roles_log(self) -> Path:
        """What beat and the workers said."""
        return self.path / "roles.log"

    @property
    def outputs(self) -> Outputs:
        """Where delivered mail is."""
        return Outputs(self.path / "mail.jsonl", self.path / "Maildir", self.servers / "receiver.jsonl")


@contextmanager
def claimed(folder: DemoFolder) -> Iterator[None]:
    """Make the folder, or empty the one of an earlier demo, and keep other demos out for the length of the block.

    Raises:
        Misconfigured: it holds something that no demo made, another demo runs in it, or it cannot be made.
    """
    with ExitStack() as stack:
        try:
            _make(folder.path)
            marker = stack.enter_context((folder.path / MARKER).open("a"))
            _lock(marker.fileno(), folder.path)
            _empty(folder.path)
        except OSError as error:
            raise Misconfigured(
                f"{folder.path} cannot be the demo's folder ({error.strerror}). Name another one with --dir"
            ) from error
        yield


def _make(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    held = {entry.name for entry in path.iterdir()}
    if held and MARKER not in held:
        raise Misconfigured(
            f"{path} holds files that no demo made; none was touched. Name another folder with --dir"
        )


def _lock(marker: int, path: Path) -> None:
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Misconfigured(
            f"another demo runs in {path}. End it with Ctrl-C, or name another folder with --dir"
        ) from None


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
