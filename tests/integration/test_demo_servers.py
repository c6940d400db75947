"""The demo's servers, run as a process of their own: sign-in, IMAP, POP3, the receiver, and a clean end."""

from __future__ import annotations

import contextlib
import email
import imaplib
import json
import os
import poplib
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msal
import pytest
import requests
from standardwebhooks import Webhook

from tests.bed.clients import imap_login, pop3_login, trusting
from tests.bed.identity import SCOPES
from tests.bed.processes import BedProcess, wait_until
from worker.demo.addresses import Addresses
from worker.demo.harbour import ALICE, BOB, ORDERS, SUPPORT
from worker.demo.letters import letter

NOW = datetime(2026, 11, 23, 8, 30, tzinfo=UTC)


def started(folder: Path) -> tuple[BedProcess, Addresses]:
    port_file, log_file = folder / "ports.json", folder / "servers.log"
    command = [sys.executable, "-m", "worker.demo.servers", "--dir", folder / "lab", "--port-file", port_file]
    process = BedProcess(list(map(str, command)), log_file=log_file)
    wait_until(lambda: port_file.exists() or not process.running, timeout=20, what="the demo servers' start")
    assert process.running, log_file.read_text()
    return process, Addresses(**json.loads(port_file.read_text()))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    process, addresses = started(tmp_path_factory.mktemp("demo"))
    yield addresses
    process.end()


@pytest.fixture(scope="module")
def session(servers: Addresses) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = servers.ca_file
        yield session


@pytest.fixture(scope="module")
def tokens(servers: Addresses, session: requests.Session) -> dict[str, str]:
    """Access tokens of Alice and Bob, by MSAL's device flow."""
    return {upn: sign_in(servers, session, upn) for upn in (ALICE, BOB)}


def sign_in(servers: Addresses, session: requests.Session, upn: str) -> str:
    app: Any = msal.PublicClientApplication(
        servers.client_id, authority=servers.authority, instance_discovery=False, http_client=session
    )
    flow = app.initiate_device_flow(scopes=list(SCOPES))
    form = {"user_code": flow["user_code"], "upn": upn, "decision": "accept"}
    session.post(flow["verification_uri"], data=form, timeout=5).raise_for_status()
    return str(app.acquire_token_by_device_flow(flow, exit_condition=lambda _: True)["access_token"])


def deliver(servers: Addresses, session: requests.Session, mailbox: str, raw: bytes) -> requests.Response:
    return session.post(f"{servers.lab}/deliver", params={"mailbox": mailbox}, data=raw, timeout=5)


def held(servers: Addresses, session: requests.Session) -> dict[str, int]:
    counts: dict[str, int] = session.get(f"{servers.lab}/mailboxes", timeout=5).json()
    return counts


def letters(to: str, count: int) -> list[bytes]:
    rng = random.Random(7)
    return [letter(n, to=to, rng=rng, now=NOW) for n in range(count)]


def imap(servers: Addresses, mailbox: str, token: str) -> imaplib.IMAP4_SSL:
    return imap_login(servers.imap_port, Path(servers.ca_file), mailbox, token)


def pop3(servers: Addresses, mailbox: str, token: str) -> poplib.POP3_SSL:
    return pop3_login(servers.pop3_port, Path(servers.ca_file), mailbox, token)


def bare_pop3(servers: Addresses) -> Any:
    context = trusting(Path(servers.ca_file))
    return poplib.POP3_SSL("localhost", servers.pop3_port, context=context, timeout=10)


def empty(servers: Addresses, mailbox: str, token: str) -> None:
    with imap(servers, mailbox, token) as client:
        client.select("INBOX")
        client.store("1:*", "+FLAGS", "\\Deleted")
        client.expunge()


def test_letters_come_out_of_imap_byte_for_byte_and_unread(
    servers: Addresses, session: requests.Session, tokens: dict[str, str]
) -> None:
    """Every kind of letter, fetched with PEEK, is what was delivered; nothing is marked as read."""
    empty(servers, ALICE, tokens[ALICE])
    sent = letters(ALICE, 20)
    for raw in sent:
        assert deliver(servers, session, ALICE, raw).status_code == 201
    with imap(servers, ALICE, tokens[ALICE]) as client:
        client.select("INBOX", readonly=True)
        _, answer = client.uid("SEARCH", "UNSEEN")
        uids = answer[0].decode().split()
        _, data = client.uid("FETCH", ",".join(uids), "(UID FLAGS INTERNALDATE BODY.PEEK[])")
        _, again = client.uid("SEARCH", "UNSEEN")

    assert [part[1] for part in data if isinstance(part, tuple)] == sent
    assert again == answer


def test_imap_stores_flags_moves_and_expunges(
    servers: Addresses, session: requests.Session, tokens: dict[str, str]
) -> None:
    """What settling needs: seen, MOVE to a folder, deletion."""
    empty(servers, ALICE, tokens[ALICE])
    for raw in letters(ALICE, 3):
        deliver(servers, session, ALICE, raw)
    with imap(servers, ALICE, tokens[ALICE]) as client:
        client.create("Done")
        client.select("INBOX")
        uids = client.uid("SEARCH", "ALL")[1][0].decode().split()
        client.uid("STORE", uids[0], "+FLAGS", "(\\Seen)")
        client.uid("MOVE", uids[1], "Done")
        client.uid("STORE", uids[2], "+FLAGS", "(\\Deleted)")
        client.expunge()
        left, flags = client.uid("SEARCH", "ALL")[1], client.uid("FETCH", uids[0], "(FLAGS)")[1]
        client.select("Done", readonly=True)
        moved = client.uid("SEARCH", "ALL")[1][0].split()
        client.select("INBOX")
        client.delete("Done")

    assert left == [uids[0].encode()]
    assert b"\\Seen" in flags[0]
    assert len(moved) == 1


def test_mail_that_arrives_during_a_session_is_seen(
    servers: Addresses, session: requests.Session, tokens: dict[str, str]
) -> None:
    """A selected folder grows at the next NOOP."""
    empty(servers, ALICE, tokens[ALICE])
    with imap(servers, ALICE, tokens[ALICE]) as client:
        client.select("INBOX")
        deliver(servers, session, ALICE, letters(ALICE, 1)[0])
        client.noop()

        assert client.response("EXISTS")[1][-1] == b"1"


def test_shared_mailboxes_open_to_full_access_only(servers: Addresses, tokens: dict[str, str]) -> None:
    """Alice reaches support@, Bob orders@, by both protocols; not the other way round."""
    for mailbox, friend, stranger in ((SUPPORT, ALICE, BOB), (ORDERS, BOB, ALICE)):
        imap(servers, mailbox, tokens[friend]).logout()
        pop3(servers, mailbox, tokens[friend]).quit()

        with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
            imap(servers, mailbox, tokens[stranger])
        with pytest.raises(poplib.error_proto, match="Authentication failure"):
            pop3(servers, mailbox, tokens[stranger])


def test_an_application_opens_the_mailboxes_granted_to_it(
    servers: Addresses, session: requests.Session
) -> None:
    """With the secret from the file that the addresses name."""
    app: Any = msal.ConfidentialClientApplication(
        servers.robot_id,
        client_credential=Path(servers.robot_secret_file).read_text(),
        authority=servers.authority,
        instance_discovery=False,
        http_client=session,
    )
    token = app.acquire_token_for_client(["https://outlook.office365.com/.default"])["access_token"]
    imap(servers, SUPPORT, token).logout()

    with pytest.raises(imaplib.IMAP4.error):
        imap(servers, ALICE, token)


def test_no_password_is_accepted(servers: Addresses) -> None:
    """XOAUTH2 is the only way in."""
    context = trusting(Path(servers.ca_file))
    with imaplib.IMAP4_SSL("localhost", servers.imap_port, ssl_context=context, timeout=10) as client:
        assert "AUTH=XOAUTH2" in client.capabilities
        assert "AUTH=PLAIN" not in client.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="disabled"):
            client.login(ALICE, "secret")
    other = bare_pop3(servers)
    with pytest.raises(poplib.error_proto, match="Logon failure"):
        other.user(ALICE)
    other.quit()


def test_pop3_closes_when_the_token_comes_on_the_command_line(
    servers: Addresses, tokens: dict[str, str]
) -> None:
    """Exchange Online wants AUTH in two steps."""
    client = bare_pop3(servers)
    with pytest.raises(poplib.error_proto, match=r"Protocol error\. Connection is closed\. 10"):
        client._shortcmd(f"AUTH XOAUTH2 {tokens[BOB][:20]}")
    with pytest.raises(poplib.error_proto, match="EOF"):
        client.noop()
    client.close()


def test_pop3_deletes_at_quit_and_not_before(
    servers: Addresses, session: requests.Session, tokens: dict[str, str]
) -> None:
    """RSET takes marks back; a connection that breaks deletes nothing; QUIT deletes."""
    empty(servers, BOB, tokens[BOB])
    sent = letters(BOB, 10)
    for raw in sent:
        deliver(servers, session, BOB, raw)
    broken = pop3(servers, BOB, tokens[BOB])
    broken.dele(1)
    broken.close()
    client = pop3(servers, BOB, tokens[BOB])
    assert client.stat() == (10, sum(map(len, sent)))
    listed = client.uidl()[1]
    got = [b"\r\n".join(client.retr(number)[1]) + b"\r\n" for number in range(1, 11)]
    client.dele(1)
    client.rset()
    client.dele(10)
    with pytest.raises(poplib.error_proto, match="no such message"):
        client.retr(10)
    assert len(client.list()[1]) == 9
    client.quit()

    assert got == sent
    assert held(servers, session)[BOB] == 9
    again = pop3(servers, BOB, tokens[BOB])
    assert again.uidl()[1] == listed[:9]
    again.quit()


def test_pop3_knows_top_capa_and_noop(
    servers: Addresses, session: requests.Session, tokens: dict[str, str]
) -> None:
    """TOP gives the header and as many lines as asked for."""
    empty(servers, BOB, tokens[BOB])
    deliver(servers, session, BOB, letters(BOB, 10)[9])
    client = pop3(servers, BOB, tokens[BOB])
    lines = client.top(1, 2)[1]

    assert b"X-Letter: 9" in lines
    assert lines[-3:] == [b"", b". A first line that begins with a dot", b"."]
    assert {"PIPELINING", "TOP", "UIDL", "SASL"} <= set(client.capa())
    client.noop()
    client.quit()


def test_pop3_reads_pipelined_commands(
    servers: Addresses, session: requests.Session, tokens: dict[str, str]
) -> None:
    """Several commands in one packet are answered in order."""
    empty(servers, BOB, tokens[BOB])
    deliver(servers, session, BOB, letters(BOB, 1)[0])
    client: Any = pop3(servers, BOB, tokens[BOB])
    client.sock.sendall(b"STAT\r\nNOOP\r\nUIDL 1\r\nNONSENSE\r\nQUIT\r\n")
    answers = [client.file.readline().split()[0] for _ in range(5)]
    client.close()

    assert answers == [b"+OK", b"+OK", b"+OK", b"-ERR", b"+OK"]


def test_the_receiver_logs_what_is_signed_and_refuses_the_rest(
    servers: Addresses, session: requests.Session
) -> None:
    """Signatures are checked against an implementation that nobody here wrote."""
    body = json.dumps({"id": "b7"})
    webhook = Webhook(Path(servers.receiver_secret_file).read_text())

    def call(when: float, text: str = body) -> int:
        headers = {
            "webhook-id": "msg-1",
            "webhook-timestamp": str(int(when)),
            "webhook-signature": "v1,bm9uZQ== "
            + webhook.sign("msg-1", datetime.fromtimestamp(int(when), UTC), body),
        }
        return session.post(servers.receiver, data=text, headers=headers, timeout=5).status_code

    now = time.time()
    answers = [call(now), call(now - 400), call(now, body + " ")]
    unsigned = session.post(servers.receiver, data=body, timeout=5).status_code
    lines = Path(servers.receiver_log).read_text().splitlines()

    assert answers == [204, 401, 401]
    assert unsigned == 401
    assert list(map(json.loads, lines)) == [
        {"webhook-id": "msg-1", "timestamp": int(now), "ok": True, "size": len(body)}
    ]


def test_mail_for_an_unknown_mailbox_is_refused(servers: Addresses, session: requests.Session) -> None:
    """The lab page says so."""
    assert deliver(servers, session, "nobody@harbour.example", b"x").status_code == 404


def test_the_lab_steers_the_identity_provider(servers: Addresses, session: requests.Session) -> None:
    """Staged answers reach the TLS side; the settings are shown."""
    session.post(servers.lab, json={"settings": {"answers": ["503@devicecode"]}}, timeout=5)
    address = f"{servers.authority}/oauth2/v2.0/devicecode"

    assert session.post(address, timeout=5).status_code == 503
    assert session.post(address, timeout=5).status_code == 400
    assert session.get(servers.lab, timeout=5).json()["counts"]["devicecode:503"] == 1


def test_secrets_are_in_files_that_only_the_owner_reads(servers: Addresses) -> None:
    """Secrets and the server's key have mode 0600."""
    key = Path(servers.ca_file).parent / "server.key"
    for path in (Path(servers.robot_secret_file), Path(servers.receiver_secret_file), key):
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_within_two_seconds_although_clients_are_connected(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Idle IMAP, POP3 and HTTPS clients do not hold it; the port file goes away."""
    process, addresses = started(tmp_path)
    context = ssl.create_default_context(cafile=addresses.ca_file)
    with contextlib.ExitStack() as stack:
        stack.callback(process.end)
        client = imaplib.IMAP4_SSL("localhost", addresses.imap_port, ssl_context=context, timeout=5)
        stack.callback(client.shutdown)
        stack.callback(bare_pop3(addresses).close)
        session = stack.enter_context(requests.Session())
        session.get(addresses.lab, timeout=5)
        begun = time.monotonic()
        os.kill(process.pid, how)
        wait_until(lambda: not process.running, timeout=5, what="the demo servers' end")

        assert time.monotonic() - begun < 2
    assert process.returncode == 0
    assert not (tmp_path / "ports.json").exists()
    assert (tmp_path / "servers.log").read_text() == ""


def test_a_port_in_use_is_an_error_at_once(servers: Addresses, tmp_path: Path) -> None:
    """Fixed ports that somebody else has make the process fail with the reason, and no port file is written."""
    code = (
        "import asyncio, pathlib; from worker.demo.servers import *\n"
        "async def run():\n"
        f"    async with demo_servers(pathlib.Path({str(tmp_path)!r}), ports=Ports(imap={servers.imap_port})):\n"
        "        print('started')\n"
        "asyncio.run(run())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )

    assert done.returncode != 0
    assert "in use" in done.stderr
    assert "started" not in done.stdout


def test_letters_are_the_same_again_and_carry_their_number() -> None:
    """Same number, random source and time: same bytes. Ten in a row have ten kinds."""
    first, second = letters(ALICE, 30), letters(ALICE, 30)

    assert first == second
    assert [email.message_from_bytes(raw)["X-Letter"] for raw in first] == [str(n) for n in range(30)]
    assert all(raw.count(b"\n") == raw.count(b"\r\n") for raw in first)
    types = {part.get_content_type() for raw in first[:10] for part in email.message_from_bytes(raw).walk()}
    assert {"text/plain", "text/html", "application/pdf", "image/png", "text/csv"} <= types
    assert any(max(raw.partition(b"\r\n\r\n")[0]) > 127 for raw in first)
