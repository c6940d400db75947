"""A mail server in memory, and outputs in memory: the world around the program that the model knows everything of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date

from pipelines.message import Message
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused, Retry
from worker.sources import Fetched, Group, Opened, Ref, Withheld

Happening = Callable[[], None]


class MailServer:
    """One folder. Messages get uids in the order in which they come; each raw message holds its uid."""

    def __init__(self) -> None:
        self.last = 0
        self.withheld: set[int] = set()
        """Messages that are listed and not given."""
        self.during_fetch: list[Happening] = []
        """What happens elsewhere while a client waits for its first group of messages, its second, and so on."""

    def arrive(self, count: int) -> None:
        """New messages."""
        self.last += count

    def raw(self, uid: int) -> bytes:
        """A message's bytes."""
        return f"Subject: crate {uid}\r\n\r\nnumber {uid}\r\n".encode()


class MemorySource:
    """A session with a `MailServer`, with the contract of `worker.sources.Source`."""

    def __init__(self, server: MailServer) -> None:
        self._server = server

    def open(self, folder: str, *, writable: bool) -> Opened:
        """There is one folder."""
        return Opened(folder, 7, self._server.last + 1, self._server.last)

    def start(self, opened: Opened, since: date | None) -> tuple[int, frozenset[str]]:
        """Everything is skipped."""
        return (opened.uid_next or 1) - 1, frozenset()

    def find(self, opened: Opened, uids: Sequence[int], uidls: Sequence[str]) -> list[Ref]:
        """Nothing ever goes away."""
        return [Ref(uid=uid, size=40) for uid in sorted(uids)]

    def new(self, opened: Opened, *, after: int, seen: frozenset[str]) -> Iterator[list[Ref]]:
        """In windows of five."""
        uids = range(after + 1, opened.uid_next or 1)
        for start in range(0, len(uids), 5):
            yield [Ref(uid=uid, size=40) for uid in uids[start : start + 5]]

    def back(self, opened: Opened, *, low: int, high: int, seen: frozenset[str]) -> Iterator[list[Ref]]:
        """In windows of five, from the newest down."""
        for top in range(high, low - 1, -5):
            yield [Ref(uid=uid, size=40) for uid in range(max(low, top - 4), top + 1)]

    def gone(self, opened: Opened, seen: frozenset[str]) -> Sequence[str]:
        """Nothing."""
        return ()

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """Group by group."""
        for group in groups:
            if self._server.during_fetch:
                self._server.during_fetch.pop(0)()
            yield group, iter([self._asked(ref) for ref in group])

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """One by one."""
        return self.fetch([ref] for ref in refs)

    def _asked(self, ref: Ref) -> Fetched | Withheld:
        if ref.uid in self._server.withheld:
            return Withheld(ref, "left out", ref.size)
        return Fetched(ref, (self._server.raw(ref.uid or 0),))

    def settle(self, refs: Sequence[Ref], action: str) -> None:
        """AFTER=keep in this model."""

    def finish(self) -> None:
        """Nothing has to be confirmed."""

    def close(self) -> None:
        """Nothing is open."""


class Ledger(Output):
    """An output that keeps what it accepted, and answers as its `mood` says."""

    type_name = "ledger"

    def __init__(self, name: str) -> None:
        super().__init__(name, OutputOptions())
        self.mood = "well"
        self.accepted: list[tuple[str, bytes]] = []

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        """`well`, `down`, `refusing`, `raising`, or `moody`: each message another answer."""
        if self.mood == "raising":
            raise ConnectionError
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Receipt:
        turn = (
            int(message.id, 16) % 3 if self.mood == "moody" else {"down": 0, "refusing": 1}.get(self.mood, 2)
        )
        if turn == 0:
            return Retry("down")
        if turn == 1:
            return Refused("not wanted")
        self.accepted.append((message.id, bytes(message.raw)))
        return Accepted()
