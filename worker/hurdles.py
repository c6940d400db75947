"""Hurdles: messages at which sessions with a server keep ending, so that one of them cannot stop its folder for ever.

A server, or something between, may hang up, hang or break the protocol at the same message each time ("one bad message
stops the account's progress for ever" is what the field reports most). So it is counted which message was the first that
did not come. From the second time on it is asked for by itself, so that no other is blamed in its place; later it is
set aside, into the repair queue. What counts is kept here; `bring.py` acts on it. Redis may lose the numbers: then it takes
a few more polls.
"""

from __future__ import annotations

from typing import cast

from worker import state

SUSPECTED = 2
"""Times after which a message is asked for by itself: two in a row are no chance any more."""
BLAMED = 5
"""Times after which a message is set aside, if others behind it come: then the connection works without it."""
LONELY = 10
"""Times after which it is set aside though nothing lies behind it that could come. With the growing pauses between polls
this takes a quarter of an hour, so that a short trouble of the server does not put its newest message last."""
_KEPT_SECONDS = 86400
"""Polls of a failing mailbox are minutes apart; what was counted a day ago says nothing."""


class Hurdles:
    """How often sessions ended at which message, by mailbox. Write only under the lease on the mailbox."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def times(self, mailbox: str) -> dict[str, int]:
        """Message id -> how often a session ended there in the last day; empty as a rule."""
        found = cast("dict[str, str]", self._client.hgetall(state.hurdles_key(mailbox)))
        return {message: int(count) for message, count in found.items()}

    def stumbled(self, mailbox: str, message: str) -> None:
        """Count that a session ended when this message should have come."""
        key = state.hurdles_key(mailbox)
        self._client.hincrby(key, message, 1)
        self._client.expire(key, _KEPT_SECONDS)
