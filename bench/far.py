"""The same comparison over a long way: 50 ms of round trip and a link of 100 Mbit a second between mailbox and contestants.

    python -m bench.far [--messages 500] [--rounds 5] [--milliseconds 50] [--mbit 100] [--only REGEX] [--json] [--plot FILE.svg]

Dovecot is in one network namespace, the contestants are in another (Linux, root). `the link itself` is a bare TLS stream of
as many octets as the mailbox has, from connecting to the last octet: nobody can be faster. `--mbit` is what the link carries
at most; whoever waits for every answer is limited by the round trips instead, so a faster link shows what pipelining is worth.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from bench.contestants import CONTESTANTS, USER, Contestant, Server, imaplib_loop, poplib_loop
from bench.link import FAR, Link, NoLink, inside, long_link
from bench.mailbox import mixed
from bench.results import Results, add_options, run_rounds, show, today
from tests.bed.dovecot import Dovecot
from worker.demo.certificates import LOOPBACK, Certificates, write_certificates

BASES = ("the link itself", "imaplib, keeps nothing", "mbsync, fsync on", "mpop", "getmail6, POP3")
_LEFT_OUT = {"mailquay once, IMAP to jsonl", "getmail6, IMAP"}
"""Delivering has nothing to do with the link, and getmail6 waits for every answer in either protocol."""
_BLOCK = bytes(1 << 18)


class Tap:
    """Sends `octets` over TLS to everybody who connects: what the link can carry."""

    def __init__(self, listener: socket.socket, certificates: Certificates, octets: int) -> None:
        self._listener = listener
        self._octets = octets
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.chain_file, certificates.key_file)
        self._ca_file = certificates.ca_file
        self._thread = threading.Thread(target=self._serve, name="tap")
        self._thread.start()

    def run(self, server: Server, folder: Path) -> float:  # noqa: ARG002
        """Drink it all."""
        context = ssl.create_default_context(cafile=str(self._ca_file))
        into = memoryview(bytearray(len(_BLOCK)))
        left = self._octets
        begun = time.perf_counter()
        with (
            socket.create_connection(self._listener.getsockname()) as plain,
            context.wrap_socket(plain, server_hostname=server.host) as connection,
        ):
            while left and (count := connection.recv_into(into)):
                left -= count
        assert not left, f"{left} octets did not come"
        return time.perf_counter() - begun

    def close(self) -> None:
        """Serve nobody any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            # Who hangs up early ends only this stream.
            with plain, suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
                for start in range(0, self._octets, len(_BLOCK)):
                    connection.sendall(_BLOCK[: self._octets - start])


@contextmanager
def far_dovecot(link: Link, certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot at the other end of the link for the length of the block."""
    with inside(link.far):
        dovecot = Dovecot(
            certificates=certificates,
            introspection_url="http://127.0.0.1:9/",
            passwords=[USER],
            extra=f"listen = 127.0.0.1, {FAR}",
        )
        try:
            dovecot.start()
        except BaseException:
            dovecot.remove()
            raise
    try:
        yield dovecot
    finally:
        with inside(link.far):
            dovecot.remove()


def round_trip(port: int) -> float:
    """What a connection takes to be opened, in seconds: the least of five."""

    def opened() -> float:
        begun = time.perf_counter()
        with socket.create_connection((FAR, port)):
            return time.perf_counter() - begun

    return min(opened() for _ in range(5))


def measure(said: argparse.Namespace, folder: Path, console: Console) -> Results:
    """Lay the link, seed the mailbox, and let everyone pull it in turn.

    Raises:
        NoLink: this machine, or this user, cannot have one.
    """
    letters = mixed(said.messages)
    octets = sum(map(len, letters))
    with long_link(said.milliseconds / 1000, said.mbit * 1e6 / 8) as link:
        certificates = write_certificates(folder, names=(*LOOPBACK, FAR))
        with far_dovecot(link, certificates) as dovecot:
            dovecot.save(USER, *letters)
            with inside(link.far):
                tap = Tap(socket.create_server((FAR, 0)), certificates, octets)
            # mbsync looks for no addresses in certificates, but trusts a server whose own certificate it is given.
            trusted = folder / "trusted.pem"
            trusted.write_bytes(certificates.ca_file.read_bytes() + certificates.chain_file.read_bytes())
            server = Server(
                *(dovecot.imaps_port, dovecot.pop3s_port, trusted, dovecot.passwords[USER]),
                *(len(letters), FAR),
            )
            everybody = (Contestant("the link itself", tap.run), *CONTESTANTS)
            taking_part = [
                one
                for one in everybody
                if re.search(said.only, one.name) and one.installed and one.name not in _LEFT_OUT
            ]
            try:
                with inside(link.near):
                    about = (
                        f"{len(letters)} messages, {octets / len(letters) / 1000:.0f} kB on average, "
                        f"{round_trip(dovecot.imaps_port) * 1000:.1f} ms of round trip and {said.mbit:g} Mbit/s "
                        f"by {link.made_by}"
                    )
                    console.print(about)
                    # The server's index and the page cache are warm for everybody.
                    with inside(link.far):
                        imaplib_loop(server, folder)
                        poplib_loop(server, folder)
                    return Results(
                        run_rounds(taking_part, server, said.rounds, console),
                        len(letters),
                        octets,
                        today(about),
                        BASES,
                    )
            finally:
                tap.close()


def main() -> None:
    """Print the figures."""
    arguments = argparse.ArgumentParser(
        prog="python -m bench.far",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--messages", type=int, default=500)
    arguments.add_argument("--milliseconds", type=float, default=50.0, help="there and back")
    arguments.add_argument("--mbit", type=float, default=100.0, help="what the link carries in a second")
    add_options(arguments)
    said = arguments.parse_args()
    # Whoever ends this politely gets the same cleaning up as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="mailquay-bench-"))
    try:
        show(measure(said, folder, Console(stderr=True)), said)
    except NoLink as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
