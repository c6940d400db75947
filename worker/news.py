"""News: mailboxes whose server has announced new mail that no pull has looked for yet.

A note is made once however often the server says it, and taken away when a pull begins; one that is made while a mailbox is
pulled makes that pull be followed by another. Nothing depends on it but how soon mail comes: whatever is lost here, the
schedule finds.
"""

from __future__ import annotations

from worker import state
from worker.timetable import pull_entry


class News:
    """The mailboxes that have news. `noted` asks for Unix seconds."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def noted(self, mailbox: str, now: float) -> bool:
        """Note that a mailbox has news; whether its bell is to be rung for that.

        It is not while an earlier bell is on its way, nor for a mailbox whose last pull failed: that one is parked.
        """
        needed = self._client.register_script(state.NOTE_NEWS)(
            keys=[state.NEWS, state.standing_key(mailbox), state.RUNG],
            args=[mailbox, pull_entry(mailbox), int(now * 1000)],
        )
        return bool(needed)

    def taken(self, mailbox: str) -> None:
        """A pull begins: what was announced before, it finds."""
        self._client.srem(state.NEWS, mailbox)

    def there(self, mailbox: str) -> bool:
        """Whether more was announced since the last pull began."""
        return bool(self._client.sismember(state.NEWS, mailbox))
