"""The time as a test would have it."""

from __future__ import annotations

import time


class Clock:
    """The real time, which a test may move on or back: `ahead` is in seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Unix seconds."""
        return time.time() + self.ahead
