"""Carries letters into the demo's mailboxes, and remembers each by its digest, so that nothing can get lost unseen."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import requests

from worker.demo.letters import letter
from worker.demo.variables import BERTHS, Berth
from worker.errors import Unreachable


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter: its number, the mailbox it goes to, and the SHA-256 of its bytes in hex."""

    number: int
    berth: Berth
    raw: bytes = field(repr=False)
    digest: str


class Carrier:
    """Writes letters and brings them to the servers. `clock` gives Unix seconds; use it as a context manager."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # The same letters at every demo, but for their dates.
        self._rng = random.Random(20261123)
        self._session = requests.Session()
        # A proxy of this machine has no business with loopback.
        self._session.trust_env = False
        # Servers close a connection that was idle for some seconds, perhaps just when the next letter comes.
        self._session.headers["Connection"] = "close"
        self.written = 0
        self.brought = 0

    def __enter__(self) -> Self:
        """Nothing is connected before the first letter."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the connection go."""
        self._session.close()

    def write(self, count: int) -> list[Letter]:
        """The next letters, for all mailboxes in turn."""
        return [self._next() for _ in range(count)]

    def bring(self, lab: str, letters: Sequence[Letter]) -> None:
        """Put letters into their mailboxes through the servers' lab address.

        Raises:
            Unreachable: the servers are gone.
        """
        for each in letters:
            try:
                answer = self._session.post(
                    f"{lab}/deliver", params={"mailbox": each.berth.address}, data=each.raw, timeout=10
                )
                answer.raise_for_status()
            except requests.RequestException as error:
                raise Unreachable(
                    f"the demo's servers took no letter ({type(error).__name__})", mailbox=each.berth.name
                ) from error
            self.brought += 1

    def _next(self) -> Letter:
        self.written += 1
        number = self.written
        # Ten kinds of letters over four mailboxes: the shift lets every mailbox have letters of every kind.
        berth = BERTHS[(number + number // 10) % len(BERTHS)]
        now = datetime.fromtimestamp(self._clock(), UTC)
        raw = letter(number, to=berth.address, rng=self._rng, now=now)
        return Letter(number, berth, raw, hashlib.sha256(raw).hexdigest())
