"""A session with a POP3 server (RFC 1939, 2449, 5034), reading what is new and deleting what was delivered.

Messages are known by their UIDL; message numbers are good for one session only. XOAUTH2 is sent in two steps, because
Exchange hangs up on the one-line form, which is kept for servers that refuse the first step. Deletion takes effect at
QUIT, and only there. RETR is pipelined where the server says it can be, and each message is followed by a question that
only its own number answers, so that a lost command never brings a message under another one's name. It is our own
thin layer because `poplib` cannot sign in with SASL, reads line by line, and takes the rest of a message for the next
answer after a line of more than 2,048 octets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial

from worker.errors import LoginRefused, MailquayError, Misconfigured, Unreachable
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
from worker.sources.ahead import asked_ahead
from worker.sources.arrival import arrival
from worker.sources.placeholder import judged
from worker.sources.refusal import FETCHING, SETTLING, meaning, shown
from worker.sources.transport import Wire

_LINE = 64 * 1024
"""Longest single answer line, against one without an end; RFC 1939 allows 512 octets, tokens and banners are longer."""
_LISTING = 64 << 20
"""Largest UIDL or LIST answer, against one without an end that would fill the memory: about a million messages."""

_DIGITS = 19
"""Longest size that is taken for one: a number of thousands of digits costs minutes to read."""
_DELETED = 100
"""DELEs sent at once: so few answers fit into any buffer, so neither side waits for the other to read."""
_OLD = 100
"""So many messages in a row that are too old end the search for young ones: older mail is not asked about."""
_HEAD = 256 * 1024
"""Of a longer head no more is kept, against one that fills the memory; the dates stand at its top."""


class Pop3Source:
    """A signed-in POP3 session. `message_max` (octets) is the largest message taken.

    Without `ahead` every answer is waited for, whatever the server says of PIPELINING.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        *,
        message_max: int,
        answer_seconds: float,
        clock: Callable[[], float],
        ahead: bool = True,
    ) -> None:
        self._endpoint = endpoint
        self._dial = partial(Wire, endpoint, answer_seconds=answer_seconds, clock=clock)
        self._message_max = message_max
        self._listing: dict[str, int] | None = None
        self._pipelining: bool | None = None if ahead else False
        self._deleting = False
        self._copied: set[str] = set()
        self._wire = self._dial()
        try:
            self._begin()
            self._sign_in(credentials)
        except BaseException:
            self._wire.close()
            raise

    # -- signing in ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All that comes before signing in."""
        self._greeting()
        self._capabilities = self._capa()
        if self._endpoint.tls == "starttls":
            self._start_tls()

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
        message = sasl.encoded(mechanism, credentials, self._endpoint).decode()
        answer = self._say(f"AUTH {mechanism}")
        if answer.startswith("+"):
            answer = self._say(message)
        elif type(meaning(answer, host=self._endpoint.host, during="signing in")) is LoginRefused:
            answer = self._on_one_line(f"AUTH {mechanism} {message}", refused=answer)
        if answer.startswith("+") and not answer.startswith("+OK"):
            # The error challenge; the refusal comes after our answer to it.
            answer = self._say(sasl.answer_to_challenge(mechanism).decode())
        return answer

    def _on_one_line(self, command: str, *, refused: str) -> str:
        """RFC 5034 section 4 for a server that `refused` the first of two steps; in a new session if it hung up then."""
        try:
            answer = self._say(command)
        except Unreachable:
            self._wire.close()
            self._wire = self._dial()
            self._begin()
            answer = self._say(command)
        # Whichever of the two forms the server knows, its words about the other one say nothing.
        return f"{answer}; to two steps it said: {refused}" if answer.startswith("-ERR") else answer

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
                Ref(uidl=uidl, number=number, size=_octets(sizes.get(number, "")))
                for uidl, number in fresh.items()
            ]

    def back(self, opened: Opened, *, low: int, high: int, seen: frozenset[str]) -> Iterator[list[Ref]]:  # noqa: ARG002
        """Every message whose UIDL is not among `seen`, in one window, in the server's order: the newest last."""
        yield from self.new(opened, after=0, seen=seen)

    def gone(self, opened: Opened, seen: frozenset[str]) -> Sequence[str]:  # noqa: ARG002
        """Which of these UIDLs the server no longer lists."""
        return sorted(seen - self._uidls().keys())

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """RETR each message; with PIPELINING the next ones are asked for while this one is read.

        Each is then followed by LIST, whose answer repeats its number: servers were seen that promise PIPELINING and lose
        commands, and what comes after would pass for the message before.
        """
        if not self._pipelined():
            for group in groups:
                yield group, self._retrieved(group, asked=False)
            return
        for group, _, _ in asked_ahead(groups, self._ask):
            yield group, self._retrieved(group, asked=True)

    def _ask(self, group: Sequence[Ref]) -> None:
        wanted = (ref.number for ref in group if ref.size <= self._message_max)
        self._wire.send(b"".join(b"RETR %d\r\nLIST %d\r\n" % (number, number) for number in wanted))

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """RETR each message, one after the other: POP3 has no other way."""
        for ref in refs:
            yield [ref], self._retrieved([ref], asked=False)

    def find(self, opened: Opened, uids: Sequence[int], uidls: Sequence[str]) -> list[Ref]:  # noqa: ARG002
        """Those of these UIDLs that are in the listing, with their numbers in this session."""
        listing = self._uidls()
        return [Ref(uidl=uidl, number=listing[uidl]) for uidl in uidls if uidl in listing]

    def settle(self, refs: Sequence[Ref], action: str) -> None:
        """DELE each message by its number, many at once where PIPELINING is offered; `finish` makes it count.

        Of copies that share a UIDL none is deleted: nobody can say which of them was handed over.

        Raises:
            Misconfigured: POP3 can do nothing but delete.
            Refused: the server keeps some of them, and has taken note of the others.
        """
        if action != "delete":
            raise Misconfigured(f"POP3 cannot do AFTER={action}; use keep or delete")
        numbers = [ref.number for ref in refs if ref.uidl not in self._copied]
        at_once = _DELETED if numbers and self._pipelined() else 1
        refused: Refused | None = None
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            self._deleting = True
            self._wire.send(b"".join(b"DELE %d\r\n" % number for number in some))
            for _ in some:
                answer = self._answer()
                if not answer.startswith("+OK"):
                    error = meaning(answer.removeprefix("-ERR "), host=self._endpoint.host, during=SETTLING)
                    if not isinstance(error, Refused):
                        raise error
                    refused = error
        if refused:
            raise refused

    def rest(self) -> bool:
        """Never: a session sees the maildrop as it was at sign-in (RFC 1939 section 4), and keeps all others out."""
        return False

    def finish(self) -> None:
        """QUIT: only now the deletions happen (RFC 1939 section 6). Without any, the goodbye is not waited for.

        Raises:
            Unreachable: the server did not confirm deletions.
        """
        try:
            if self._deleting:
                self._expect("QUIT", during="ending the session")
            else:
                with suppress(MailquayError):
                    self._wire.send(b"QUIT\r\n")
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
        ahead = self._pipelined()
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
            told = self._told_apart(listed)
            self._listing = {uidl: number for number, uidl in told.items()}
            if len(self._listing) < len(told):
                self._copied = {uidl for uidl, times in Counter(told.values()).items() if times > 1}
        return self._listing

    def _told_apart(self, listed: dict[int, str]) -> dict[int, str]:
        """Of equal copies with one UIDL, which RFC 1939 section 7 allows, one is enough; different sizes are no copies.

        Such a message is known by its UIDL and its size, parted by a blank, which is in no UIDL.
        """
        if len(set(listed.values())) == len(listed):
            return listed
        sizes = self._numbered("LIST")
        first: dict[str, str] = {}
        return {
            number: uidl if first.setdefault(uidl, size) == size else f"{uidl} {size}"
            for number, uidl in listed.items()
            for size in [str(_octets(sizes.get(number, "")))]
        }

    def _numbered(self, command: str) -> dict[int, str]:
        """A listing of `number rest` lines. Servers put octets into UIDLs that Python takes for line ends and blanks."""
        self._expect(command, during="listing messages")
        found: dict[int, str] = {}
        # Piece by piece: the whole text of a million lines, cut at once, would take as much memory as what is in it.
        try:
            for piece in self._wire.dotted(_LISTING):
                for line in piece.decode("latin-1").split("\n"):
                    number, _, rest = line.partition(" ")
                    with suppress(ValueError):
                        found[int(number)] = rest.strip(" \t\r")
        except TooLarge as error:
            raise Unreachable(
                f"{self._endpoint.host} lists more messages than are looked through (more than {_LISTING >> 20} MB of "
                "them); hung up. Set PROTOCOL=imap, or let AFTER=delete keep the mailbox small"
            ) from error
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
                if asked:
                    self._check_place(ref, gone=True)
                yield Withheld(ref, refused.sentence, ref.size)
                continue
            pieces = self._wire.dotted(self._message_max)
            if asked:
                pieces = self._in_place(pieces, ref)
            try:
                message = judged(Fetched(ref, pieces))
            except TooLarge as error:
                yield Withheld(ref, error.sentence, error.size)
                raise
            yield message
            # A consumer that stopped early must not leave the rest of a message for the next answer.
            for _ in pieces:
                pass

    def _in_place(self, pieces: Iterator[bytes], ref: Ref) -> Iterator[bytes]:
        """A message that ends only when it is certain to be the one that was asked for."""
        yield from pieces
        self._check_place(ref)

    def _check_place(self, ref: Ref, *, gone: bool = False) -> None:
        """Read the answer to LIST: it repeats the number, or refuses one that is `gone`.

        Raises:
            Unreachable: it is the answer to something else; no message is taken from this session any more.
        """
        answer = self._answer()
        words = answer.split()
        if words[1:2] == [str(ref.number)] and words[2:3] and words[2].isdecimal():
            return
        if not (gone and answer.startswith("-ERR")):
            raise Unreachable(
                f"{self._endpoint.host} promises PIPELINING and lost its place; the next session asks one by one"
            )

    def _pipelined(self) -> bool:
        """Whether commands may be sent ahead: asked once, and only when there is something to fetch.

        What a server can do after signing in may differ from before (RFC 2449 section 5).
        """
        if self._pipelining is None:
            self._capabilities = self._capa()
            self._pipelining = "PIPELINING" in self._capabilities
        return self._pipelining

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


def _octets(listed: str) -> int:
    """The size that a line of LIST tells, or 0 when it tells none."""
    word, _, _ = listed.partition(" ")
    return int(word) if word.isdecimal() and len(word) < _DIGITS else 0


def _before(head: bytes, since: date) -> bool:
    moment = arrival(head)
    return moment is not None and moment.date() < since


def _word(text: str) -> str:
    """A user name or password as it stands on a POP3 line."""
    if any(letter in text for letter in "\r\n\0"):
        raise Misconfigured("a name or password with a line break cannot be sent to a POP3 server")
    return text
