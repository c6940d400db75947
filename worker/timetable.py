"""Who is due: a sorted set in Redis that any number of beats may claim from.

Each entry has a stable phase, so that ten thousand mailboxes with the same interval do not come at once. A claim
re-arms what it takes in the same instant. A throttled or broken mailbox is parked by moving its due time. It knows
nothing of Celery; `schedule.py` rings the bells. Times are Unix seconds outside, milliseconds inside Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from worker import state

SWEEP = "sweep"
KEEP_ALIVE = "keep_alive"
ALERT = "alert"
"""The entries beside the mailboxes. A mailbox's entry is `pull:NAME`."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A bell that was rung and not yet answered by finished work: when first, when last."""

    entry: str
    first: float
    last: float


def pull_entry(mailbox: str) -> str:
    """The entry under which a mailbox stands in the timetable."""
    return f"pull:{mailbox}"


def phase(entry: str, interval: float) -> float:
    """Seconds into its interval at which an entry is due: the same on every host, evenly spread over entries."""
    share = int.from_bytes(hashlib.sha256(entry.encode()).digest()[:8]) / 2**64
    return share * interval


def _spelled(entry: str, interval: float | None) -> str:
    """An interval with its phase, in milliseconds, as the scripts read it."""
    return "cron" if interval is None else f"{int(interval * 1000)}:{int(phase(entry, interval) * 1000)}"


class Timetable:
    """The entries and when each is due."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def sync(self, wanted: Mapping[str, float | None], now: float) -> None:
        """Make the entries exactly these: entry -> interval in seconds, or None for one with a cron line.

        A new entry is due at once, an entry no longer wanted is removed, and one whose interval was shortened is due
        within the new one. Any number of beats may call this with the same configuration.
        """
        spelled = [text for entry, interval in wanted.items() for text in (entry, _spelled(entry, interval))]
        self._client.register_script(state.SYNC_SCHEDULE)(
            keys=[state.DUE, state.EVERY, state.RUNG], args=[int(now * 1000), *spelled]
        )

    def claim(self, now: float, limit: int = 1000) -> list[str]:
        """Take at most `limit` due entries; of any number of callers exactly one gets each."""
        taken = self._client.register_script(state.CLAIM_DUE)(
            keys=[state.DUE, state.EVERY, state.RUNG], args=[int(now * 1000), limit]
        )
        return cast("list[str]", taken)

    def next_due(self) -> float | None:
        """When the next entry is due, or None when there are none."""
        first = cast("list[tuple[str, float]]", self._client.zrange(state.DUE, 0, 0, withscores=True))
        return first[0][1] / 1000 if first else None

    def due(self, entry: str) -> float | None:
        """When an entry is due, or None when it is unknown."""
        score = self._client.zscore(state.DUE, entry)
        return None if score is None else score / 1000

    def park(self, entry: str, until: float) -> None:
        """Move the due time of a known entry."""
        self._client.zadd(state.DUE, {entry: until * 1000}, xx=True)

    def answered(self, entry: str) -> None:
        """The work that the bell asked for was done, well or badly."""
        self._client.hdel(state.RUNG, entry)

    def unanswered(self) -> list[Rung]:
        """The bells that nobody has answered yet, oldest first."""
        rung = cast("dict[str, str]", self._client.hgetall(state.RUNG))
        found = [Rung(entry, *(int(part) / 1000 for part in text.split(":"))) for entry, text in rung.items()]
        return sorted(found, key=lambda bell: bell.first)

    def rung_again(self, bell: Rung, now: float) -> None:
        """Record that a bell was rung once more, so that it is not rung again at once."""
        self._client.hset(state.RUNG, bell.entry, f"{int(bell.first * 1000)}:{int(now * 1000)}")

    def may_ring(self, ticket: str, seconds: int = 60) -> bool:
        """Whether the bell of a batch has not been rung in the last `seconds`; from now on it has."""
        return bool(self._client.set(state.bell_key(ticket), 1, nx=True, ex=seconds))
