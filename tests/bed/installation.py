"""One Mailquay installation of a test: its environment, its folders, its quay, and what its outputs hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from worker import settings
from worker.quay import Quay
from worker.sign_in import by_device_code


class Installation:
    """Settings as environment variables, over the bed's servers. Outputs `lines` (jsonl) and `post` (maildir)."""

    def __init__(self, folder: Path, *, redis_url: str | None) -> None:
        self.folder = folder
        self.lines_file = folder / "out" / "mail.jsonl"
        self.maildir = folder / "out" / "Maildir"
        self.environ: dict[str, str] = {
            "DATA_DIR": str(folder / "data"),
            "OUTPUT__LINES__TYPE": "jsonl",
            "OUTPUT__LINES__PATH": str(self.lines_file),
            "OUTPUT__POST__TYPE": "maildir",
            "OUTPUT__POST__PATH": str(self.maildir),
        }
        if redis_url:
            self.environ["REDIS_URL"] = redis_url
        self._quays: list[Quay] = []

    def mailbox(self, name: str, **said: str) -> None:
        """Describe a mailbox."""
        self.environ |= {f"MAILBOX__{name.upper()}__{key.upper()}": value for key, value in said.items()}

    def on_dovecot(
        self, name: str, dovecot: Dovecot, address: str, *, protocol: str = "imap", **said: str
    ) -> None:
        """A mailbox on the bed's Dovecot, with a password unless `auth` says otherwise."""
        port = dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port
        password = (
            {}
            if said.get("auth") in {"delegated", "app"}
            else {"password": dovecot.passwords.get(address, "")}
        )
        self.mailbox(
            name,
            **{
                "protocol": protocol,
                "address": address,
                "host": "localhost",
                "port": str(port),
                "ca_file": str(dovecot.ca_file),
                "since": "all",
                "outputs": "lines,post",
                **password,
                **said,
            },
        )

    def signs_in_at(self, identity: Identity) -> None:
        """Use the bed's identity provider."""
        self.environ |= {
            "ENTRA__AUTHORITY": identity.authority,
            "ENTRA__CLIENT_ID": identity.client_id,
            "ENTRA__CA_FILE": str(identity.ca_file),
        }

    def quay(self, *, clock: Callable[[], float] = time.time, **more: str) -> Quay:
        """A quay of its own, as a process has one; `more` are variables that count for it alone."""
        said = settings.load({**self.environ, **more}, cwd=self.folder)
        assert said.redis_url is not None
        quay = Quay(said, said.redis_url, clock=clock)
        self._quays.append(quay)
        return quay

    def sign_in(self, quay: Quay, identity: Identity, account: str) -> None:
        """Sign in by device code; the approval is done here, as a person does it."""
        by_device_code(quay, account, show=lambda _, code: identity.decide(code, account))

    def run(self, *arguments: str, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `mailquay` with this installation's environment."""
        return subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments],
            cwd=self.folder,
            env=self.full_environ(**more),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def full_environ(self, **more: str) -> dict[str, str]:
        """This installation's variables over the test's own."""
        root = str(Path(__file__).parents[2])
        return {**os.environ, "PYTHONPATH": root, **self.environ, **more}

    def lines(self) -> list[dict[str, Any]]:
        """Every line that the jsonl output holds; one that is being written just now does not count yet."""
        if not self.lines_file.exists():
            return []
        whole = self.lines_file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in whole]

    def posted(self) -> dict[str, bytes]:
        """Every message in the Maildir: file name -> raw bytes."""
        return {
            path.name: path.read_bytes()
            for folder in ("new", "cur")
            if (self.maildir / folder).is_dir()
            for path in (self.maildir / folder).iterdir()
        }

    def close(self) -> None:
        """Let all quays go."""
        for quay in self._quays:
            quay.close()


def numbered(number: int, size: int = 200) -> bytes:
    """A small message that carries its number."""
    head = f"From: crane@example.com\r\nTo: quay@example.com\r\nSubject: Crate {number}\r\nX-Number: {number}\r\n\r\n"
    return (head + "x" * size + "\r\n").encode()


def number_of(raw: bytes) -> int:
    """The number of a message made by `numbered`."""
    return int(raw.split(b"X-Number: ", 1)[1].split(b"\r\n", 1)[0])
