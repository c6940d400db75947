"""Strange answers of providers: what goes on to MSAL, and that a good refresh token is never replaced by nothing."""

from __future__ import annotations

import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.bed.identity import SCOPES, Identity
from tests.bed.installation import Installation
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE
from worker.demo.identity.routes import EntraRoutes
from worker.errors import MailquayError, Unreachable
from worker.quay import Quay
from worker.sign_in import by_device_code
from worker.tokens import entra
from worker.tokens.answer import ProviderSession, Unusable, cleaned

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _forget_http() -> None:
    entra._HTTP_CACHE.clear()


def test_of_an_answer_only_known_fields_of_the_right_type_go_on() -> None:
    """MSAL believes everything: an empty refresh token would replace a good one, a list as scope would end in a traceback."""
    assert cleaned(
        {"access_token": "a", "refresh_token": "", "scope": ["x"], "new": 1, "error_codes": [1, "x"]}
    ) == {
        "access_token": "a",
        "error_codes": [1],
    }
    assert cleaned({"access_token": None, "id_token": "garbage", "client_info": "e30"}) == {}


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (3599, 3599),
        ("3599", 3599),
        ("3599.5", 3599),
        (0, 300),
        (-1, 300),
        (None, 300),
        ("never", 300),
        (1e400, 300),
    ],
)
def test_a_life_that_is_no_time_is_taken_to_be_short(said: object, taken: int) -> None:
    """So the provider is asked again soon, and not at every poll."""
    assert cleaned({"expires_in": said}) == {"expires_in": taken}
    assert cleaned({"refresh_token_expires_in": "never"}) == {}


@pytest.fixture
def signed_in(installation: Installation, fresh_identity: Identity) -> Quay:
    """Alice has signed in, and her token has ended."""
    installation.signs_in_at(fresh_identity)
    installation.mailbox("box", address=ALICE, auth="delegated", host="localhost", outputs="lines")
    quay = installation.quay(clock=fresh_identity.now)
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))
    fresh_identity.offset += HOUR
    return quay


STRANGE: list[dict[str, Any]] = [
    {"refresh_token": ""},
    {"refresh_token": None},
    {"expires_in": None},
    {"ext_expires_in": None, "refresh_in": "1800"},
    {"refresh_token_expires_in": "never"},
    {"id_token": "garbage"},
    {"id_token": None, "client_info": "garbage"},
    {"scope": None},
    {"scope": ["a", "b"]},
]


@pytest.mark.parametrize("strange", STRANGE, ids=json.dumps)
def test_a_strange_answer_costs_neither_the_token_nor_the_refresh_token(
    signed_in: Quay,
    fresh_identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
    strange: dict[str, Any],
) -> None:
    """The provider has rotated by then, so what came must be used, and the next refresh must work."""
    redeem = EntraRoutes._redeem

    def strangely(*arguments: Any, **options: Any) -> dict[str, object]:
        return {**redeem(*arguments, **options), **strange}

    fresh_identity.provider.settings = fresh_identity.provider.settings.model_copy(update={"rotates": False})
    monkeypatch.setattr(EntraRoutes, "_redeem", strangely)
    keeper = signed_in.keeper(signed_in.settings.mailboxes["box"])

    assert keeper.access(ALICE, SCOPES[:1]).secret
    monkeypatch.undo()
    fresh_identity.offset += HOUR
    assert keeper.access(ALICE, SCOPES[:1]).secret


@pytest.mark.parametrize(
    "body", [b"null", b"[1]", b'"x"', b"access_token=secret1&refresh_token=secret2", b"<p>secret3</p>"]
)
def test_an_answer_that_is_no_object_is_no_answer_and_is_not_logged(
    signed_in: Quay,
    fresh_identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
) -> None:
    """MSAL would log it whole, with the refresh token in it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("worker.tokens.answer._read", lambda *_: body)

    with pytest.raises(Unreachable) as caught:
        signed_in.keeper(signed_in.settings.mailboxes["box"]).access(ALICE, SCOPES[:1])

    assert "secret" not in f"{caught.value}{caught.value.__cause__}{caplog.text}"


def test_the_last_look_at_the_lock_comes_right_before_the_refresh_token_is_sent(
    signed_in: Quay, fresh_identity: Identity
) -> None:
    """A process that was stopped in between must not send what another has used meanwhile."""
    keeper = signed_in.keeper(signed_in.settings.mailboxes["box"])
    grant = signed_in.token_store.load(ALICE).grant
    fresh_identity.provider.requests.clear()

    def lost() -> None:
        raise MailquayError("lost")

    with pytest.raises(MailquayError, match="lost"):
        keeper._renew(ALICE, grant, SCOPES[:1], lost)

    assert not [seen for seen in fresh_identity.provider.requests if seen.grant]


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """A provider that answers as a test wants; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain_file, certificates.key_file)
    running: list[tuple[HTTPServer, threading.Thread]] = []

    def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        running.append((server, thread))
        return f"https://localhost:{server.server_port}/token"

    yield serve
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def post(address: str, certificates: Certificates) -> Any:
    with ProviderSession() as session:
        session.trust_env, session.verify = False, str(certificates.ca_file)
        return session.post(address, data={"refresh_token": "x"})


def test_a_redirect_is_not_followed(server: Any, certificates: Certificates) -> None:
    """The refresh token and the client's secret would be posted to wherever it points."""

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        request.send_response(307)
        request.send_header("Location", "http://127.0.0.1:9/")
        request.send_header("Content-Length", "0")
        request.end_headers()

    with pytest.raises(Unusable, match="redirected"):
        post(server(elsewhere), certificates)
    with pytest.raises(Unusable, match="not https"):
        post("http://127.0.0.1:9/token", certificates)


def test_an_endless_answer_is_hung_up_on(server: Any, certificates: Certificates) -> None:
    """It must not fill the memory."""

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x" * 65536)
        except OSError:
            return

    with pytest.raises(Unusable, match="too long"):
        post(server(endless), certificates)


def test_an_answer_that_drips_is_hung_up_on(
    server: Any, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline for each octet would never come; the whole answer has one."""
    monkeypatch.setattr("worker.tokens.answer._WHOLE_SECONDS", 0.3)
    stop = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while not stop.wait(0.05):
                request.wfile.write(b"x")
                request.wfile.flush()
        except OSError:
            return

    try:
        with pytest.raises(Unusable, match="too slow"):
            post(server(drip), certificates)
    finally:
        stop.set()
