"""Those who pull the mailbox: Mailquay's verbs, bare standard-library loops, and the peers that are installed."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

USER = "bench@harbour.example"
_HERE = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Server:
    """Where the mailbox is."""

    imaps_port: int
    pop3s_port: int
    ca_file: Path
    password: str
    count: int
    host: str = "localhost"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A name for the table and a run: seconds for one pull of the whole mailbox into an empty folder."""

    name: str
    run: Callable[[Server, Path], float]
    needs: str | None = None

    @property
    def installed(self) -> bool:
        """Whether its program is there."""
        return self.needs is None or shutil.which(self.needs) is not None


def bare_loop(library: str) -> Callable[[Server, Path], float]:
    """A loop that keeps nothing, as fast as the standard library can read; a program, as all the others are."""

    def run(server: Server, folder: Path) -> float:
        port = str(server.imaps_port if library == "imaplib" else server.pop3s_port)
        where = [server.host, port, str(server.ca_file), USER]
        return _timed([sys.executable, "-m", "bench.loops", library, *where], folder, said=server.password)

    return run


imaplib_loop, poplib_loop = bare_loop("imaplib"), bare_loop("poplib")


def mailquay(verb: str, protocol: str) -> Callable[[Server, Path], float]:
    """`mailquay once` into jsonl, or `mailquay pull` into the spool; the program's start included."""

    def run(server: Server, folder: Path) -> float:
        environ = {
            **os.environ,
            "DATA_DIR": str(folder / "data"),
            "OUTPUT__LINES__TYPE": "jsonl",
            "OUTPUT__LINES__PATH": str(folder / "mail.jsonl"),
            "MAILBOX__BENCH__PROTOCOL": protocol,
            "MAILBOX__BENCH__ADDRESS": USER,
            "MAILBOX__BENCH__PASSWORD": server.password,
            "MAILBOX__BENCH__HOST": server.host,
            "MAILBOX__BENCH__PORT": str(server.imaps_port if protocol == "imap" else server.pop3s_port),
            "MAILBOX__BENCH__CA_FILE": str(server.ca_file),
            "MAILBOX__BENCH__SINCE": "all",
            "MAILBOX__BENCH__OUTPUTS": "lines",
            "LOG_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "worker.cli", verb, *(["bench"] if verb == "pull" else []), "--json"]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
        assert done.stdout, done.stderr[-2000:]
        totals = json.loads(done.stdout)
        assert totals["pulled"] == server.count, (totals, done.stderr)
        assert verb == "pull" or totals["delivered"] == server.count, (totals, done.stderr)
        return seconds

    return run


def mbsync(server: Server, folder: Path) -> float:
    """Isync's mbsync into a Maildir, with its fsync on, as it is by default."""
    (folder / "mail").mkdir()
    config = folder / "mbsyncrc"
    config.write_text(
        f"IMAPAccount bed\nHost {server.host}\nPort {server.imaps_port}\nUser {USER}\nPass {server.password}\n"
        f"SSLType IMAPS\nCertificateFile {server.ca_file}\n\nIMAPStore far\nAccount bed\n\n"
        f"MaildirStore near\nPath {folder}/mail/\nInbox {folder}/mail/INBOX\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns INBOX\nCreate Near\nSync Pull New\nSyncState *\n"
    )
    config.chmod(0o600)
    return _timed(["mbsync", "-q", "-c", str(config), "all"], folder)


def getmail(protocol: str) -> Callable[[Server, Path], float]:
    """getmail6 into a Maildir. It files no mail as root, so root lends the folder to nobody."""

    def run(server: Server, folder: Path) -> float:
        owner = "nobody" if os.geteuid() == 0 else getpass.getuser()
        for name in ("cur", "new", "tmp"):
            (folder / "mail" / name).mkdir(parents=True)
        if owner == "nobody":
            folder.chmod(0o755)
            for path in (folder / "mail", *(folder / "mail").iterdir()):
                shutil.chown(path, owner)
        port = server.imaps_port if protocol == "IMAP" else server.pop3s_port
        config = folder / "getmailrc"
        config.write_text(
            f"[retriever]\ntype = Simple{protocol}SSLRetriever\nserver = {server.host}\nport = {port}\n"
            f"username = {USER}\npassword = {server.password}\nca_certs = {server.ca_file}\n"
            f"[destination]\ntype = Maildir\npath = {folder}/mail/\nuser = {owner}\n"
            "[options]\nread_all = true\ndelivered_to = false\nreceived = false\nverbose = 0\n"
        )
        return _timed(["getmail", f"--getmaildir={folder}", f"--rcfile={config}"], folder)

    return run


def mpop(server: Server, folder: Path) -> float:
    """Mpop into a Maildir."""
    for name in ("cur", "new", "tmp"):
        (folder / "mail" / name).mkdir(parents=True)
    config = folder / "mpoprc"
    config.write_text(
        f"account bed\nhost {server.host}\nport {server.pop3s_port}\nuser {USER}\npassword {server.password}\n"
        f"tls on\ntls_starttls off\ntls_trust_file {server.ca_file}\nauth user\ndelivery maildir {folder}/mail\n"
        f"uidls_file {folder}/uidls\nkeep on\n"
    )
    config.chmod(0o600)
    return _timed(["mpop", f"--file={config}", "-q", "bed"], folder)


CONTESTANTS = (
    Contestant("imaplib, keeps nothing", imaplib_loop),
    Contestant("mailquay pull, IMAP", mailquay("pull", "imap")),
    Contestant("mailquay once, IMAP to jsonl", mailquay("once", "imap")),
    Contestant("mbsync, fsync on", mbsync, "mbsync"),
    Contestant("getmail6, IMAP", getmail("IMAP"), "getmail"),
    Contestant("poplib, keeps nothing", poplib_loop),
    Contestant("mailquay pull, POP3", mailquay("pull", "pop3")),
    Contestant("mpop", mpop, "mpop"),
    Contestant("getmail6, POP3", getmail("POP3"), "getmail"),
)


def fresh_run(contestant: Contestant, server: Server) -> float:
    """One run into an empty folder, which is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    try:
        return contestant.run(server, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _timed(command: list[str], folder: Path, *, said: str | None = None) -> float:
    environ = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(_HERE)}
    begun = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environ, input=said, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr[-500:]
    return seconds
