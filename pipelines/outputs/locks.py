"""Keeps other processes, and other threads, away from a file while it is written; every wait has a deadline.

All locks go with the process that holds them, but for the file `PATH.lock` of mail programs: Mailquay recognises its own
there and takes it over. Locks on a network disk are as good as its server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock, lockf
from pathlib import Path

LOCK_SECONDS = 30.0
_POLL_SECONDS = 0.005
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a lock, and by which clock; all in seconds."""

    seconds: float = LOCK_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def wait(self, attempt: Callable[[], bool], *, hindrance: str) -> None:
        """Try until it works.

        Raises:
            TimeoutError: it did not work in time; `hindrance` is a clause that says what is in the way.
        """
        deadline = self.clock() + self.seconds
        while not attempt():
            if self.clock() >= deadline:
                raise TimeoutError(f"{hindrance} for {self.seconds:g} s; does it hang?")
            self.sleep(_POLL_SECONDS)


@contextmanager
def opened_alone(path: Path, *, lock: Path, patience: Patience) -> Iterator[int]:
    """Open the file `path` to append to it, made with mode 0600 if need be, under flock(2) on `lock`.

    Raises:
        OSError: a file cannot be opened, or another process holds the lock for too long.
    """
    with _flocked(lock, patience):
        file = os.open(path, _APPEND, 0o600)
        try:
            yield file
        finally:
            os.close(file)


@contextmanager
def opened_as_mailbox(path: Path, *, lock: Path, patience: Patience) -> Iterator[int]:
    """The same for a mailbox file, locked in the ways of mail programs too: `path.lock` and fcntl(2) on the file itself.

    `path.lock` is a hard link to `lock`. Who has flock(2) on `lock` knows that no other Mailquay is at work: a link that
    is there already was left by one that died, and is taken over. Those of other programs are never broken.

    Raises:
        OSError: as `opened_alone`; or the disk knows no hard links.
    """
    dot = path.with_name(f"{path.name}.lock")
    with _flocked(lock, patience) as ours:
        # Other programs tell an abandoned one by its age.
        os.utime(ours)
        try:
            patience.wait(lambda: _link(lock, dot), hindrance=f"another program holds {dot.name}")
            with _fcntl_locked(path, patience) as file:
                yield file
        finally:
            if _is_same(lock, dot):
                dot.unlink()


@contextmanager
def _flocked(path: Path, patience: Patience) -> Iterator[int]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        patience.wait(lambda: _try(flock, lock), hindrance=f"another process holds {path.name}")
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _fcntl_locked(path: Path, patience: Patience) -> Iterator[int]:
    file = os.open(path, _APPEND, 0o600)
    try:

        def attempt() -> bool:
            # A mail program that rewrites its mailbox puts a new file in its place while we wait for the old one.
            if not _is_same(path, file):
                renewed = os.open(path, _APPEND, 0o600)
                os.dup2(renewed, file, inheritable=False)
                os.close(renewed)
            return _try(lockf, file) and _is_same(path, file)

        patience.wait(attempt, hindrance=f"another program holds {path.name}")
        yield file
    finally:
        os.close(file)


def try_lockf(file: int) -> bool:
    """Take the lock of fcntl(2) on what is open as `file`, for this process, until it unlocks or ends.

    Raises:
        OSError: there can be no lock on it.
    """
    return _try(lockf, file)


def _try(lock: Callable[[int, int], object], file: int) -> bool:
    try:
        lock(file, LOCK_EX | LOCK_NB)
    except (BlockingIOError, PermissionError):
        # Which of the two fcntl(2) says depends on the system.
        return False
    return True


def _link(lock: Path, dot: Path) -> bool:
    with suppress(FileExistsError):
        os.link(lock, dot)
    return _is_same(lock, dot)


def _is_same(path: Path, other: Path | int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.stat(other))  # noqa: PTH116  (one may be a descriptor)
    except FileNotFoundError:
        return False
