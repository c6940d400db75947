"""An IMAP server that is good but for its quirks, to the byte, and the mailbox `box` on it that is pulled."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import pytest

from tests.bed.errands import flow
from tests.bed.installation import Installation, numbered
from tests.faults.conftest import delivered_once
from tests.faults.withholding import Withholding
from worker import settings
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.quay import Quay

COUNT = 5
DONE = b"<tag> OK done\r\n"
FETCH = b"UID FETCH 1:5 (UID FLAGS"
LIST = b"UID FETCH 1:5 (UID RFC822.SIZE)"


class Quirky(Withholding):
    """One folder of letters, numbered from 1. `instead`: how a command begins -> what is answered, turn by turn, then the truth.

    `always`: what is answered each time. `drips`: how a command begins, and what is then said every few milliseconds, for ever.
    """

    def __init__(self, certificates: Certificates, *letters: bytes, greeting: bytes = b"") -> None:
        super().__init__(certificates, *letters, protocol="imap")
        self._greeting = greeting or self._greeting
        self.instead: dict[bytes, list[bytes]] = {}
        self.always: dict[bytes, bytes] = {}
        self.drips: tuple[bytes, bytes] | None = None

    def _converse(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        super()._converse(connection)

    def _answer(self, said: bytes) -> bytes:
        if self.drips and said.startswith(self.drips[0]):
            _, drop = self.drips
            # It ends with the client, by an error that ends the session.
            while True:
                self._connection.sendall(drop)
                time.sleep(0.02)
        for start, answers in self.instead.items():
            if said.startswith(start) and answers:
                return answers.pop(0)
        for start, answer in self.always.items():
            if said.startswith(start):
                return answer
        return super()._answer(said)

    def whole(self, number: int) -> bytes:
        """A FETCH answer that brings a letter, as it should be."""
        raw = self.letters[number]
        return b"* %d FETCH (UID %d BODY[] {%d}\r\n%s)\r\n" % (number, number, len(raw), raw)


def opened(count: int, *, uidvalidity: bytes = b"* OK [UIDVALIDITY 7]\r\n", uidnext: bytes = b"") -> bytes:
    """The answer to EXAMINE of a folder."""
    return b"* %d EXISTS\r\n" % count + uidvalidity + uidnext + b"<tag> OK [READ-ONLY] done\r\n"


EXAMINED = opened(COUNT, uidnext=b"* OK [UIDNEXT 6]\r\n")
"""The folder as it is."""


@pytest.fixture
def server(installation: Installation, certificates: Certificates) -> Iterator[Quirky]:
    """The mailbox `box` with five numbered messages."""
    with Quirky(certificates, *(numbered(n) for n in range(COUNT))) as server:
        installation.mailbox(
            "box", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post", every="1m",
        )  # fmt: skip
        yield server


@pytest.fixture
def quay(installation: Installation, server: Quirky) -> Quay:
    """One process."""
    return installation.quay()


@pytest.fixture
def impatient(installation: Installation, server: Quirky) -> Iterator[Quay]:
    """One process, in which a server has to answer within a fraction of a second."""
    said = settings.load(installation.environ, cwd=installation.folder)
    quay = Quay(said, str(said.redis_url), answer_seconds=0.3)
    yield quay
    quay.close()


def numbers(installation: Installation) -> list[str]:
    """The numbers of the messages that were delivered, as often as they were."""
    return sorted(line["subject"].removeprefix("Crate ") for line in installation.lines())


def checkpoint(quay: Quay) -> int:
    """How far INBOX is."""
    at = quay.checkpoints.load("box", "INBOX")
    return at.uid if at else 0


def all_came(installation: Installation, quay: Quay, *, polls: int = 1) -> None:
    """All five messages came, each once, nothing is left to wait, and the mailbox stands well."""
    for _ in range(polls):
        flow(quay, "box")
    assert delivered_once(installation, range(COUNT))
    assert quay.repairs.of("box") == []
    assert quay.standings.of("box").state == "ok"
    assert checkpoint(quay) == COUNT
