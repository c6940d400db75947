"""A session with a POP3 server (RFC 1939, 2449, 5034), reading what is new and deleting what was delivered.

Messages are known by their UIDL; message numbers are good for one session only. XOAUTH2 is always sent in two steps,
because Exchange hangs up on the one-line form. Deletion takes effect at QUIT, and only there. RETR is pipelined where
the server says it can be. It is our own thin layer because `poplib` cannot sign in with SASL, reads line by line, and
takes the rest of a message for the next answer after a line of more than 2,048 octets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date

from worker.errors import Misconfigured, Unreachable
from worker.sources import (
    Credentials,
    Endpoint,
    Fetched,
    FolderName,
    Group,
    Opened,
    Ref,
    Refused,
    TooLarge,
    Withheld,
    sasl,
)
from worker.sources.arrival import arrival
from worker.sources.placeholder import judged
from worker.sources.refusal import FETCHING, meaning, shown
from worker.sources.transport import Wire

_LINE = 64 * 1024
"""Longest single answer line; RFC 1939 allows 512 octets, tokens and banners are longer."""
_LISTING = 64 << 20
"""Largest UIDL or LIST answer: about a million messages."""

_OLD = 100
"""So many messages in a row that are too old end the search for young ones: older mail is not asked about."""
_HEAD = 256 * 1024
"""Of a longer head no more is read; the dates stand at its top."""


class Pop3Source:
    """A signed-in POP3 session. `message_max` (octets) is the largest message taken."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        *,
        message_max: int,
        answer_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._wire = Wire(endpoint, answer_seconds=answer_seconds, clock=clock)
        self._endpoint = endpoint
        self._message_max = message_max
        self._listing: dict[str, int] | None = None
        try:
            self._greeting()
            self._capabilities = self._capa()
            if endpoint.tls == "starttls":
                self._start_tls()
            self._sign_in(credentials)
            # What a server can do after signing in may differ from before (RFC 2449 section 5).
            self._capabilities = self._capa()
        except BaseException:
            self._wire.close()
            raise

    # -- signing in ----------------------------------------------------------------------------------------------

    def _greeting(self) -> None:
        line = self._answer()
        if line.startswith("-ERR"):
            raise meaning(line[5:], host=self._endpoint.host, during="connecting")
        if not line.startswith("+OK"):
            raise Misconfigured(
                f"{self._endpoint.host} port {self._endpoint.port} does not speak POP3. Check HOST, PORT, PROTOCOL."
            )

    def _start_tls(self) -> None:
        answer = self._say("STLS")
        if not answer.startswith("+OK"):
            raise Misconfigured(
                f"{self._endpoint.host} offers no STLS: {shown(answer)}. Set TLS=implicit and its port."
            )
        self._wire.start_tls()
        self._capabilities = self._capa()

    def _capa(self) -> dict[str, frozenset[str]]:
        if not self._say("CAPA").startswith("+OK"):
            return {}
        lines = b"".join(self._wire.dotted(_LISTING)).decode("latin-1").upper().splitlines()
        return {words[0]: frozenset(words[1:]) for line in lines if (words := line.split())}

    def _sign_in(self, credentials: Credentials) -> None:
        offered = self._capabilities.get("SASL", frozenset())
        # A server that answers no CAPA is asked for the usual mechanism of a token.
        chosen = sasl.mechanism(credentials, offered or frozenset({"XOAUTH2"}))
        if credentials.bearer and chosen is None:
            raise Misconfigured(
                f"{self._endpoint.host} offers no way to sign in with a token "
                f"(it offers {', '.join(sorted(offered))}). Check AUTH and HOST."
            )
        if credentials.bearer:
            answer = self._authenticate(str(chosen), credentials)
        else:
            answer = self._say(f"USER {_word(credentials.user)}")
            if answer.startswith("+OK"):
                answer = self._say(f"PASS {_word(credentials.secret)}")
        if not answer.startswith("+OK"):
            raise meaning(answer.removeprefix("-ERR "), host=self._endpoint.host, during="signing in")

    def _authenticate(self, mechanism: str, credentials: Credentials) -> str:
        answer = self._say(f"AUTH {mechanism}")
        if answer.startswith("+"):
            answer = self._say(sasl.encoded(mechanism, credentials, self._endpoint).decode())
        if answer.startswith("+") and not answer.startswith("+OK"):
            # The error challenge; the refusal comes after our answer to it.
            answer = self._say(sasl.answer_to_challenge(mechanism).decode())
        return answer

    # -- reading -------------------------------------------------------------------------------------------------

    def folders(self) -> Sequence[FolderName]:
        """INBOX: POP3 knows no other."""
        return [FolderName("INBOX", "INBOX")]

    def open(self, folder: str, *, writable: bool) -> Opened:  # noqa: ARG002  (a maildrop is always writable)
        """The maildrop is open since signing in; it has one folder."""
        return Opened(folder, None, None, len(self._uidls()))

    def start(self, opened: Opened, since: date | None) -> tuple[int, frozenset[str]]:  # noqa: ARG002
        """The UIDLs to skip: the whole listing, or what arrived before a day by the messages' own heads.

        Raises:
            Misconfigured: the server has no TOP, and POP3 tells dates in no other way.
        """
        listing = self._uidls()
        return 0, frozenset(listing if since is None else listing.keys() - self._arrived(listing, since))

    def new(self, opened: Opened, *, after: int, seen: frozenset[str]) -> Iterator[list[Ref]]:  # noqa: ARG002
        """UIDL and LIST: every message whose UIDL is not among `seen`, in the server's order, in one window."""
        fresh = {uidl: number for uidl, number in self._uidls().items() if uidl not in seen}
        if fresh:
            sizes = self._numbered("LIST")
            yield [
                Ref(uidl=uidl, number=number, size=int(sizes.get(number, "0").split()[0]))
                for uidl, number in fresh.items()
            ]

    def back(self, opened: Opened, *, low: int, high: int, seen: frozenset[str]) -> Iterator[list[Ref]]:  # noqa: ARG002
        """Every message whose UIDL is not among `seen`, in one window, in the server's order: the newest last."""
        yield from self.new(opened, after=0, seen=seen)

    def gone(self, opened: Opened, seen: frozenset[str]) -> Sequence[str]:  # noqa: ARG002
        """Which of these UIDLs the server no longer lists."""
        return sorted(seen - self._uidls().keys())

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """RETR each message; with PIPELINING the next group is asked for while this one is read."""
        ahead = "PIPELINING" in self._capabilities
        waiting: Sequence[Ref] | None = None
        for group in groups:
            if ahead:
                asked = (ref for ref in group if ref.size <= self._message_max)
                self._wire.send(b"".join(f"RETR {ref.number}\r\n".encode() for ref in asked))
            if waiting:
                yield waiting, self._retrieved(waiting, asked=ahead)
            waiting = group
        if waiting:
            yield waiting, self._retrieved(waiting, asked=ahead)

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """RETR each message, one after the other: POP3 has no other way."""
        for ref in refs:
            yield [ref], self._retrieved([ref], asked=False)

    def find(self, opened: Opened, uids: Sequence[int], uidls: Sequence[str]) -> list[Ref]:  # noqa: ARG002
        """Those of these UIDLs that are in the listing, with their numbers in this session."""
        listing = self._uidls()
        return [Ref(uidl=uidl, number=listing[uidl]) for uidl in uidls if uidl in listing]

    def settle(self, refs: Sequence[Ref], action: str) -> None:
        """DELE each message by its UIDL; it is gone when `finish` has ended the session.

        Raises:
            Misconfigured: POP3 can do nothing but delete.
        """
        if action != "delete":
            raise Misconfigured(f"POP3 cannot do AFTER={action}; use keep or delete")
        for ref in refs:
            self._expect(f"DELE {ref.number}", during="deleting delivered messages")

    def finish(self) -> None:
        """QUIT: only now the deletions happen (RFC 1939 section 6).

        Raises:
            Unreachable: the server did not confirm.
        """
        try:
            self._expect("QUIT", during="ending the session")
        finally:
            self._wire.close()

    def close(self) -> None:
        """Hang up; deletions that were not confirmed by `finish` do not happen."""
        self._wire.close()

    # -- the protocol --------------------------------------------------------------------------------------------

    def _arrived(self, listing: Mapping[str, int], since: date) -> set[str]:
        """What arrived on a day or later, or at a time that nobody can tell.

        Servers list in the order of arrival, so it is looked at from the end until `_OLD` in a row are too old.
        """
        newest_first = sorted(listing, key=lambda uidl: -listing[uidl])
        young: set[str] = set()
        for start in range(0, len(newest_first), _OLD):
            some = newest_first[start : start + _OLD]
            heads = zip(some, self._heads([listing[uidl] for uidl in some]), strict=True)
            found = {uidl for uidl, head in heads if not _before(head, since)}
            if not found:
                break
            young |= found
        return young

    def _heads(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """TOP n 0: the heads of messages, each cut to what holds the dates."""
        commands = [f"TOP {number} 0\r\n".encode() for number in numbers]
        ahead = "PIPELINING" in self._capabilities
        if ahead:
            self._wire.send(b"".join(commands))
        refused: Misconfigured | None = None
        for command in commands:
            if not ahead:
                self._wire.send(command)
            answer = self._answer()
            if not answer.startswith("+OK"):
                # What was asked for ahead is answered all the same, and must not be taken for other answers.
                refused = Misconfigured(
                    f"{self._endpoint.host} does not show the heads of messages ({shown(answer)}), and POP3 tells dates "
                    "in no other way. Set SINCE=now or SINCE=all."
                )
                continue
            head = b""
            for piece in self._wire.dotted(self._message_max):
                head += piece[: max(_HEAD - len(head), 0)]
            if not refused:
                yield head
        if refused:
            raise refused

    def _uidls(self) -> dict[str, int]:
        """UIDL -> message number in this session."""
        if self._listing is None:
            listed = self._numbered("UIDL")
            if nameless := sum(not uidl for uidl in listed.values()):
                raise Unreachable(
                    f"{self._endpoint.host} listed {nameless} messages without a UIDL, so they cannot be told from those "
                    "that were pulled before; nothing is pulled until it names them"
                )
            # Of equal copies with one UIDL, which RFC 1939 allows, one is enough.
            self._listing = {uidl: number for number, uidl in listed.items()}
        return self._listing

    def _numbered(self, command: str) -> dict[int, str]:
        """A listing of `number rest` lines."""
        self._expect(command, during="listing messages")
        listing = b"".join(self._wire.dotted(_LISTING)).decode("latin-1")
        found: dict[int, str] = {}
        for line in listing.splitlines():
            number, _, rest = line.partition(" ")
            with suppress(ValueError):
                found[int(number)] = rest.strip()
        return found

    def _retrieved(self, group: Sequence[Ref], *, asked: bool) -> Iterator[Fetched | Withheld]:
        for ref in group:
            if ref.size > self._message_max:
                # What LIST says is the size in octets (RFC 1939 section 5), so nothing has to be fetched to know it.
                yield Withheld(ref, f"it has {ref.size} octets, more than MESSAGE_MAX allows", ref.size)
                continue
            if not asked:
                self._wire.send(f"RETR {ref.number}\r\n".encode())
            answer = self._answer()
            if not answer.startswith("+OK"):
                refused = meaning(answer.removeprefix("-ERR "), host=self._endpoint.host, during=FETCHING)
                if not isinstance(refused, Refused):
                    raise refused
                yield Withheld(ref, refused.sentence, ref.size)
                continue
            pieces = self._wire.dotted(self._message_max)
            try:
                message = judged(Fetched(ref, pieces))
            except TooLarge as error:
                yield Withheld(ref, error.sentence, error.size)
                raise
            yield message
            # A consumer that stopped early must not leave the rest of a message for the next answer.
            for _ in pieces:
                pass

    def _expect(self, command: str, *, during: str) -> None:
        answer = self._say(command)
        if not answer.startswith("+OK"):
            raise meaning(answer.removeprefix("-ERR "), host=self._endpoint.host, during=during)

    def _say(self, command: str) -> str:
        self._wire.send(command.encode() + b"\r\n")
        return self._answer()

    def _answer(self) -> str:
        line = self._wire.line(_LINE).decode("latin-1")
        if not line.startswith(("+", "-ERR")):
            raise Unreachable(f"{self._endpoint.host} answered outside the protocol; hung up")
        return line


def _before(head: bytes, since: date) -> bool:
    moment = arrival(head)
    return moment is not None and moment.date() < since


def _word(text: str) -> str:
    """A user name or password as it stands on a POP3 line."""
    if any(letter in text for letter in "\r\n\0"):
        raise Misconfigured("a name or password with a line break cannot be sent to a POP3 server")
    return text
