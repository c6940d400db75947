"""What a real nats-server makes of what is published: streams that are missing, full or picky, sign-in, TLS, and faults."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines.message import Message
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.nats import NatsOptions, NatsOutput
from pipelines.testing import sample_messages
from tests.bed.lossy import lossy
from tests.bed.nats import NatsServer
from worker.demo.certificates import Certificates, write_certificates


@pytest.fixture
def nats(nats_server: NatsServer) -> NatsServer:
    """A server with one stream, MAIL, that takes `mailquay` and everything below `mail`."""
    nats_server.empty()
    nats_server.make_stream("MAIL", "mailquay", "mail.>")
    return nats_server


@contextmanager
def publisher(url: str, **options: Any) -> Iterator[NatsOutput]:
    output = NatsOutput("bus", NatsOptions.model_validate({"url": url, **options}))
    output.open()
    try:
        yield output
    finally:
        output.close()


@contextmanager
def serving(settings: str) -> Iterator[NatsServer]:
    """A server with settings of its own."""
    server = NatsServer(settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def deliver(url: str, *messages: Message, **options: Any) -> list[Receipt]:
    with publisher(url, **options) as output:
        return list(output.deliver(messages or sample_messages(1)))


def reason(receipts: list[Receipt]) -> str:
    """What all of these receipts give as their reason, which has to be one."""
    assert all(isinstance(receipt, Retry) for receipt in receipts), receipts
    (told,) = {receipt.reason for receipt in receipts if isinstance(receipt, Retry)}
    return told


def test_the_stream_stores_the_json_under_the_id_in_order(nats: NatsServer) -> None:
    """All of a call are under way at once, and stand in the stream as they stood in the call."""
    messages = sample_messages(64)

    assert deliver(nats.url, *messages) == [Accepted()] * 64

    assert nats.stored("MAIL") == [(message.id, message.to_json()) for message in messages]


def test_an_answer_that_gets_lost_leaves_one_message(nats: NatsServer) -> None:
    """The stream recognises the id within its duplicate window, and says so; that is an acceptance."""
    messages = sample_messages(5)
    with lossy(nats.port) as wire, publisher(f"nats://127.0.0.1:{wire.port}", timeout="1s") as output:
        assert output.deliver(messages[:1]) == [Accepted()]
        wire.answers = "lose"
        told = reason(list(output.deliver(messages)))
        assert told == f"127.0.0.1:{wire.port} did not answer within 1s"
        wire.answers = "pass"
        assert output.deliver(messages) == [Accepted()] * 5

    assert len(nats.stored("MAIL")) == 5


def test_a_connection_that_breaks_is_a_retry_at_once(nats: NatsServer) -> None:
    """Nobody waits until TIMEOUT for an answer that cannot come any more."""
    with lossy(nats.port) as wire, publisher(f"nats://127.0.0.1:{wire.port}", timeout="30s") as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        wire.answers = "cut"
        began = time.monotonic()
        assert "broke off" in reason(list(output.deliver(sample_messages(3))))
        assert time.monotonic() - began < 5
        wire.answers = "pass"
        assert output.deliver(sample_messages(3)) == [Accepted()] * 3


def test_a_kept_connection_that_is_gone_is_made_anew(nats: NatsServer) -> None:
    """What was cut between two calls costs no retry."""
    with lossy(nats.port) as wire, publisher(f"nats://127.0.0.1:{wire.port}") as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        client = output._client
        assert client is not None
        wire.cut()
        # The loop hears of it in its own time.
        for _ in range(500):
            if client.trouble.done():
                break
            time.sleep(0.01)
        assert output.deliver(sample_messages(2)) == [Accepted()] * 2
        assert wire.connections == 2


def test_a_missing_stream_is_a_retry_that_says_so(nats: NatsServer) -> None:
    """A subject that no stream takes has nobody who answers; without JetStream's answer nothing is stored."""
    told = reason(deliver(nats.url, subject="elsewhere.{mailbox}", timeout="20s"))

    assert "has no stream that takes elsewhere.{mailbox}: make one, or set SUBJECT" in told


def test_the_subject_names_the_mailbox(nats: NatsServer) -> None:
    """Consumers filter by it."""
    assert deliver(nats.url, subject="mail.{mailbox}", stream="MAIL") == [Accepted()]

    (subject,) = nats.ask(subjects)
    assert subject == "mail.contract"


async def subjects(streams: Any) -> list[str]:
    return list((await streams.stream_info("MAIL", subjects_filter=">")).state.subjects)


def test_another_stream_than_the_named_one_is_a_retry(nats: NatsServer) -> None:
    """STREAM guards against a subject that somebody else's stream takes."""
    told = reason(deliver(nats.url, stream="OTHER"))

    assert "gives mailquay to another stream than OTHER" in told
    assert nats.stored("MAIL") == []


def test_what_the_server_does_not_take_is_refused_and_the_others_arrive(nats: NatsServer) -> None:
    """`max_payload`, a megabyte unless it is set, is known from the server's first word: the message is not sent."""
    messages = sample_messages(3)
    messages[1] = messages[1].with_findings("padding", "x" * 1_048_576)

    receipts = deliver(nats.url, *messages)

    assert [type(receipt) for receipt in receipts] == [Accepted, Refused, Accepted]
    assert isinstance(receipts[1], Refused)
    assert "raise max_payload there" in receipts[1].reason


def test_the_largest_message_that_is_sent_is_one_that_the_server_takes(nats: NatsServer) -> None:
    """Headers count too: one octet too many and the server would break off, with all that is under way."""
    (message,) = sample_messages(1)
    empty = len(message.with_findings("padding", "").to_json())
    padded = [message.with_findings("padding", "x" * (1_048_576 - empty - less)) for less in range(0, 96, 8)]

    receipts = deliver(nats.url, *padded)

    kinds = {type(receipt) for receipt in receipts}
    assert kinds == {Accepted, Refused}


def test_what_the_stream_does_not_take_is_refused(nats: NatsServer) -> None:
    """`max_msg_size` of a stream is smaller than what the server takes."""
    nats.empty()
    nats.make_stream("MAIL", "mailquay", max_msg_size=10_000)
    messages = sample_messages(4)

    receipts = deliver(nats.url, *messages)

    assert [type(receipt) for receipt in receipts] == [Accepted, Accepted, Accepted, Refused]
    assert isinstance(receipts[3], Refused)
    assert "raise max_msg_size of the stream" in receipts[3].reason


def test_a_full_stream_is_a_retry(nats: NatsServer) -> None:
    """`discard: new` says no to what finds no room."""
    nats.empty()
    nats.make_stream("MAIL", "mailquay", max_msgs=2, discard="new")

    receipts = deliver(nats.url, *sample_messages(4))

    assert receipts[:2] == [Accepted()] * 2
    assert "did not store the message" in reason(receipts[2:])


def test_a_server_that_is_down_is_a_retry_that_names_it() -> None:
    """Host and port, and not the password that is in the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    told = reason(deliver(f"nats://robot:swordfish@127.0.0.1:{port}", *sample_messages(3)))

    assert told == f"127.0.0.1:{port} cannot be reached, or broke off (ConnectionRefusedError)"


def test_nobody_who_answers_is_a_retry_in_time() -> None:
    """A port that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        told = reason(deliver(f"nats://127.0.0.1:{server.getsockname()[1]}", timeout="500ms"))

    assert "did not answer within 500ms" in told or "cannot be reached" in told
    assert time.monotonic() - began < 3


def test_a_server_that_hangs_is_a_retry_in_time(nats: NatsServer) -> None:
    """With its connections open; afterwards the same output goes on."""
    with publisher(nats.url, timeout="1s") as output:
        assert output.deliver(sample_messages(1)) == [Accepted()]
        nats.freeze()
        try:
            began = time.monotonic()
            assert "did not answer within 1s" in reason(list(output.deliver(sample_messages(3))))
            assert time.monotonic() - began < 4
        finally:
            nats.thaw()
        assert output.deliver(sample_messages(3)) == [Accepted()] * 3

    assert len(nats.stored("MAIL")) == 3


def test_what_was_accepted_survives_a_killed_server(nats: NatsServer) -> None:
    """Kill -9 the moment we have the answers, start again, read everything."""
    messages = sample_messages(40)
    with publisher(nats.url) as output:
        assert output.deliver(messages) == [Accepted()] * 40
        nats.kill9()
        nats.start()

    assert [id_ for id_, _ in nats.stored("MAIL")] == [message.id for message in messages]


def test_user_password_and_token_sign_in() -> None:
    """Beside the URL, so that each can be a file of its own; what is wrong is a retry that does not show it."""
    password, token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    with serving(f'authorization {{ user: robot, password: "{password}" }}') as server:
        told = reason(deliver(server.url, username="robot", password="swordfish-swordfish"))
        assert "does not let us in: check user, password, token or credentials" in told
        assert "swordfish" not in told
        server.ask(
            lambda streams: streams.add_stream(name="MAIL", subjects=["mailquay"]),
            user="robot",
            password=password,
        )
        assert deliver(server.url, username="robot", password=password) == [Accepted()]
    with serving(f'authorization {{ token: "{token}" }}') as server:
        assert "does not let us in" in reason(deliver(server.url))
        server.ask(lambda streams: streams.add_stream(name="MAIL", subjects=["mailquay"]), token=token)
        assert deliver(server.url, token=token) == [Accepted()]


def test_a_subject_that_is_forbidden_is_a_retry_at_once() -> None:
    """The server complains beside the point and never answers the message itself."""
    password = secrets.token_urlsafe(16)
    user = f'{{ user: robot, password: "{password}", permissions: {{ publish: "mail.>" }} }}'
    with serving(f"authorization {{ users: [{user}] }}") as server:
        began = time.monotonic()
        told = reason(deliver(server.url, username="robot", password=password, timeout="30s"))

    assert "does not let this user publish to SUBJECT" in told
    assert time.monotonic() - began < 10


class Nkey:
    """An nkey as nats-io/nkeys makes it; `kind` is the first letter of its public key: O, A or U."""

    prefixes: ClassVar = {"O": 14 << 3, "A": 0, "U": 20 << 3}

    def __init__(self, kind: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        prefix = self.prefixes[kind]
        self.public = self._encoded(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        seed = bytes([(18 << 3) | (prefix >> 5), (prefix & 31) << 3]) + self._key.private_bytes_raw()
        self.seed = self._encoded(seed)

    def claim(self, subject: str, **claims: Any) -> str:
        """A JWT of nats-io/jwt about a public key, signed by this one."""
        body = {"jti": secrets.token_hex(8), "iat": int(time.time()), "iss": self.public, "sub": subject, "name": "test",
                "nats": {"version": 2, **claims}}  # fmt: skip
        words = [{"typ": "JWT", "alg": "ed25519-nkey"}, body]
        signed = ".".join(self._url_safe(json.dumps(word).encode()) for word in words)
        return f"{signed}.{self._url_safe(self._key.sign(signed.encode()))}"

    @staticmethod
    def _encoded(octets: bytes) -> str:
        whole = octets + binascii.crc_hqx(octets, 0).to_bytes(2, "little")
        return base64.b32encode(whole).decode().rstrip("=")

    @staticmethod
    def _url_safe(octets: bytes) -> str:
        return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def credentials_of(user: Nkey, jwt: str) -> str:
    """The text of a credentials file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )


def test_credentials_sign_in_at_a_server_of_an_operator() -> None:
    """JWT and signed nonce, without a password that goes over the wire."""
    operator, account, user, system = Nkey("O"), Nkey("A"), Nkey("U"), Nkey("A")
    limits = dict.fromkeys(
        (
            "subs",
            "data",
            "payload",
            "imports",
            "exports",
            "conn",
            "leaf",
            "mem_storage",
            "disk_storage",
            "streams",
            "consumer",
        ),
        -1,
    )
    accounts = {
        account.public: operator.claim(account.public, type="account", limits={**limits, "wildcards": True}),
        system.public: operator.claim(
            system.public,
            type="account",
            limits={"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1},
        ),
    }
    preload = "\n".join(f"{public}: {jwt}" for public, jwt in accounts.items())
    settings = (
        f"operator: {operator.claim(operator.public, type='operator')}\nsystem_account: {system.public}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}"
    )
    right = credentials_of(user, account.claim(user.public, type="user", subs=-1, data=-1, payload=-1))
    wrong = credentials_of(user, account.claim(Nkey("U").public, type="user", subs=-1, data=-1, payload=-1))
    with serving(settings) as server:
        assert "does not let us in" in reason(deliver(server.url, credentials=wrong))
        assert "has no stream that takes mailquay" in reason(deliver(server.url, credentials=right))


@pytest.mark.parametrize("damage", ["", "swordfish", "cut", "flipped"])
def test_credentials_that_are_none_are_a_problem_that_does_not_show_them(damage: str) -> None:
    """A seed has a checksum, so that one that was cut or mistyped is found by `mailquay check`."""
    user = Nkey("U")
    text = credentials_of(user, "a.b.c")
    if damage == "cut":
        damage = text.replace(user.seed, user.seed[:-4])
    elif damage == "flipped":
        damage = text.replace(user.seed[10:20], user.seed[10:20][::-1])
    with pytest.raises(pydantic.ValidationError, match="a user's JWT and seed") as caught:
        NatsOptions.model_validate({"url": "nats://h", "credentials": damage})

    assert user.seed[:16] not in str(caught.value)


def tls(certificates: Certificates) -> str:
    return f'tls {{ cert_file: "{certificates.chain_file}", key_file: "{certificates.key_file}" }}'


def test_tls_is_verified_against_the_named_authority(certificates: Certificates, tmp_path: Path) -> None:
    """`tls://` speaks verified TLS."""
    other = write_certificates(tmp_path / "other")
    with serving(tls(certificates)) as server:
        url = f"tls://localhost:{server.port}"
        for trusted in ({}, {"ca_file": other.ca_file}):
            told = reason(deliver(url, **trusted))
            assert (
                told == f"localhost:{server.port} cannot be reached, or broke off (SSLCertVerificationError)"
            )
        assert "has no stream" in reason(deliver(url, ca_file=certificates.ca_file))


def test_a_server_without_tls_hears_no_password() -> None:
    """A server says itself whether it wants TLS. Somebody in between who says no must not get what we sign in with."""
    heard = bytearray()

    def pretend(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(2)
                    peer.sendall(
                        b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"headers":true}\r\n'
                    )
                    with suppress(TimeoutError):
                        while said := peer.recv(4096):
                            heard.extend(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pretend, args=(listener,))
        thread.start()
        told = reason(
            deliver(
                f"tls://localhost:{listener.getsockname()[1]}",
                username="robot",
                password="swordfish-swordfish",
            )
        )
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert "(SecureConnWantedError)" in told
    assert heard == b""


@pytest.mark.parametrize(
    "url", ["", "http://h", "nats://", "nats://h:port", "ws://h", "nats://a:1,nats://b:2"]
)
def test_an_address_that_is_none_is_a_problem_of_the_configuration(url: str) -> None:
    """Found by `mailquay check`, and not at the first message."""
    with pytest.raises(pydantic.ValidationError, match="write a whole address"):
        NatsOptions.model_validate({"url": url})


@pytest.mark.parametrize(
    "subject", ["", "a b", "mail.*", "mail.>", ".mail", "mail.", "mail..x", "mail.{folder}"]
)
def test_a_subject_that_is_none_is_a_problem_of_the_configuration(subject: str) -> None:
    """Patterns are for those who listen."""
    with pytest.raises(pydantic.ValidationError, match="subject"):
        NatsOptions.model_validate({"url": "nats://h", "subject": subject})
