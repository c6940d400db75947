"""Where secrets must not be (promise P7), and the look into all of these places.

What is said is kept and looked at in the end, when every secret is known; files are looked at where they lie, or before
they are removed. A report names kind, place and test, and never what was found.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bed.journal import tokens_sealed_in, written_at
from tests.bed.known_secrets import Found, Secrets


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that is meant to hold secrets. With a `kind` each line of it is one, which must not be anywhere else."""

    name: str
    why: str
    kind: str | None = None


TOKEN_KEY = "a token key"
SECRET_FILES = (
    SecretFile("token_keys", "what opens the tokens in Redis, and lies elsewhere for that reason", TOKEN_KEY),
    SecretFile(".token_keys.*", "the same, before it has its name", TOKEN_KEY),
    SecretFile("keys", "the same, where a test sets TOKEN_KEYS_FILE", TOKEN_KEY),
    SecretFile(".keys.*", "the same, before it has its name", TOKEN_KEY),
    SecretFile("*.key", "the private key of a server's certificate", "a private key"),
    SecretFile("robot-secret", "what the demo's application signs in with", "a client secret"),
    SecretFile("receiver-secret", "what the demo's webhooks are signed with", "a webhook secret"),
    SecretFile("mq-dovecot-*/passwords", "whom Dovecot lets in"),
    SecretFile("secrets/*", "where the docs put the files that settings name"),
    SecretFile("secret", "what a test names in a setting that ends in _FILE"),
    SecretFile("robot.pem", "the same: the robot's certificate with its key"),
    SecretFile("workload.jwt", "the same: the token that a platform gives to a workload"),
    SecretFile("test_no_problem_shows_a_value*/.env", "a password as an operator may write it down"),
)
CLEAR = b"clear:"
"""What DANGEROUSLY_STORE_TOKENS_IN_CLEAR puts in front of the tokens that it stores in Redis."""

_PIECE = 1 << 22
# So much of a piece is looked at again with the next one, for what lies across.
_OVERLAP = 1 << 10
# Kept, because a test may put something else in its place.
_open = open


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret of this kind was seen at this place; `test` is the one that ran, where that is known."""

    kind: str
    place: str
    test: str = ""

    def __str__(self) -> str:
        """One line of the report."""
        return f"{self.kind} in {self.place}" + (f", seen in {self.test}" if self.test else "")


class Leaks:
    """Looks for secrets. `root` is the folder below which the files of a run lie."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets = Secrets()
        self._token_keys: set[bytes] = set()
        # What was said, and where -> the test that ran.
        self._heard: dict[tuple[str, str], str] = {}
        self._found: dict[tuple[str, str], Leak] = {}
        self._ends: dict[Path, int] = {}

    def add_token_key(self, key: bytes) -> None:
        """Let a Fernet key be secret, and the tokens that it has sealed as well."""
        self.secrets.add(TOKEN_KEY, key)
        self._token_keys.add(key)

    def hear(self, place: str, said: str | bytes, *, test: str = "") -> None:
        """Keep what was said at a place."""
        text = said if isinstance(said, str) else said.decode(errors="replace")
        self._heard.setdefault((place, text), test)

    def look_into(self, folder: Path, *, test: str = "") -> None:
        """Look into every file below a folder; before that, files that are meant to hold secrets say what is one."""
        paths = list(_files(folder))
        elsewhere = [] if folder == self.root else _files(self.root)
        for path in (*paths, *elsewhere):
            if (meant := _meant(path)) and meant.kind:
                self._learn(path, meant.kind)
        for path in paths:
            if path.suffix == ".aof":
                for token in tokens_sealed_in(path.read_bytes(), self._token_keys):
                    self.secrets.add("a sealed token", token)
        for path in paths:
            self.look_at(path, test=test)

    def look_at(self, path: Path, *, new: bool = False, test: str = "") -> None:
        """Look into a file; with `new` only into what it has got since the last time."""
        if _meant(path) or not _regular(path):
            return
        if any(self.secrets.find(os.fsencode(path.name))):
            self._note(Leak("a secret", f"the name of a file in {self._name(path.parent)}", test))
        try:
            with _open(path, "rb") as file:
                file.seek(self._ends.get(path, 0) if new else 0)
                kept = b""
                while piece := file.read(_PIECE):
                    data = kept + piece
                    for found in self.secrets.find(data):
                        self._judge(path, found, data, test)
                    kept = data[-_OVERLAP:]
                self._ends[path] = file.tell()
        except OSError as error:
            self._note(Leak(f"something that cannot be read ({error.strerror})", self._name(path), test))

    def found(self) -> list[Leak]:
        """Every leak, after a look at all that was said."""
        for (place, said), test in self._heard.items():
            for found in self.secrets.find(said.encode(errors="replace")):
                self._note(Leak(found.kind, place, test))
        return list(self._found.values())

    def _learn(self, path: Path, kind: str) -> None:
        content = path.read_bytes()
        if content.startswith(b"-----BEGIN "):
            self.secrets.add_private_key(kind, content)
            return
        for line in content.split():
            if kind == TOKEN_KEY:
                self.add_token_key(line)
            else:
                self.secrets.add(kind, line)

    def _judge(self, path: Path, found: Found, data: bytes, test: str) -> None:
        place = self._name(path)
        if path.suffix == ".aof":
            written = written_at(data, found.offset)
            if written.value.startswith(CLEAR):
                return
            place = f"Redis: {written.command} {written.key}"
        self._note(Leak(found.kind, place, test))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def _note(self, leak: Leak) -> None:
        """Remember a leak, once for each kind and place, in words that do not leak it themselves."""
        if any(self.secrets.find(leak.place.encode(errors="replace"))):
            leak = replace(leak, place="a place whose very name holds it")
        self._found.setdefault((leak.kind, leak.place), leak)


def _files(folder: Path) -> Iterator[Path]:
    """Every regular file below a folder; links and sockets are none."""
    for above, _, names in os.walk(folder):
        for name in names:
            if _regular(path := Path(above, name)):
                yield path


def _regular(path: Path) -> bool:
    """Whether it is a file, and neither a link nor a socket nor gone."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _meant(path: Path) -> SecretFile | None:
    """Why a file may hold secrets, if it may."""
    place = f"{path.parent.name}/{path.name}"
    return next((meant for meant, pattern in _PATTERNS if pattern.match(place)), None)


def _pattern(name: str) -> re.Pattern[str]:
    """What a folder and the file in it are called; compiled, because there are a hundred thousand files."""
    return re.compile(fnmatch.translate(name if "/" in name else f"*/{name}"))


_PATTERNS = [(meant, _pattern(meant.name)) for meant in SECRET_FILES]
