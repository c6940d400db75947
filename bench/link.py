"""A long link on one machine: two network namespaces, `near` and `far`, with a delay and a rate between them (Linux, root).

The delay is the kernel's netem where it has one, else a cable in user space (`bench/cable.py`). The namespaces have no
name and belong to this process alone: the kernel removes them with everything in them when it ends, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cable import BUFFER_SECONDS, plug

NEAR, FAR = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


class NoLink(Exception):
    """This machine, or this user, cannot have a long link; the text says why."""


@dataclass(frozen=True, slots=True)
class Link:
    """Both ends, as descriptors of namespaces, and what makes the delay."""

    near: int
    far: int
    made_by: str


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """This thread, its new sockets and the processes that it starts are in a namespace for the length of the block."""
    home = os.open(_OWN, os.O_RDONLY)
    try:
        _enter(namespace)
        yield
    finally:
        _enter(home)
        os.close(home)


@contextmanager
def long_link(round_trip: float, rate: float) -> Iterator[Link]:
    """A link for the length of the block: `round_trip` in seconds, half of it each way, `rate` in octets a second.

    Raises:
        NoLink: it cannot be made here.
    """
    with ExitStack() as cleanup:
        near, far = (_namespace(cleanup) for _ in range(2))
        made_by = "netem"
        if not _netem(near, far, round_trip / 2, rate):
            _lay_cable(cleanup, near, far, round_trip / 2, rate)
            made_by = "a cable in user space"
        for namespace, address, peer in ((near, NEAR, FAR), (far, FAR, NEAR)):
            with inside(namespace):
                _ip("link", "set", "lo", "up")
                _ip("address", "add", address, "peer", peer, "dev", "wire")
                _ip("link", "set", "wire", "txqueuelen", "10000", "up")
        yield Link(near, far, made_by)


def _namespace(cleanup: ExitStack) -> int:
    home = os.open(_OWN, os.O_RDONLY)
    try:
        _called("unshare", _CLONE_NEWNET)
        try:
            found = os.open(_OWN, os.O_RDONLY)
        finally:
            _enter(home)
    except PermissionError:
        raise NoLink(
            "Network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run this as root, in a virtual machine or a "
            "privileged container. Nothing outside of the two namespaces is touched."
        ) from None
    finally:
        os.close(home)
    cleanup.callback(os.close, found)
    return found


def _netem(near: int, far: int, delay: float, rate: float) -> bool:
    """A veth pair whose ends delay what they send; False when this kernel has no netem."""
    with inside(near):
        _ip("link", "add", "wire", "type", "veth", "peer", "name", "other")
        _ip("link", "set", "other", "netns", f"/proc/{os.getpid()}/fd/{far}")
    with inside(far):
        _ip("link", "set", "other", "name", "wire")
    # netem counts in packets, and what is on its way counts as well as what waits.
    limit = max(100, int(rate * (delay + BUFFER_SECONDS) / 1500))
    for namespace in (near, far):
        with inside(namespace):
            done = subprocess.run(
                [
                    *("tc", "qdisc", "add", "dev", "wire", "root", "netem"),
                    *("delay", f"{delay * 1000:g}ms", "rate", f"{rate * 8:.0f}bit", "limit", str(limit)),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                _ip("link", "delete", "wire")
                if "kind is unknown" in done.stderr:
                    return False
                raise NoLink(f"tc could not set up netem: {done.stderr.strip()}")
    return True


def _lay_cable(cleanup: ExitStack, near: int, far: int, delay: float, rate: float) -> None:
    ends = []
    for namespace in (near, far):
        with inside(namespace):
            try:
                ends.append(plug("wire"))
            except OSError as error:
                raise NoLink(
                    f"This kernel has no netem, and no TUN device either: {error.strerror}."
                ) from None
        cleanup.callback(os.close, ends[-1])
    cable = subprocess.Popen(
        [sys.executable, "-m", "bench.cable", *map(str, ends), str(delay), str(rate)],
        stdin=subprocess.PIPE,
        pass_fds=ends,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        # Ctrl-C in a terminal goes to the measurement, which then ends the cable.
        start_new_session=True,
    )
    assert cable.stdin
    assert cable.stdout
    cleanup.callback(cable.wait, 10)
    cleanup.callback(cable.stdout.close)
    cleanup.callback(cable.stdin.close)
    cable.stdout.readline()


def _enter(namespace: int) -> None:
    _called("setns", namespace, _CLONE_NEWNET)


def _called(function: str, *arguments: int) -> None:
    """A system call that Python has from 3.12 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoLink("The programs ip and tc are missing (on Debian: apt install iproute2).") from None
    if done.returncode:
        raise NoLink(f"ip {' '.join(words)}: {done.stderr.strip()}")
