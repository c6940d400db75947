"""Kept connections: signed-in sessions that wait in this process for the next pull of their mailbox (KEEP_CONNECTION).

Nothing depends on them: what is wrong with one is answered by a new one in the same pull. A session is taken out while it
is used. One that is too old, whose token is about to end, or whose mailbox is configured otherwise by now is closed
instead of used; so are those that a forked process finds, which are its parent's. Each process keeps its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from worker.mailbox import Mailbox
from worker.sources import Source
from worker.tokens import AccessToken

_OLDEST_SECONDS = 900.0
"""A session is kept no longer than this behind its sign-in, so that what a server does not announce, as a folder that was
put in the place of another one, is found after a quarter of an hour. It is also shorter than any server's time limit
for the idle (RFC 3501 section 5.4)."""
_TOKEN_MARGIN_SECONDS = 120.0
"""So long before the end of its token a session is not begun to be used any more."""
_MOST = 64
"""Sessions kept by one process, of 300 kB each; beyond that the one that was used least lately is closed."""


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in source, and the token that it lives on; a password has none and does not end.

    `since` is when it signed in, in Unix seconds. `arrived` is told when a folder was opened: the host is there.
    """

    source: Source
    token: AccessToken | None
    since: float = 0
    arrived: Callable[[], None] = lambda: None


class Kept:
    """The sessions that one process keeps. `clock` tells Unix seconds."""

    def __init__(self, clock: Callable[[], float], *, most: int = _MOST) -> None:
        self._clock = clock
        self._most = most
        self._process = os.getpid()
        # In the order of their last use.
        self._resting: dict[str, tuple[Mailbox, Session]] = {}

    def take(self, mailbox: Mailbox) -> Session | None:
        """The session that was kept for a mailbox, if it may still be used. It is not kept any more."""
        self._close_old()
        before, session = self._resting.pop(mailbox.name, (None, None))
        if session and before != mailbox:
            session.source.close()
            return None
        return session

    def keep(self, mailbox: Mailbox, session: Session) -> bool:
        """Keep a session for the next pull of its mailbox; False when that is not wanted or not possible."""
        if not (mailbox.keep_connection and self._lasts(session) and session.source.rest()):
            return False
        self._close_old()
        self._resting[mailbox.name] = (mailbox, session)
        while len(self._resting) > self._most:
            self._close(next(iter(self._resting)))
        return True

    def let_go(self, session: Session) -> None:
        """Close a session, unless it is kept."""
        if not any(session is resting for _, resting in self._resting.values()):
            session.source.close()

    def close(self) -> None:
        """Close all; a goodbye is not needed."""
        for name in list(self._resting):
            self._close(name)

    def _close_old(self) -> None:
        if os.getpid() != self._process:
            # Closing takes nothing from the parent: it neither says goodbye nor ends the encryption.
            self.close()
            self._process = os.getpid()
        for name in [name for name, (_, session) in self._resting.items() if not self._lasts(session)]:
            self._close(name)

    def _lasts(self, session: Session) -> bool:
        now = self._clock()
        ends = session.token.expires_at - _TOKEN_MARGIN_SECONDS if session.token else now
        return 0 <= now - session.since < _OLDEST_SECONDS and now <= ends

    def _close(self, name: str) -> None:
        _, session = self._resting.pop(name)
        session.source.close()
