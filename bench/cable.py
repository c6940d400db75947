"""A cable of any length in user space, for kernels without netem: carries packets between two TUN devices.

    python -m bench.cable FD FD SECONDS OCTETS_A_SECOND

Each direction has its own rate, delay, and a buffer that drops what would wait longer than `BUFFER_SECONDS` before it is
sent, as a router does. Segments travel as large as TCP made them (TSO), so that a fast cable costs a tenth of a core. It
ends when its standard input does, so it never outlives whoever laid it.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

BUFFER_SECONDS = 0.05
_LARGEST = 128 * 1024
# From linux/if_tun.h.
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02


def plug(name: str) -> int:
    """A new TUN device in this thread's network namespace; it is gone when the descriptor is closed.

    Raises:
        OSError: the kernel has no TUN, or this user may not make one.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    return descriptor


@dataclass(slots=True)
class Direction:
    """One way through the cable. `free` is when the sender's end has sent all that waits there."""

    come: int
    go: int
    free: float = 0.0
    on_the_way: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, delay: float, rate: float) -> None:
        """Read what the sender's end has, and note when it arrives."""
        while True:
            try:
                packet = os.read(self.come, _LARGEST)
            except BlockingIOError:
                return
            now = time.monotonic()
            self.free = max(self.free, now)
            if self.free - now > BUFFER_SECONDS:
                continue
            self.free += len(packet) / rate
            self.on_the_way.append((self.free + delay, packet))

    def give(self) -> None:
        """Write what has arrived."""
        while self.on_the_way and self.on_the_way[0][0] <= time.monotonic():
            _, packet = self.on_the_way.popleft()
            # A device that is not up yet, or whose queue is full, takes nothing: to TCP that is a lost packet.
            with suppress(OSError):
                os.write(self.go, packet)


def carry(near: int, far: int, delay: float, rate: float) -> None:
    """Carry packets both ways until the standard input ends; `delay` in seconds one way, `rate` in octets a second."""
    ways = (Direction(near, far), Direction(far, near))
    print("laid", flush=True)
    while True:
        due = min((way.on_the_way[0][0] for way in ways if way.on_the_way), default=None)
        patience = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([near, far, 0], [], [], patience)
        if 0 in readable:
            return
        for way in ways:
            if way.come in readable:
                way.take(delay, rate)
            way.give()


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
