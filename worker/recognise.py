"""Recognising messages that were handed over already, when a server gives all of them new numbers.

After a move or a restore a folder has a new UIDVALIDITY, or a maildrop new UIDLs, and everything in it looks new. So the
digest of each message that is handed over is kept for a while, and a folder that was renumbered is gone through once with
every message compared: a known one is passed over, whatever its number. Nothing is passed over in any other pull, because
two equal letters are two messages. The set is bounded and lives in Redis: what is forgotten comes again under a new
id, and is never lost.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable

from worker import state

DAYS = 90
"""How long a digest is kept: migrations leave the last weeks of mail in doubt, and years of it are on no screen."""
MOST = 20_000
"""Digests kept of one mailbox, the newest: at about 100 octets each they take 2 MB of Redis."""
_FEWEST = 3
"""UIDLs that have to vanish at once before a maildrop counts as renumbered; two may well have been deleted."""


def renamed(*, known: int, gone: int, listed: int) -> bool:
    """Whether a maildrop's UIDLs were given out anew: most that were `known` are `gone`, and as many have appeared."""
    appeared = listed - (known - gone)
    return gone >= _FEWEST and 2 * gone > known and 2 * appeared >= gone


def short(sha256: str) -> str:
    """A digest as it is kept: the first 128 bits of a SHA-256 in hex, as 22 letters."""
    return base64.urlsafe_b64encode(bytes.fromhex(sha256[:32])).decode().rstrip("=")


class Handed:
    """The digests of what was handed over, by mailbox. `sha256` are of raw messages, in hex."""

    def __init__(self, client: state.Client) -> None:
        self._client = client

    def note(self, mailbox: str, sha256: Iterable[str], now: float) -> None:
        """Keep the digests of messages that are durably in the spool; what is too old or too much goes. One command."""
        self._client.register_script(state.NOTE_HANDED)(
            keys=[state.handed_key(mailbox)],
            args=[int(now), DAYS * 86400, MOST, *map(short, sha256)],
        )

    def known(self, mailbox: str, sha256: Collection[str]) -> frozenset[str]:
        """Which of these were handed over, as far as is remembered."""
        if not sha256:
            return frozenset()
        digests = list(sha256)
        scores = self._client.zmscore(state.handed_key(mailbox), list(map(short, digests)))
        return frozenset(digest for digest, score in zip(digests, scores, strict=True) if score is not None)
