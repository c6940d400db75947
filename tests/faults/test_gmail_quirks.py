"""Gmail's own words, played to the byte, and what a whole pull makes of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.bed.errands import flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.scripted import Scripted
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.quirky import Quirky
from tests.faults.test_token_in_use import on_script
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB
from worker.quay import Quay
from worker.timetable import pull_entry

COUNT = 5
CROWDED = b"NO [ALERT] Too many simultaneous connections. (Failure)"
USED_UP = b"NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)"


@pytest.fixture
def server(installation: Installation, certificates: Certificates) -> Iterator[Quirky]:
    """The mailbox `box` with five numbered messages."""
    with Quirky(certificates, *(numbered(n) for n in range(COUNT))) as server:
        installation.mailbox(
            "box", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post", every="1m",
        )  # fmt: skip
        yield server


@pytest.fixture
def quay(installation: Installation, server: Quirky) -> Quay:
    """One process, with the mailbox in the timetable."""
    quay = installation.quay()
    quay.timetable.sync({pull_entry("box"): 60.0}, quay.clock())
    return quay


def put_off(quay: Quay) -> float:
    """Seconds until the mailbox is due."""
    return (quay.timetable.due(pull_entry("box")) or 0.0) - time.time()


@pytest.mark.parametrize("command", [b"LOGIN", b"EXAMINE"])
def test_too_many_simultaneous_connections_wait_for_one_to_be_free(
    installation: Installation, server: Quirky, quay: Quay, command: bytes
) -> None:
    """Gmail allows fifteen a mailbox, for all programs together; one more is no refused sign-in."""
    server.instead[command] = [b"<tag> " + CROWDED + b"\r\n"]

    pulled(quay, "box")

    assert quay.standings.of("box").state == "throttled"
    assert 59 <= put_off(quay) <= 91
    flow(quay, "box")
    assert delivered_once(installation, range(COUNT))


def test_a_used_up_day_is_asked_for_ever_more_rarely_up_to_an_hour(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """2,500 MB a day, then a lock-out of up to a day: asking every minute would make it longer, waiting a day loses one."""
    server.instead[b"UID FETCH 1:5 (UID FLAGS"] = [server.whole(1) + b"<tag> " + USED_UP + b"\r\n"]
    flow(quay, "box")
    assert [line["subject"] for line in installation.lines()] == ["Crate 0"]
    waits = [put_off(quay)]
    server.instead[b"LOGIN"] = [b"<tag> " + USED_UP + b"\r\n"] * 6

    for _ in range(6):
        flow(quay, "box")
        waits.append(put_off(quay))

    for wait, least in zip(waits, (300, 600, 1200, 2400, 3600, 3600, 3600), strict=True):
        assert least - 5 <= wait <= least * 1.5
    assert quay.repairs.of("box") == []
    assert flow(quay, "box").messages == COUNT - 1
    assert delivered_once(installation, range(COUNT))


def test_an_ok_that_says_throttled_is_an_ok(installation: Installation, server: Quirky, quay: Quay) -> None:
    """The server slows down by itself and gives everything (node-imap#593)."""
    bodies = b"".join(server.whole(number) for number in range(1, COUNT + 1))
    server.instead[b"LOGIN"] = [b"<tag> OK [THROTTLED] Success\r\n"]
    server.instead[b"UID FETCH 1:5 (UID FLAGS"] = [bodies + b"<tag> OK [THROTTLED] Success\r\n"]

    flow(quay, "box")

    assert quay.standings.of("box").state == "ok"
    assert put_off(quay) <= 60
    assert delivered_once(installation, range(COUNT))


@pytest.mark.parametrize(
    "command", [b"EXAMINE", b"UID FETCH 1:5 (UID RFC822.SIZE)", b"UID FETCH 1:5 (UID FLAGS"]
)
def test_a_session_that_expires_is_taken_up_again_in_the_same_pull(
    installation: Installation, server: Quirky, quay: Quay, events: Events, command: bytes
) -> None:
    """Gmail ends sessions about as old as a token; it is nobody's fault, and nobody is told."""
    server.instead[command] = [b"* BYE Session expired, please login again.\r\n"]

    flow(quay, "box")

    assert len(server.commands(b"LOGIN")) == 2
    assert of(events, "pull.failed") == []
    assert delivered_once(installation, range(COUNT))


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (
            b"[ALERT] Please log in via your web browser: https://support.google.com/mail/accounts/answer/78754 (Failure)",
            "in a web browser once",
        ),
        (
            b"[WEBALERT https://accounts.google.com/signin/continue?sarp=1&plt=one-time-words] Web login required. (Failure)",
            "in a web browser once",
        ),
        (
            b"[ALERT] Application-specific password required: https://support.google.com/accounts/answer/185833 (Failure)",
            "make an app password",
        ),
    ],
)
def test_what_needs_a_person_says_what_he_has_to_do(
    server: Quirky, quay: Quay, refusal: bytes, remedy: str
) -> None:
    """No retry helps. The address that Gmail adds stays out of logs: it may be good for a sign-in."""
    server.instead[b"LOGIN"] = [b"<tag> NO " + refusal + b"\r\n"]

    pulled(quay, "box")

    standing = quay.standings.of("box")
    assert standing.state == "login refused"
    assert remedy in standing.sentence
    assert "https://" not in standing.sentence
    assert len(server.commands(b"LOGIN")) == 1


def test_a_refused_token_is_explained_after_an_empty_line(
    installation: Installation, certificates: Certificates, fresh_identity: Identity
) -> None:
    """The reason comes as a challenge, base64 of JSON; the refusal comes only after an answer to it."""
    answers = {
        b"AUTHENTICATE": b"+ eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIn0=\r\n",
        b"": b"A1 NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)\r\n",
    }
    greeting = b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] Gimap ready\r\n"
    with Scripted(certificates, greeting, answers, tagged=True) as server:
        quay = on_script(installation, fresh_identity, server, secret=fresh_identity.token(ALICE))

        pulled(quay, "box")

        assert quay.standings.of("box").state == "login refused"
        assert "Invalid credentials" in quay.standings.of("box").sentence
        assert len(server.commands(b"AUTHENTICATE")) == server.said.count(b"") == 1


def test_all_mail_brings_a_message_once_that_many_labels_show(
    installation: Installation, server: Quirky
) -> None:
    """Each label is a folder, and a message in two of them is two; in All Mail it is one."""
    quay = installation.quay(MAILBOX__BOX__FOLDERS="[Gmail]/All Mail")

    flow(quay, "box")

    assert server.commands(b"EXAMINE") == [b'EXAMINE "[Gmail]/All Mail"']
    assert delivered_once(installation, range(COUNT))
