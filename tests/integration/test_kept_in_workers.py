"""KEEP_CONNECTION in real worker processes: each keeps its own connection, and mail comes through all of them."""

from __future__ import annotations

from tests.bed.dovecot import Dovecot
from tests.bed.installation import Installation, numbered
from tests.bed.processes import wait_until
from tests.bed.recorder import Recorder, Talk
from tests.integration.test_roles import arrived, up
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB

PULLERS = 2


def used(talk: Talk) -> int:
    """How often somebody asked for news in a connection."""
    return talk.said("client").count(b"NOOP")


def test_each_puller_process_keeps_one_connection_and_mail_flows(
    installation: Installation, dovecot: Dovecot, certificates: Certificates
) -> None:
    """A poll a second for a while: as many sign-ins as processes, many questions in each, and every message once."""
    dovecot.forget(BOB)
    dovecot.save(BOB, numbered(0))
    recorder = Recorder(dovecot.imaps_port, trusted=certificates)
    recorder.start()
    installation.on_dovecot("box", dovecot, BOB, port=str(recorder.port), every="1s", keep_connection="yes")
    try:
        with up(installation, PULL_CONCURRENCY=str(PULLERS)):
            for number in range(1, 5):
                wait_until(lambda count=number: arrived(installation, count), timeout=60, what="mail")
                dovecot.save(BOB, numbered(number))
            wait_until(lambda: arrived(installation, 5), timeout=60, what="the last message")
            wait_until(lambda: sum(map(used, recorder.talks)) >= 6, timeout=60, what="quiet polls")
    finally:
        recorder.close()

    assert len(installation.lines()) == len(installation.posted()) == 5
    assert 1 <= len(recorder.talks) <= PULLERS
