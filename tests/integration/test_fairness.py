"""One mailbox of many thousand messages, many small ones, and a single process that pulls them all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import orjson
import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.installation import Installation, numbered
from tests.bed.processes import wait_until
from tests.bed.proxy import FaultProxy
from tests.integration.test_roles import log_of, up
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB

HUGE = 1_000
OCTETS = 2_000
RATE = 60_000
"""Octets a second of the huge mailbox's server: it is slow, so that no machine is fast enough to be done in two turns."""
SMALL = [f"small{number}" for number in range(10)]


def pulls(installation: Installation) -> list[dict[str, Any]]:
    """Every pull that has ended, in order."""
    lines = [line for line in log_of(installation).splitlines() if line.startswith("{")]
    return [event for event in map(orjson.loads, lines) if event["event"] == "pull.finished"]


def turns(installation: Installation) -> list[dict[str, Any]]:
    """Those of the huge mailbox."""
    return [event for event in pulls(installation) if event["mailbox"] == "huge"]


@pytest.fixture
def slow(dovecot: Dovecot, certificates: Certificates) -> Iterator[FaultProxy]:
    """Dovecot behind a thin line."""
    proxy = FaultProxy(dovecot.imaps_port, trusted=certificates)
    proxy.rate = RATE
    proxy.start()
    yield proxy
    proxy.close()


@pytest.mark.slow
def test_a_huge_mailbox_yields_to_small_ones_and_goes_on_promptly(
    installation: Installation, dovecot: Dovecot, slow: FaultProxy
) -> None:
    """New mail of the small ones waits for one turn of the huge one at most; between two turns of it all of them come.

    Half a minute's worth of mail takes several turns of five seconds.
    """
    installation.environ |= {
        "PULL_CONCURRENCY": "1",
        "PULL_LIMIT": "10s",
        "BATCH_MESSAGES": "10",
        "HOST_LOGINS": "1000",
        "LOG_FORMAT": "json",
    }
    for address in (ALICE, BOB):
        dovecot.forget(address)
    dovecot.save(ALICE, *(numbered(number, OCTETS) for number in range(HUGE)))
    dovecot.save(BOB, numbered(HUGE))
    # Nothing but the bell that follows a turn calls the huge mailbox again.
    installation.on_dovecot("huge", dovecot, ALICE, every="1h", outputs="lines", port=str(slow.port))
    for name in SMALL:
        installation.on_dovecot(name, dovecot, BOB, every="2s")
    quay = installation.quay()

    with up(installation):
        wait_until(lambda: quay.standings.of("huge").pulled, timeout=40, what="the huge mailbox's first turn")
        wait_until(
            lambda: all(quay.standings.of(name).pulled for name in SMALL),
            timeout=40,
            what="the small ones' first message",
        )
        before = len(pulls(installation))
        dovecot.save(BOB, numbered(HUGE + 1))
        wait_until(
            lambda: all(quay.standings.of(name).pulled == 2 for name in SMALL),
            timeout=40,
            what="new mail of the small ones",
        )
        meanwhile = pulls(installation)[before:]
        wait_until(lambda: len(turns(installation)) > 2, timeout=40, what="the huge one's third turn")

    assert sum(event["mailbox"] == "huge" for event in meanwhile) <= 2
    assert all(event["more"] for event in turns(installation))
    order = [event["mailbox"] for event in pulls(installation)]
    at = [place for place, name in enumerate(order) if name == "huge"]
    for one, next_one in pairwise(at):
        assert set(SMALL) <= set(order[one:next_one])
