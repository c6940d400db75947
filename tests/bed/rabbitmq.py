"""A real RabbitMQ on loopback, AMQP with and without TLS, for what outputs publish.

It is not installed: `scripts/fetch-servers` unpacks the distribution's own packages into a folder, and from there it runs,
as root and as a normal user alike, without its service scripts. Erlang's port mapper, which would otherwise go on for ever
in the background, is a process of the bed with a port of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

import amqp

from tests.bed.processes import BedProcess, answers, free_port, wait_until
from worker.demo.certificates import Certificates

UNPACKED = Path(__file__).parent / "rabbitmq-server"
"""Where `scripts/fetch-servers` puts it."""

_SETTINGS = Template("""
listeners.tcp.1 = 127.0.0.1:$port
listeners.ssl.1 = 127.0.0.1:$tls_port
ssl_options.cacertfile = $authority
ssl_options.certfile = $certificate
ssl_options.keyfile = $key
ssl_options.verify = verify_none
default_user = robot
default_pass = $password
log.console = true
log.console.level = warning
log.file = false
# A machine of tests may have little room; what is published here is small.
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 2GB
max_message_size = 1000000
""")


class RabbitMq:
    """One broker with one node. Ports and data stay over `kill9` and `start`."""

    def __init__(self, certificates: Certificates) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mq-rabbitmq-"))
        self.port, self.tls_port = free_port(), free_port()
        self.password = secrets.token_urlsafe(16)
        self.authority = certificates.ca_file
        self._epmd_port, self._dist_port = free_port(), free_port()
        self._processes: list[BedProcess] = []
        (self.folder / "rabbitmq.conf").write_text(
            _SETTINGS.substitute(
                port=self.port,
                tls_port=self.tls_port,
                password=self.password,
                authority=certificates.ca_file,
                certificate=certificates.chain_file,
                key=certificates.key_file,
            )
        )
        (self.folder / "rabbitmq.conf").chmod(0o600)
        (self.folder / "enabled_plugins").write_text("[].\n")

    @staticmethod
    def installed() -> bool:
        """Whether it was unpacked here."""
        return (UNPACKED / "usr/lib/erlang").exists()

    @property
    def url(self) -> str:
        """Where and as whom, without TLS."""
        return f"amqp://robot:{self.password}@127.0.0.1:{self.port}//"

    @property
    def tls_url(self) -> str:
        """The same over TLS."""
        return f"amqps://robot:{self.password}@localhost:{self.tls_port}//"

    def start(self) -> None:
        """Start the port mapper and the broker, and wait until both listeners answer."""
        erlang = UNPACKED / "usr/lib/erlang"
        (programs,) = erlang.glob("erts-*/bin")
        (rabbit,) = (UNPACKED / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")
        environ = self._environ(erlang, programs, rabbit)
        log = self.folder / "rabbitmq.log"
        mapper = BedProcess(
            [str(programs / "epmd"), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            log_file=log,
            environ=environ,
        )
        self._processes.append(mapper)
        wait_until(lambda: answers(self._epmd_port), timeout=10, what="the start of Erlang's port mapper")
        broker = BedProcess(
            [
                str(programs / "erlexec"),
                *("-noinput", "-s", "rabbit", "boot", "-boot", "start_sasl", "+W", "w", "+B", "i"),
                *("+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
                *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
                *("-kernel", "prevent_overlapping_partitions", "false"),
                *("-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"),
            ],
            log_file=log,
            environ=environ,
        )
        self._processes.append(broker)

        def ready() -> bool:
            if not broker.running:
                msg = f"RabbitMQ ended while it started; it said:\n{log.read_text()[-2000:]}"
                raise RuntimeError(msg)
            return answers(self.port) and answers(self.tls_port)

        wait_until(ready, timeout=60, what="RabbitMQ's start")

    def kill9(self) -> None:
        """Kill the broker and the port mapper: what was not on the disk is gone."""
        while self._processes:
            self._processes.pop().end(how=signal.SIGKILL)
        wait_until(lambda: not answers(self.port), timeout=5, what="RabbitMQ's end")

    def freeze(self) -> None:
        """Let it stand still, with all its connections open."""
        os.kill(self._processes[-1].pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._processes[-1].pid, signal.SIGCONT)

    def remove(self) -> None:
        """End it and remove its data."""
        self.kill9()
        shutil.rmtree(self.folder)

    @contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """A channel of another client, to declare and to read with."""
        connection = amqp.Connection(
            f"127.0.0.1:{self.port}", userid="robot", password=self.password, connect_timeout=10
        )
        connection.connect()
        try:
            with connection.channel() as channel:
                yield channel
        finally:
            connection.close()

    def take(self, queue: str) -> list[amqp.Message]:
        """Everything that is in a queue, taken out."""
        found = []
        with self.channel() as channel:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                found.append(message)
        return found

    def _environ(self, erlang: Path, programs: Path, rabbit: Path) -> Mapping[str, str]:
        return {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": str(UNPACKED / "libraries"),
            "ROOTDIR": str(erlang),
            "BINDIR": str(programs),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_LIBS": str(rabbit / "plugins"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_MAX_PORTS": "4096",
            "RABBITMQ_HOME": str(rabbit),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(self.folder / "feature_flags"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_NODENAME": "mq@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_LOGS": "-",
        }
