"""A real Dovecot on loopback that accepts the identity provider's tokens, by IMAP, POP3 and SMTP, and plain passwords.

It takes no mail for sending: whoever signs in to submission is refused at MAIL FROM.

It runs as root and as a normal user alike. Nothing outlives it: its folder is temporary, its processes are one group.
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from tests.bed.maildir import write_messages
from tests.bed.processes import BedProcess, answers, free_port, wait_until
from worker.demo.certificates import Certificates

HERE = Path(__file__).parent
# As root, mail belongs to this uid, which need not exist.
MAIL_UID = 2000


class Dovecot:
    """One Dovecot. Ports stay the same over `stop` and `start`; so does the mail.

    Args:
        certificates: What it presents.
        introspection_url: Plain HTTP address that says whether a token opens a mailbox.
        passwords: Mailbox addresses that may also sign in by password; the passwords are made here.
        extra: More lines for its configuration, for example `mail_max_userip_connections = 1`.
    """

    host = "localhost"

    def __init__(
        self,
        *,
        certificates: Certificates,
        introspection_url: str,
        passwords: Iterable[str] = (),
        extra: str = "",
    ) -> None:
        # The folder is short on purpose: paths of Unix sockets may have about 100 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="mq-dovecot-"))
        self.folder.chmod(0o755)
        self.ca_file = certificates.ca_file
        self.passwords = {address: secrets.token_urlsafe(12) for address in passwords}
        self.imaps_port, self.pop3s_port = free_port(), free_port()
        self.imap_port, self.pop3_port = free_port(), free_port()
        self.submission_port, self.submissions_port = free_port(), free_port()
        self._ports = (
            *(self.imaps_port, self.pop3s_port, self.submissions_port),
            *(self.imap_port, self.pop3_port, self.submission_port),
        )
        self._certificates = certificates
        self._introspection_url = introspection_url
        self._extra = extra
        self._process: BedProcess | None = None
        self._mail = self.folder / "mail"
        self._config = self.folder / "dovecot.conf"
        self._own(self._mail)

    @staticmethod
    def installed() -> bool:
        """Whether this machine has a Dovecot."""
        return _program("dovecot") is not None

    @property
    def log(self) -> str:
        """What Dovecot has logged so far; reasons of refused sign-ins stand only here."""
        file = self.folder / "dovecot.log"
        return file.read_text() if file.exists() else ""

    def start(self) -> None:
        """Start it and wait until all protocols answer."""
        # A run folder is never used twice: stale sockets in it make the next start wait for seconds.
        run = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        run.chmod(0o755)
        self._write_config(run)
        command = [_program("dovecot") or "dovecot", "-F", "-c", str(self._config)]
        self._process = BedProcess(command, log_file=self.folder / "dovecot.log")

        def ready() -> bool:
            if self._process is None or not self._process.running:
                msg = f"Dovecot ended while it started; it said:\n{self.log[-2000:]}"
                raise RuntimeError(msg)
            return all(map(answers, self._ports))

        wait_until(ready, timeout=10, what="Dovecot's start")

    def stop(self) -> None:
        """End it with all its sessions, at once. Mail stays."""
        if self._process is not None:
            # Dovecot takes three seconds to leave politely; its maildirs do not need the courtesy.
            self._process.end(how=signal.SIGKILL)
            self._process = None
            # Its children hold the sockets, and die a moment after it.
            wait_until(lambda: not any(map(answers, self._ports)), timeout=5, what="Dovecot's end")

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def save(self, user: str, *messages: bytes, folder: str = "INBOX", flags: str = "") -> None:
        """Put messages into a mailbox, in order, the way a delivery agent does.

        Args:
            user: The mailbox's address.
            messages: Raw messages.
            folder: Made when it does not exist. ASCII only, `/` separates levels.
            flags: Maildir flags such as `S` (seen).
        """
        maildir = self._maildir(user, folder)
        write_messages(maildir, messages, flags=flags, own=self._own)

    def forget(self, user: str) -> None:
        """Remove a mailbox with everything in it, and end its sessions."""
        subprocess.run([*self._doveadm(), "kick", user], capture_output=True, check=False)
        shutil.rmtree(self._mail / user.lower(), ignore_errors=True)

    def listing(self, user: str, folder: str = "INBOX") -> dict[int, tuple[str, ...]]:
        """The UIDs in a folder, each with its flags (without \\Recent)."""
        text = self._run("fetch", "-u", user, "uid flags", "mailbox", folder)
        found: dict[int, tuple[str, ...]] = {}
        uid = 0
        for line in text.splitlines():
            key, _, value = line.strip("\f").partition(": ")
            if key == "uid":
                uid = int(value)
            elif key.startswith("flags"):
                found[uid] = tuple(flag for flag in value.split() if flag != "\\Recent")
        return found

    def uidvalidity(self, user: str, number: int, folder: str = "INBOX") -> None:
        """Give a folder another UIDVALIDITY."""
        self._run("mailbox", "update", "--uid-validity", str(number), "-u", user, folder)

    def expunge(self, user: str, uids: Sequence[int], folder: str = "INBOX") -> None:
        """Remove messages for good."""
        numbers = ",".join(map(str, uids))
        self._run("expunge", "-u", user, "mailbox", folder, "uid", numbers)

    def kick(self, user: str) -> None:
        """End every session of a mailbox."""
        self._run("kick", user)

    def _maildir(self, user: str, folder: str) -> Path:
        """Where a folder lies (Maildir++)."""
        path = self._mail / user.lower() / "Maildir"
        if folder.upper() != "INBOX":
            path /= "." + folder.replace("/", ".")
        for parent in (
            path.parent.parent,
            path.parent,
            path,
            *(path / name for name in ("tmp", "new", "cur")),
        ):
            self._own(parent)
        return path

    def _own(self, path: Path) -> None:
        """Make a folder when it is missing, and give file or folder to the user that Dovecot reads mail as."""
        if not path.exists():
            path.mkdir()
        if os.geteuid() == 0:
            os.chown(path, MAIL_UID, MAIL_UID)

    def _doveadm(self) -> list[str]:
        return [_program("doveadm") or "doveadm", "-c", str(self._config)]

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._doveadm(), *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            msg = f"doveadm {' '.join(arguments)}: {done.stderr.strip()}"
            raise RuntimeError(msg)
        return done.stdout

    def _write_config(self, run: Path) -> None:
        lua_file, password_file = self.folder / "auth.lua", self.folder / "passwords"
        lua_file.write_text(Template((HERE / "auth.lua").read_text()).substitute(url=self._introspection_url))
        lines = [f"{address}:{password}\n" for address, password in self.passwords.items()]
        password_file.write_text("".join(lines))
        root = os.geteuid() == 0
        me, my_group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        text = Template((HERE / "dovecot.conf").read_text()).substitute(
            run=run,
            log_file=self.folder / "dovecot.log",
            mail=self._mail,
            lua_file=lua_file,
            password_file=password_file,
            chain_file=self._certificates.chain_file,
            key_file=self._certificates.key_file,
            imap_port=self.imap_port,
            imaps_port=self.imaps_port,
            pop3_port=self.pop3_port,
            pop3s_port=self.pop3s_port,
            submission_port=self.submission_port,
            submissions_port=self.submissions_port,
            identity_of_processes=f"mail_uid = {MAIL_UID}\nmail_gid = {MAIL_UID}\nfirst_valid_uid = {MAIL_UID}"
            if root
            else f"default_internal_user = {me}\ndefault_internal_group = {my_group}\ndefault_login_user = {me}",
            # Only root may change the root folder of a process.
            chroot="" if root else "chroot =",
            user_fields=f"uid={MAIL_UID} gid={MAIL_UID}" if root else "",
            extra=self._extra,
        )
        self._config.write_text(text)


def _program(name: str) -> str | None:
    """A program of Dovecot, also where a user's PATH does not lead."""
    return shutil.which(
        name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    )
