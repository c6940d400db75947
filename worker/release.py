"""Releases: messages that were handed over, so that their server may now be told to mark, move or delete them.

Each is one small durable file beside the spool, written before what knows of the messages otherwise goes: the batch that
every output has accepted, or with AFTER_WHEN=spooled the checkpoint that stands before them. So neither a flushed Redis nor
a death forgets one. Its name says when, where and how many: a hundred thousand of them cost a poll nothing until they are
due. A release that is noted or applied twice does no harm.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass

from worker.spool import Spool

_NAME = re.compile(r"(?P<at>\d{11})-(?P<folder>[0-9a-f]{16})-(?P<messages>\d+)-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Release:
    """Messages of one folder, handed over `at` a Unix second: the uids of IMAP or the UIDLs of POP3.

    `recognised`: they had been handed over under other numbers, and `at` is when that was found out.
    """

    folder: str
    uidvalidity: int | None
    at: int
    uids: tuple[int, ...] = ()
    uidls: tuple[str, ...] = ()
    recognised: bool = False

    @property
    def messages(self) -> int:
        """How many messages it names."""
        return len(self.uids) + len(self.uidls)

    @property
    def name(self) -> str:
        """Its name among those of its mailbox: by time, and the same for the same release."""
        return f"{self.at:011d}-{_short(self.folder)}-{self.messages}-{_short(repr(self))}"


class Releases:
    """The releases of all mailboxes. Anybody may note one; apply and strike off only under the lease on the mailbox."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def note(self, mailbox: str, release: Release) -> None:
        """Note a release, durably when this returns.

        Raises:
            SpoolFull: there is no room on the disk.
        """
        if release.messages:
            self._spool.note_release(mailbox, release.at, release.name, asdict(release))

    def due(self, mailbox: str, folder: str, until: int, *, most: int) -> list[Release]:
        """What was handed over in a folder until a Unix second, oldest first, and no more once it is `most` messages."""
        here = _short(folder)
        return self._read(mailbox, until, most, lambda key: key == here)

    def elsewhere(self, mailbox: str, folders: Collection[str], until: int, *, most: int) -> list[Release]:
        """The same of every folder but these."""
        here = set(map(_short, folders))
        return self._read(mailbox, until, most, lambda key: key not in here)

    def strike(self, mailbox: str, releases: Iterable[Release]) -> None:
        """Strike releases off: they were applied, or never can be."""
        for release in releases:
            self._spool.forget_release(mailbox, release.at, release.name)

    def strike_all(self, mailbox: str) -> None:
        """Strike off every release of a mailbox."""
        for name, found in list(self._named(mailbox, None)):
            self._spool.forget_release(mailbox, int(found["at"]), name)

    def waiting(self, mailbox: str) -> int:
        """How many messages wait to be settled, due or not."""
        return sum(int(found["messages"]) for _, found in self._named(mailbox, None))

    def _read(self, mailbox: str, until: int, most: int, wanted: Callable[[str], bool]) -> list[Release]:
        releases: list[Release] = []
        messages = 0
        for name, found in self._named(mailbox, until):
            if messages >= most:
                break
            if wanted(found["folder"]) and (note := self._spool.release(mailbox, int(found["at"]), name)):
                uids, uidls = tuple(note["uids"]), tuple(note["uidls"])
                releases.append(Release(**{**note, "uids": uids, "uidls": uidls}))
                messages += releases[-1].messages
        return releases

    def _named(self, mailbox: str, until: int | None) -> Iterator[tuple[str, re.Match[str]]]:
        """The names, oldest first, with what they tell; a file that is none of ours is let be."""
        for name in self._spool.releases(mailbox, until):
            if found := _NAME.fullmatch(name):
                yield name, found


def _short(text: str) -> str:
    """Text of any length and letters as sixteen that a file name can hold."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
