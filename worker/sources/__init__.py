"""The contract of a source: a live protocol session to one mailbox.

A source lists what is new in a folder, brings the raw bytes, and settles messages afterwards. It decides nothing: what
counts as new and what has been handed over come in as arguments, and it keeps no state between sessions. The server is
hostile (promise P8): every answer has a deadline, every size a limit. Callers import only this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

from worker.errors import Misconfigured, Unreachable


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens. `tls` is `implicit` or `starttls`; there is no unencrypted way."""

    host: str
    port: int
    tls: str
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to sign in: `user` is the mailbox's name on the server; a secret is a token or a password."""

    user: str
    secret: str = field(repr=False)
    bearer: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """A folder as the server opened it. POP3 has no `uidvalidity`, and no `uid_next`."""

    folder: str
    uidvalidity: int | None
    uid_next: int | None
    exists: int


@dataclass(frozen=True, slots=True)
class FolderName:
    """A folder that can be opened: `name` parts its levels by `/`, `spelled` by the server's own separator."""

    name: str
    spelled: str


@dataclass(frozen=True, slots=True)
class Ref:
    """One message as a listing names it; `size` in octets is the server's word, which may be wrong."""

    uid: int | None = None
    uidl: str | None = None
    number: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """One raw message. `chunks` must be consumed before the next message is asked for."""

    ref: Ref
    chunks: Iterable[bytes | bytearray]
    flags: tuple[str, ...] = ()
    received: datetime | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """A message that the server lists and does not give, or that is too large; `reason` is a sentence.

    `size` in octets is what is known of it: as the server listed it, or as it announced it when it began to send.
    """

    ref: Ref
    reason: str
    size: int = 0


class Refused(Unreachable):
    """The server refused a command in words that nobody knows: it may concern one message and not the session."""


class TooLarge(Unreachable):
    """What the server began to send is larger than its limit, so the rest was not read and the session is of no use.

    `size` in octets is what it announced, or the least that it can be.
    """

    def __init__(self, sentence: str, *, size: int, mailbox: str | None = None) -> None:
        super().__init__(sentence, mailbox=mailbox)
        self.size = size


class NoPush(Misconfigured):
    """The server cannot announce new mail: the mailbox is left to its schedule."""


class NoSuchFolder(Misconfigured):
    """The server has no folder of this name, or none for this account. The other folders are pulled."""

    state = "folder missing"


Group = tuple[Sequence[Ref], Iterator[Fetched | Withheld]]
"""Messages that were asked for together, and what the server made of it, in its own order."""


class Listener(Protocol):
    """A signed-in session that waits for the server to announce mail in one folder, for `asyncio`."""

    async def news(self, seconds: float) -> bool:
        """Wait for new mail; False when there was none for `seconds`.

        Raises:
            SessionExpired, Throttled, Unreachable: the session is over, and why.
        """
        ...

    def close(self) -> None:
        """Hang up; never raises."""
        ...


class Source(Protocol):
    """A signed-in session."""

    def folders(self) -> Sequence[FolderName]:
        """Every folder that can be opened; costs a round trip, so it is asked for patterns only.

        Raises:
            Unreachable: there are more than anybody has.
        """
        ...

    def open(self, folder: str, *, writable: bool) -> Opened:
        """Open a folder; read-only unless it is going to be settled.

        Raises:
            NoSuchFolder: the server has none of this name.
        """
        ...

    def start(self, opened: Opened, since: date | None) -> tuple[int, frozenset[str]]:
        """What a new mailbox skips, as the highest uid and as UIDLs: all that is there, or all before `since`."""
        ...

    def back(self, opened: Opened, *, low: int, high: int, seen: frozenset[str]) -> Iterator[list[Ref]]:
        """List what lies between two IMAP uids, both included, or the POP3 messages whose UIDL is not `seen`.

        A window at a time, from the newest down. A window is fetched before the next one is listed.
        """
        ...

    def find(self, opened: Opened, uids: Sequence[int], uidls: Sequence[str]) -> list[Ref]:
        """Those of these messages that the server still has."""
        ...

    def new(self, opened: Opened, *, after: int, seen: frozenset[str]) -> Iterator[list[Ref]]:
        """List what is new, a window at a time: IMAP uids above `after`, or POP3 messages whose UIDL is not `seen`.

        A window is fetched before the next one is listed: they share the connection.
        """
        ...

    def gone(self, opened: Opened, seen: frozenset[str]) -> Sequence[str]:
        """Which of these UIDLs the server no longer lists."""
        ...

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """Bring the raw messages, group by group; a source may ask for the next group ahead.

        Of each message asked for the group says that it came or that it was withheld, unless it ends with an error.
        """
        ...

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """Bring messages that were withheld, each alone and by every way the protocol has."""
        ...

    def settle(self, refs: Sequence[Ref], action: str) -> None:
        """Apply `seen`, `delete` or `move:FOLDER` to messages of the open folder; no harm when told again."""
        ...

    def rest(self) -> bool:
        """Whether the session can be kept for a next pull, with nothing outstanding; its next answer then has a short time.

        A folder that is still open in it may be opened again for one round trip, and is as it was when nothing happened.
        """
        ...

    def finish(self) -> None:
        """End the session in order, so that what was settled takes effect (POP3 deletes at QUIT).

        Raises:
            Unreachable: the server did not confirm; settling has to be told again.
        """
        ...

    def close(self) -> None:
        """Hang up; never raises. Harmless after `finish`."""
        ...


def grouped(refs: Sequence[Ref], *, messages: int, octets: int) -> Iterator[list[Ref]]:
    """Cut a listing into batches of at most `messages` and `octets`; a larger message is a batch of its own."""
    group: list[Ref] = []
    total = 0
    for ref in refs:
        if group and (len(group) >= messages or total + ref.size > octets):
            yield group
            group, total = [], 0
        group.append(ref)
        total += ref.size
    if group:
        yield group
