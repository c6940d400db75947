"""A mail server that refuses, hangs, hangs up or shows a wrong certificate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.installation import Installation, numbered
from tests.bed.proxy import Fault, FaultProxy
from tests.bed.scripted import Scripted
from tests.faults.conftest import Events, delivered_once, of
from worker import settings
from worker.demo.certificates import Certificates, write_certificates
from worker.demo.harbour import BOB
from worker.quay import Quay

PROTOCOLS = ("imap", "pop3")


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


@pytest.fixture
def proxy(dovecot: Dovecot, certificates: Certificates, protocol: str) -> Iterator[FaultProxy]:
    """A proxy before Dovecot's port of this protocol."""
    port = dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port
    proxy = FaultProxy(port, trusted=certificates)
    proxy.start()
    yield proxy
    proxy.close()


@pytest.fixture
def behind(installation: Installation, dovecot: Dovecot, proxy: FaultProxy, protocol: str) -> Installation:
    """The mailbox `box` with ten numbered messages, behind the proxy, and `other` with one, beside it."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n) for n in range(10)))
    installation.on_dovecot("box", dovecot, BOB, protocol=protocol, port=str(proxy.port))
    installation.on_dovecot("other", dovecot, BOB, protocol=protocol)
    return installation


def reason(quay: Quay, events: Events) -> str:
    """The one line that says what is wrong with `box`; its standing says the same."""
    (event,) = of(events, "pull.failed")
    assert event["mailbox"] == "box"
    assert quay.standings.of("box").sentence == event["reason"]
    return str(event["reason"])


def test_a_server_that_refuses_connections(behind: Installation, proxy: FaultProxy, events: Events) -> None:
    """It is named with its port, other mailboxes go on, and the mailbox resumes by itself."""
    quay = behind.quay()
    proxy.stop()

    assert flow(quay, "box").trouble
    assert flow(quay, "other").messages == 10

    said = reason(quay, events)
    assert f"localhost port {proxy.port}" in said
    assert "Check HOST and PORT" in said
    assert quay.standings.of("box").state == "unreachable"
    proxy.start()
    flow(quay, "box")
    assert delivered_once(behind, range(10), mailbox="box")
    assert quay.standings.of("box").state == "ok"


@pytest.mark.parametrize(
    "at", [b"", b"X-Number: 4\r\n"], ids=["from the start", "in the middle of a message"]
)
def test_a_server_that_hangs(
    behind: Installation, proxy: FaultProxy, events: Events, protocol: str, at: bytes
) -> None:
    """A black hole holds nobody for longer than one answer may take; what came before it is kept."""
    said = settings.load(behind.environ, cwd=behind.folder)
    quay = Quay(said, str(said.redis_url), answer_seconds=0.4)
    proxy.fault = Fault("hang", at=at)

    begun = time.monotonic()
    result = flow(quay, "box")

    assert time.monotonic() - begun < 5
    assert "no answer in time" in reason(quay, events)
    assert result.messages == (4 if at else 0)
    proxy.fault = None
    flow(quay, "box")
    assert delivered_once(behind, range(10), mailbox="box")
    quay.close()


def test_a_server_that_hangs_up_in_the_middle_of_a_message(
    behind: Installation, proxy: FaultProxy, events: Events
) -> None:
    """The messages before the cut are kept, none is torn, and the next pull goes on behind them."""
    quay = behind.quay()
    proxy.fault = Fault("hang up", at=b"X-Number: 7\r\n")

    first = flow(quay, "box")

    assert first.messages == 7
    assert "localhost closed the connection" in reason(quay, events)
    assert delivered_once(behind, range(7), mailbox="box")
    proxy.fault = None
    assert flow(quay, "box").messages == 3
    assert delivered_once(behind, range(10), mailbox="box")


def test_a_connection_that_never_lives_long_still_gets_through(
    behind: Installation, proxy: FaultProxy
) -> None:
    """Each session is cut a few messages further on; every pull keeps what it had."""
    quay = behind.quay()

    pulls = []
    for number in (3, 5, 8):
        proxy.fault = Fault("hang up", at=f"X-Number: {number}\r\n".encode())
        pulls.append(flow(quay, "box").messages)
    proxy.fault = None
    pulls.append(flow(quay, "box").messages)

    assert pulls == [3, 2, 3, 2]
    assert delivered_once(behind, range(10), mailbox="box")


def test_a_huge_message_that_is_cut_off_leaves_nothing_behind(
    behind: Installation, dovecot: Dovecot, proxy: FaultProxy
) -> None:
    """A streamed message that breaks off is no batch; it comes whole the next time."""
    dovecot.save(BOB, numbered(10, size=3_000_000))
    quay = behind.quay()
    proxy.fault = Fault("hang up", at=b"X-Number: 10\r\n")

    assert pulled(quay, "box").messages == 10
    assert list((behind.folder / "data" / "spool" / "tmp").iterdir()) == []
    proxy.fault = None
    assert pulled(quay, "box").messages == 1
    deliver_due(quay)
    assert delivered_once(behind, range(11), mailbox="box")


def test_a_server_that_sends_far_more_than_it_announced(
    installation: Installation, certificates: Certificates, events: Events
) -> None:
    """What it sends is taken batch by batch all the same, so that lies about sizes cannot fill the memory."""
    letters = {uid: numbered(uid - 1, size=300_000) for uid in (1, 2, 3)}
    listed = b"".join(b"* %d FETCH (UID %d RFC822.SIZE 10)\r\n" % (uid, uid) for uid in letters)
    brought = {
        uid: b"* %d FETCH (UID %d BODY[] {%d}\r\n%s)\r\n" % (uid, uid, len(raw), raw)
        for uid, raw in letters.items()
    }
    answers = {
        b"LOGIN": b"<tag> OK [CAPABILITY IMAP4rev1] welcome\r\n",
        b"EXAMINE": b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 4]\r\n<tag> OK\r\n",
        **{b"UID FETCH %d:3 (UID RFC822.SIZE)" % first: listed + b"<tag> OK\r\n" for first in letters},
        **{
            b"UID FETCH " + named + b" (UID FLAGS": b"".join(brought[uid] for uid in range(first, 4))
            + b"<tag> OK\r\n"
            for named, first in ((b"1:3", 1), (b"2:3", 2), (b"3", 3))
        },
    }
    with Scripted(certificates, b"* OK [CAPABILITY IMAP4rev1] ready\r\n", answers, tagged=True) as server:
        installation.mailbox(
            "box", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post",
        )  # fmt: skip
        quay = installation.quay(BATCH_SIZE="100KB")
        pulls = [flow(quay, "box").messages for _ in range(3)]

    assert pulls == [1, 1, 1]
    assert "more than twice BATCH_SIZE" in of(events, "pull.failed")[0]["reason"]
    assert delivered_once(installation, range(3))


def test_a_certificate_of_an_unknown_authority(
    behind: Installation, dovecot: Dovecot, events: Events, tmp_path: Path
) -> None:
    """Mail is not read from a server that nobody vouches for; the line names the variables."""
    stranger = write_certificates(tmp_path / "stranger")
    quay = behind.quay(MAILBOX__BOX__CA_FILE=str(stranger.ca_file))

    flow(quay, "box")
    flow(quay, "other")

    said = reason(quay, events)
    assert "certificate" in said
    assert "CA_FILE" in said
    assert quay.standings.of("box").state == "misconfigured"
    assert delivered_once(behind, range(10), mailbox="other")
    mended = behind.quay()
    flow(mended, "box")
    assert delivered_once(behind, range(10), mailbox="box")


def test_a_certificate_for_another_name(
    behind: Installation, dovecot: Dovecot, protocol: str, events: Events, tmp_path: Path
) -> None:
    """A trusted authority is not enough: the name has to be the one that was called."""
    elsewhere = write_certificates(tmp_path / "elsewhere", names=["mail.elsewhere.example"])
    port = dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port
    trusted = Certificates(dovecot.ca_file, elsewhere.chain_file, elsewhere.key_file)
    impostor = FaultProxy(port, trusted=trusted)
    impostor.start()
    try:
        quay = behind.quay(
            MAILBOX__BOX__PORT=str(impostor.port), MAILBOX__BOX__CA_FILE=str(elsewhere.ca_file)
        )
        flow(quay, "box")
    finally:
        impostor.close()

    said = reason(quay, events)
    assert "localhost" in said
    assert "Set HOST to the name in the certificate" in said
    flow(behind.quay(), "box")
    assert delivered_once(behind, range(10), mailbox="box")


def test_a_ca_file_that_holds_no_certificate(behind: Installation, events: Events, tmp_path: Path) -> None:
    """It is the operator's to mend, not a crash."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    quay = behind.quay(MAILBOX__BOX__CA_FILE=str(empty))

    flow(quay, "box")

    assert "CA_FILE" in reason(quay, events)
    assert quay.standings.of("box").state == "misconfigured"
