"""Bringing messages over IMAP (RFC 3501): UID FETCH, what comes of it, and what to make of what does not come.

Answers are read as key and value, in any order, with lines in between that nobody asked for. A message that the server
lists and does not give is said to be withheld, and never ends the session; a huge one is handed over in pieces. What a
line means that belongs to no message is the session's business (`imap.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.imap_text import instant
from worker.errors import Unreachable
from worker.sources import Fetched, Group, Ref, Refused, TooLarge, Withheld
from worker.sources.ahead import asked_ahead
from worker.sources.chatter import Chatter
from worker.sources.fetch_answer import Answer, fields
from worker.sources.imap_text import uid_sets
from worker.sources.placeholder import judged
from worker.sources.refusal import FETCHING, meaning
from worker.sources.transport import Wire

_LINE = 1 << 20
"""Longest line, against one without an end that would fill the memory: above every honest answer."""
_STREAMED = 1 << 20
"""A message of at least this size that is asked for alone is handed over in pieces."""
_FETCH = re.compile(rb"\* \d{1,10} FETCH ", re.IGNORECASE)
_LITERAL = re.compile(rb"~?\{(\d{1,20})\+?\}$")
"""Also as `~{n}` (RFC 3516) and `{n+}`, which servers should not send."""
_BEHIND = re.compile(rb"\)\s*$| [A-Z0-9.<>\[\]-]+ ", re.IGNORECASE)
"""How an answer goes on after a literal (RFC 3501 section 9): it ends, or another item follows."""
_UID = re.compile(rb"[( ]UID (\d{1,10})(?!\d)", re.IGNORECASE)
_AT_ONCE = 600
"""Uids in one command: scattered ones of ten digits take 6,600 octets, and Exchange refuses a line of more than 10,500."""
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

    `tag` makes one; `tagged` reads the end of the command that has this tag, `untagged` any other line, and `chatter`
    counts them from a command's beginning.
    """

    def __init__(
        self,
        wire: Wire,
        tag: Callable[[], str],
        tagged: Callable[[bytes, str], Done | None],
        untagged: Callable[[bytes], None],
        chatter: Callable[[], Chatter],
        *,
        message_max: int,
    ) -> None:
        self._wire = wire
        self._tag = tag
        self._tagged = tagged
        self._untagged = untagged
        self._chatter = chatter
        self._message_max = message_max

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """UID FETCH each group with BODY.PEEK[]; the next ones are asked for while this one is read.

        A huge message is asked for alone, so that what streams in can only be that message.
        """
        early: dict[int, Fetched] = {}
        for group, tag, ahead in asked_ahead(_sendable(groups), self._ask_unless_oversize, alone=self._alone):
            if tag is None:
                yield group, self._probed(group[0])
            else:
                yield group, self._answers(tag, group, early, ahead=ahead)

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """UID FETCH each message alone: whole, and if it is withheld again, by its header and its text."""
        for ref in refs:
            yield [ref], self._probed(ref) if self._oversize([ref]) else self._rescued(ref)

    def _ask_unless_oversize(self, group: Sequence[Ref]) -> str | None:
        return None if self._oversize(group) else self._ask(group)

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
        self, tag: str, group: Sequence[Ref], early: dict[int, Fetched], *, ahead: Sequence[Ref] = ()
    ) -> Iterator[Fetched | Withheld]:
        """One group's messages. A server may answer two commands at once: what belongs to a group `ahead` waits in `early`.

        What nobody asked for is read and dropped.
        """
        wanted = {ref.uid or 0: ref for ref in group}
        next_ones = {ref.uid for ref in ahead}
        room = 2 * sum(ref.size for ref in ahead) + _STREAMED
        chatter = self._chatter()
        for uid in sorted(early.keys() & wanted.keys()):
            yield judged(replace(early.pop(uid), ref=wanted.pop(uid)))
        while True:
            line = self._wire.line(_LINE)
            if done := self._tagged(line, tag):
                break
            if not _FETCH.match(line):
                chatter.heard(len(line))
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
            if answer.uid is not None and answer.body is not None:
                fetched = Fetched(
                    Ref(uid=answer.uid), answer.body, answer.flags, instant(answer.internaldate)
                )
                if answer.uid in wanted:
                    yield judged(replace(fetched, ref=wanted.pop(answer.uid)))
                    chatter.useful()
                    continue
                if answer.uid in next_ones and answer.uid not in early:
                    early[answer.uid] = fetched
                    room -= sum(map(len, answer.body))
                    if room < 0:
                        # Else a server could fill the memory with what is not counted as any group's.
                        raise Unreachable(
                            f"{self._wire.endpoint.host} announced messages and sent more than twice their octets"
                        )
                    continue
            chatter.heard(len(line) + sum(map(len, answer.body or ())))
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
        octets = 0
        line = line.replace(b"\0", b"")
        while found := _LITERAL.search(line):
            count = int(found.group(1))
            octets += count
            # All literals of one answer together: a server may send small ones without an end.
            if octets > self._message_max or len(line) > _LINE:
                raise TooLarge(
                    f"{self._wire.endpoint.host} announced a message of {octets} octets, more than MESSAGE_MAX allows",
                    size=octets,
                )
            if not _huge(group):
                literals.append(self._wire.exactly(count))
            elif (said := _UID.search(line)) and int(said[1]) != group[0].uid:
                # Nobody asked for it, so it is not kept while it passes.
                for _ in self._wire.chunks(count):
                    pass
                literals.append(b"")
            elif line.upper().endswith(b"BODY[] " + found.group(0)):
                return self._streamed(line[: found.start()], count, literals, group[0].uid)
            else:
                literals.append(self._wire.exactly(count))
            # The placeholder cannot occur in a line: NUL is in no IMAP text.
            line = line[: found.start()] + b"\0" + self._behind()
        if not line.rstrip().endswith(b")"):
            raise self._torn()
        return fields(line, tuple(literals)) or Answer()

    def _behind(self) -> bytes:
        """What follows a literal on its line.

        Raises:
            Unreachable: anything else is still the message, or the next answer, and a part of a message is not kept.
        """
        rest = self._wire.line(_LINE).replace(b"\0", b"")
        if not _BEHIND.match(rest):
            raise self._torn()
        return rest

    def _torn(self) -> Unreachable:
        return Unreachable(
            f"{self._wire.endpoint.host} announced a message of another length than it sent; hung up, nothing of it is kept"
        )

    def _streamed(
        self, line: bytes, count: int, literals: list[bytes | bytearray], uid: int | None
    ) -> Answer:
        """A body that is still on the wire. What follows it, as the uid does with some servers, is passed over."""
        ahead = fields(line + b'"")', tuple(literals)) or Answer()

        def chunks() -> Iterator[bytes | bytearray]:
            yield from self._wire.chunks(count)
            rest, chatter = self._behind(), self._chatter()
            while found := _LITERAL.search(rest):
                chatter.heard(len(rest) + int(found.group(1)))
                self._wire.exactly(int(found.group(1)))
                rest = self._behind()

        return Answer(uid, ahead.size, ahead.flags, ahead.internaldate, chunks())

    def _alone(self, group: Sequence[Ref]) -> bool:
        """Whether nothing else may be asked for while this group is read."""
        return _huge(group) or self._oversize(group)

    def _oversize(self, group: Sequence[Ref]) -> bool:
        return len(group) == 1 and group[0].size > self._message_max


def _sendable(groups: Iterable[Sequence[Ref]]) -> Iterator[Sequence[Ref]]:
    """The groups, each short enough for one command."""
    for group in groups:
        for start in range(0, len(group), _AT_ONCE):
            yield group[start : start + _AT_ONCE]


def _huge(group: Sequence[Ref]) -> bool:
    """Whether a group is one message that is too large to lie in memory whole."""
    return len(group) == 1 and group[0].size >= _STREAMED
