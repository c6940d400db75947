"""IMAP as a client speaks it that only adds messages: RFC 3501 (and 9051), UIDPLUS (RFC 4315), APPENDLIMIT (RFC 7889).

A message is sent as it stands, in pieces. Literals wait for the server's word, so that one that does not want a message says so
before it has it; only those of up to 4096 octets do without where the server allows it (LITERAL+ and LITERAL-, RFC 7888), for
Exchange is known to break on longer ones. What an answer means for a message is `imap_answers`' business.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pipelines import sasl
from pipelines.account import CannotSignIn
from pipelines.imap_text import date_time, is_quotable, mutf7, quoted
from pipelines.outputs.mail_wire import Broken, Wire

_RESPONSES = 100_000
_LITERAL = re.compile(rb"\{(\d{1,10})\}$")
_SHORT_LITERAL = 4096


@dataclass(frozen=True, slots=True)
class Response:
    """One untagged response: its text without literals, and the literals, in their order."""

    text: str
    literals: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a command: OK, NO or BAD, its words, which are shown to nobody, and what came before it."""

    status: str
    text: str
    untagged: tuple[Response, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the command was carried out."""
        return self.status == "OK"

    @property
    def code(self) -> str:
        """The response code (RFC 5530 and others) in capitals, or nothing."""
        found = re.match(r"\[([A-Za-z0-9-]+)", self.text)
        return found[1].upper() if found else ""

    @property
    def shown(self) -> str:
        """Status and code: the words may repeat what was sent."""
        return f"{self.status} [{self.code}]" if self.code else self.status


class Session:
    """A session with a server that has greeted us, encrypted when `starttls`.

    Raises:
        CannotSignIn: the server does not want to speak to us, or offers no STARTTLS.
        Broken: the connection broke.
    """

    def __init__(self, wire: Wire, *, starttls: bool) -> None:
        self._wire = wire
        self._number = 0
        self._delimiter: str | None = None
        self.ended = False
        wire.begin()
        greeting = wire.line()
        if not re.match(rb"\* (OK|PREAUTH)\b", greeting, re.IGNORECASE):
            raise CannotSignIn(f"{wire.where} does not want to speak to us")
        self.capabilities = self._capable()
        if starttls:
            if greeting[2:9].upper() == b"PREAUTH" or "STARTTLS" not in self.capabilities:
                raise CannotSignIn(f"{wire.where} offers no STARTTLS; check PORT and TLS")
            if not self.say("STARTTLS").good:
                raise CannotSignIn(f"{wire.where} refuses STARTTLS")
            wire.start_tls()
            self.capabilities = self._capable()

    def sign_in(self, user: str, secret: str, *, bearer: bool) -> Answer:
        """Sign in with an access token (`bearer`) or a password; the server's answer.

        Raises:
            CannotSignIn: the server offers no way that fits.
        """
        offered = {word.removeprefix("AUTH=") for word in self.capabilities if word.startswith("AUTH=")}
        chosen = sasl.mechanism(bearer=bearer, offered=offered)
        if chosen:
            first = sasl.payload(chosen, user, secret, host=self._wire.host, port=self._wire.port)
            words = [base64.b64encode(first)]
            if bearer:
                # When it refuses, it says why in a challenge that wants an answer.
                words.append(sasl.answer_to_challenge(chosen))
            answer = self.say(f"AUTHENTICATE {chosen}", words)
        elif bearer or "LOGINDISABLED" in self.capabilities or not is_quotable(user + secret):
            kind = "access tokens" if bearer else "passwords"
            raise CannotSignIn(f"{self._wire.where} takes no {kind}; check AUTH, PORT and TLS")
        else:
            answer = self.say(f"LOGIN {quoted(user)} {quoted(secret)}")
        if answer.good:
            self.capabilities = self._capable()
        return answer

    def examine(self, folder: str) -> Answer:
        """Look into a folder without a change to it, so that it can be searched."""
        return self.say(f"EXAMINE {self._spelled(folder)}")

    def create(self, folder: str) -> Answer:
        """Make a folder and subscribe to it, so that mail programs show it."""
        answer = self.say(f"CREATE {self._spelled(folder)}")
        if answer.good:
            self.say(f"SUBSCRIBE {self._spelled(folder)}")
        return answer

    def search(self, criteria: str) -> list[int]:
        """The UIDs of messages in the examined folder, ascending; none when the server does not search in this way."""
        answer = self.say(f"UID SEARCH {criteria}")
        words = [one.text[8:].split() for one in answer.untagged if one.text[:8].upper() == "* SEARCH"]
        return sorted(int(word) for line in words for word in line if word.isdigit())

    def fetch(self, uids: Sequence[int], items: str) -> list[Response]:
        """What the server says of messages of the examined folder."""
        answer = self.say(f"UID FETCH {','.join(map(str, uids))} ({items})")
        return [one for one in answer.untagged if re.match(r"\* \d+ FETCH ", one.text, re.IGNORECASE)]

    def append(
        self,
        folder: str,
        pieces: Sequence[bytes | memoryview],
        *,
        flags: Sequence[str],
        received_at: datetime | None,
    ) -> Answer:
        """Add a message to a folder (RFC 3501 section 6.3.11).

        Raises:
            Broken: the connection broke; whether the message is there is not known.
        """
        size = sum(map(len, pieces))
        date = "" if received_at is None else f' "{date_time(received_at)}"'
        short = size <= _SHORT_LITERAL and not self.capabilities.isdisjoint({"LITERAL+", "LITERAL-"})
        # Also without a flag the list is said: a server was seen that takes no large message otherwise.
        command = f"APPEND {self._spelled(folder)} ({' '.join(flags)}){date} {{{size}{'+' if short else ''}}}"
        tag = self._begin(command, octets=size)
        if not short and (answer := self._until(tag)):
            return answer
        self._wire.send([*pieces, b"\r\n"])
        return self._end(tag)

    def quit(self) -> None:
        """Take leave and hang up; never raises."""
        with suppress(Broken):
            if not self.ended:
                self.say("LOGOUT")
        self._wire.close()

    def hang_up(self) -> None:
        """Close a connection in which there is nobody to take leave of; never raises."""
        self._wire.close()

    def say(self, command: str, words: Sequence[bytes] = ()) -> Answer:
        """Say a command of one line and read its answer; `words` answer the server's challenges, one after the other."""
        tag = self._begin(command)
        for word in words:
            if answer := self._until(tag):
                return answer
            self._wire.send([word + b"\r\n"])
        return self._end(tag)

    def _begin(self, command: str, *, octets: int = 0) -> str:
        # What people configure is checked; nothing else may ever bring a second line into a command.
        if "\r" in command or "\n" in command:
            raise ValueError("a command of IMAP is one line")
        self._number += 1
        tag = f"q{self._number}"
        self._wire.begin(octets)
        self._wire.send([f"{tag} {command}\r\n".encode()])
        return tag

    def _end(self, tag: str) -> Answer:
        answer = self._until(tag)
        if answer is None:
            raise Broken(f"{self._wire.where} does not speak IMAP: it asks for more than there is")
        return answer

    def _until(self, tag: str) -> Answer | None:
        """Read until the command ends; None when the server asks for more instead."""
        untagged: list[Response] = []
        while len(untagged) < _RESPONSES:
            response = self._response()
            if response.text.startswith("+"):
                return None
            if response.text.startswith(f"{tag} "):
                status, _, text = response.text[len(tag) + 1 :].partition(" ")
                return Answer(status.upper(), text, tuple(untagged))
            if response.text[:5].upper() == "* BYE":
                # It closes the connection after this (RFC 3501 section 7.1.5).
                self.ended = True
            untagged.append(response)
        raise Broken(f"{self._wire.where} answers without an end")

    def _response(self) -> Response:
        parts, literals = [self._wire.line()], []
        while found := _LITERAL.search(parts[-1]):
            literals.append(self._wire.exactly(int(found[1])))
            parts.append(self._wire.line())
        return Response(b"".join(parts).decode("utf-8", "replace"), tuple(literals))

    def _capable(self) -> set[str]:
        answer = self.say("CAPABILITY")
        lines = (one.text[12:] for one in answer.untagged if one.text[:12].upper() == "* CAPABILITY")
        return {word.upper() for line in lines for word in line.split()}

    def _spelled(self, folder: str) -> str:
        """A folder's name as the server spells it: `/` parts levels here, and what the server has there."""
        if self._delimiter is None:
            answer = self.say('LIST "" ""')
            found = re.search(r'\* LIST \([^)]*\) "(\\?.)"', "\n".join(one.text for one in answer.untagged))
            self._delimiter = found[1][-1] if found else "/"
        return quoted(mutf7(folder).replace("/", self._delimiter))
