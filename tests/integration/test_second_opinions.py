"""Whole pulls on servers that are not Dovecot: Cyrus, and pymap with a strict POP3 beside it. Habits differ, mail does not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.bed.cyrus import Cyrus
from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from tests.integration.test_sources import RAW as PYMAPS
from tests.integration.test_sources import DemoServers
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB
from worker.identity import imap_id

RAW = [
    b"Subject: dots\r\n\r\n.dot\r\n..dots\r\n.\r\n",
    b"Subject: octets\r\n\r\n" + bytes(range(128, 256)) + b"\r\n",
    b"Subject: a long line\r\n\r\n" + b"x" * 5_000 + b"\r\n",
    b"Subject: large\r\n\r\n" + b"y" * 76 * 1_000 + b"\r\n",
]
ADDRESSES = [f"crane{n}@harbour.example" for n in range(20)]
NEXT = count()


@pytest.fixture(scope="module")
def cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    """A real Cyrus."""
    if not Cyrus.installed():
        pytest.fail("Cyrus is not unpacked here; `make test` does it.", pytrace=False)
    cyrus = Cyrus(certificates=certificates, addresses=ADDRESSES)
    cyrus.start()
    yield cyrus
    cyrus.remove()


@pytest.fixture
def address(cyrus: Cyrus) -> str:
    """A mailbox of the test's own, with four messages in it."""
    address = ADDRESSES[next(NEXT)]
    cyrus.save(address, *RAW)
    return address


def on_cyrus(installation: Installation, cyrus: Cyrus, address: str, protocol: str, **said: str) -> None:
    """The mailbox `box`."""
    installation.mailbox(
        "box",
        protocol=protocol,
        address=address,
        host="localhost",
        port=str(cyrus.imaps_port if protocol == "imap" else cyrus.pop3s_port),
        ca_file=str(cyrus.ca_file),
        **{"password": cyrus.passwords[address], "since": "all", "outputs": "lines,post", **said},
    )


def raws(installation: Installation) -> list[bytes]:
    """What was delivered, byte for byte, in some order."""
    return sorted(installation.posted().values())


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_cyrus_gives_the_same_bytes_and_then_what_is_new(
    installation: Installation, cyrus: Cyrus, address: str, protocol: str
) -> None:
    """It offers ENABLE, QRESYNC and ESEARCH, of which nothing is used, and PIPELINING, which is."""
    on_cyrus(installation, cyrus, address, protocol)
    quay = installation.quay(BATCH_MESSAGES="2")

    assert flow(quay, "box").messages == 4
    deliver_due(quay)
    assert raws(installation) == sorted(RAW)
    assert flow(quay, "box").messages == 0
    cyrus.save(address, b"Subject: new\r\n\r\nnews\r\n")
    assert flow(quay, "box").messages == 1

    assert quay.standings.of("box").state == "ok"
    assert len(raws(installation)) == 5


def test_uids_and_a_uidvalidity_of_ten_digits_are_taken_as_cyrus_gives_them(
    installation: Installation, cyrus: Cyrus, address: str
) -> None:
    """It counts UIDVALIDITY from the time, beyond what fits into 31 bits from 2038 on."""
    on_cyrus(installation, cyrus, address, "imap")
    quay = installation.quay()

    flow(quay, "box")

    at = quay.checkpoints.load("box", "INBOX")
    assert at is not None
    assert at.uidvalidity is not None
    assert (len(str(at.uidvalidity)), at.uid) == (10, 4)
    wanted = {imap_id("box", "INBOX", at.uidvalidity, uid) for uid in range(1, 5)}
    assert {line["id"] for line in installation.lines()} == wanted


@pytest.mark.parametrize(
    ("protocol", "after", "left", "done"),
    [
        ("imap", "seen", dict.fromkeys(range(1, 5), ("\\Seen",)), 0),
        ("imap", "delete", {}, 0),
        ("imap", "move:Done", {}, 4),
        ("pop3", "delete", {}, 0),
    ],
)
def test_what_was_delivered_is_settled_on_cyrus(  # noqa: PLR0917  (parameters)
    installation: Installation,
    cyrus: Cyrus,
    address: str,
    protocol: str,
    after: str,
    left: dict[int, tuple[str, ...]],
    done: int,
) -> None:
    """Marked, deleted or moved by the poll that follows the delivery; what came meanwhile is left alone until then."""
    on_cyrus(installation, cyrus, address, protocol, after=after)
    quay = installation.quay()
    assert pulled(quay, "box").messages == 4
    assert pulled(quay, "box").trouble is None
    assert len(cyrus.listing(address)) == 4
    assert not any(cyrus.listing(address).values())

    deliver_due(quay)
    assert pulled(quay, "box").trouble is None

    assert cyrus.listing(address) == left
    assert len(cyrus.listing(address, "Done")) == done
    assert raws(installation) == sorted(RAW)


def test_a_new_mailbox_on_cyrus_can_begin_at_a_day(
    installation: Installation, cyrus: Cyrus, address: str
) -> None:
    """SEARCH is answered as SEARCH, though it knows ESEARCH."""
    with cyrus.client(address) as client:
        client.select("INBOX")
        client.uid("STORE", "1:4", "+FLAGS", "\\Deleted")
        client.expunge()
        client.append("INBOX", "", '" 1-Jan-2020 12:00:00 +0000"', RAW[0])
        client.append("INBOX", "", "", b"Subject: young\r\n\r\n\r\n")
    on_cyrus(installation, cyrus, address, "imap", since="30d")

    assert flow(installation.quay(), "box").messages == 1
    assert raws(installation) == [b"Subject: young\r\n\r\n\r\n"]


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_cyrus_refuses_a_wrong_password_in_words(
    installation: Installation, cyrus: Cyrus, address: str, protocol: str
) -> None:
    """It is the operator's to mend."""
    on_cyrus(installation, cyrus, address, protocol, password="wr0ng")
    quay = installation.quay()

    pulled(quay, "box")

    assert quay.standings.of("box").state == "login refused"


@pytest.mark.parametrize(("protocol", "marked"), [("imap", ()), ("pop3", ("\\Seen",))])
def test_only_pop3_marks_messages_as_read_and_only_on_servers_that_do_so(  # noqa: PLR0917  (fixtures)
    installation: Installation,
    dovecot: Dovecot,
    cyrus: Cyrus,
    address: str,
    protocol: str,
    marked: tuple[str, ...],
) -> None:
    """Dovecot marks with RETR, Cyrus does not; IMAP has BODY.PEEK, which marks nowhere."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *RAW)
    installation.on_dovecot("theirs", dovecot, BOB, protocol=protocol)
    on_cyrus(installation, cyrus, address, protocol)
    quay = installation.quay()

    assert pulled(quay, "theirs").messages == pulled(quay, "box").messages == 4

    assert set(dovecot.listing(BOB).values()) == {marked}
    assert set(cyrus.listing(address).values()) == {()}


@pytest.fixture(scope="module")
def pymap(certificates: Certificates, identity: Identity) -> Iterator[DemoServers]:
    """pymap for IMAP, and the demo's own POP3."""
    pymap = DemoServers(certificates, identity)
    pymap.start()
    yield pymap
    pymap.stop()


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_pymap_gives_the_same_bytes_under_uids_that_begin_at_101(
    installation: Installation, pymap: DemoServers, identity: Identity, protocol: str
) -> None:
    """Whatever a server counts from, it is taken as it is; a token signs in."""
    installation.signs_in_at(identity)
    installation.mailbox(
        "box",
        protocol=protocol,
        address=ALICE,
        auth="delegated",
        host="localhost",
        port=str(pymap.endpoints[protocol].port),
        ca_file=str(identity.ca_file),
        since="all",
        outputs="lines,post",
    )
    quay = installation.quay()
    installation.sign_in(quay, identity, ALICE)

    assert [flow(quay, "box").messages for _ in range(2)] == [2, 0]

    assert raws(installation) == sorted(PYMAPS)
    at = quay.checkpoints.load("box", "INBOX")
    assert at is not None
    assert (at.uid, len(at.uidls)) == ((102, 0) if protocol == "imap" else (0, 2))
