"""A folder of the bed's Dovecot that a test adds mail to, and what is in it as a plain IMAP client sees it."""

from __future__ import annotations

import imaplib
import re
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.bed.clients import trusting
from tests.bed.dovecot import Dovecot


@dataclass(frozen=True, slots=True)
class Filed:
    """One message of the folder."""

    raw: bytes
    flags: frozenset[str]
    internal_date: str


class ImapFolder:
    """A folder of its own for the length of a `with` block; it is not made before somebody makes it."""

    def __init__(self, dovecot: Dovecot, user: str) -> None:
        self.name = f"Copies/{secrets.token_hex(6)}"
        self._dovecot = dovecot
        self._user = user

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._client() as client:
            client.delete(f'"{self.name}"')

    @property
    def options(self) -> dict[str, Any]:
        """Options of an output that adds to it, signed in by password."""
        return {
            "host": "localhost",
            "port": self._dovecot.imaps_port,
            "ca_file": self._dovecot.ca_file,
            "username": self._user,
            "password": self._dovecot.passwords[self._user],
            "folder": self.name,
        }

    def messages(self) -> list[Filed]:
        """What is in it, in the order of UIDs; nothing when it is not there."""
        with self._client() as client:
            if client.select(f'"{self.name}"', readonly=True)[0] != "OK":
                return []
            _, found = client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
        return [_filed(item[0].decode(), item[1]) for item in found if isinstance(item, tuple)]

    def subscribed(self) -> bool:
        """Whether mail programs show it."""
        with self._client() as client:
            _, found = client.lsub('""', "*")
        return any(self.name.encode() in line for line in found if isinstance(line, bytes))

    def _client(self) -> imaplib.IMAP4_SSL:
        client = imaplib.IMAP4_SSL(
            "localhost", self._dovecot.imaps_port, ssl_context=trusting(self._dovecot.ca_file), timeout=10
        )
        client.login(self._user, self._dovecot.passwords[self._user])
        return client


def _filed(head: str, raw: bytes) -> Filed:
    flags, date = re.search(r"FLAGS \(([^)]*)\)", head), re.search(r'INTERNALDATE "([^"]*)"', head)
    assert flags
    assert date
    return Filed(raw, frozenset(flags[1].split()) - {"\\Recent"}, date[1])
