"""A session with an IMAP server (RFC 3501), reading what is new and settling what was delivered.

It sends only what every server knows: CAPABILITY, AUTHENTICATE, LIST, SELECT or EXAMINE, UID SEARCH SINCE, UID FETCH,
UID STORE, UID COPY, UID MOVE, UID EXPUNGE, CREATE, SUBSCRIBE, NOOP, LOGOUT; it never sends ENABLE, and never a FETCH that
marks a message read. Answers are read as key and value, in any order, with lines in between that nobody asked for. It
keeps no state between sessions; a session itself may be kept from one pull to the next. It is our own thin layer
because a poll has to be cheap, huge literals have to be streamed, and `imaplib` loses BYE texts, limits lines for the
whole process and hides what the server said. IMAPClient 4.1 took 2.3 times as long as a bare `imaplib` loop for 5,000
messages over TLS (medians of five in one run); this, with every octet hashed and spooled, about as long as that loop
(`docs/speed.md`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from functools import partial

from pipelines.imap_text import instant, mutf7
from worker.errors import MailquayError, Misconfigured, NotConnected, SessionExpired, Throttled, Unreachable
from worker.sources import (
    Credentials,
    Endpoint,
    FolderName,
    Group,
    NoSuchFolder,
    Opened,
    Ref,
    sasl,
)
from worker.sources.chatter import Chatter
from worker.sources.fetch_answer import fields
from worker.sources.imap_fetch import Done, Retrieval
from worker.sources.imap_settle import Settlement
from worker.sources.imap_text import day, quoted, uid_sets
from worker.sources.listing import Listing, missing
from worker.sources.refusal import meaning, shown
from worker.sources.transport import Wire

_LINE = 1 << 20
"""Longest line, against one without an end that would fill the memory: above every honest answer."""
_LAST_UID = (1 << 32) - 1
_WINDOW = 2_000
"""Uids listed in one command: a folder of a million messages costs nothing to start with."""
_SEARCHED = 90_000
"""Uids searched in one command, so that the answer, which is one line, stays below the longest line."""
_NAMES = 64 * 1024
"""Longest line with literals in it where no message is asked for, against one that fills the memory: names are short."""
_LONGEST_INITIAL = 8_000
"""A token so long, in base64, does not go into the line of a command, which servers take up to 8,192 or 10,500 octets."""
_LITERAL = re.compile(rb"~?\{(\d{1,20})\+?\}$")
_NUMBERS = re.compile(rb"\[(UIDVALIDITY|UIDNEXT) +(\d{1,19})\]", re.IGNORECASE)
_EXISTS = re.compile(rb"\* (\d{1,10}) EXISTS", re.IGNORECASE)
_HITS = re.compile(rb"\* (?:SEARCH|ESEARCH .*?\bALL) ([\d ,:]+)", re.IGNORECASE)
"""What a SEARCH found; as ESEARCH (RFC 4731) from servers that believe they were asked for that."""
_WHY = (Throttled, SessionExpired, NotConnected)
"""What a warning may mean, so that the end of a session that follows is its consequence."""
_WAKING_SECONDS = 5.0
"""What the first answer in a session that was kept may take: a router may have forgotten the connection meanwhile."""
_STIR = re.compile(rb"\* (\d+ (EXISTS|EXPUNGE)|VANISHED|OK \[UIDVALIDITY)", re.IGNORECASE)
"""What a server says when messages came or went in the open folder (RFC 3501 section 7.3.1, RFC 7162 section 3.2.10)."""


class ImapSource:
    """A signed-in IMAP session. `message_max` (octets) is the largest message taken."""

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
        self._tags = 0
        self._warned: str | None = None
        self._capabilities: frozenset[str] = frozenset()
        self._opened: Opened | None = None
        self._writable = False
        self._outstanding = 0
        self._kept = False
        self._waking = False
        self._stirred = True
        self._outdated = False
        self._answer_seconds = answer_seconds
        self._listing = Listing(endpoint.host)
        self._chatter = partial(Chatter, endpoint.host, seconds=answer_seconds, clock=clock)
        self._retrieval = Retrieval(
            self._wire, self._tag, self._tagged, self._untagged, self._chatter, message_max=message_max
        )
        try:
            self._greeting()
            if endpoint.tls == "starttls":
                self._start_tls()
            self._sign_in(credentials)
        except BaseException:
            self._wire.close()
            raise

    # -- signing in ----------------------------------------------------------------------------------------------

    def _greeting(self) -> None:
        line = self._wire.line(_LINE).decode("latin-1")
        if line.startswith("* BYE"):
            raise meaning(line[6:], host=self._endpoint.host, during="connecting")
        if not line.startswith("* "):
            self._untagged(line.encode("latin-1"))
            raise Misconfigured(
                f"{self._endpoint.host} port {self._endpoint.port} does not speak IMAP. Check HOST, PORT, PROTOCOL."
            )
        self._note_capabilities(line)

    def _start_tls(self) -> None:
        done = self._run("STARTTLS")
        if done.status != "OK":
            raise Misconfigured(
                f"{self._endpoint.host} offers no STARTTLS: {shown(done.text)}. Set TLS=implicit and its port."
            )
        self._wire.start_tls()
        # What was announced in clear is not to be believed (RFC 3501 section 6.2.1).
        self._capabilities = frozenset()

    def _sign_in(self, credentials: Credentials) -> None:
        if not self._capabilities:
            self._run("CAPABILITY")
        offered = frozenset(
            name.removeprefix("AUTH=") for name in self._capabilities if name.startswith("AUTH=")
        )
        chosen = sasl.mechanism(credentials, offered)
        if chosen is None and not credentials.bearer and "LOGINDISABLED" not in self._capabilities:
            done = self._run(f"LOGIN {quoted(credentials.user)} {quoted(credentials.secret)}")
        elif chosen is None:
            raise Misconfigured(
                f"{self._endpoint.host} offers none of the ways to sign in with this AUTH "
                f"(it offers {', '.join(sorted(offered)) or 'nothing'}). Check AUTH and HOST."
            )
        else:
            done = self._authenticate(chosen, credentials)
        if done.status != "OK":
            raise meaning(done.text, host=self._endpoint.host, during="signing in")
        # Exchange announces other capabilities after signing in than before, and not by itself.
        self._outdated = "CAPABILITY" not in done.text.upper()

    def _authenticate(self, mechanism: str, credentials: Credentials) -> Done:
        message = sasl.encoded(mechanism, credentials, self._endpoint)
        tag = self._tag()
        if "SASL-IR" in self._capabilities and len(message) <= _LONGEST_INITIAL:
            self._wire.send(f"{tag} AUTHENTICATE {mechanism} ".encode() + message + b"\r\n")
            replies = [sasl.answer_to_challenge(mechanism)]
        else:
            self._wire.send(f"{tag} AUTHENTICATE {mechanism}\r\n".encode())
            replies = [message, sasl.answer_to_challenge(mechanism)]
        chatter = self._chatter()
        while True:
            line = self._line()
            chatter.heard(len(line))
            if line.startswith(b"+"):
                # The second challenge holds the reason as base64 JSON; the refusal comes after our answer to it.
                self._wire.send((replies.pop(0) if replies else b"*") + b"\r\n")
            elif done := self._tagged(line, tag):
                return done
            else:
                self._untagged(line)

    # -- reading -------------------------------------------------------------------------------------------------

    def folders(self) -> Sequence[FolderName]:
        """LIST every folder that can be opened; from now on they are opened as the server spells them."""
        done = self._list()
        if done.status != "OK":
            raise meaning(done.text, host=self._endpoint.host, during="listing folders")
        return list(self._listing.folders.values())

    def _list(self) -> Done:
        listing = Listing(self._endpoint.host)
        done = self._run('LIST "" "*"', listing.note)
        self._listing = listing
        return done

    def open(self, folder: str, *, writable: bool) -> Opened:
        """SELECT or EXAMINE a folder; one that is not there by this name is looked for in the server's listing.

        Raises:
            NoSuchFolder: the server has none of this name, nor one in another case or with another separator.
            Unreachable: the server gave no UIDVALIDITY, without which no message can be told from another.
        """
        if self._kept and (unchanged := self._unchanged(folder, writable=writable)):
            return unchanged
        wire_name = self._listing.wire.get(folder) or mutf7(folder)
        try:
            return self._open(folder, wire_name, writable=writable)
        except NoSuchFolder:
            if not self._listing.folders:
                self._list()
            other = self._listing.alike(folder)
            if other in {None, wire_name}:
                raise
        return self._open(folder, other, writable=writable)

    def _unchanged(self, folder: str, *, writable: bool) -> Opened | None:
        """The folder as it was opened, when it still is and one NOOP tells of nothing.

        Servers tell in an answer what happened in the open folder before it (RFC 3501 sections 5.2, 6.1.2, 7.3.1). They
        do not tell the next uid, and as many may have come as have gone: so whatever is said, the folder is opened anew.
        """
        if self._opened is None or (self._opened.folder, self._writable) != (folder, writable):
            return None
        if not self._stirred:
            done = self._run("NOOP", self._stir)
            if done.status != "OK":
                raise meaning(done.text, host=self._endpoint.host, during="looking for new mail")
        return None if self._stirred else self._opened

    def _stir(self, line: bytes) -> None:  # noqa: ARG002  (whatever it says)
        self._stirred = True

    def _open(self, folder: str, wire_name: str, *, writable: bool) -> Opened:
        found: dict[str, int] = {}
        self._opened = None

        def note(line: bytes) -> None:
            for name, value in _NUMBERS.findall(line):
                found[name.decode().upper()] = int(value)
            if exists := _EXISTS.match(line):
                found["EXISTS"] = int(exists.group(1))

        command = "SELECT" if writable else "EXAMINE"
        done = self._run(f"{command} {quoted(wire_name)}", note)
        if done.status != "OK":
            refused = meaning(done.text, host=self._endpoint.host, during=f"opening the folder {folder}")
            if isinstance(refused, Misconfigured) or missing(done.text):
                raise NoSuchFolder(
                    f"{self._endpoint.host} does not open the folder {folder}: {shown(done.text)}. Check FOLDERS"
                ) from refused
            raise refused
        if not found.get("UIDVALIDITY"):
            raise Unreachable(
                f"{self._endpoint.host} opened {folder} without a UIDVALIDITY; nothing is pulled until it gives one"
            )
        self._opened = Opened(folder, found["UIDVALIDITY"], found.get("UIDNEXT"), found.get("EXISTS", 0))
        self._writable, self._stirred = writable, False
        return self._opened

    def start(self, opened: Opened, since: date | None) -> tuple[int, frozenset[str]]:
        """The highest uid to skip in a new mailbox: all that is there now, or all before the first one `since`."""
        last = self._end(opened, 0) - 1
        if since is None:
            return last, frozenset()
        for low in range(1, last + 1, _SEARCHED):
            if hits := self._searched(low, min(low + _SEARCHED - 1, last), since):
                return min(hits) - 1, frozenset()
        if opened.exists and last:
            self._distrust(since)
        return last, frozenset()

    def new(self, opened: Opened, *, after: int, seen: frozenset[str]) -> Iterator[list[Ref]]:  # noqa: ARG002
        """List uid and size of every message above `after`, in windows of uids, ascending."""
        end = self._end(opened, after) if opened.exists else 0
        low, width = after + 1, _WINDOW
        while low < end:
            high = min(low + width, end) - 1
            found = self._listed(f"{low}:{high}", low, high)
            yield found
            # Old folders have gaps of thousands of uids; an empty window makes the next one wider.
            width = _WINDOW if found else min(width * 4, 1 << 24)
            low = high + 1

    def back(self, opened: Opened, *, low: int, high: int, seen: frozenset[str]) -> Iterator[list[Ref]]:  # noqa: ARG002
        """List uid and size between two uids, in windows from the highest down, each window ascending."""
        width = _WINDOW
        while opened.exists and high >= low:
            bottom = max(low, high - width + 1)
            found = self._listed(f"{bottom}:{high}", bottom, high)
            yield found
            width = _WINDOW if found else min(width * 4, 1 << 24)
            high = bottom - 1

    def gone(self, opened: Opened, seen: frozenset[str]) -> Sequence[str]:  # noqa: ARG002
        """Nothing: IMAP has uids."""
        return ()

    def fetch(self, groups: Iterable[Sequence[Ref]]) -> Iterator[Group]:
        """UID FETCH each group with BODY.PEEK[]; the next group is asked for while this one is read."""
        return self._retrieval.fetch(groups)

    def rescue(self, refs: Iterable[Ref]) -> Iterator[Group]:
        """UID FETCH each message alone: whole, and if it is withheld again, by its header and its text."""
        return self._retrieval.rescue(refs)

    def find(self, opened: Opened, uids: Sequence[int], uidls: Sequence[str]) -> list[Ref]:  # noqa: ARG002
        """List these uids; those that are gone are not in the answer."""
        asked = frozenset(uids)
        found = (ref for uid_set in uid_sets(uids) for ref in self._listed(uid_set, 1, max(asked)))
        return [ref for ref in found if ref.uid in asked]

    def settle(self, refs: Sequence[Ref], action: str) -> None:
        """Mark, move or delete by uid, as `Settlement` does it; the folder that is moved to is made when it is missing."""
        if self._outdated:
            # Nothing but settling depends on them, so a poll without news does not ask.
            self._run("CAPABILITY")
            self._outdated = False
        settlement = Settlement(self._run, self._spelled, self._capabilities, host=self._endpoint.host)
        settlement.apply((ref.uid for ref in refs if ref.uid), action)

    def _spelled(self, folder: str) -> str | None:
        """How the server spells a folder in its own listing, if it is there."""
        self._list()
        return self._listing.alike(folder)

    def rest(self) -> bool:
        """Whether every command has been answered; then the next answer has a short time."""
        self._kept = self._waking = not self._outstanding
        if self._waking:
            self._wire.keep_alive()
            self._wire.wait_at_most(min(_WAKING_SECONDS, self._answer_seconds))
        return self._kept

    def finish(self) -> None:
        """LOGOUT. What was settled is settled already, so the server's goodbye is not waited for."""
        with suppress(MailquayError):
            self._wire.send(f"{self._tag()} LOGOUT\r\n".encode())
        self._wire.close()

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    # -- the protocol --------------------------------------------------------------------------------------------

    def _end(self, opened: Opened, after: int) -> int:
        """The uid behind the newest message. A UIDNEXT that is missing or cannot be true is not believed.

        Then the newest message is asked: mail behind a UIDNEXT that never grows would not be seen for ever.
        """
        said = opened.uid_next
        if said is not None and max(opened.exists, after) < said <= _LAST_UID + 1:
            return said
        if not opened.exists:
            return said or 1
        return max((ref.uid or 0 for ref in self._listed("*", 1, _LAST_UID)), default=0) + 1

    def _distrust(self, since: date) -> None:
        """Ask the newest message for its date: servers were seen whose SEARCH finds nothing in full folders.

        Raises:
            Unreachable: it came on that day or later, so the search was wrong, and mail would be skipped.
        """
        days: list[date] = []

        def note(line: bytes) -> None:
            answer = fields(line, ())
            if moment := answer and instant(answer.internaldate):
                days.append(moment.date())

        self._run("UID FETCH * (UID INTERNALDATE)", note)
        if days and max(days) >= since:
            raise Unreachable(
                f"{self._endpoint.host} finds no message since {since}, and has one; nothing is skipped on its word. "
                "If this stays, set SINCE=all or SINCE=now."
            )

    def _searched(self, low: int, high: int, since: date) -> list[int]:
        """The uids of a range whose messages came on or after a day, as the server counts days."""
        hits: list[int] = []

        def note(line: bytes) -> None:
            if found := _HITS.match(line):
                hits.extend(
                    uid for uid in map(int, re.findall(rb"\b\d{1,10}\b", found[1])) if low <= uid <= high
                )

        done = self._run(f"UID SEARCH UID {low}:{high} SINCE {day(since)}", note)
        if done.status != "OK":
            raise meaning(done.text, host=self._endpoint.host, during="searching by date")
        return hits

    def _listed(self, uids: str, low: int, high: int) -> list[Ref]:
        """List what lies between two uids. News of other messages come at any time; the checkpoint must not jump to them."""
        found: dict[int, Ref] = {}

        def note(line: bytes) -> None:
            answer = fields(line, ())
            if answer and answer.uid and low <= answer.uid <= high:
                before = found.get(answer.uid)
                found[answer.uid] = Ref(uid=answer.uid, size=answer.size or (before.size if before else 0))

        done = self._run(f"UID FETCH {uids} (UID RFC822.SIZE)", note)
        if done.status != "OK":
            raise meaning(done.text, host=self._endpoint.host, during="listing messages")
        return [found[uid] for uid in sorted(found)]

    def _run(self, command: str, note: Callable[[bytes], None] | None = None) -> Done:
        """Send one command, hand each untagged line to `note`, and return its end."""
        tag = self._tag()
        self._wire.send(f"{tag} {command}\r\n".encode())
        chatter = self._chatter()
        while True:
            line = self._line()
            if done := self._tagged(line, tag):
                if self._waking:
                    self._waking = False
                    self._wire.wait_at_most(self._answer_seconds)
                return done
            chatter.heard(len(line))
            while found := _LITERAL.search(line):
                if len(line) + int(found.group(1)) > _NAMES:
                    raise Unreachable(f"{self._endpoint.host} sent a literal where none belongs; hung up")
                # Folder names may come as literals; as quoted strings they are read like all others.
                text = bytes(self._wire.exactly(int(found.group(1))))
                text = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
                line = line[: found.start()] + b'"' + text + b'"' + self._wire.line(_LINE)
            self._untagged(line)
            if note:
                note(line)

    def _line(self) -> bytes:
        try:
            return self._wire.line(_LINE)
        except Unreachable as ended:
            raise self._cause(ended) from ended

    def _cause(self, ended: MailquayError) -> MailquayError:
        """Why a session ended. Exchange says it on the line before, and then `BYE Connection closed. 14` or nothing."""
        if type(ended) is Unreachable and self._warned:
            why = meaning(self._warned, host=self._endpoint.host, during="talking to it")
            return why if isinstance(why, _WHY) else ended
        return ended

    def _tag(self) -> str:
        self._tags += 1
        self._outstanding += 1
        return f"A{self._tags}"

    def _tagged(self, line: bytes, tag: str) -> Done | None:
        head, _, rest = line.partition(b" ")
        if head != tag.encode():
            return None
        self._outstanding -= 1
        status, _, text = rest.decode("latin-1").partition(" ")
        self._note_capabilities(text)
        return Done(status.upper(), text)

    def _untagged(self, line: bytes) -> None:
        if not self._stirred and _STIR.match(line):
            self._stirred = True
        text = line.decode("latin-1")
        if text[:5].upper() == "* BYE":
            raise self._cause(meaning(text[6:], host=self._endpoint.host, during="talking to it"))
        if text[:5].upper() in {"* NO ", "* BAD"}:
            self._warned = text[5:].strip()
        now = _NUMBERS.search(line) if self._opened and not self._waking else None
        if (
            self._opened
            and now
            and now[1].upper() == b"UIDVALIDITY"
            and int(now[2]) != self._opened.uidvalidity
        ):
            raise Unreachable(
                f"{self._endpoint.host} gave new numbers to the messages of a folder while it was read; hung up"
            )
        if text[:12].upper() == "* CAPABILITY":
            self._capabilities = frozenset(text[13:].upper().split())
        elif not text.startswith(("*", "+")) and "server unavailable" in text.lower():
            # Exchange sends this line bare, outside the protocol, before it hangs up.
            raise meaning(text, host=self._endpoint.host, during="talking to it")

    def _note_capabilities(self, text: str) -> None:
        if found := re.search(r"\[CAPABILITY ([^\]]*)\]", text, re.IGNORECASE):
            self._capabilities = frozenset(found.group(1).upper().split())
