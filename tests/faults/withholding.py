"""A mail server, IMAP and POP3, that lists all of its messages and does not give some of them, each in its own way."""

from __future__ import annotations

import re

from tests.bed.placeholder import PLACEHOLDER
from tests.bed.scripted import Scripted
from worker.demo.certificates import Certificates

WAYS = ("left out", "refused", "placeholder", "empty")
"""What both protocols know. `in two` is IMAP's: the message comes by its header and its text only."""


class Withholding(Scripted):
    """One folder, numbered from 1. `withheld`: number -> the way; it may be changed between two sessions.

    `listed` are sizes that are not true; `uidvalidity` may be changed too. Without `dated` there is no TOP.
    """

    def __init__(self, certificates: Certificates, *letters: bytes, protocol: str) -> None:
        imap = protocol == "imap"
        greeting = b"* OK [CAPABILITY IMAP4rev1] ready\r\n" if imap else b"+OK ready\r\n"
        super().__init__(certificates, greeting, {}, tagged=imap)
        self.letters = dict(enumerate(letters, 1))
        self.withheld: dict[int, str] = {}
        self.listed: dict[int, int] = {}
        self.uidvalidity = 7
        self.dated = True
        self._say = self._imap if imap else self._pop3

    def _answer(self, said: bytes) -> bytes:
        return self._say(said)

    def _size(self, number: int) -> int:
        return self.listed.get(number, len(self.letters[number]))

    def _imap(self, said: bytes) -> bytes:
        done = b"<tag> OK done\r\n"
        if said.startswith((b"EXAMINE", b"SELECT")):
            last = max(self.letters, default=0)
            return b"* %d EXISTS\r\n* OK [UIDVALIDITY %d]\r\n* OK [UIDNEXT %d]\r\n" % (
                len(self.letters), self.uidvalidity, last + 1,
            ) + done  # fmt: skip
        if not (found := re.match(rb"UID FETCH (\S+) \((.*)\)", said)):
            return done
        numbers = [number for number in _numbers(found[1]) if number in self.letters]
        answers = [self._fetched(number, found[2]) for number in numbers]
        if b"BODY" in found[2] and any(self.withheld.get(number) == "refused" for number in numbers):
            done = b"<tag> NO [SERVERBUG] FETCH Server error while fetching messages\r\n"
        return b"".join(answers) + done

    def _fetched(self, number: int, items: bytes) -> bytes:
        raw, way = self.letters[number], self.withheld.get(number)
        head, _, text = raw.partition(b"\r\n\r\n")
        start = b"* %d FETCH (UID %d " % (number, number)
        if items == b"UID RFC822.SIZE":
            return start + b"RFC822.SIZE %d)\r\n" % self._size(number)
        if probe := re.search(rb"BODY.PEEK\[\]<(\d+)\.1>", items):
            octet = raw[int(probe[1]) :][:1]
            return start + b"BODY[]<%s> {%d}\r\n%s)\r\n" % (probe[1], len(octet), octet)
        if b"HEADER" in items:
            if way not in {None, "in two"}:
                return b""
            parts = (b"HEADER", head + b"\r\n\r\n"), (b"TEXT", text)
            return (
                start
                + b" ".join(b"BODY[%s] {%d}\r\n%s" % (name, len(part), part) for name, part in parts)
                + b")\r\n"
            )
        body = {None: raw, "placeholder": PLACEHOLDER, "empty": b""}.get(way)
        return b"" if body is None else start + b"BODY[] {%d}\r\n%s)\r\n" % (len(body), body)

    def _pop3(self, said: bytes) -> bytes:
        verb, _, argument = said.partition(b" ")
        if verb == b"LIST" and argument:
            return b"+OK %s %d\r\n" % (argument, self._size(int(argument)))
        if verb in {b"UIDL", b"LIST"}:
            lines = [
                b"%d u%d-%d" % (number, self.uidvalidity, number)
                if verb == b"UIDL"
                else b"%d %d" % (number, self._size(number))
                for number in self.letters
            ]
            return b"+OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b".\r\n"
        if verb == b"CAPA":
            return b"+OK\r\nUSER\r\nUIDL\r\nPIPELINING\r\n.\r\n"
        if verb == b"TOP" and self.dated:
            head, _, _ = self.letters[int(argument.split()[0])].partition(b"\r\n\r\n")
            return b"+OK\r\n" + head + b"\r\n\r\n.\r\n"
        if verb == b"TOP":
            return b"-ERR unknown command\r\n"
        if verb != b"RETR":
            return b"+OK\r\n"
        way = self.withheld.get(int(argument))
        if way in {"refused", "left out"}:
            return b"-ERR message cannot be retrieved\r\n"
        body = {"placeholder": PLACEHOLDER, "empty": b""}.get(way or "", self.letters[int(argument)])
        return b"+OK\r\n" + body + b".\r\n"


def _numbers(uid_set: bytes) -> list[int]:
    found: list[int] = []
    for part in uid_set.split(b","):
        first, _, last = part.partition(b":")
        found.extend(range(int(first), int(last or first) + 1))
    return found
