"""IMAP's LIST answers as folder names (RFC 3501 section 7.2.2): bytes that a server sent in, names out.

Lenient: names as atoms, quoted strings or literals, in modified UTF-7 or, from servers that do not know better, in
UTF-8; attributes and extensions in any number. What cannot be opened, or cannot be said in one line, is left out.
Nothing here reads from a connection.
"""

from __future__ import annotations

import re
import unicodedata

from pipelines.imap_text import from_mutf7
from worker.errors import Unreachable
from worker.folders import spelled
from worker.sources import FolderName

_MOST_LINES = 20_000
_MOST_OCTETS = 2 << 20
"""A server that lists without an end would hold the worker and fill its memory; real ones have hundreds of folders."""
_ANSWER = re.compile(
    rb'\* LIST \(([^()]*)\) +(NIL|""|"\\?(.)") +(?:"((?:[^"\\]|\\.)*)"|([^\s"()]+))',
    re.IGNORECASE | re.DOTALL,
)
_CLOSED = frozenset({"\\noselect", "\\nonexistent"})
"""Levels that hold other folders and no messages (RFC 3501 section 7.2.2, RFC 9051 section 7.3.1)."""
_MISSING = (
    "could not be found",
    "unknown mailbox",
    "no such mailbox",
    "no such folder",
    "invalid folder",
    "[cannot]",
    "[noperm]",
)


class Listing:
    """The answers to one LIST. `wire` tells how the server itself spells a name, to be sent back as it came."""

    def __init__(self, host: str) -> None:
        self.folders: dict[str, FolderName] = {}
        self.wire: dict[str, str] = {}
        self._host = host
        self._lines = 0
        self._octets = 0

    def note(self, line: bytes) -> None:
        """Take one line of the answer; a literal in it stands there as a quoted string.

        Raises:
            Unreachable: there were too many.
        """
        self._lines += 1
        self._octets += len(line)
        if self._lines > _MOST_LINES or self._octets > _MOST_OCTETS:
            raise Unreachable(
                f"{self._host} lists more than {_MOST_LINES} folders or {_MOST_OCTETS} octets of them; hung up. "
                "Name the folders in FOLDERS one by one, without patterns."
            )
        if found := _read(line):
            wire, folder = found
            # Two names may look alike with a `/` that is no separator in one of them: the real levels win.
            if folder.name not in self.folders or "/" not in folder.spelled:
                self.folders[folder.name] = folder
                self.wire[folder.name] = wire

    def alike(self, name: str) -> str | None:
        """How the server spells a folder that was named in another case, or with `/` for its separator."""
        if name in self.wire:
            return self.wire[name]
        return next((self.wire[other] for other in self.wire if other.casefold() == name.casefold()), None)


def missing(text: str) -> bool:
    """Whether a refusal to open means that the folder is not there, or not for this account, in other servers' words."""
    low = text.lower()
    return any(sign in low for sign in _MISSING)


def _read(line: bytes) -> tuple[str, FolderName] | None:
    """The name as it has to be sent back, and the folder; None for anything that is no folder with messages."""
    if not (answer := _ANSWER.match(line)):
        return None
    attributes, _, separator, in_quotes, atom = answer.groups()
    if _CLOSED & set(attributes.decode("latin-1").lower().split()):
        return None
    raw = atom if atom is not None else re.sub(rb"\\(.)", rb"\1", in_quotes, flags=re.DOTALL)
    try:
        wire = raw.decode()
    except UnicodeDecodeError:
        return None
    name = from_mutf7(wire) if wire.isascii() else wire
    if not name or any(unicodedata.category(letter) == "Cc" for letter in name):
        return None
    return wire, FolderName(_levels(name, separator), name)


def _levels(name: str, separator: bytes | None) -> str:
    """A name whose levels are parted by `/`; INBOX in capitals wherever its case means nothing."""
    if separator not in {None, b"/"} and "/" not in name:
        name = name.replace(separator.decode("latin-1"), "/")
    return spelled(name)
