"""A real Cyrus on loopback, IMAP and POP3 over TLS with plain passwords: a second opinion beside Dovecot.

It is not installed: `scripts/fetch-servers` unpacks the distribution's own packages into a folder, and from there it runs,
as root and as a normal user alike, without its services. Nothing outlives it: its folder is temporary, its processes are
one group.
"""

from __future__ import annotations

import grp
import imaplib
import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from string import Template

from tests.bed.clients import trusting
from tests.bed.processes import BedProcess, answers, free_port, wait_until
from worker.demo.certificates import Certificates

UNPACKED = Path(__file__).parent / "cyrus-imapd"
"""Where `scripts/fetch-servers` puts it."""
_UNPRIVILEGED = "nobody"
"""Who it runs as when root starts it: Cyrus refuses to be root."""

_SERVICES = Template("""
START {
  recover cmd="$bin/ctl_cyrusdb -C $folder/imapd.conf -r"
}
SERVICES {
  imaps cmd="$bin/imapd -C $folder/imapd.conf -s" listen="127.0.0.1:$imaps_port" prefork=1
  pop3s cmd="$bin/pop3d -C $folder/imapd.conf -s" listen="127.0.0.1:$pop3s_port" prefork=1
}
""")
_SETTINGS = Template("""
configdirectory: $folder/conf
defaultpartition: default
partition-default: $folder/mail
cyrus_user: $user
cyrus_group: $group
admins: nobody-is
virtdomains: userid
unixhierarchysep: yes
sasl_pwcheck_method: saslauthd
sasl_saslauthd_path: $folder/mux
sasl_mech_list: PLAIN
tls_server_cert: $folder/server.pem
tls_server_key: $folder/server.key
tls_session_timeout: 0
# A mailbox is made when somebody signs in for the first time.
autocreate_quota: 0
autocreate_inbox_folders: Done
# A refused sign-in does not make the next one slower.
failedloginpause: 0
""")


class Cyrus:
    """One Cyrus. `passwords` are the mailboxes' addresses and what opens them."""

    host = "localhost"

    def __init__(self, *, certificates: Certificates, addresses: Iterable[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mq-cyrus-"))
        self.folder.chmod(0o755)
        self.ca_file = certificates.ca_file
        self.passwords = {address: secrets.token_urlsafe(12) for address in addresses}
        self.imaps_port, self.pop3s_port = free_port(), free_port()
        self._user = pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._process: BedProcess | None = None
        # Its processes may not be allowed to look into the folder that it was unpacked to.
        shutil.copytree(UNPACKED, self.folder / "program", symlinks=True)
        for name in ("conf", "conf/db", "conf/socket", "conf/proc", "conf/log", "conf/msg", "mail"):
            self._own(self.folder / name, make=True)
        for source, name in ((certificates.chain_file, "server.pem"), (certificates.key_file, "server.key")):
            shutil.copy(source, self.folder / name)
            self._own(self.folder / name)
        self._keeper = _PasswordKeeper(self.folder / "mux", self.passwords)
        self._own(self.folder / "mux")

    @staticmethod
    def installed() -> bool:
        """Whether it was unpacked here."""
        return (UNPACKED / "usr/lib/cyrus/bin/imapd").exists()

    @property
    def log(self) -> str:
        """What its processes have said so far."""
        file = self.folder / "cyrus.log"
        return file.read_text() if file.exists() else ""

    def start(self) -> None:
        """Start it and wait until both protocols answer."""
        names = {
            "folder": self.folder,
            "bin": self.folder / "program/usr/lib/cyrus/bin",
            "imaps_port": self.imaps_port,
            "pop3s_port": self.pop3s_port,
            "user": self._user.pw_name,
            "group": grp.getgrgid(self._user.pw_gid).gr_name,
        }
        settings, services = self.folder / "imapd.conf", self.folder / "cyrus.conf"
        settings.write_text(_SETTINGS.substitute(names))
        services.write_text(_SERVICES.substitute(names))
        self._process = BedProcess(
            [
                str(names["bin"] / "master"),
                *("-C", str(settings), "-M", str(services), "-p", str(self.folder / "master.pid")),
            ],
            log_file=self.folder / "cyrus.log",
            environ={**os.environ, "LD_LIBRARY_PATH": str(self.folder / "program/libraries")},
        )

        def ready() -> bool:
            if self._process is None or not self._process.running:
                msg = f"Cyrus ended while it started; it said:\n{self.log[-2000:]}"
                raise RuntimeError(msg)
            return answers(self.imaps_port) and answers(self.pop3s_port)

        wait_until(ready, timeout=10, what="Cyrus's start")

    def remove(self) -> None:
        """End it with all its sessions, and remove its folder."""
        if self._process is not None:
            self._process.end(how=signal.SIGKILL)
            self._process = None
            wait_until(
                lambda: not (answers(self.imaps_port) or answers(self.pop3s_port)),
                timeout=5,
                what="Cyrus's end",
            )
        self._keeper.close()
        shutil.rmtree(self.folder)

    def client(self, user: str) -> imaplib.IMAP4_SSL:
        """A signed-in session of the standard library; signing in for the first time makes the mailbox."""
        client = imaplib.IMAP4_SSL(
            "localhost", self.imaps_port, ssl_context=trusting(self.ca_file), timeout=10
        )
        client.login(user, self.passwords[user])
        return client

    def save(self, user: str, *messages: bytes, folder: str = "INBOX") -> None:
        """Put messages into a folder that is there, in order."""
        with self.client(user) as client:
            for message in messages:
                done, said = client.append(folder, "", "", message)
                assert done == "OK", said

    def listing(self, user: str, folder: str = "INBOX") -> dict[int, tuple[str, ...]]:
        """The UIDs in a folder, each with its flags (without \\Recent)."""
        with self.client(user) as client:
            client.select(folder, readonly=True)
            _, lines = client.uid("FETCH", "1:*", "(UID FLAGS)")
        found: dict[int, tuple[str, ...]] = {}
        for line in lines:
            if isinstance(line, bytes):
                words = line.decode().replace("(", " ").replace(")", " ").split()
                flags = tuple(word for word in words if word.startswith("\\") and word != "\\Recent")
                found[int(words[words.index("UID") + 1])] = flags
        return found

    def _own(self, path: Path, *, make: bool = False) -> None:
        if make:
            path.mkdir()
        if os.geteuid() == 0:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)


class _PasswordKeeper:
    """What Cyrus asks whether a password is right: saslauthd's protocol, four counted strings in, one out."""

    def __init__(self, path: Path, passwords: dict[str, str]) -> None:
        self._passwords = passwords
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve, name="password keeper")
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                asking, _ = self._listener.accept()
            except OSError:
                return
            with asking, suppress(OSError, struct.error):
                asking.settimeout(5)
                user, password, _, realm = (_counted(asking) for _ in range(4))
                address = f"{user}@{realm}" if realm else user
                verdict = b"OK" if self._passwords.get(address) == password else b"NO"
                asking.sendall(struct.pack(">H", len(verdict)) + verdict)


def _counted(asking: socket.socket) -> str:
    (length,) = struct.unpack(">H", asking.recv(2, socket.MSG_WAITALL))
    return asking.recv(length, socket.MSG_WAITALL).decode() if length else ""
