"""Watches 2,000 mailboxes with one real `mailquay watch`, and measures its memory and how soon its bells ring.

    python -m bench.watch [--mailboxes 2000] [--rounds 5] [--seconds 10] [--rate 100]

The mail server is a cheap imitation in a process of its own, over TLS, that announces mail when it is told to. A bell has rung
when its task is in the broker's queue, where a puller would find it; the time runs from the moment before the server writes
its announcement. In each round `rate` mailboxes a second get mail; then all of them at once. Memory is anonymous memory, read
after the last round. Prints JSON; takes three and a half minutes to sign in, because `mailquay watch` is polite.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import resource
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bed.processes import free_port, wait_until
from tests.bed.valkey import Valkey
from worker import state
from worker.demo.certificates import Certificates, write_certificates
from worker.news import News

_QUEUE = "mailquay:celery:pull"
_CAPABLE = b"[CAPABILITY IMAP4rev1 SASL-IR IDLE AUTH=PLAIN]"
_PATIENCE_SECONDS = 30.0


# -- the mail server, in its own process -----------------------------------------------------------------------------


class Server:
    """An IMAP server that knows as much as a watcher asks for. Each line of its standard input names a user with new mail."""

    def __init__(self) -> None:
        self._idling: dict[str, asyncio.StreamWriter] = {}
        self._exists: dict[str, int] = {}

    async def run(self, port: int, chain_file: str, key_file: str) -> None:
        """Serve until the standard input ends."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain_file, key_file)
        server = await asyncio.start_server(self._session, "127.0.0.1", port, ssl=context, backlog=1024)
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        print("ready", flush=True)
        while line := await commands.readline():
            self._announce(line.decode().strip())
        server.close()

    def _announce(self, user: str) -> None:
        if user == "?":
            print("listening", len(self._idling), flush=True)
            return
        self._exists[user] = self._exists.get(user, 0) + 1
        print(user, time.time(), flush=True)
        self._idling[user].write(b"* %d EXISTS\r\n" % self._exists[user])

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        user, idle_tag = "", b""
        writer.write(b"* OK " + _CAPABLE + b" ready\r\n")
        with suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                tag, _, command = line.strip().partition(b" ")
                if tag == b"DONE":
                    writer.write(idle_tag + b" OK done\r\n")
                elif command == b"IDLE":
                    idle_tag, self._idling[user] = tag, writer
                    writer.write(b"+ idling\r\n")
                elif command.startswith(b"AUTHENTICATE PLAIN "):
                    user = base64.b64decode(command.split()[2]).split(b"\0")[1].decode()
                    writer.write(tag + b" OK " + _CAPABLE + b" welcome\r\n")
                elif command.startswith(b"EXAMINE"):
                    writer.write(b"* %d EXISTS\r\n%s OK opened\r\n" % (self._exists.get(user, 0), tag))
                else:
                    writer.write(tag + b" BAD unknown\r\n")
        self._idling.pop(user, None)
        writer.transport.abort()


# -- the measurement -------------------------------------------------------------------------------------------------


class Bells:
    """Takes bells out of the broker's queue as a puller does, and keeps when each one was there."""

    def __init__(self, url: str) -> None:
        self.client = state.connect(url)
        self.rung: dict[str, float] = {}
        self._news = News(self.client)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._end.set()
        self._thread.join()
        self.client.close()

    def _listen(self) -> None:
        while not self._end.is_set():
            if not (found := self.client.brpop([_QUEUE], timeout=1)):
                continue
            moment = time.time()
            mailbox = json.loads(base64.b64decode(json.loads(found[1])["body"]))[0][0]
            self._news.taken(mailbox)
            self.rung.setdefault(mailbox, moment)


def anonymous(pid: int) -> float:
    """A process's anonymous memory in MB (Linux)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Anonymous:\s+(\d+) kB", rollup, re.MULTILINE))) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """What a process has used of its processors so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Town:
    """The server's process, and who got mail when."""

    def __init__(self, port: int, certificates: Certificates) -> None:
        self.announced: dict[str, float] = {}
        self.listening = 0
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.watch", "--serve"),
                *(str(port), str(certificates.chain_file), str(certificates.key_file)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def tell(self, words: list[str]) -> None:
        """Let these users have mail, or `?` say how many listen."""
        assert self._process.stdin
        self._process.stdin.write("".join(f"{word}\n" for word in words))
        self._process.stdin.flush()

    def stop(self) -> None:
        """End the server."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._thread.join()

    def _hear(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            word, _, number = line.partition(" ")
            if word == "listening":
                self.listening = int(number)
            else:
                self.announced[word] = float(number)


def round_trip(town: Town, bells: Bells, names: list[str], *, rate: float) -> list[float]:
    """Let mailboxes have mail one after the other, and say for each how many seconds its bell took."""
    town.announced.clear()
    bells.rung.clear()
    begun = time.monotonic()
    if rate:
        for count, name in enumerate(names):
            # On time, whatever it takes: a slow watcher must not slow the mail down.
            time.sleep(max(0.0, begun + count / rate - time.monotonic()))
            town.tell([name])
    else:
        town.tell(names)
    wait_until(lambda: len(bells.rung) == len(names), timeout=_PATIENCE_SECONDS, what="every bell")
    return sorted(bells.rung[name] - town.announced[name] for name in names)


def figures(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and the worst, in milliseconds."""
    at = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(at[49] * 1e3, 1), "p99": round(at[98] * 1e3, 1), "max": round(seconds[-1] * 1e3, 1)}


@contextmanager
def watcher(folder: Path, environ: dict[str, str]) -> Iterator[int]:
    """One `mailquay watch` for the length of the block; yields its pid."""
    with (folder / "watch.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "watch"],
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environ},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def measure(folder: Path, mailboxes: int, rounds: int, seconds: float, rate: float) -> dict[str, object]:
    """Everything, as one JSON object; `folder` is for certificates and the watcher's log."""
    certificates = write_certificates(folder / "certificates")
    names = [f"m{number}" for number in range(mailboxes)]
    port = free_port()
    valkey, town = Valkey(), Town(port, certificates)
    valkey.start()
    bells = Bells(valkey.url)
    try:
        with watcher(folder, environment(folder, valkey.url, names, port, certificates)) as pid:
            begun = time.monotonic()

            def all_listen() -> bool:
                town.tell(["?"])
                time.sleep(0.2)
                return town.listening == mailboxes

            wait_until(all_listen, timeout=60 + mailboxes / 5, what="every mailbox's connection")
            signed_in = time.monotonic() - begun
            # Each mailbox rings once when its connection stands.
            wait_until(
                lambda: len(bells.rung) == mailboxes, timeout=_PATIENCE_SECONDS, what="the first bells"
            )
            steady: list[list[float]] = []
            used, since = cpu_seconds(pid), time.monotonic()
            chance = random.Random(2177)
            for _ in range(rounds):
                chosen = chance.sample(names, min(mailboxes, int(rate * seconds)))
                steady.append(round_trip(town, bells, chosen, rate=rate))
            busy = (cpu_seconds(pid) - used) / (time.monotonic() - since)
            at_once = [round_trip(town, bells, names, rate=0) for _ in range(rounds)]
            memory = anonymous(pid)
    finally:
        bells.stop()
        town.stop()
        valkey.remove()
    return {
        "mailboxes": mailboxes,
        "signed_in_seconds": round(signed_in, 1),
        "anonymous_mb": round(memory, 1),
        "rate": rate,
        "processors_at_rate": round(busy, 2),
        "ring_ms": middle([figures(one) for one in steady]),
        "ring_ms_all_at_once": middle([figures(one) for one in at_once]),
    }


def middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def environment(
    folder: Path, redis_url: str, names: list[str], port: int, certificates: Certificates
) -> dict[str, str]:
    """The settings of all mailboxes; each signs in with a password of its own name."""
    shared = {"HOST": "localhost", "PORT": str(port), "CA_FILE": str(certificates.ca_file), "PUSH": "yes"}
    shared |= {"OUTPUTS": "lines", "PASSWORD": "bench"}
    mailboxes = {
        f"MAILBOX__{name.upper()}__{key}": value
        for name in names
        for key, value in {"ADDRESS": f"{name}@bench.example", "USERNAME": name}.items()
    }
    return {
        "DATA_DIR": str(folder / "data"),
        "REDIS_URL": redis_url,
        "OUTPUT__LINES__TYPE": "jsonl",
        "OUTPUT__LINES__PATH": str(folder / "mail.jsonl"),
        **{f"MAILBOX_DEFAULTS__{key}": value for key, value in shared.items()},
        **mailboxes,
    }


def main() -> None:
    """Print the figures, or be the server."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--mailboxes", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--rate", type=float, default=100.0, help="mailboxes that get mail in a second")
    arguments.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    said = arguments.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    if said.serve:
        port, chain_file, key_file = said.serve
        asyncio.run(Server().run(int(port), chain_file, key_file))
        return
    with tempfile.TemporaryDirectory(prefix="mailquay-watch-") as folder:
        found = measure(Path(folder), said.mailboxes, said.rounds, said.seconds, said.rate)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
