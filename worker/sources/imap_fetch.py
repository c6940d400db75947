"""Bringing messages over IMAP (RFC 3501): UID FETCH, what comes of it, and what to make of what does not come.

Answers are read as key and value, in any order, with lines in between that nobody asked for. A message that the server
lists and does not give is said to be withheld, and never ends the session; a huge one is handed over in pieces. What a
line means that belongs to no message is the session's business (`imap.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from worker.sources import Fetched, Group, Ref, Refused, TooLarge, Withheld
from worker.sources.fetch_answer import Answer, fields
from worker.sources.imap_text import instant, uid_sets
from worker.sources.placeholder import judged
from worker.sources.refusal import FETCHING, meaning
from worker.sources.transport import Wire

_LINE = 1 << 20
"""Longest line: above a server's longest honest answer, below what would fill the memory."""
_STREAMED = 1 << 20
"""A message of at least this size that is asked for alone is handed over in pieces."""
_LITERAL = re.compile(rb"\{(\d+)\}$")
_WHOLE = "(UID FLAGS INTERNALDATE BODY.PEEK[])"
_IN_TWO = "(UID FLAGS INTERNALDATE BODY.PEEK[HEADER] BODY.PEEK[TEXT])"
"""For messages that Exchange does not give as a whole (OfflineIMAP#62)."""


@dataclass(frozen=True, slots=True)
class Done:
    """The tagged end of a command: its status and text."""

    status: str
    text: str


class Retrieval:
    """The messages of one session. `message_max` (octets) is the largest one taken.

    `tag` makes one; `tagged` reads the end of the command that has this tag, `untagged` any other line.
    """

    def __init__(
        self,
        wire: Wire,
        tag: Callable[[], str],
        tagged: Callable[[bytes, str], Done | None],
        untagged: Callable[[bytes], None],
        *,
        message_max: int,
    ) -> None:
        self._wire = wire
        self._tag = tag
        self._tagged = tagged
        self._untagged = untagged
        self._message_max = message_max

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """UID FETCH each group with BODY.PEEK[]; the next group is asked for while this one is read.

        A huge message is asked for alone, so that what streams in can only be that message.
        """
        waiting: tuple[str, Sequence[Ref]] | None = None
        early: dict[int, Fetched] = {}
        for group in groups:
            alone = self._alone(group) or (waiting is not None and self._alone(waiting[1]))
            asked = None if alone else (self._ask(group), group)
            if waiting:
                yield waiting[1], self._answers(*waiting, early)
            if self._oversize(group):
                waiting = None
                yield group, self._probed(group[0])
            else:
                waiting = asked or (self._ask(group), group)
        if waiting:
            yield waiting[1], self._answers(*waiting, early)

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """UID FETCH each message alone: whole, and if it is withheld again, by its header and its text."""
        for ref in refs:
            yield [ref], self._probed(ref) if self._oversize([ref]) else self._rescued(ref)

    def _ask(self, group: Sequence[Ref], items: str = _WHOLE) -> str:
        tag = self._tag()
        uids = ",".join(uid_sets(ref.uid for ref in group if ref.uid))
        self._wire.send(f"{tag} UID FETCH {uids} {items}\r\n".encode())
        return tag

    def _rescued(self, ref: Ref) -> Iterator[Fetched | Withheld]:
        withheld: Withheld | None = None
        for message in self._answers(self._ask([ref]), [ref], {}):
            if isinstance(message, Fetched) or self._alone([replace(ref, size=message.size)]):
                # What is huge is not read into the memory in two parts.
                yield message
            else:
                withheld = message
        if withheld:
            yield from self._answers(self._ask([ref], _IN_TWO), [ref], {})

    def _probed(self, ref: Ref) -> Iterator[Fetched | Withheld]:
        """A message that was listed as too large. Listed sizes lie, so one octet behind the limit is asked for first."""
        behind = self._ask([ref], f"(UID BODY.PEEK[]<{self._message_max}.1>)")
        too_large = Withheld(ref, f"it has {ref.size} octets, more than MESSAGE_MAX allows", ref.size)
        try:
            found = list(self._answers(behind, [ref], {}))
        except TooLarge:
            # This server knows no parts of messages, and began to send it whole.
            yield too_large
            raise
        if any(isinstance(octet, Fetched) for octet in found):
            yield too_large
        else:
            yield from self._answers(self._ask([ref]), [ref], {})

    def _answers(
        self, tag: str, group: Sequence[Ref], early: dict[int, Fetched]
    ) -> Iterator[Fetched | Withheld]:
        """One group's messages. A server may answer two commands at once: what belongs to the next group waits in `early`."""
        wanted = {ref.uid or 0: ref for ref in group}
        for uid in sorted(early.keys() & wanted.keys()):
            yield judged(replace(early.pop(uid), ref=wanted.pop(uid)))
        while True:
            line = self._wire.line(_LINE)
            if done := self._tagged(line, tag):
                break
            if not line.startswith(b"* ") or b"FETCH" not in line[:40].upper():
                self._untagged(line)
                continue
            try:
                answer = self._fetch_answer(line, group)
            except TooLarge as error:
                # Of several messages it may be any that has not come yet; alone, each will say so itself.
                alone = len(wanted) == 1
                for ref in wanted.values():
                    yield Withheld(ref, error.sentence, error.size if alone else ref.size)
                raise
            if answer.uid is None or answer.body is None:
                continue
            fetched = Fetched(Ref(uid=answer.uid), answer.body, answer.flags, instant(answer.internaldate))
            if answer.uid in wanted:
                yield judged(replace(fetched, ref=wanted.pop(answer.uid)))
            else:
                early[answer.uid] = fetched
        reason = f"{self._wire.endpoint.host} answered OK and left it out"
        if done.status != "OK":
            refused = meaning(done.text, host=self._wire.endpoint.host, during=FETCHING)
            if not isinstance(refused, Refused):
                raise refused
            reason = refused.sentence
        yield from (Withheld(ref, reason, ref.size) for ref in wanted.values())

    def _fetch_answer(self, line: bytes, group: Sequence[Ref]) -> Answer:
        """One FETCH answer with its literals. A huge body of a message that was asked for alone is streamed."""
        literals: list[bytes | bytearray] = []
        while found := _LITERAL.search(line):
            count = int(found.group(1))
            if count > self._message_max:
                raise TooLarge(
                    f"{self._wire.endpoint.host} announced a message of {count} octets, more than MESSAGE_MAX allows",
                    size=count,
                )
            if _huge(group) and line.upper().endswith(b"BODY[] " + found.group(0)):
                return self._streamed(line[: found.start()], count, literals, group[0].uid)
            literals.append(self._wire.exactly(count))
            # The placeholder cannot occur in a line: NUL is in no IMAP text.
            line = line[: found.start()] + b"\0" + self._wire.line(_LINE)
        return fields(line, tuple(literals)) or Answer()

    def _streamed(
        self, line: bytes, count: int, literals: list[bytes | bytearray], uid: int | None
    ) -> Answer:
        """A body that is still on the wire. What follows it, as the uid does with some servers, is passed over."""
        ahead = fields(line + b'"")', tuple(literals)) or Answer()

        def chunks() -> Iterator[bytes | bytearray]:
            yield from self._wire.chunks(count)
            rest = self._wire.line(_LINE)
            while found := _LITERAL.search(rest):
                self._wire.exactly(min(int(found.group(1)), _LINE))
                rest = self._wire.line(_LINE)

        return Answer(uid, ahead.size, ahead.flags, ahead.internaldate, chunks())

    def _alone(self, group: Sequence[Ref]) -> bool:
        """Whether nothing else may be asked for while this group is read."""
        return _huge(group) or self._oversize(group)

    def _oversize(self, group: Sequence[Ref]) -> bool:
        return len(group) == 1 and group[0].size > self._message_max


def _huge(group: Sequence[Ref]) -> bool:
    """Whether a group is one message that is too large to lie in memory whole."""
    return len(group) == 1 and group[0].size >= _STREAMED
