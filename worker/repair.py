"""The repair queue: messages that a server lists and does not give, so that no folder waits for them.

Each is noted durably beside the spool before the checkpoint passes it (promise P1), one note a message, so that a flushed
Redis forgets none and two writers cannot undo each other. It is tried again after growing pauses, for as long as it
takes; after the third poll in vain it *stands* in the queue, where a person is told of it. Nothing is thrown away here
but by a person, or because the message is gone from its server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from worker.checkpoint import Place
from worker.spool import Spool

TRIES = 3
"""Polls in vain after which a message stands in the queue and people are told."""
MOST = 1_000
"""Messages withheld in one mailbox beyond which its folders wait: then it is the server that is ill, not its messages."""
_PAUSES = (60, 300, 3600)
"""Seconds until the second poll, the third, and the first that a message spends in the queue."""
_LAST_PAUSE = 4 * 3600
"""Seconds between all later ones; a message that comes at last is then hours late and not days."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One message that was withheld, and why. Times are Unix seconds; `tries` are the polls that asked for it in vain.

    `size` in octets is what is known of it, 0 when nothing is. `recognise`: it may have been handed over under another
    number, so its content is compared when it comes.
    """

    place: Place
    reason: str
    size: int = 0
    since: int = 0
    tries: int = 0
    due: int = 0
    recognise: bool = False

    @property
    def id(self) -> str:
        """The id under which the message is going to be delivered."""
        return self.place.id

    @property
    def stands(self) -> bool:
        """Whether it waits for longer than servers usually need."""
        return self.tries >= TRIES

    def tried(self, now: int) -> Repair:
        """The same after one more try, with the time of the next one."""
        pause = _PAUSES[self.tries] if self.tries < len(_PAUSES) else _LAST_PAUSE
        return replace(self, tries=self.tries + 1, due=now + pause)


class Repairs:
    """The repair queues of all mailboxes. Write only under the lease on the mailbox."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def of(self, mailbox: str) -> list[Repair]:
        """What is withheld in a mailbox, oldest first."""
        found = [_loaded(note) for note in self._spool.noted_messages(mailbox)]
        return sorted(found, key=lambda repair: (repair.since, repair.place))

    def room(self, mailbox: str, ids: Collection[str]) -> bool:
        """Whether these messages may be noted besides those that are."""
        noted = {repair.id for repair in self.of(mailbox)}
        return len(noted.union(ids)) <= MOST

    def note(self, mailbox: str, withheld: Iterable[Repair]) -> None:
        """Note messages, durably when this returns. One that is noted already keeps its times and tries.

        Raises:
            SpoolFull: there is no room on the disk.
        """
        noted = {repair.id: repair for repair in self.of(mailbox)}
        for new in withheld:
            old = noted.get(new.id)
            self._write(mailbox, replace(old, reason=new.reason, size=new.size) if old else new)

    def tried(self, mailbox: str, repairs: Iterable[Repair], now: int) -> list[Repair]:
        """Count a try of each before it is made: a message that ends its session every time must not do so at every poll."""
        counted = [repair.tried(now) for repair in repairs]
        for repair in counted:
            self._write(mailbox, repair)
        return counted

    def ask(self, mailbox: str, id: str) -> None:  # noqa: A002
        """Have the next pull try a message again, whatever is known of it; one that has come meanwhile is left alone."""
        for repair in self.of(mailbox):
            if repair.id == id:
                self._write(mailbox, replace(repair, due=0, size=0))

    def strike(self, mailbox: str, ids: Collection[str]) -> None:
        """Strike messages off: they have come, are gone from their server, or a person gave them up."""
        if ids:
            for repair in self.of(mailbox):
                if repair.id in ids:
                    self._spool.forget_message(mailbox, repair.id)

    def forget_others(self, mailbox: str, folder: str, uidvalidity: int | None) -> None:
        """Strike off what was withheld in a folder under another UIDVALIDITY: it is listed again, as new."""
        self.strike(
            mailbox,
            [
                repair.id
                for repair in self.of(mailbox)
                if repair.place.folder == folder and repair.place.uidvalidity != uidvalidity
            ],
        )

    def _write(self, mailbox: str, repair: Repair) -> None:
        self._spool.note_message(mailbox, repair.id, asdict(repair))


def _loaded(note: Any) -> Repair:
    return Repair(**{**note, "place": Place(**note["place"])})
