"""What a poll without news costs after TLS, counted on a real Dovecot: round trips, and octets each way.

Counting is not timing, so it is the same on every machine. `python -m bench.poll` prints the figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.errands import pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.processes import wait_until
from tests.bed.recorder import Recorder, Talk
from tests.bed.scripted import Answers, Scripted
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE
from worker.errors import Unreachable
from worker.pull import pull
from worker.sources import Credentials, Endpoint, pop3
from worker.sources.pop3 import Pop3Source

PASSWORD_OCTETS = 1000
"""The bar, each way. A token has a thousand and more octets of its own, which no client can spare."""


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


@pytest.fixture
def recorder(dovecot: Dovecot, certificates: Certificates, protocol: str) -> Iterator[Recorder]:
    """Before Dovecot's port of this protocol."""
    port = dovecot.imaps_port if protocol == "imap" else dovecot.pop3s_port
    recorder = Recorder(port, trusted=certificates)
    recorder.start()
    yield recorder
    recorder.close()


def second_poll(installation: Installation, recorder: Recorder) -> Talk:
    """The talk of a poll behind one that brought everything."""
    quay = installation.quay()
    assert pulled(quay, "box").messages == 3
    recorder.fresh()
    assert pulled(quay, "box").trouble is None
    (talk,) = recorder.talks
    last = b"LOGOUT" if b"LOGOUT" in talk.said("client") else b"QUIT"
    wait_until(lambda: last in talk.said("client"), timeout=5, what="the goodbye")
    return talk


def test_a_poll_without_news_costs_five_round_trips_and_a_thousand_octets_at_most(
    installation: Installation, dovecot: Dovecot, recorder: Recorder, protocol: str
) -> None:
    """With a password. The answer to the goodbye is not waited for."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(3)))
    installation.on_dovecot("box", dovecot, ALICE, protocol=protocol, port=str(recorder.port))

    talk = second_poll(installation, recorder)

    assert talk.round_trips <= {"imap": 3, "pop3": 5}[protocol]
    assert len(talk.said("client")) <= PASSWORD_OCTETS
    assert len(talk.said("server")) <= PASSWORD_OCTETS


def test_with_a_token_only_the_token_comes_on_top(
    installation: Installation,
    dovecot: Dovecot,
    recorder: Recorder,
    fresh_identity: Identity,
    protocol: str,
) -> None:
    """In base64, as XOAUTH2 wants it, and once."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(3)))
    installation.signs_in_at(fresh_identity)
    installation.on_dovecot(
        "box", dovecot, ALICE, protocol=protocol, port=str(recorder.port), auth="delegated"
    )
    installation.sign_in(installation.quay(), fresh_identity, ALICE)

    talk = second_poll(installation, recorder)

    token = max(word for command in talk.commands for word in [len(command.split()[-1])])
    assert token > PASSWORD_OCTETS
    assert talk.round_trips <= {"imap": 3, "pop3": 5}[protocol]
    assert len(talk.said("client")) - token <= 200
    assert len(talk.said("server")) <= PASSWORD_OCTETS


# -- a million messages ----------------------------------------------------------------------------------------------

MILLION = 1_000_000
VAST: Answers = {
    b"AUTHENTICATE": b"<tag> OK [CAPABILITY IMAP4rev1] welcome\r\n",
    b"EXAMINE": b"* %d EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT %d]\r\n<tag> OK\r\n"
    % (MILLION, MILLION + 1),
    b"UID FETCH 998001:1000000 (": b"* 1000000 FETCH (UID 1000000 RFC822.SIZE 15)\r\n<tag> OK\r\n",
    b"UID FETCH 1000000 (": b"* 1000000 FETCH (UID 1000000 BODY[] {15}\r\nSubject: x\r\n\r\ny)\r\n<tag> OK\r\n",
}


@pytest.mark.parametrize(
    ("since", "listed"), [("now", []), ("all", [b"UID FETCH 998001:1000000 (UID RFC822.SIZE)"])]
)
def test_an_imap_folder_of_a_million_messages_costs_nothing_to_begin_with(
    installation: Installation, certificates: Certificates, since: str, listed: list[bytes]
) -> None:
    """It is opened, and of the old mail a window is listed at a time, the newest first."""
    greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n"
    with Scripted(certificates, greeting, VAST, tagged=True) as server:
        installation.mailbox(
            "box", address=ALICE, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since=since, outputs="lines",
        )  # fmt: skip
        quay = installation.quay()
        # The time is up at once: a turn at what is old ends behind what it has in hand.
        result = pull(quay, quay.settings.mailboxes["box"], ring=lambda _: None, deadline=time.monotonic())

    assert (result.trouble, result.messages) == (None, len(listed))
    assert [line for line in server.commands(b"UID") if b"SIZE" in line] == listed


def maildrop(count: int) -> Answers:
    """A POP3 server with so many messages, each with a UIDL of 24 letters."""
    lines = b"".join(b"%d %024x\r\n" % (number, number) for number in range(1, count + 1))
    return {
        b"CAPA": b"+OK\r\nUIDL\r\n.\r\n",
        b"USER": b"+OK\r\n",
        b"PASS": b"+OK\r\n",
        b"UIDL": b"+OK\r\n" + lines + b".\r\n",
    }


def connected(server: Scripted) -> Pop3Source:
    return Pop3Source(
        Endpoint("localhost", server.port, "implicit", str(server.ca_file)),
        Credentials(ALICE, "x", bearer=False),
        message_max=1 << 20,
        answer_seconds=60,
        clock=time.monotonic,
    )


def test_a_pop3_maildrop_of_a_million_messages_is_listed_by_every_poll(certificates: Certificates) -> None:
    """POP3 has no other way to tell what is new. It is one command and no sizes, and it ends."""
    with Scripted(certificates, b"+OK\r\n", maildrop(MILLION), tagged=False) as server:
        source = connected(server)
        opened = source.open("INBOX", writable=False)
        seen = frozenset(f"{number:024x}" for number in range(1, MILLION + 1))

        assert opened.exists == MILLION
        assert list(source.new(opened, after=0, seen=seen)) == []
        assert source.gone(opened, seen) == []
        source.close()

    assert server.said == [b"CAPA", b"USER " + ALICE.encode(), b"PASS x", b"UIDL"]


def test_a_pop3_listing_without_an_end_is_not_read_to_it(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fill the memory; the sentence says what to do when the mailbox is really that large."""
    monkeypatch.setattr(pop3, "_LISTING", 1 << 20)
    with Scripted(certificates, b"+OK\r\n", maildrop(60_000), tagged=False) as server:
        source = connected(server)
        with pytest.raises(Unreachable, match=r"1 MB.*AFTER=delete"):
            source.open("INBOX", writable=False)
        source.close()
