"""A bad line between Mailquay and a real server: whatever happens on it, all mail is in the spool once in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.installation import Installation, numbered
from tests.bed.proxy import Fault, FaultProxy
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.errors import Unreachable
from worker.pull import pull
from worker.quay import Quay

COUNT = 12
CUTS = 60
SIZE = 4_000
"""Octets of a message: so the cuts fall into heads, bodies, and everything in between."""


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


@pytest.fixture
def proxy(dovecot: Dovecot, certificates: Certificates, protocol: str) -> Iterator[FaultProxy]:
    """A line to Dovecot's port of this protocol, with twelve messages behind it."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *(numbered(n, SIZE) for n in range(COUNT)))
    proxy = FaultProxy(dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port, trusted=certificates)
    proxy.start()
    yield proxy
    proxy.close()


@pytest.fixture
def boxes(installation: Installation, dovecot: Dovecot, proxy: FaultProxy, protocol: str) -> Iterator[str]:
    """As many mailboxes as are wanted, all of them the same one on the server: each is pulled from its beginning."""
    installation.environ["BATCH_MESSAGES"] = "5"
    names = [f"box{n}" for n in range(CUTS + 1)]
    for name in names:
        installation.on_dovecot(name, dovecot, BOB, protocol=protocol, port=str(proxy.port), outputs="lines")
    return iter(names)


@pytest.fixture
def quay(installation: Installation, boxes: Iterator[str]) -> Quay:
    """A process that waits half a second for an answer."""
    quay = installation.quay()
    quay._answer_seconds = 0.5
    return quay


def spooled(quay: Quay, box: str) -> Counter[tuple[int | str, str]]:
    """What the spool holds of a mailbox: its place on the server and its id, and how often."""
    found: Counter[tuple[int | str, str]] = Counter()
    for ticket in quay.spool.tickets():
        if ticket.mailbox != box:
            continue
        with quay.spool.open(ticket) as opened:
            found.update((entry.uid or entry.uidl or "", entry.id) for entry in opened.batch.entries)
            for entry in opened.batch.entries:
                assert len(bytes(opened.raw(entry))) == entry.size >= SIZE
    return found


def nothing_is_passed_over(quay: Quay, box: str) -> bool:
    """Promise P1: whatever the checkpoint has passed lies in the spool."""
    at = quay.checkpoints.load(box, "INBOX")
    passed: set[int | str] = set(range(1, at.uid + 1)) | set(at.uidls) if at else set()
    return passed <= {place for place, _ in spooled(quay, box)}


def everything_is_there_once(quay: Quay, box: str) -> bool:
    """Each message in the spool once, under an id of its own, and none in the repair queue."""
    found = spooled(quay, box)
    ids = {message for _, message in found}
    return len(found) == len(ids) == COUNT and set(found.values()) == {1} and not quay.repairs.of(box)


def until_all_is_there(quay: Quay, box: str) -> None:
    """Pull until a pull goes well; it has to within two."""
    for _ in range(2):
        if pulled(quay, box).trouble is None:
            break
    assert quay.standings.of(box).state == "ok"
    assert nothing_is_passed_over(quay, box)
    assert everything_is_there_once(quay, box)


def cut_places(quay: Quay, proxy: FaultProxy, boxes: Iterator[str], count: int) -> list[int]:
    """So many places, spread evenly over all that the server says in a pull that goes well."""
    until_all_is_there(quay, next(boxes))
    return [proxy.said * n // count for n in range(count)]


@pytest.mark.parametrize(("kind", "cuts"), [("hang up", CUTS), ("reset", 20)])
def test_a_connection_cut_behind_any_octet_loses_and_repeats_nothing(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str], kind: Literal["hang up", "reset"], cuts: int
) -> None:
    """So many places over the whole conversation: greeting, sign-in, listings, heads, bodies, and the goodbye."""
    places = cut_places(quay, proxy, boxes, cuts)
    kept = set()
    for place, box in zip(places, boxes, strict=False):
        proxy.fault = Fault(kind, after=place)
        kept.add(pulled(quay, box).messages)
        assert nothing_is_passed_over(quay, box), f"behind {place} octets"
        proxy.fault = None
        until_all_is_there(quay, box)
    # Pulls kept what they had: a shaky line gets there.
    assert 0 in kept
    assert max(kept) > COUNT / 2


def test_a_black_hole_anywhere_holds_a_pull_no_longer_than_an_answer_may_take(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str]
) -> None:
    """A router that forgot the connection says nothing, not even that it is gone."""
    for place, box in zip(cut_places(quay, proxy, boxes, 8), boxes, strict=False):
        proxy.fault = Fault("hang", after=place)
        begun = time.monotonic()
        trouble = pulled(quay, box).trouble
        assert time.monotonic() - begun < 3
        assert trouble
        assert "in time" in trouble.sentence or "no TLS" in trouble.sentence
        proxy.fault = None
        until_all_is_there(quay, box)


def test_a_reset_in_the_middle_of_a_message(quay: Quay, proxy: FaultProxy, boxes: Iterator[str]) -> None:
    """The torn one is not kept, and of those before it what arrived; it is no alarm for anybody but the mailbox's state."""
    box = next(boxes)
    proxy.fault = Fault("reset", at=b"X-Number: 7\r\n")

    result = pulled(quay, box)

    assert result.messages <= 7
    assert isinstance(result.trouble, Unreachable)
    assert nothing_is_passed_over(quay, box)
    proxy.fault = None
    until_all_is_there(quay, box)


def test_a_line_with_a_long_delay_only_takes_longer(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str]
) -> None:
    """Each of the server's words comes late, and none too late."""
    proxy.delay = 0.1
    until_all_is_there(quay, next(boxes))


def test_a_slow_line_yields_at_its_deadline_and_goes_on(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str]
) -> None:
    """Behind a batch the pull says that there is more; the next one begins behind it. Nothing is fetched twice."""
    box = next(boxes)
    proxy.rate = 60_000
    pulls = []
    for _ in range(COUNT):
        deadline = time.monotonic() + 0.1
        pulls.append(pull(quay, quay.settings.mailboxes[box], ring=lambda _: None, deadline=deadline))
        assert pulls[-1].trouble is None
        if not pulls[-1].more:
            break
    assert [one.more for one in pulls[:2]] == [True, True]
    assert sum(one.messages for one in pulls) == COUNT
    assert everything_is_there_once(quay, box)


def test_a_line_slower_than_any_is_taken_for_hung(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that drips holds nobody: its octets have to come at a modem's speed at least."""
    box = next(boxes)
    monkeypatch.setattr("worker.sources.transport._SLOWEST_OCTETS_A_SECOND", 1_000_000)
    proxy.rate = 3_000
    begun = time.monotonic()
    assert pulled(quay, box).trouble
    assert time.monotonic() - begun < 15
    proxy.rate = None
    monkeypatch.undo()
    until_all_is_there(quay, box)


# Where the server may say a line between two others, to the client that knows what a literal is.
IMAP_PLACES = (b"service is ready.\r\n", b" EXISTS\r\n", b" RECENT\r\n", b"secs).\r\n", b"RFC822.SIZE 4082)\r\n", b"x\r\n)\r\n")  # fmt: skip
UNTAGGED = (
    b"* 40 EXISTS\r\n",
    b"* OK [ALERT] The harbour closes at midnight.\r\n",
    b"* 3 FETCH (FLAGS (\\Seen))\r\n",
    b'* ESEARCH (TAG "A9") UID ALL 1:99\r\n',
    b"* X-NOBODY-KNOWS-THIS 1 2 3\r\n",
)
GARBAGE = (b"%%% \x00\xff is no protocol\r\n", b"A99 OK somebody else's\r\n", b"+ go ahead\r\n", b"\r\n")


@pytest.mark.parametrize("protocol", ["imap"], indirect=True)
@pytest.mark.parametrize("words", UNTAGGED)
def test_an_untagged_line_anywhere_changes_nothing(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str], words: bytes
) -> None:
    """A server may say such a line at any time (RFC 3501 section 7); the pull goes on as if it had not."""
    for place, box in zip(IMAP_PLACES, boxes, strict=False):
        proxy.fault = Fault("go on", at=place, words=words, once=True)
        assert pulled(quay, box).trouble is None, f"behind {place!r}"
        assert proxy.fault is None, f"{place!r} was not said"
        assert everything_is_there_once(quay, box)


@pytest.mark.parametrize("words", GARBAGE)
def test_a_line_of_garbage_anywhere_loses_and_repeats_nothing(
    quay: Quay, proxy: FaultProxy, boxes: Iterator[str], protocol: str, words: bytes
) -> None:
    """Whether it ends the session or is passed over: the next pull brings what is missing."""
    pop3_places = (b"service is ready.\r\n", b"Logged in.\r\n", b"x\r\n.\r\n")
    for place, box in zip(IMAP_PLACES if protocol == "imap" else pop3_places, boxes, strict=False):
        proxy.fault = Fault("go on", at=place, words=words, once=True)
        pulled(quay, box)
        assert proxy.fault is None, f"{place!r} was not said"
        assert nothing_is_passed_over(quay, box), f"behind {place!r}"
        until_all_is_there(quay, box)
