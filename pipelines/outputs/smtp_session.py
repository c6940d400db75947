"""SMTP as a client speaks it to a submission server: the session, the sign-in, and handing a letter over.

RFC 5321 with STARTTLS (RFC 3207), AUTH (RFC 4954), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531). A message is sent as it stands, in pieces; only dots at the beginning of lines are doubled. What an answer means for a message is
`smtp_answers`' business; nothing here decides it.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from pipelines import sasl
from pipelines.account import CannotSignIn
from pipelines.outputs.mail_wire import Broken, Wire

Stage = Literal["greeting", "sign-in", "sender", "recipient", "data"]

_LINES = 1000
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\b")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: what was being done, the code, and the words, which may hold anything and are shown to nobody."""

    stage: Stage
    code: int
    text: str

    @property
    def good(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.code < 300

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 3463), or nothing."""
        found = _ENHANCED.match(self.text)
        return found[1] if found else ""

    @property
    def shown(self) -> str:
        """Code and enhanced code: numbers alone, because the words may repeat what was sent."""
        return f"{self.code} {self.enhanced}".strip()


@dataclass(frozen=True, slots=True)
class Letter:
    """What is handed to the server: an envelope sender (empty for none), and pieces that are made anew at each call.

    `size` counts the octets of all pieces, dots not doubled. `eight_bit` and `utf8`: what the server has to be able to take.
    """

    sender: str
    pieces: Callable[[], Iterator[bytes | memoryview]]
    size: int
    eight_bit: bool = False
    utf8: bool = False


class Session:
    """A session with a server that has greeted us, encrypted when `starttls`.

    Raises:
        CannotSignIn: the server does not want to speak to us, or offers no STARTTLS.
        Broken: the connection broke.
    """

    def __init__(self, wire: Wire, *, starttls: bool) -> None:
        self._wire = wire
        self.ended = False
        self._expect(self._answer("greeting"))
        self.extensions = self._hello()
        if starttls:
            if "STARTTLS" not in self.extensions:
                raise CannotSignIn(f"{wire.where} offers no STARTTLS; check PORT and TLS")
            self._expect(self._say(b"STARTTLS", "greeting"))
            wire.start_tls()
            # What was offered in clear may have been somebody else's (RFC 3207 section 4.2).
            self.extensions = self._hello()

    def sign_in(self, user: str, secret: str, *, bearer: bool) -> Reply:
        """Sign in with an access token (`bearer`) or a password; the server's answer.

        The first message goes on a line of its own: with it in the command some servers find the line too long for a token.

        Raises:
            CannotSignIn: the server offers no way that fits.
        """
        offered = self.extensions.get("AUTH", "").upper().split()
        chosen = sasl.mechanism(bearer=bearer, offered=offered)
        if chosen is None and not bearer and "LOGIN" in offered:
            return self._login(user, secret)
        if chosen is None:
            kind = "access tokens" if bearer else "passwords"
            raise CannotSignIn(f"{self._wire.where} takes no {kind}; check AUTH, PORT and TLS")
        reply = self._say(b"AUTH " + chosen.encode(), "sign-in")
        if reply.code == 334:
            first = sasl.payload(chosen, user, secret, host=self._wire.host, port=self._wire.port)
            reply = self._say(base64.b64encode(first), "sign-in")
        if reply.code == 334:
            # It refuses, and says why in a challenge that wants an answer.
            reply = self._say(sasl.answer_to_challenge(chosen), "sign-in")
        return reply

    def send(self, letter: Letter, recipients: Sequence[str]) -> Reply:
        """Hand a letter over to all recipients or to none; the answer that decides.

        Raises:
            Broken: the connection broke; whether the letter was taken is not known.
        """
        parameters = [f"SIZE={letter.size}"] if "SIZE" in self.extensions else []
        parameters += ["BODY=8BITMIME"] if letter.eight_bit and "8BITMIME" in self.extensions else []
        parameters += ["SMTPUTF8"] if letter.utf8 and "SMTPUTF8" in self.extensions else []
        command = " ".join([f"MAIL FROM:<{letter.sender}>", *parameters])
        reply = self._say(command.encode(), "sender")
        for recipient in recipients if reply.good else ():
            reply = self._say(f"RCPT TO:<{recipient}>".encode(), "recipient")
            if not reply.good:
                break
        if reply.good:
            reply = self._say(b"DATA", "data")
        if reply.code == 354:
            self._wire.begin(letter.size)
            self._wire.send(stuffed(letter.pieces()))
            return self._answer("data")
        if reply.good:
            raise Broken(f"{self._wire.where} does not speak SMTP: it answered DATA with {reply.code}")
        if not self.ended:
            self._say(b"RSET", reply.stage)
        return reply

    def quit(self) -> None:
        """Take leave and hang up; never raises."""
        with suppress(Broken):
            if not self.ended:
                self._say(b"QUIT", "data")
        self._wire.close()

    def hang_up(self) -> None:
        """Close a connection in which there is nobody to take leave of; never raises."""
        self._wire.close()

    def _login(self, user: str, secret: str) -> Reply:
        """AUTH LOGIN, which is what Exchange has for passwords (draft-murchison-sasl-login)."""
        reply = self._say(b"AUTH LOGIN", "sign-in")
        for word in (user, secret):
            if reply.code != 334:
                break
            reply = self._say(base64.b64encode(word.encode()), "sign-in")
        return reply

    def _hello(self) -> dict[str, str]:
        """Say EHLO with our address: a name would have to be looked up, and be true (RFC 5321 section 4.1.4)."""
        address = ipaddress.ip_address(self._wire.own_address)
        literal = f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
        reply = self._expect(self._say(f"EHLO {literal}".encode(), "greeting"))
        found: dict[str, str] = {}
        for line in reply.text.split("\n")[1:]:
            word, _, parameters = line.strip().partition(" ")
            found[word.upper()] = parameters
        return found

    def _expect(self, reply: Reply) -> Reply:
        if not reply.good:
            raise CannotSignIn(f"{self._wire.where} does not want to speak to us: it answered {reply.shown}")
        return reply

    def _say(self, command: bytes, stage: Stage) -> Reply:
        # What people configure is checked; nothing else may ever bring a second line into a command.
        if b"\r" in command or b"\n" in command:
            raise ValueError("a command of SMTP is one line")
        self._wire.begin()
        self._wire.send([command + b"\r\n"])
        return self._answer(stage)

    def _answer(self, stage: Stage) -> Reply:
        """Read one answer of one or several lines (RFC 5321 section 4.2.1)."""
        words: list[str] = []
        while len(words) < _LINES:
            line = self._wire.line()
            if not re.match(rb"[2-5]\d\d([ -]|$)", line):
                raise Broken(f"{self._wire.where} does not speak SMTP")
            words.append(line[4:].decode("ascii", "replace"))
            if line[3:4] != b"-":
                code = int(line[:3])
                # It closes the connection after this (RFC 5321 section 3.8).
                self.ended = code == 421
                return Reply(stage, code, "\n".join(words))
        raise Broken(f"{self._wire.where} answers without an end")


def stuffed(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The pieces as DATA carries them (RFC 5321 section 4.5.2): dots at the beginning of lines doubled, and the final dot."""
    before = b"\r\n"
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), 2**16):
            part = bytes(view[start : start + 2**16])
            yield (before + part).replace(b"\r\n.", b"\r\n..")[len(before) :]
            before = (before + part)[-2:]
    yield b".\r\n" if before == b"\r\n" else b"\r\n.\r\n"
