"""Exchange Online over IMAP: its own words, played to the byte, and what a whole pull makes of them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.bed.errands import flow
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.placeholder import PLACEHOLDER
from tests.bed.scripted import Scripted
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.quirky import Quirky, opened
from tests.faults.test_token_in_use import on_script
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB
from worker.errors import Throttled, Unreachable
from worker.quay import Quay
from worker.sources import NoSuchFolder
from worker.timetable import pull_entry

COUNT = 5
THROTTLED = b"Request is throttled. Suggested Backoff Time: 299961 milliseconds"
CLOSED = b"* BYE Connection closed. 14\r\n"
COMMANDS = {
    "signing in": b"LOGIN",
    "opening": b"EXAMINE",
    "listing": b"UID FETCH 1:5 (UID RFC822.SIZE)",
    "fetching": b"UID FETCH 1:5 (UID FLAGS",
}


@pytest.fixture
def server(installation: Installation, certificates: Certificates) -> Iterator[Quirky]:
    """The mailbox `box` with five numbered messages, and `other` on a server of its own."""
    with (
        Quirky(certificates, *(numbered(n) for n in range(COUNT))) as server,
        Quirky(certificates, numbered(0)) as beside,
    ):
        for name, address, one in (("box", BOB, server), ("other", BOB, beside)):
            installation.mailbox(
                name, address=address, password="x", host="localhost", port=str(one.port),
                ca_file=str(one.ca_file), since="all", outputs="lines,post", every="1m",
            )  # fmt: skip
        yield server


@pytest.fixture
def quay(installation: Installation, server: Quirky) -> Quay:
    """One process, with both mailboxes in the timetable."""
    quay = installation.quay()
    quay.timetable.sync({pull_entry(name): 60.0 for name in ("box", "other")}, quay.clock())
    return quay


def put_off(quay: Quay, name: str = "box") -> float:
    """Seconds until the mailbox is due."""
    return (quay.timetable.due(pull_entry(name)) or 0.0) - time.time()


def numbers(installation: Installation) -> list[str]:
    """The numbers of the messages of `box` that were delivered, as often as they were."""
    mine = (line for line in installation.lines() if line["mailbox"] == "box")
    return sorted(line["subject"].removeprefix("Crate ") for line in mine)


# -- throttling and sessions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [b"<tag> NO ", b"<tag> BAD ", b"* BYE "], ids=["NO", "BAD", "BYE"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_throttling_parks_the_mailbox_for_as_long_as_was_asked(
    installation: Installation, server: Quirky, quay: Quay, command: bytes, refusal: bytes
) -> None:
    """After any command and in any form; not the worker, and no other mailbox. It comes back a little later, never sooner."""
    server.instead[command] = [refusal + THROTTLED + b"\r\n" + CLOSED]

    result = flow(quay, "box")

    assert isinstance(result.trouble, Throttled)
    assert "asked for 300 s" in result.trouble.sentence
    assert quay.standings.of("box").state == "throttled"
    assert 298 < put_off(quay) < 376
    assert put_off(quay, "other") < 61
    assert flow(quay, "other").messages == 1
    assert flow(quay, "box").messages == COUNT


def test_throttling_in_the_middle_of_an_answer_keeps_what_came(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """And the next pull goes on behind it."""
    came = server.whole(1) + server.whole(2)
    server.instead[COMMANDS["fetching"]] = [came + b"<tag> BAD " + THROTTLED + b"\r\n" + CLOSED]

    assert flow(quay, "box").messages == 2
    assert quay.standings.of("box").state == "throttled"
    assert flow(quay, "box").messages == 3
    assert delivered_once(installation, range(COUNT), mailbox="box")


@pytest.mark.parametrize("end", [CLOSED, b"<end>"], ids=["a farewell", "no farewell"])
def test_a_session_that_is_closed_is_explained_by_the_line_before(
    server: Quirky, quay: Quay, end: bytes
) -> None:
    """`Connection closed. 14` follows every refusal and says nothing; other clients report it and hide the cause."""
    server.instead[b"EXAMINE"] = [b"* BAD " + THROTTLED + b"\r\n" + end]

    assert isinstance(flow(quay, "box").trouble, Throttled)
    server.instead[b"EXAMINE"] = [CLOSED]
    plain = flow(quay, "box").trouble
    assert isinstance(plain, Unreachable)
    assert "Connection closed. 14" in plain.sentence


def test_a_pause_that_is_asked_for_is_capped(server: Quirky, quay: Quay) -> None:
    """Fifty minutes were seen; a year would be a mistake, or an attack."""
    server.instead[b"EXAMINE"] = [
        b"<tag> NO Request is throttled. Suggested Backoff Time: 31536000000 milliseconds\r\n",
        b"<tag> NO Request is throttled. Suggested Backoff Time: " + b"9" * 5000 + b" milliseconds\r\n",
    ]

    flow(quay, "box")
    assert 3598 < put_off(quay) < 4501
    flow(quay, "box")
    assert 298 < put_off(quay) < 376


@pytest.mark.parametrize("bare", [False, True], ids=["NO", "outside the protocol"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_server_unavailable_is_passing_also_as_a_bare_line(
    installation: Installation, server: Quirky, quay: Quay, command: bytes, *, bare: bool
) -> None:
    """Tried again within seconds; a refused login that says so is no reason to look at the sign-in."""
    server.instead[command] = [
        b"Server Unavailable. 15\r\n<end>" if bare else b"<tag> NO Server Unavailable. 15\r\n"
    ]

    result = flow(quay, "box")

    assert isinstance(result.trouble, Unreachable)
    assert "Server Unavailable. 15" in result.trouble.sentence
    assert quay.standings.of("box").state == "unreachable"
    assert put_off(quay) < 61
    assert flow(quay, "box").messages == COUNT


def test_server_unavailable_in_the_place_of_a_greeting_is_no_wrong_port(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """Nobody is told to check HOST, PORT and PROTOCOL of a mailbox that worked a minute ago."""
    with Scripted(certificates, b"Server Unavailable. 15\r\n", {}, tagged=True) as script:
        quay = on_script(installation, fresh_identity, script, secret=fresh_identity.token(ALICE))
        trouble = flow(quay, "box").trouble

    assert type(trouble) is Unreachable
    assert "Server Unavailable. 15" in trouble.sentence


def test_a_login_that_is_temporarily_unavailable_costs_no_other_token(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """It arrives as a failed login and is none: the token is good, and its owner is left alone."""
    answers = {b"AUTHENTICATE": b"<tag> NO [UNAVAILABLE] Account is temporarily unavailable.\r\n"}
    greeting = b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] ready\r\n"
    with Scripted(certificates, greeting, answers, tagged=True) as script:
        quay = on_script(installation, fresh_identity, script, secret=fresh_identity.token(ALICE))
        fresh_identity.provider.requests.clear()
        trouble = flow(quay, "box").trouble
        assert len(script.commands(b"AUTHENTICATE")) == 1

    assert type(trouble) is Unreachable
    assert fresh_identity.refreshes() == 0


def test_an_argument_error_for_one_message_keeps_back_no_other(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """The others come one by one in the same pull; the one waits in the repair queue."""
    server.instead[COMMANDS["fetching"]] = [b"<tag> BAD Command Argument Error. 11\r\n"]
    server.always[b"UID FETCH 3 (UID FLAGS"] = b"<tag> BAD Command Argument Error. 11\r\n"

    assert flow(quay, "box").trouble is None

    assert numbers(installation) == ["0", "1", "3", "4"]
    assert "Command Argument Error. 11" in quay.repairs.of("box")[0].reason


def test_an_argument_error_for_a_folder_ends_the_pull_in_words(server: Quirky, quay: Quay) -> None:
    """Quota and size are said so as well, so nobody is told that FOLDERS is wrong."""
    server.instead[b"EXAMINE"] = [b"<tag> BAD Command Argument Error. 12\r\n"]

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert "Command Argument Error. 12" in trouble.sentence
    assert flow(quay, "box").messages == COUNT


def test_no_command_is_longer_than_exchange_takes(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """10,500 octets end in an argument error; scattered uids of ten digits fill a line fast."""
    uids = [4_000_000_001 + 2 * n for n in range(900)]
    server.letters = {uids[0] - 1: numbered(900)}
    quay = installation.quay(BATCH_MESSAGES="1000", MAILBOX__BOX__SINCE="now")
    assert flow(quay, "box").messages == 0
    server.letters = {uid: numbered(n, size=20) for n, uid in enumerate(uids)}

    assert flow(quay, "box").messages == 900

    assert max(map(len, server.said)) < 8_192


def test_a_session_that_is_closed_after_ten_errors_costs_one_pull(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Exchange counts errors. What was tried has its pause by then, so the next pull brings what is new."""
    server.letters = {number: numbered(number - 1) for number in range(1, 15)}
    server.withheld = dict.fromkeys(range(1, 14), "refused")
    answered, errors = server._imap, [0]

    def counting(said: bytes) -> bytes:
        answer = answered(said)
        if b" NO " in answer:
            errors[0] += 1
            answer = answer.replace(
                b"NO [SERVERBUG] FETCH Server error while fetching messages", b"BAD Command Error. 12"
            )
        if errors[0] < 10:
            return answer
        errors[0] = 0
        return answer + CLOSED + b"<end>"

    server._say = counting

    pulls = [flow(quay, "box") for _ in range(2)]

    assert [isinstance(result.trouble, Unreachable) for result in pulls] == [True, False]
    assert numbers(installation) == ["13"]
    assert len(quay.repairs.of("box")) == 13


# -- capabilities ----------------------------------------------------------------------------------------------------

CAPABLE = b"IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS MOVE ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+"
KNOWN = {"CAPABILITY", "AUTHENTICATE", "EXAMINE", "UID", "LOGOUT"}


@pytest.mark.parametrize("after", [b"", b" ENABLE IMAP4rev2"], ids=["as in March 2026", "with IMAP4rev2"])
def test_nothing_is_asked_that_every_server_does_not_know(
    installation: Installation, certificates: Certificates, fresh_identity: Identity, after: bytes
) -> None:
    """No ENABLE, whatever is advertised: behind it SEARCH fails or finds nothing. No extension is relied on."""
    letters = [numbered(n) for n in range(COUNT)]
    greeting = b"* OK tcpproxy/15.21 The Microsoft Exchange IMAP4 service is ready.\r\n"
    with Quirky(certificates, *letters, greeting=greeting) as server:
        server.instead = {
            b"CAPABILITY": [
                b"* CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=XOAUTH2 SASL-IR\r\n<tag> OK CAPABILITY completed.\r\n",
                b"* CAPABILITY " + CAPABLE + after + b"\r\n<tag> OK CAPABILITY completed.\r\n",
            ],
            b"AUTHENTICATE": [b"<tag> OK AUTHENTICATE completed.\r\n"],
        }
        on_script(installation, fresh_identity, server, secret=fresh_identity.token(ALICE))
        quay = installation.quay(clock=fresh_identity.now, MAILBOX__BOX__SINCE="2020-01-01")
        server.instead[b"UID SEARCH"] = [b"* SEARCH 1 2 3 4 5\r\n<tag> OK SEARCH completed.\r\n"]

        assert flow(quay, "box").messages == COUNT

        verbs = {said.split(b" ")[0].decode() for said in server.said}
        assert verbs <= KNOWN
        assert b"RETURN" not in b"".join(server.said)
        assert {said.split(b" ")[1] for said in server.commands(b"UID")} == {b"SEARCH", b"FETCH"}


# -- retrieval -------------------------------------------------------------------------------------------------------


def test_ok_without_data_for_a_whole_group_is_asked_for_one_by_one(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """In the same pull; nothing is taken for gone, and nothing is left to wait."""
    server.instead[COMMANDS["fetching"]] = [b"<tag> OK FETCH completed.\r\n"]

    flow(quay, "box")

    assert delivered_once(installation, range(COUNT), mailbox="box")
    assert quay.repairs.of("box") == []


def test_a_placeholder_letter_is_never_delivered(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """It says `The server couldn't retrieve the following message`; the message waits in the repair queue for itself."""
    server.withheld = {2: "placeholder"}

    flow(quay, "box")

    assert numbers(installation) == ["0", "2", "3", "4"]
    assert PLACEHOLDER not in installation.posted().values()
    assert len(quay.repairs.of("box")) == 1


def test_a_message_that_is_announced_and_not_there_yet_comes_later(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Replication lag: EXISTS and UIDNEXT count it, the listing does not have it, and the highest uid is the old one."""
    flow(quay, "box")
    server.instead[b"EXAMINE"] = [opened(6, uidnext=b"* OK [UIDNEXT 7]\r\n"), opened(6)]

    assert flow(quay, "box").messages == 0
    # Without UIDNEXT the newest is asked for, and it is the one that was there before.
    server.instead[b"UID FETCH * "] = [b"* 5 FETCH (UID 5 RFC822.SIZE 200)\r\n<tag> OK FETCH completed.\r\n"]
    assert flow(quay, "box").messages == 0
    assert quay.standings.of("box").state == "ok"
    server.letters[6] = numbered(5)
    assert flow(quay, "box").messages == 1
    assert delivered_once(installation, range(6), mailbox="box")


@pytest.mark.parametrize("factor", [0.1, 10.0], ids=["far too small", "far too large"])
def test_the_listed_size_is_taken_for_an_estimate(
    installation: Installation, server: Quirky, quay: Quay, factor: float
) -> None:
    """In both directions, also around the sizes at which messages are streamed: every octet comes, and no more."""
    server.letters = {number: numbered(number - 1, size=400_000 * number) for number in range(1, 5)}
    server.listed = {number: int(len(raw) * factor) for number, raw in server.letters.items()}

    for _ in range(4):
        flow(quay, "box")

    assert delivered_once(installation, range(4), mailbox="box")
    assert sorted(installation.posted().values()) == sorted(server.letters.values())


def test_items_come_in_another_order(installation: Installation, server: Quirky, quay: Quay) -> None:
    """`RFC822.SIZE 45274 UID 84`: read as key and value, never by position."""
    server.letters = {84: numbered(0)}
    raw = server.letters[84]
    server.always = {
        b"EXAMINE": opened(1, uidnext=b"* OK [UIDNEXT 85]\r\n"),
        b"UID FETCH 1:84 ": b"* 1 FETCH (RFC822.SIZE 45274 UID 84)\r\n<tag> OK FETCH completed.\r\n",
        b"UID FETCH 84 ": b"* 1 FETCH (BODY[] {%d}\r\n%s FLAGS (\\Seen) UID 84)\r\n<tag> OK\r\n"
        % (len(raw), raw),
    }

    assert flow(quay, "box").messages == 1
    assert delivered_once(installation, range(1), mailbox="box")


def test_a_status_line_with_spaces_behind_it_is_passed_over(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Neither STATUS nor ID nor a BODYSTRUCTURE is ever asked for, so their flaws hurt nobody."""
    server.instead[b"EXAMINE"] = [b"* STATUS INBOX (MESSAGES 5 UIDNEXT 6)  \r\n" + server._imap(b"EXAMINE")]

    assert flow(quay, "box").messages == COUNT

    assert not re.search(
        rb"\b(STATUS|ID|BODYSTRUCTURE|ENVELOPE|RFC822)\b(?!\.SIZE)", b"\n".join(server.said[1:])
    )


def test_only_the_inbox_is_pulled_unless_folders_says_otherwise(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Exchange lists Calendar, Contacts, Notes and a folder Files of copies without heads; a plain list asks for none."""
    flow(quay, "box")

    assert server.commands(b"LIST") == []
    assert server.commands(b"EXAMINE") == [b'EXAMINE "INBOX"']


def test_a_folder_is_found_in_any_case_and_with_a_slash_in_its_name(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """Exchange compares names without regard to case, and localises them, in modified UTF-7."""
    listed = (
        b'* LIST (\\HasNoChildren) "/" "Gel&APY-schte Elemente"\r\n* LIST (\\HasNoChildren) "/" Files\r\n'
    )
    server.always = {
        b'EXAMINE "gel&APY-schte elemente"': b"<tag> NO gel schte elemente doesn't exist.\r\n",
        b"LIST": listed + b"<tag> OK LIST completed.\r\n",
    }
    quay = installation.quay(MAILBOX__BOX__FOLDERS="gelöschte elemente")

    assert flow(quay, "box").messages == COUNT

    assert server.commands(b"EXAMINE")[-1] == b'EXAMINE "Gel&APY-schte Elemente"'


def test_a_folder_that_is_not_there_is_said_in_words(server: Quirky, quay: Quay, events: Events) -> None:
    """With the name of the variable."""
    server.always[b"EXAMINE"] = b"<tag> NO Junk doesn't exist.\r\n"

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, NoSuchFolder)
    assert "Check FOLDERS" in of(events, "pull.failed")[0]["reason"]
