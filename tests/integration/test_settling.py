"""Settling on a real Dovecot, with and without MOVE, over IMAP and POP3: what happens to mail that was handed over, and when."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.scripted import Answers, Scripted
from tests.faults.conftest import Events, delivered_once, of
from worker.cli.status import lines
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, MAILBOXES
from worker.errors import SpoolFull, Throttled, Unreachable
from worker.quay import Quay
from worker.sources.transport import Wire
from worker.spool.file import FileSpool

DAY = 86_400


@pytest.fixture(scope="module")
def without_move(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """A Dovecot that offers UIDPLUS and no MOVE."""
    dovecot = Dovecot(
        certificates=certificates,
        introspection_url=f"{identity.lab_url}/introspect",
        passwords=MAILBOXES,
        extra="imap_capability = IMAP4rev1 SASL-IR UIDPLUS ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+",
    )
    dovecot.start()
    yield dovecot
    dovecot.remove()


@pytest.fixture(params=["dovecot", "without_move"])
def server(request: pytest.FixtureRequest) -> Dovecot:
    """Both, with an empty mailbox."""
    dovecot: Dovecot = request.getfixturevalue(request.param)
    dovecot.forget(ALICE)
    return dovecot


@pytest.fixture
def events() -> Iterator[Events]:
    """Every event that is logged during the test."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every line that is sent to mail servers, without tags."""
    lines: list[bytes] = []
    real = Wire.send

    def send(wire: Wire, data: bytes) -> None:
        lines.extend(line.strip() for line in data.splitlines())
        real(wire, data)

    monkeypatch.setattr(Wire, "send", send)
    return lines


def verbs(sent: list[bytes]) -> set[bytes]:
    """The IMAP commands among what was sent, UID commands with their second word."""
    words = [line.split()[1:3] for line in sent if line.count(b" ")]
    return {b" ".join(pair) if pair[0] == b"UID" else pair[0] for pair in words}


def subscribed(dovecot: Dovecot, user: str) -> list[str]:
    command = [*dovecot._doveadm(), "mailbox", "list", "-s", "-u", user]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


# -- what is told to the server --------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["move:Done", "delete"])
def test_what_others_have_marked_as_deleted_survives(
    installation: Installation,
    server: Dovecot,
    sent: list[bytes],
    after: str,
    request: pytest.FixtureRequest,
) -> None:
    """Whatever the server offers, only our own messages go: an EXPUNGE is told their uids."""
    server.save(ALICE, numbered(0), flags="T")
    installation.on_dovecot("box", server, ALICE, after=after, since="now")
    quay = installation.quay()
    flow(quay, "box")
    server.save(ALICE, numbered(1))
    server.save(ALICE, numbered(2), flags="T")
    flow(quay, "box")
    server.save(ALICE, numbered(3), flags="T")

    pulled(quay, "box")

    assert server.listing(ALICE) == {1: ("\\Deleted",), 4: ("\\Deleted",)}
    if after != "delete":
        assert len(server.listing(ALICE, "Done")) == 2
    expected = {b"UID STORE", b"UID EXPUNGE"}
    if after != "delete":
        expected = (
            {b"UID COPY", *expected} if request.node.callspec.params["server"] != "dovecot" else {b"UID MOVE"}
        )
    settling = {b"UID MOVE", b"UID COPY", b"UID STORE", b"UID EXPUNGE", b"EXPUNGE", b"CLOSE"}
    assert verbs(sent) & settling == expected


@pytest.mark.parametrize("folder", ["Done", "Arbeit/Erledigt Ü"])
def test_the_folder_that_messages_are_moved_to_is_made_once(
    installation: Installation, server: Dovecot, sent: list[bytes], folder: str
) -> None:
    """It is what everybody expects of move:Done; mail programs show it, because it is subscribed to."""
    server.save(ALICE, numbered(1), numbered(2))
    installation.on_dovecot("box", server, ALICE, after=f"move:{folder}")
    quay = installation.quay()

    for number in (3, 4):
        flow(quay, "box")
        server.save(ALICE, numbered(number))
    result = flow(quay, "box")

    assert (result.trouble, result.unsettled) == (None, None)
    assert len(server.listing(ALICE)) == 1
    assert len(server.listing(ALICE, folder)) == 3
    assert len([line for line in sent if b" CREATE " in line]) == 1
    assert subscribed(server, ALICE) == [folder]


def test_the_folder_is_found_in_another_case(
    installation: Installation, server: Dovecot, sent: list[bytes]
) -> None:
    """Nobody wants a `done` beside his `Done`."""
    server.save(ALICE, numbered(1))
    server.save(ALICE, numbered(0), folder="Done")
    installation.on_dovecot("box", server, ALICE, after="move:done")
    quay = installation.quay()
    flow(quay, "box")

    flow(quay, "box")

    assert len(server.listing(ALICE, "Done")) == 2
    assert [line for line in sent if b" CREATE " in line] == []


def test_a_folder_that_cannot_be_made_is_named_and_stops_no_other_folder(
    installation: Installation, server: Dovecot
) -> None:
    """The standing says it, mail goes on, and once AFTER is mended everything is settled."""
    for folder in ("INBOX", "Second"):
        server.save(ALICE, numbered(1), folder=folder)
    installation.on_dovecot("box", server, ALICE, folders="INBOX,Second", after="move:Done//x")
    quay = installation.quay()
    flow(quay, "box")
    server.save(ALICE, numbered(2), folder="Second")

    result = flow(quay, "box")

    assert (result.messages, result.trouble) == (1, None)
    standing = quay.standings.of("box")
    assert (standing.state, standing.failures) == ("misconfigured", 0)
    assert "Done//x" in standing.sentence
    assert "AFTER" in standing.sentence
    assert [line.unsettled for line in lines(quay)] == [3]

    mended = installation.quay(MAILBOX__BOX__AFTER="move:Done")
    assert flow(mended, "box").unsettled is None
    assert mended.standings.of("box").state == "ok"
    assert (server.listing(ALICE), len(server.listing(ALICE, "Done"))) == ({}, 3)


def test_a_folder_that_may_only_be_read_stops_no_other_folder(
    installation: Installation, certificates: Certificates
) -> None:
    """As shared folders often are: the server says no to the mark, and mail of the next folder comes all the same."""
    answers: Answers = {
        b"LOGIN": b"<tag> OK [CAPABILITY IMAP4rev1 UIDPLUS]\r\n",
        b"CAPABILITY": b"* CAPABILITY IMAP4rev1 UIDPLUS\r\n<tag> OK\r\n",
        b"SELECT": b"* 1 EXISTS\r\n* OK [UIDVALIDITY 7]\r\n* OK [UIDNEXT 2]\r\n<tag> OK [READ-ONLY]\r\n",
        b"UID FETCH 1 (UID RFC822.SIZE)": b"* 1 FETCH (UID 1 RFC822.SIZE 9)\r\n<tag> OK\r\n",
        b"UID FETCH 1:1 (UID RFC822.SIZE)": b"* 1 FETCH (UID 1 RFC822.SIZE 9)\r\n<tag> OK\r\n",
        b"UID FETCH": b"* 1 FETCH (UID 1 FLAGS () BODY[] {9}\r\nA: b\r\n\r\nc)\r\n<tag> OK\r\n",
        b"UID STORE": b"<tag> NO Mailbox is read-only\r\n",
        b"LOGOUT": b"<tag> OK\r\n",
    }
    with Scripted(
        certificates, b"* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\r\n", answers, tagged=True
    ) as server:
        installation.mailbox(
            "box", address="box@example.com", password="x" * 8, host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines", after="seen", folders="INBOX,Second",
        )  # fmt: skip
        quay = installation.quay(MAILBOX__BOX__AFTER_WHEN="spooled")

        result = pulled(quay, "box")

    assert (result.messages, result.trouble) == (2, None)
    assert result.unsettled is not None
    assert "Mailbox is read-only" in quay.standings.of("box").sentence
    assert quay.releases.waiting("box") == 2


# -- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_spooled_is_enough_when_the_setting_says_so(
    installation: Installation, dovecot: Dovecot, protocol: str
) -> None:
    """IMAP deletes in the same pull, POP3 at the beginning of the next; it is delivered afterwards all the same."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0), numbered(1), numbered(2))
    installation.on_dovecot("box", dovecot, ALICE, protocol=protocol, after="delete", after_when="spooled")
    quay = installation.quay(BATCH_MESSAGES="2")

    assert pulled(quay, "box").messages == 3
    if protocol == "pop3":
        assert pulled(quay, "box").messages == 0

    assert dovecot.listing(ALICE) == {}
    assert quay.releases.waiting("box") == 0
    deliver_due(quay)
    assert delivered_once(installation, range(3))
    assert quay.releases.waiting("box") == 0


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_message_stays_for_whole_days_even_when_redis_is_flushed_meanwhile(
    installation: Installation, dovecot: Dovecot, protocol: str
) -> None:
    """AFTER_DAYS counts from the hand-over of each message, to the second."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    installation.on_dovecot("box", dovecot, ALICE, protocol=protocol, after="delete", after_days="2")
    now = [time.time()]
    quay = installation.quay(clock=lambda: now[0])
    handed_over = now[0]
    flow(quay, "box")
    now[0] += DAY
    dovecot.save(ALICE, numbered(2))
    flow(quay, "box")
    quay.client.flushall()
    now[0] = handed_over + 2 * DAY - 1
    flow(quay, "box")
    assert len(dovecot.listing(ALICE)) == 2

    now[0] = handed_over + 2 * DAY
    flow(quay, "box")
    assert list(dovecot.listing(ALICE)) == [2]
    assert quay.releases.waiting("box") == 1

    now[0] = handed_over + 3 * DAY
    flow(quay, "box")
    assert dovecot.listing(ALICE) == {}
    assert quay.releases.waiting("box") == 0


def test_keep_forgets_what_was_noted(installation: Installation, dovecot: Dovecot) -> None:
    """Whoever stops the deleting does not want it to happen when it is switched on again later."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    installation.on_dovecot("box", dovecot, ALICE, after="delete")
    flow(installation.quay(), "box")

    pulled(installation.quay(MAILBOX__BOX__AFTER="keep"), "box")
    quay = installation.quay()
    flow(quay, "box")

    assert list(dovecot.listing(ALICE)) == [1]
    assert quay.releases.waiting("box") == 0


def test_what_lies_in_a_folder_that_is_no_longer_pulled_is_struck_off(
    installation: Installation, dovecot: Dovecot
) -> None:
    """Nobody opens it any more; a folder that is only missing for a while keeps its notes."""
    dovecot.forget(ALICE)
    for folder in ("INBOX", "Left", "Gone"):
        dovecot.save(ALICE, numbered(1), folder=folder)
    installation.on_dovecot("box", dovecot, ALICE, folders="INBOX,Left,Gone", after="delete")
    flow(installation.quay(), "box")
    command = [*dovecot._doveadm(), "mailbox", "delete", "-u", ALICE, "Gone"]
    subprocess.run(command, check=True, capture_output=True)

    quay = installation.quay(MAILBOX__BOX__FOLDERS="INBOX,Gone")
    pulled(quay, "box")

    assert dovecot.listing(ALICE) == {}
    assert len(dovecot.listing(ALICE, "Left")) == 1
    assert [found.folder for found in quay.releases.elsewhere("box", [], 1 << 34, most=9)] == ["Gone"]


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_full_disk_does_not_stop_delivering(
    installation: Installation, dovecot: Dovecot, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be noted stays on its server, and the spool gets empty (promise P9)."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0))
    installation.on_dovecot("box", dovecot, ALICE, protocol=protocol, after="delete")
    quay = installation.quay()

    def full(*_: object) -> None:
        raise SpoolFull("no room")

    monkeypatch.setattr(FileSpool, "note_release", full)
    flow(quay, "box")
    pulled(quay, "box")

    assert delivered_once(installation, range(1))
    assert quay.spool.tickets() == []
    assert list(dovecot.listing(ALICE)) == [1]


# -- new numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["delete", "seen", "move:Done"])
def test_what_is_recognised_under_new_numbers_is_settled_there(
    installation: Installation, dovecot: Dovecot, after: str
) -> None:
    """The old notes mean other messages now and are struck off; the messages were handed over all the same."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0), numbered(1))
    installation.on_dovecot("box", dovecot, ALICE, after=after)
    quay = installation.quay()
    flow(quay, "box")
    dovecot.uidvalidity(ALICE, 1_900_000_000)
    dovecot.save(ALICE, numbered(2))

    result = pulled(quay, "box")

    assert (result.messages, result.recognised) == (1, 2)
    # One that is not delivered yet may be among those recognised, for all that anybody knows.
    assert sorted(dovecot.listing(ALICE)) == [1, 2, 3]
    deliver_due(quay)
    flow(quay, "box")

    assert delivered_once(installation, range(3))
    assert dovecot.listing(ALICE) == (dict.fromkeys((1, 2, 3), ("\\Seen",)) if after == "seen" else {})
    assert quay.releases.waiting("box") == 0


def test_a_message_that_an_output_still_owes_is_not_deleted_because_it_is_recognised(
    installation: Installation, dovecot: Dovecot
) -> None:
    """It was spooled and never delivered: until it is, nothing that was recognised goes."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0))
    installation.on_dovecot("box", dovecot, ALICE, after="delete")
    quay = installation.quay()
    pulled(quay, "box")
    dovecot.uidvalidity(ALICE, 1_900_000_000)

    for _ in range(3):
        assert pulled(quay, "box").messages == 0
    assert len(dovecot.listing(ALICE)) == 1

    deliver_due(quay)
    pulled(quay, "box")
    assert dovecot.listing(ALICE) == {}


# -- POP3 ------------------------------------------------------------------------------------------------------------


def test_a_pop3_session_pulls_or_deletes_and_never_both(
    installation: Installation, dovecot: Dovecot, sent: list[bytes]
) -> None:
    """So a connection that breaks while pulling leaves no deletion pending; numbers are asked for anew."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0), numbered(1))
    installation.on_dovecot("box", dovecot, ALICE, protocol="pop3", after="delete")
    quay = installation.quay()
    flow(quay, "box")
    dovecot.save(ALICE, numbered(2))
    flow(quay, "box")

    sessions = [session.split(b"\n") for session in b"\n".join(sent).split(b"QUIT")]
    kinds = [{line.split()[0] for line in session if line} for session in sessions]

    assert [kind & {b"RETR", b"DELE"} for kind in kinds] == [{b"RETR"}, {b"DELE"}, {b"RETR"}, set()]
    assert b"UIDL" in kinds[1]
    assert list(dovecot.listing(ALICE)) == [3]


LISTED = b"+OK\r\n1 a\r\n2 b\r\n3 c\r\n.\r\n"
"""Three messages by UIDL."""


def pop3(deletion: Answers) -> Answers:
    """A server of three messages that offers PIPELINING."""
    return {
        b"CAPA": b"+OK\r\nUSER\r\nPIPELINING\r\n.\r\n",
        b"USER": b"+OK\r\n",
        b"PASS": b"+OK\r\n",
        b"LIST 1": b"+OK 1 300\r\n",
        b"LIST 2": b"+OK 2 300\r\n",
        b"LIST 3": b"+OK 3 300\r\n",
        b"LIST": b"+OK\r\n1 300\r\n2 300\r\n3 300\r\n.\r\n",
        b"RETR": b"+OK\r\n" + numbered(1) + b".\r\n",
        **deletion,
    }


def on_script(installation: Installation, server: Scripted) -> Quay:
    installation.mailbox(
        "box", protocol="pop3", address="box@example.com", password="x" * 8, host="localhost",
        port=str(server.port), ca_file=str(server.ca_file), since="all", outputs="lines", after="delete",
    )  # fmt: skip
    return installation.quay()


def test_a_broken_quit_costs_only_telling_again(
    installation: Installation, certificates: Certificates
) -> None:
    """Nothing is struck off before the server has said +OK to QUIT; the numbers are those of the new session."""
    answers: Answers = {
        # A session that pulls, one that deletes, one that pulls; meanwhile one of the messages went away.
        b"UIDL": [LISTED, LISTED, LISTED, b"+OK\r\n1 b\r\n2 c\r\n.\r\n"],
        b"DELE": b"+OK\r\n",
        b"QUIT": [b"+OK\r\n", b"", b"+OK\r\n"],
    }
    with Scripted(certificates, b"+OK ready\r\n", pop3(answers), tagged=False) as server:
        quay = on_script(installation, server)
        flow(quay, "box")
        assert server.commands(b"DELE") == []

        broken = pulled(quay, "box")
        assert broken.trouble is None
        assert isinstance(broken.unsettled, Unreachable)
        assert quay.standings.of("box").sentence == broken.unsettled.sentence
        assert server.commands(b"DELE") == [b"DELE 1", b"DELE 2", b"DELE 3"]
        assert quay.releases.waiting("box") == 3

        mended = pulled(quay, "box")
        assert (mended.trouble, mended.unsettled) == (None, None)
        assert server.commands(b"DELE")[3:] == [b"DELE 1", b"DELE 2"]
        assert quay.releases.waiting("box") == 0
        assert len(server.commands(b"RETR")) == 3


def test_one_message_that_the_server_keeps_does_not_keep_the_others(
    installation: Installation, certificates: Certificates
) -> None:
    """They go at QUIT; the refusal is said, and all are told again."""
    answers: Answers = {
        b"UIDL": LISTED,
        b"DELE 2": b"-ERR message is locked\r\n",
        b"DELE": b"+OK\r\n",
        b"QUIT": b"+OK\r\n",
    }
    with Scripted(certificates, b"+OK ready\r\n", pop3(answers), tagged=False) as server:
        quay = on_script(installation, server)
        flow(quay, "box")

        result = pulled(quay, "box")

        assert result.trouble is None
        assert result.unsettled is not None
        assert "message is locked" in result.unsettled.sentence
        told = server.said.index(b"DELE 1")
        assert server.said[told : told + 4] == [b"DELE 1", b"DELE 2", b"DELE 3", b"QUIT"]
        assert quay.releases.waiting("box") == 3


def test_of_copies_with_one_uidl_none_is_deleted(
    installation: Installation, certificates: Certificates
) -> None:
    """RFC 1939 section 7 lets copies share one; which of them was fetched nobody can tell."""
    answers: Answers = {
        b"UIDL": b"+OK\r\n1 a\r\n2 b\r\n3 a\r\n.\r\n",
        b"DELE": b"+OK\r\n",
        b"QUIT": b"+OK\r\n",
    }
    with Scripted(certificates, b"+OK ready\r\n", pop3(answers), tagged=False) as server:
        quay = on_script(installation, server)
        flow(quay, "box")

        assert pulled(quay, "box").trouble is None
        assert server.commands(b"DELE") == [b"DELE 2"]
        assert quay.releases.waiting("box") == 0


def test_a_maildrop_is_not_taken_for_renumbered_because_its_mail_was_deleted(
    installation: Installation, dovecot: Dovecot, events: Events
) -> None:
    """All that was known is gone and as much is new, as on any busy day with AFTER=delete: two equal letters are two."""
    dovecot.forget(ALICE)
    installation.on_dovecot("box", dovecot, ALICE, protocol="pop3", after="delete")
    quay = installation.quay()

    for _ in range(3):
        dovecot.save(ALICE, *map(numbered, range(5)))
        result = flow(quay, "box")
        assert (result.messages, result.recognised) == (5, 0)

    assert of(events, "folder.renumbered") == []


def test_a_server_that_wants_time_between_logins_is_settled_and_pulled_in_turn(
    installation: Installation, certificates: Certificates
) -> None:
    """RFC 2449 section 6.5: the login that is refused is the one of the pull, and the next poll has nothing to delete."""
    delay = b"-ERR [LOGIN-DELAY] minimum time between mail checks violation\r\n"
    answers: Answers = {
        b"UIDL": [LISTED, LISTED, b"+OK\r\n.\r\n"],
        b"DELE": b"+OK\r\n",
        b"QUIT": b"+OK\r\n",
        b"PASS": [b"+OK\r\n", b"+OK\r\n", delay, b"+OK\r\n"],
    }
    with Scripted(certificates, b"+OK ready\r\n", pop3(answers), tagged=False) as server:
        quay = on_script(installation, server)
        flow(quay, "box")

        assert isinstance(pulled(quay, "box").trouble, Throttled)
        assert len(server.commands(b"DELE")) == 3
        assert quay.releases.waiting("box") == 0

        assert pulled(quay, "box").trouble is None
