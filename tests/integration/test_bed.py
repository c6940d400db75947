"""The test bed does what the tests lean on: tokens, mail servers and Valkey are real and behave as described."""

from __future__ import annotations

import imaplib
import os
import poplib
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.bed.clients import imap_login, pop3_login, sasl, trusting
from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.processes import descendants, wait_until
from tests.bed.valkey import Valkey
from worker.demo.harbour import ALICE, BOB, SUPPORT

MESSAGE = b"From: carol@example.com\r\nSubject: Berth 7\r\n\r\nThe crane is free.\r\n"


def imap(dovecot: Dovecot, user: str, token: str) -> imaplib.IMAP4_SSL:
    return imap_login(dovecot.imaps_port, dovecot.ca_file, user, token)


def pop3(dovecot: Dovecot, user: str, token: str) -> poplib.POP3_SSL:
    return pop3_login(dovecot.pop3s_port, dovecot.ca_file, user, token)


def test_dovecot_lets_a_token_into_its_owners_mailbox_by_imap(dovecot: Dovecot, identity: Identity) -> None:
    """A message put in comes out byte for byte, with the owner's token."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, MESSAGE)
    with imap(dovecot, ALICE, identity.token(ALICE)) as client:
        client.select("INBOX", readonly=True)
        _, data = client.uid("FETCH", "1", "(BODY.PEEK[])")

    assert data[0][1] == MESSAGE


def test_dovecot_lets_a_token_in_by_pop3(dovecot: Dovecot, identity: Identity) -> None:
    """The two-step XOAUTH2 exchange works over POP3."""
    dovecot.forget(BOB)
    dovecot.save(BOB, MESSAGE)
    client = pop3(dovecot, BOB, identity.token(BOB))
    count, _ = client.stat()
    client.quit()

    assert count == 1


def test_dovecot_opens_a_shared_mailbox_to_full_access_only(dovecot: Dovecot, identity: Identity) -> None:
    """Alice has Full Access to support@, Bob has not."""
    imap(dovecot, SUPPORT, identity.token(ALICE)).logout()
    pop3(dovecot, SUPPORT, identity.token(ALICE)).quit()

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap(dovecot, SUPPORT, identity.token(BOB))
    with pytest.raises(poplib.error_proto, match="AUTH"):
        pop3(dovecot, SUPPORT, identity.token(BOB))


def test_dovecot_opens_only_granted_mailboxes_to_an_application(dovecot: Dovecot, identity: Identity) -> None:
    """The application's token opens support@, not alice@."""
    imap(dovecot, SUPPORT, identity.app_token()).logout()

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap(dovecot, ALICE, identity.app_token())


@pytest.mark.parametrize(
    ("lifetime", "extra"),
    [(0, {}), (60, {"aud": "https://graph.microsoft.com"}), (60, {"scp": "SMTP.Send"})],
    ids=["expired", "other audience", "other permission"],
)
def test_dovecot_refuses_a_token_that_is_not_good(
    dovecot: Dovecot, identity: Identity, lifetime: int, extra: dict[str, object]
) -> None:
    """Expiry, audience and permission all count."""
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap(dovecot, ALICE, identity.token(ALICE, lifetime=lifetime, extra=extra))


def test_dovecot_lets_an_application_sign_in_to_submission(dovecot: Dovecot, identity: Identity) -> None:
    """Over implicit TLS; a granted mailbox and no other, and nobody's damaged token."""

    def sign_in(user: str, token: str) -> int:
        tls = trusting(dovecot.ca_file)
        with smtplib.SMTP_SSL("localhost", dovecot.submissions_port, context=tls, timeout=10) as client:
            client.ehlo()
            # After a refusal the server wants one more answer, an empty one. The first does not fit into the AUTH line.
            answers = [sasl(user, token).decode()]
            code, _ = client.auth(
                "XOAUTH2", lambda _=None: answers.pop() if answers else "", initial_response_ok=False
            )
            return code

    assert sign_in(SUPPORT, identity.app_token()) == 235
    for user, token in ((ALICE, identity.app_token()), (SUPPORT, identity.app_token()[:-8] + "AAAAAAAA")):
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            sign_in(user, token)
        assert refused.value.smtp_code == 535


def test_dovecot_is_unavailable_while_the_identity_provider_is_down(
    dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """A token cannot be judged; that is not the same as a bad token."""
    token = fresh_identity.token(ALICE)
    fresh_identity.stop()

    with pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
        imap(dovecot, ALICE, token)


def test_dovecot_takes_a_password_after_starttls(dovecot: Dovecot) -> None:
    """The plain ports speak STARTTLS and STLS, and passwords work."""
    with imaplib.IMAP4("localhost", dovecot.imap_port, timeout=10) as client:
        client.starttls(trusting(dovecot.ca_file))
        client.login(ALICE, dovecot.passwords[ALICE])
    other = poplib.POP3("localhost", dovecot.pop3_port, timeout=10)
    other.stls(trusting(dovecot.ca_file))
    other.user(ALICE)
    other.pass_(dovecot.passwords[ALICE])
    other.quit()


def test_dovecot_lists_expunges_and_renumbers(dovecot: Dovecot, identity: Identity) -> None:
    """The methods that tests use to change a mailbox behind Mailquay's back."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *(MESSAGE + b"%d" % number for number in range(12)))
    dovecot.save(ALICE, MESSAGE, flags="S")
    dovecot.save(ALICE, MESSAGE, folder="Archive/2026")
    dovecot.expunge(ALICE, [2, 3])
    dovecot.uidvalidity(ALICE, 4242)

    with imap(dovecot, ALICE, identity.token(ALICE)) as client:
        client.select("INBOX", readonly=True)
        _, data = client.uid("FETCH", "12", "(BODY.PEEK[])")

        assert client.response("UIDVALIDITY")[1] == [b"4242"]
    assert data[0][1] == MESSAGE + b"11"
    assert list(dovecot.listing(ALICE)) == [1, *range(4, 14)]
    assert dovecot.listing(ALICE)[13] == ("\\Seen",)
    assert list(dovecot.listing(ALICE, "Archive/2026")) == [1]


def test_dovecot_keeps_mail_and_ports_over_a_restart(dovecot: Dovecot, identity: Identity) -> None:
    """Stopping refuses connections; starting brings everything back."""
    dovecot.forget(BOB)
    dovecot.save(BOB, MESSAGE)
    dovecot.stop()

    with pytest.raises(ConnectionRefusedError):
        imap(dovecot, BOB, identity.token(BOB))

    dovecot.start()
    imap(dovecot, BOB, identity.token(BOB)).logout()

    assert list(dovecot.listing(BOB)) == [1]


def test_valkey_keeps_its_data_when_it_is_killed(fresh_valkey: Valkey) -> None:
    """What reached the append-only file survives kill -9."""
    with fresh_valkey.client(decode_responses=True) as client:
        client.set("berth", "7")
        client.waitaof(1, 0, 2000)
        fresh_valkey.kill9()

        with pytest.raises(redis.exceptions.ConnectionError):
            client.get("berth")

        fresh_valkey.start()

        assert client.get("berth") == "7"


def test_valkey_is_empty_for_each_test_that_asks(fresh_valkey: Valkey) -> None:
    """The fresh fixture flushes."""
    with fresh_valkey.client() as client:
        assert client.dbsize() == 0
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_descendants_finds_an_orphan_and_not_the_bed(valkey: Valkey) -> None:
    """A process whose parent is gone is still recognised; a server of the bed is not reported."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0).pid)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.wait()

        assert list(descendants()) == [orphan]
    wait_until(lambda: not descendants(), timeout=5, what="the orphan's end")


def test_a_test_that_leaves_a_process_behind_fails(tmp_path: Path) -> None:
    """The guard in conftest names the process and ends it."""
    culprit = tmp_path / "test_culprit.py"
    culprit.write_text(
        "import subprocess, sys\n"
        "import tests.conftest\n"
        "tests.conftest.GRACE = 0.1\n"
        "def test_leaves_something():\n"
        "    global process\n"
        "    process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "def test_finds_it_ended():\n"
        "    assert process.wait(5) == -9\n"
        "    process.stdin.close()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        str(culprit),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "processes left behind" in done.stdout
    assert "2 passed, 1 error" in done.stdout


def test_no_setting_of_this_machine_reaches_a_test(tmp_path: Path) -> None:
    """A mailbox, a Redis or a proxy in the environment is gone before a test module is read."""
    innocent = tmp_path / "test_innocent.py"
    innocent.write_text(
        "import os\n"
        "def test_sees_nothing():\n"
        "    assert not {'MAILBOX__A__HOST', 'REDIS_URL', 'https_proxy'} & set(os.environ)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        str(innocent),
    ]
    environ = {**os.environ, "MAILBOX__A__HOST": "a", "REDIS_URL": "b", "https_proxy": "c"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert "1 passed" in done.stdout
