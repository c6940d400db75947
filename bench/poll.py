"""Counts what a poll without news costs after TLS: round trips, and octets each way.

    python -m bench.poll [--messages 3] [--json]

A real Dovecot, a mailbox of `messages` that were all pulled before, and a proxy that ends TLS and writes down who said what.
Waiting for the greeting is a round trip; to the goodbye no answer is waited for. `secret` is the part of what was sent that is
the token or the password, as the protocol carries it: no client can spare it. POP3 lists every message that is kept, so its
answer grows with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import numbered
from tests.bed.processes import wait_until
from tests.bed.recorder import Recorder
from worker.demo.certificates import Certificates, write_certificates
from worker.demo.harbour import ALICE
from worker.sources import Credentials, Endpoint, Source
from worker.sources.imap import ImapSource
from worker.sources.pop3 import Pop3Source

_TOKEN_OCTETS = 700
"""Added to the token's claims, so that it is as long as Exchange Online's."""


class Cost(NamedTuple):
    """One row of the table."""

    poll: str
    round_trips: int
    sent: int
    secret: int
    received: int


def main() -> None:
    """Poll in every way, and print the table."""
    arguments = argparse.ArgumentParser(prog="python -m bench.poll")
    arguments.add_argument("--messages", type=int, default=3)
    arguments.add_argument("--json", action="store_true")
    said = arguments.parse_args()
    certificates = write_certificates(Path(tempfile.mkdtemp(prefix="mailquay-bench-")))
    identity = Identity(certificates)
    dovecot = Dovecot(
        certificates=certificates, introspection_url=f"{identity.lab_url}/introspect", passwords=[ALICE]
    )
    identity.start()
    try:
        dovecot.start()
        dovecot.save(ALICE, *map(numbered, range(said.messages)))
        costs = _costs(dovecot, identity, certificates)
    finally:
        dovecot.remove()
        identity.close()
    if said.json:
        sys.stdout.write(json.dumps([cost._asdict() for cost in costs], indent=1) + "\n")
        return
    table = Table("a poll without news", "round trips", "octets sent", "of them secret", "octets received")
    for cost in costs:
        table.add_row(cost.poll, *map(str, cost[1:]))
    Console(width=100).print(table)


def _costs(dovecot: Dovecot, identity: Identity, certificates: Certificates) -> list[Cost]:
    password = Credentials(ALICE, dovecot.passwords[ALICE], bearer=False)
    token = Credentials(ALICE, identity.token(ALICE, extra={"padding": "x" * _TOKEN_OCTETS}))
    imap, pop3 = dovecot.imaps_port, dovecot.pop3s_port

    def cost(name: str, port: int, credentials: Credentials, *, kept: bool = False) -> Cost:
        recorder = Recorder(port, trusted=certificates)
        recorder.start()
        try:
            return _cost(
                name,
                recorder,
                certificates,
                credentials,
                ImapSource if port == imap else Pop3Source,
                kept=kept,
            )
        finally:
            recorder.close()

    return [
        cost("IMAP, password", imap, password),
        cost("IMAP, token", imap, token),
        cost("IMAP, kept connection", imap, token, kept=True),
        cost("POP3, password", pop3, password),
        cost("POP3, token", pop3, token),
    ]


def _cost(
    name: str,
    recorder: Recorder,
    certificates: Certificates,
    credentials: Credentials,
    kind: Callable[..., Source],
    *,
    kept: bool,
) -> Cost:
    """One poll in a session that has just been begun, or the second one in a session that is `kept`."""
    endpoint = Endpoint("localhost", recorder.port, "implicit", str(certificates.ca_file))
    source = kind(endpoint, credentials, message_max=1 << 20, answer_seconds=10, clock=time.monotonic)
    opened = source.open("INBOX", writable=False)
    if kept:
        assert source.rest()
        recorder.fresh()
        opened = source.open("INBOX", writable=False)
    # What there is was pulled before.
    after, seen = source.start(opened, None)
    assert list(source.new(opened, after=after, seen=seen)) == []
    (talk,) = recorder.talks
    received = len(talk.said("server"))
    if not kept:
        source.finish()
        wait_until(
            lambda: talk.commands[-1].split()[-1] in {b"LOGOUT", b"QUIT"}, timeout=5, what="the goodbye"
        )
    found = Cost(
        name,
        talk.round_trips,
        len(talk.said("client")),
        0 if kept else _secret(talk.said("client"), credentials),
        received,
    )
    source.close()
    return found


def _secret(said: bytes, credentials: Credentials) -> int:
    """How long the word is that the secret went out in."""
    clear = credentials.secret.encode()
    return len(clear) if clear in said else max(map(len, said.split()))


if __name__ == "__main__":
    main()
