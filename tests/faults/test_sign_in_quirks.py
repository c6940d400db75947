"""What servers say to a sign-in, and in the middle of a session that lives on a token: their words, and a whole pull."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.bed.errands import flow, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from tests.bed.scripted import Answers, Scripted
from tests.faults.conftest import Events, delivered_once, of
from tests.faults.quirky import Quirky
from tests.faults.test_token_in_use import on_script
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, BOB, SUPPORT
from worker.quay import Quay

COUNT = 5
READY = b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2 SASL-IR] The Microsoft Exchange IMAP4 service is ready.\r\n"
CLOSED = b"* BYE Connection closed. 14\r\n"
CAPA = b"+OK\r\nSASL XOAUTH2\r\nUIDL\r\n.\r\n"


@pytest.fixture
def server(installation: Installation, certificates: Certificates) -> Iterator[Quirky]:
    """The mailbox `box` with five numbered messages."""
    with Quirky(certificates, *(numbered(n) for n in range(COUNT))) as server:
        installation.mailbox(
            "box", address=BOB, password="x", host="localhost", port=str(server.port),
            ca_file=str(server.ca_file), since="all", outputs="lines,post",
        )  # fmt: skip
        yield server


@pytest.fixture
def quay(installation: Installation, server: Quirky) -> Quay:
    """One process."""
    return installation.quay()


@pytest.mark.parametrize("refusal", [b"NO AUTHENTICATE failed.", b"NO LOGIN failed."])
def test_a_closed_connection_is_explained_by_the_refusal_before_it(
    server: Quirky, quay: Quay, refusal: bytes
) -> None:
    """`Connection closed. 14` follows every refusal, and says nothing itself (MailKit#849)."""
    server.instead[b"LOGIN"] = [b"<tag> " + refusal + b"\r\n" + CLOSED]

    pulled(quay, "box")

    standing = quay.standings.of("box")
    assert standing.state == "login refused"
    assert refusal.decode().removeprefix("NO ") in standing.sentence
    assert "Connection closed" not in standing.sentence


@pytest.mark.parametrize(
    ("protocol", "greeting", "answers"),
    [
        ("imap", READY, {b"AUTHENTICATE": b"<tag> NO AUTHENTICATE failed.\r\n"}),
        (
            "pop3",
            b"+OK The Microsoft Exchange POP3 service is ready.\r\n",
            {
                b"CAPA": CAPA,
                b"AUTH": b"+ \r\n",
                b"": b"-ERR Authentication failure: unknown user name or bad password.\r\n",
            },
        ),
    ],
)
def test_a_refusal_without_a_reason_is_no_reason_to_go_on_asking(  # noqa: PLR0917  (parameters)
    installation: Installation,
    certificates: Certificates,
    fresh_identity: Identity,
    protocol: str,
    greeting: bytes,
    answers: Answers,
) -> None:
    """The token is sent once a pull, the next pull waits longer each time, and the sentence says what to look at."""
    secret = fresh_identity.token(ALICE)
    with Scripted(certificates, greeting, answers, tagged=protocol == "imap") as server:
        quay = on_script(installation, fresh_identity, server, secret=secret, protocol=protocol)

        for failures in (1, 2, 3):
            pulled(quay, "box")
            assert len(server.commands(b"AUTH")) == failures

    standing = quay.standings.of("box")
    assert (standing.state, standing.failures) == ("login refused", 3)
    assert "check ADDRESS" in standing.sentence
    assert secret not in standing.sentence
    assert fresh_identity.refreshes() == 0


@pytest.mark.parametrize("tail", [b"", CLOSED], ids=["alone", "before another BYE"])
@pytest.mark.parametrize(
    "command", [b"EXAMINE", b"UID FETCH 1:5 (UID RFC822.SIZE)", b"UID FETCH 1:5 (UID FLAGS"]
)
def test_a_token_that_ends_in_the_middle_of_any_command_is_no_alarm(  # noqa: PLR0917  (parameters)
    installation: Installation, server: Quirky, quay: Quay, events: Events, command: bytes, tail: bytes
) -> None:
    """The same pull signs in again and goes on behind the last message that came."""
    came = server.whole(1) + server.whole(2) if command.endswith(b"FLAGS") else b""
    server.instead[command] = [came + b"* BYE Session invalidated - AccessTokenExpired\r\n" + tail]

    flow(quay, "box")

    assert len(server.commands(b"LOGIN")) == 2
    assert quay.standings.of("box").state == "ok"
    assert of(events, "pull.failed") == []
    assert delivered_once(installation, range(COUNT))


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_a_shared_mailbox_is_named_by_itself_and_never_behind_its_opener(
    installation: Installation, certificates: Certificates, fresh_identity: Identity, protocol: str
) -> None:
    """`opener\\mailbox` is no longer taken: the mailbox is the user, and the token says who opens it."""
    greeting = READY if protocol == "imap" else b"+OK ready\r\n"
    answers = {b"CAPA": CAPA, b"AUTH XOAUTH2": b"+ \r\n"} if protocol == "pop3" else {}
    with Scripted(certificates, greeting, answers, tagged=protocol == "imap") as server:
        secret = fresh_identity.token(ALICE)
        on_script(installation, fresh_identity, server, secret=secret, protocol=protocol)
        shared = {"MAILBOX__BOX__ADDRESS": SUPPORT, "MAILBOX__BOX__ACCOUNT": ALICE}
        pulled(installation.quay(clock=fresh_identity.now, **shared), "box")
        start = b"AUTHENTICATE XOAUTH2 " if protocol == "imap" else b"dXNlcj"
        (line,) = server.commands(start)

    sent = base64.b64decode(line.removeprefix(b"AUTHENTICATE XOAUTH2 "))
    assert sent.startswith(f"user={SUPPORT}\x01".encode())
    assert ALICE.encode() not in sent.partition(b"\x01")[0]
    assert b"\\" not in sent
