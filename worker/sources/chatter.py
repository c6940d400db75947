"""How much a server may say in answer to one command besides what was asked for, and for how long.

Servers may send lines that nobody asked for at any time (RFC 3501 section 7), and each line alone is within its limits. So
all of them together have limits too. It knows nothing of what the lines mean.
"""

from __future__ import annotations

from collections.abc import Callable

from worker.errors import Unreachable

_MOST_LINES = 500_000
"""Against a server that sends short lines without an end, which costs time for each. Honest are some thousands."""
_MOST_OCTETS = 64 << 20
"""Against one that sends long lines without an end. What was asked for, messages above all, does not count."""
_PATIENCE = 5.0
"""Against one that drips: a line now and then, each in time, would hold a worker for ever. In answer times: servers
that index a large folder say `* OK Still here` for minutes, and are honest."""


class Chatter:
    """What one command has brought so far. `seconds` is what one answer may take."""

    def __init__(self, host: str, *, seconds: float, clock: Callable[[], float]) -> None:
        self._host = host
        self._clock = clock
        self._begun = clock()
        self._seconds = _PATIENCE * seconds
        self._lines = 0
        self._octets = 0

    def heard(self, octets: int) -> None:
        """Count one more line, with the literals in it.

        Raises:
            Unreachable: it is too much, or took too long.
        """
        self._lines += 1
        self._octets += octets
        if self._lines > _MOST_LINES or self._octets > _MOST_OCTETS:
            raise Unreachable(
                f"{self._host} sent {self._lines} lines of {self._octets} octets that nobody asked for; hung up"
            )
        if self._clock() - self._begun > self._seconds:
            raise Unreachable(f"{self._host} did not come to an end within {self._seconds:.0f} s; hung up")

    def useful(self) -> None:
        """Something came that was asked for: the time begins anew, because that has an end."""
        self._begun = self._clock()
