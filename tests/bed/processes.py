"""Starts, watches and ends the processes of the test bed, and finds those that a test forgot.

Only processes that this module started, or that descend from this pytest process, are ever touched.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from uuid import uuid4

# Descendants carry this variable, so that an orphan, whose parent is gone, can still be told apart.
MARKER = "MAILQUAY_TEST_PROCESS"

# Servers of the bed outlive single tests; they are not leaks.
_bed: set[int] = set()

commands_seen: set[str] = set()
"""Every command line that a look at the descendants met, until somebody takes it out."""


def free_port() -> int:
    """A TCP port that nobody listens on, below those that the system gives to outgoing connections.

    A server of the bed that is stopped and started again would otherwise find its port taken now and then.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no free port was found in 100 tries")


def wait_until(condition: Callable[[], object], *, timeout: float, what: str) -> None:
    """Ask `condition` again and again until it is true.

    Raises:
        TimeoutError: It was not true within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            msg = f"{what} did not happen within {timeout:g} s"
            raise TimeoutError(msg)
        time.sleep(0.01)


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class BedProcess:
    """A server of the bed, in a process group of its own, with its output in a file."""

    def __init__(
        self, command: Sequence[str], *, log_file: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        _bed.add(self.pid)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._popen.poll()

    def end(self, *, how: signal.Signals = signal.SIGTERM, timeout: float = 5) -> None:
        """Send `how` to the whole group and wait; what is still there after `timeout` seconds is killed."""
        self._signal_group(how)
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self._signal_group(signal.SIGKILL)
            self._popen.wait(timeout)
        _bed.discard(self.pid)

    def _signal_group(self, how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, how)


def mark_descendants() -> None:
    """From now on every process started by this one can be recognised as a descendant."""
    os.environ[MARKER] = f"{os.getpid()}-{uuid4().hex}"


def descendants() -> dict[int, str]:
    """Pid and command of every living descendant that is not part of the bed.

    On Linux orphans are found as well; elsewhere only children. All commands, the bed's too, go to `commands_seen`.
    """
    found = _linux_descendants() if sys.platform == "linux" else _children()
    commands_seen.update(found.values())
    # Python's own servants, the resource tracker and the fork server, live as long as the process that needed them.
    return {
        pid: command
        for pid, command in found.items()
        if "resource_tracker" not in command
        and pid != forkserver._forkserver._forkserver_pid
        and not _in_bed(pid)
    }


def _linux_descendants() -> dict[int, str]:
    marker = f"{MARKER}={os.environ[MARKER]}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state == b"Z":
                continue
            if int(parent) == os.getpid() or marker in (folder / "environ").read_bytes().split(b"\0"):
                found[pid] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def _children() -> dict[int, str]:
    ps = subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,stat=,command="], stdout=subprocess.PIPE, text=True)
    listing, _ = ps.communicate()
    found = {}
    for line in listing.splitlines():
        pid, parent, state, command = line.split(maxsplit=3)
        if int(parent) == os.getpid() and int(pid) != ps.pid and not state.startswith("Z"):
            found[int(pid)] = command
    return found


def _in_bed(pid: int) -> bool:
    """Whether a process belongs to a server of the bed, which leads a group of its own, or is gone already."""
    try:
        return os.getpgid(pid) in _bed
    except ProcessLookupError:
        return True
