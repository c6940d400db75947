"""Moves a file that grows out of the way, when it is large enough or of another day, under a name that sorts by time.

`mail.jsonl` becomes `mail-20261123T235959.123456Z.jsonl`: the moment of its last change, in UTC, and always behind the
names that are there. Nothing is copied and nothing is overwritten; the caller holds the lock that writers share.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_MOMENT = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file makes room for a new one: at `size` bytes, and with `daily` at midnight UTC; `now` is in Unix seconds."""

    size: int | None = None
    daily: bool = False
    now: Callable[[], float] = time.time

    def is_due(self, *, size: int, changed_at: float, more: int) -> bool:
        """Whether `more` bytes are too many for a file of `size` bytes, or its last change was on an earlier day."""
        if not size:
            return False
        is_full = self.size is not None and size + more > self.size
        return is_full or (self.daily and _day(changed_at) < _day(self.now()))


def move_away(path: Path, *, changed_at: float) -> None:
    """Give the file its name for good. `changed_at`, in Unix seconds, is its last change.

    Raises:
        OSError: the folder cannot be read or written.
    """
    moment = _date(changed_at)
    # A clock that was put back must not bring the files out of order.
    if there := rotated(path):
        moment = max(moment, _moment(path, there[-1]) + timedelta(microseconds=1))
    os.rename(path, path.with_name(f"{path.stem}-{moment.strftime(_MOMENT)}{path.suffix}"))  # noqa: PTH104


def rotated(path: Path) -> list[Path]:
    """Return the files that `path` was moved to and that are still there, the oldest first."""
    name = re.compile(re.escape(path.stem) + r"-\d{8}T\d{6}\.\d{6}Z" + re.escape(path.suffix))
    return sorted(other for other in path.parent.iterdir() if name.fullmatch(other.name))


def _moment(path: Path, other: Path) -> datetime:
    return datetime.strptime(
        other.name[len(path.stem) + 1 : len(other.name) - len(path.suffix)], _MOMENT
    ).replace(tzinfo=UTC)


def _day(seconds: float) -> int:
    return int(seconds // 86400)


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
