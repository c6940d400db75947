"""KEEP_CONNECTION on a real Dovecot: what a poll costs, what it must not miss, and everything that ends a connection."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bed.clients import imap_login
from tests.bed.dovecot import Dovecot
from tests.bed.errands import flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.recorder import Recorder
from tests.bed.scripted import Answers, Scripted
from tests.faults.conftest import Events, delivered_once, of
from worker import catch_up
from worker.demo.certificates import Certificates
from worker.demo.harbour import BOB
from worker.errors import Throttled
from worker.quay import Quay
from worker.sources import imap

QUIET = [b"NOOP"]
"""All that is said in a kept connection when there is no news."""


@pytest.fixture
def recorder(dovecot: Dovecot, certificates: Certificates) -> Iterator[Recorder]:
    """Before Dovecot's IMAP port."""
    recorder = Recorder(dovecot.imaps_port, trusted=certificates)
    recorder.start()
    yield recorder
    recorder.close()


@pytest.fixture
def box(installation: Installation, dovecot: Dovecot, recorder: Recorder) -> Installation:
    """The mailbox `box` with three numbered messages, which keeps its connection."""
    dovecot.forget(BOB)
    dovecot.save(BOB, *map(numbered, range(3)))
    installation.on_dovecot("box", dovecot, BOB, port=str(recorder.port), keep_connection="yes")
    return installation


def begun(installation: Installation, recorder: Recorder) -> Quay:
    """A quay that has pulled what was there and keeps the connection."""
    quay = installation.quay()
    assert flow(quay, "box").trouble is None
    recorder.fresh()
    return quay


def said(recorder: Recorder) -> list[bytes]:
    """The commands of the one connection that was used, without tags."""
    (talk,) = recorder.talks
    return [command.partition(b" ")[2] for command in talk.commands]


def signed_in(recorder: Recorder) -> int:
    """How many connections were signed in to."""
    return sum(b"AUTHENTICATE" in talk.said("client") for talk in recorder.talks)


# -- what it costs ---------------------------------------------------------------------------------------------------


def test_a_poll_without_news_costs_one_command(box: Installation, recorder: Recorder) -> None:
    """One round trip, less than a hundred octets each way, poll after poll."""
    quay = begun(box, recorder)

    for _ in range(3):
        recorder.fresh()
        assert pulled(quay, "box").trouble is None
        (talk,) = recorder.talks
        assert said(recorder) == QUIET
        assert talk.round_trips == 1
        assert len(talk.said("client")) < 100
        assert len(talk.said("server")) < 100


def test_more_folders_cost_one_command_each(box: Installation, dovecot: Dovecot, recorder: Recorder) -> None:
    """Only one folder is open at a time; a folder that is not has to be opened to be looked at."""
    dovecot.save(BOB, numbered(3), folder="Projects")
    box.environ["MAILBOX__BOX__FOLDERS"] = "INBOX,Projects"
    quay = begun(box, recorder)

    pulled(quay, "box")
    assert said(recorder) == [b'EXAMINE "INBOX"', b'EXAMINE "Projects"']
    dovecot.save(BOB, numbered(4))
    dovecot.save(BOB, numbered(5), folder="Projects")
    flow(quay, "box")

    assert signed_in(recorder) == 0
    assert delivered_once(box, range(6))


def test_without_the_setting_every_poll_says_goodbye(box: Installation, recorder: Recorder) -> None:
    """It is no more than it was."""
    box.environ["MAILBOX__BOX__KEEP_CONNECTION"] = "no"
    quay = begun(box, recorder)

    pulled(quay, "box")

    assert signed_in(recorder) == 1
    assert said(recorder)[-1] == b"LOGOUT"


# -- what it must not miss -------------------------------------------------------------------------------------------


def test_new_mail_is_found_in_a_kept_connection(
    box: Installation, dovecot: Dovecot, recorder: Recorder
) -> None:
    """Again and again, and a poll without news between them is quiet."""
    quay = begun(box, recorder)

    for number in range(3, 6):
        dovecot.save(BOB, numbered(number))
        assert flow(quay, "box").messages == 1
        recorder.fresh()
        assert pulled(quay, "box").messages == 0
        assert said(recorder) == QUIET

    assert delivered_once(box, range(6))


def test_mail_that_comes_while_as_much_goes_is_found(
    box: Installation, dovecot: Dovecot, recorder: Recorder
) -> None:
    """The number of messages is what it was, and is not believed."""
    quay = begun(box, recorder)
    dovecot.expunge(BOB, [1])
    dovecot.save(BOB, numbered(3))

    assert flow(quay, "box").messages == 1

    assert signed_in(recorder) == 0
    assert delivered_once(box, range(4))


def test_a_folder_that_is_replaced_is_noticed(
    box: Installation, dovecot: Dovecot, identity: Identity, recorder: Recorder
) -> None:
    """Another UIDVALIDITY, and the same uids again: what lies in it now is new."""
    dovecot.save(BOB, numbered(3), folder="Projects")
    box.environ["MAILBOX__BOX__FOLDERS"] = "Projects"
    quay = begun(box, recorder)
    client = imap_login(dovecot.imaps_port, dovecot.ca_file, BOB, identity.token(BOB))
    assert client.delete("Projects")[0] == client.create("Projects")[0] == "OK"
    assert client.append("Projects", "", "", numbered(4))[0] == "OK"
    client.logout()

    result = flow(quay, "box")

    assert (result.messages, result.trouble) == (1, None)
    assert delivered_once(box, range(3, 5))


def test_what_people_ask_for_is_done_in_a_kept_connection(box: Installation, recorder: Recorder) -> None:
    """A checkpoint that was moved back counts, although the server has nothing new to tell."""
    quay = begun(box, recorder)
    catch_up.rewind(quay, quay.settings.mailboxes["box"], "INBOX", 2)
    recorder.fresh()

    assert flow(quay, "box").messages == 2

    assert signed_in(recorder) == 0
    assert delivered_once(box, range(3))


def test_settling_is_done_in_a_kept_connection(
    box: Installation, dovecot: Dovecot, recorder: Recorder
) -> None:
    """What is handed over is noted between two pulls, and the second one settles it; then it is quiet again."""
    box.environ["MAILBOX__BOX__AFTER"] = "move:Done"
    quay = begun(box, recorder)

    flow(quay, "box")
    assert dovecot.listing(BOB) == {}
    flow(quay, "box")
    recorder.fresh()
    flow(quay, "box")

    assert said(recorder) == QUIET
    dovecot.save(BOB, numbered(3))
    assert flow(quay, "box").messages == 1
    assert signed_in(recorder) == 0
    assert delivered_once(box, range(4))


# -- what ends it ----------------------------------------------------------------------------------------------------


def goes_on_silently(installation: Installation, recorder: Recorder, dovecot: Dovecot, quay: Quay) -> None:
    """New mail comes in the very next pull, over one new session, and nobody is told of any trouble."""
    dovecot.save(BOB, numbered(3))
    recorder.fresh()

    result = flow(quay, "box")

    assert (result.messages, result.trouble) == (1, None)
    assert signed_in(recorder) == 1
    assert quay.standings.of("box").state == "ok"
    assert delivered_once(installation, range(4))
    recorder.fresh()
    assert pulled(quay, "box").trouble is None
    assert said(recorder) == QUIET


def test_a_server_that_hung_up_meanwhile(
    box: Installation, dovecot: Dovecot, recorder: Recorder, events: Events
) -> None:
    """As after an idle time that was too long for it."""
    quay = begun(box, recorder)
    dovecot.kick(BOB)

    goes_on_silently(box, recorder, dovecot, quay)

    assert of(events, "pull.failed") == []
    assert len(of(events, "connection.dropped")) == 1


def test_a_server_that_was_restarted(box: Installation, dovecot: Dovecot, recorder: Recorder) -> None:
    """Its connections are gone, and it is there."""
    quay = begun(box, recorder)
    dovecot.stop()
    dovecot.start()

    goes_on_silently(box, recorder, dovecot, quay)


def test_a_connection_that_a_router_has_forgotten_costs_a_short_wait(
    box: Installation, dovecot: Dovecot, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hangs up and nobody answers: a minute, as other answers may take, would be too long to wait for it."""
    monkeypatch.setattr(imap, "_WAKING_SECONDS", 0.5)
    quay = begun(box, recorder)
    recorder.forget_connections()

    before = time.monotonic()
    goes_on_silently(box, recorder, dovecot, quay)

    assert time.monotonic() - before < 5


HELD: Answers = {
    b"AUTHENTICATE": b"<tag> OK [CAPABILITY IMAP4rev1] welcome\r\n",
    b"EXAMINE": b"* 0 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 1]\r\n<tag> OK\r\n",
}


@pytest.mark.parametrize(
    "answer",
    [
        b"* BYE Session invalidated - AccessTokenExpired\r\n",
        b"* BYE Connection closed. 14\r\n",
        b"Server Unavailable. 15\r\n",
        b"<tag> NO not now\r\n",
        b"<tag> BAD Command received in Invalid state.\r\n",
        b"",
    ],
)
def test_whatever_a_server_says_to_the_first_command_a_new_session_follows(
    installation: Installation, certificates: Certificates, events: Events, answer: bytes
) -> None:
    """Once, and in the same pull."""
    installation_of(installation, certificates)
    with Scripted(
        certificates,
        b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n",
        {**HELD, b"NOOP": answer},
        tagged=True,
    ) as server:
        quay = installation.quay(MAILBOX__BOX__PORT=str(server.port))
        pulled(quay, "box")
        assert pulled(quay, "box").trouble is None
        quay.close()

    assert len(server.commands(b"AUTHENTICATE")) == 2
    assert of(events, "pull.failed") == []


def test_a_server_that_asks_for_a_pause_gets_it(
    installation: Installation, certificates: Certificates
) -> None:
    """Signing in at once would be the opposite of what it asked for."""
    installation_of(installation, certificates)
    answer = b"<tag> BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds\r\n"
    with Scripted(
        certificates,
        b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n",
        {**HELD, b"NOOP": answer},
        tagged=True,
    ) as server:
        quay = installation.quay(MAILBOX__BOX__PORT=str(server.port))
        pulled(quay, "box")
        assert isinstance(pulled(quay, "box").trouble, Throttled)
        quay.close()

    assert len(server.commands(b"AUTHENTICATE")) == 1


@pytest.mark.parametrize("when", [b"UID FETCH 1:1 (UID RFC822.SIZE)", b"UID FETCH 1 (UID FLAGS"])
def test_mail_that_comes_while_other_mail_is_pulled_is_not_forgotten(
    installation: Installation, certificates: Certificates, when: bytes
) -> None:
    """It is announced once, in the middle of that pull; the next one remembers, and opens the folder anew."""
    raw = numbered(0)
    fetched: dict[bytes, bytes] = {
        b"UID FETCH 1:1 (UID RFC822.SIZE)": b"* 1 FETCH (UID 1 RFC822.SIZE %d)\r\n" % len(raw),
        b"UID FETCH 1 (UID FLAGS": b"* 1 FETCH (UID 1 FLAGS () BODY[] {%d}\r\n%s)\r\n" % (len(raw), raw),
    }
    fetched[when] = b"* 2 EXISTS\r\n" + fetched[when]
    answers: Answers = {
        **HELD,
        **{command: answer + b"<tag> OK\r\n" for command, answer in fetched.items()},
        b"EXAMINE": b"* 1 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 2]\r\n<tag> OK\r\n",
        b"NOOP": b"<tag> OK\r\n",
    }
    installation_of(installation, certificates)
    greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n"
    with Scripted(certificates, greeting, answers, tagged=True) as server:
        quay = installation.quay(MAILBOX__BOX__PORT=str(server.port))
        for _ in range(3):
            assert pulled(quay, "box").trouble is None
        quay.close()

    assert server.said[-2:] == [b'EXAMINE "INBOX"', b"NOOP"]


def installation_of(installation: Installation, certificates: Certificates) -> None:
    """The mailbox `box`, which keeps its connection to a scripted server."""
    installation.mailbox(
        "box", address=BOB, password="x", host="localhost", ca_file=str(certificates.ca_file),
        since="all", outputs="lines", keep_connection="yes",
    )  # fmt: skip
