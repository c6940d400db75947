"""Signing in at providers other than Entra, with the real MSAL, then a real Dovecot that takes the token.

At oidc-provider, which nobody here wrote: it goes by the book, and ends a session when an old refresh token is used again.
"""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.bed.browser import answer_in
from tests.bed.dovecot import Dovecot
from tests.bed.errands import opens_every_mailbox
from tests.bed.installation import Installation
from tests.bed.oidc_provider import OidcProvider
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE, SUPPORT
from worker.sign_in import begin_code, by_device_code, finish_code, usual_way
from worker.tokens import entra

SCOPES = {
    "imap": "https://outlook.office.com/IMAP.AccessAsUser.All",
    "pop3": "https://outlook.office.com/POP.AccessAsUser.All",
}


@pytest.fixture(autouse=True)
def _forget_http() -> None:
    """Each test meets providers that this process has never asked."""
    entra._HTTP_CACHE.clear()


@pytest.fixture
def theirs(installation: Installation, oidc_dovecot: Dovecot, oidc_provider: OidcProvider) -> Installation:
    """The same at oidc-provider, found by its discovery address."""
    installation.environ |= {
        "OIDC__ISSUER": oidc_provider.issuer,
        "OIDC__CLIENT_ID": oidc_provider.client_id,
        "OIDC__CA_FILE": str(oidc_provider.ca_file),
    }
    for name, protocol, address in (("alice", "imap", ALICE), ("support", "pop3", SUPPORT)):
        installation.on_dovecot(
            name,
            oidc_dovecot,
            address,
            protocol=protocol,
            auth="delegated",
            account=ALICE,
            scopes=SCOPES[protocol],
        )
    return installation


def test_device_code_at_oidc_provider(theirs: Installation, oidc_provider: OidcProvider) -> None:
    """A provider by the book, without Entra's extras."""
    quay = theirs.quay()
    by_device_code(quay, ALICE, show=lambda _, code: oidc_provider.approve_device(code, ALICE))

    assert opens_every_mailbox(quay)


def test_a_code_in_the_browser_at_oidc_provider(theirs: Installation, oidc_provider: OidcProvider) -> None:
    """By a public client, and by a confidential one, which has no other way."""
    quay = theirs.quay()
    begun = begin_code(quay, ALICE)
    finish_code(quay, begun, answer_in(oidc_provider.authorize(begun.address, ALICE)))
    assert opens_every_mailbox(quay)

    confidential = theirs.quay(
        OIDC__CLIENT_ID=oidc_provider.robot_id, OIDC__CLIENT_SECRET=oidc_provider.robot_secret
    )
    assert usual_way(confidential, ALICE) == "code"
    begun = begin_code(confidential, ALICE)
    finish_code(confidential, begun, answer_in(oidc_provider.authorize(begun.address, ALICE)))
    assert opens_every_mailbox(confidential)


def test_refreshing_at_oidc_provider_stores_each_rotated_token(
    theirs: Installation, oidc_provider: OidcProvider
) -> None:
    """It ends the whole session when an old refresh token is used again; so the newest has to be the stored one."""
    quay = theirs.quay()
    by_device_code(quay, ALICE, show=lambda _, code: oidc_provider.approve_device(code, ALICE))
    mailbox = quay.settings.mailboxes["alice"]
    tokens = set()
    for _ in range(4):
        here = theirs.quay()
        here.keeper(mailbox).renew(ALICE, mailbox.scopes)
        tokens.add(here.keeper(mailbox).access(ALICE, mailbox.scopes).secret)

    assert len(tokens) == 4
    assert opens_every_mailbox(quay)


def test_an_application_on_its_own_at_oidc_provider(
    installation: Installation, oidc_dovecot: Dovecot, oidc_provider: OidcProvider
) -> None:
    """Client credentials: nobody signs in, and the token opens what was granted to the application."""
    installation.environ |= {
        "OIDC__ISSUER": oidc_provider.issuer,
        "OIDC__CLIENT_ID": oidc_provider.robot_id,
        "OIDC__CLIENT_SECRET": oidc_provider.robot_secret,
        "OIDC__CA_FILE": str(oidc_provider.ca_file),
    }
    for protocol in ("imap", "pop3"):
        installation.on_dovecot(
            protocol,
            oidc_dovecot,
            SUPPORT,
            protocol=protocol,
            auth="app",
            scopes="https://outlook.office365.com/.default",
        )

    assert opens_every_mailbox(installation.quay())


def test_gmail_signs_in_by_browser_with_googles_habits(
    installation: Installation, oidc_dovecot: Dovecot, oidc_provider: OidcProvider
) -> None:
    """Its address asks for offline access in Google's own way, and who signed in is read from a verified address.

    Tried at oidc-provider, never at Google itself.
    """
    installation.environ |= {
        "GOOGLE__ISSUER": oidc_provider.issuer,
        "GOOGLE__CLIENT_ID": oidc_provider.robot_id,
        "GOOGLE__CLIENT_SECRET": oidc_provider.robot_secret,
        "GOOGLE__CA_FILE": str(oidc_provider.ca_file),
    }
    installation.on_dovecot(
        "shop", oidc_dovecot, ALICE, provider="gmail", auth="delegated", scopes=f"{SCOPES['imap']},email"
    )
    quay = installation.quay()
    assert usual_way(quay, ALICE) == "code"
    begun = begin_code(quay, ALICE)
    asked = dict(parse_qsl(urlsplit(begun.address).query))
    assert (asked["access_type"], asked["prompt"]) == ("offline", "consent")
    assert "offline_access" not in asked["scope"].split()

    finish_code(quay, begun, answer_in(oidc_provider.authorize(begun.address, ALICE)))
    assert opens_every_mailbox(quay)
    box = quay.settings.mailboxes["shop"]
    quay.keeper(box).renew(ALICE, box.scopes)
    assert opens_every_mailbox(quay)


def test_an_issuer_without_a_path_is_found(installation: Installation, certificates: Certificates) -> None:
    """Google's issuer is a bare host, which MSAL would not take as an authority."""

    class Discovery(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            base = f"https://localhost:{server.server_port}"
            said = {
                "issuer": base,
                "authorization_endpoint": f"{base}/o/auth",
                "token_endpoint": f"{base}/token",
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    asked: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), Discovery)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain_file, certificates.key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        installation.environ |= {
            "GOOGLE__ISSUER": f"https://localhost:{server.server_port}",
            "GOOGLE__CLIENT_ID": "client",
            "GOOGLE__CLIENT_SECRET": "x",
            "GOOGLE__CA_FILE": str(certificates.ca_file),
        }
        installation.mailbox("shop", provider="gmail", address="shop@gmail.com", outputs="lines")
        begun = begin_code(installation.quay(), "shop@gmail.com")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    assert asked == ["/.well-known/openid-configuration"]
    assert urlsplit(begun.address).path == "/o/auth"
    scopes = dict(parse_qsl(urlsplit(begun.address).query))["scope"].split()
    assert sorted(scopes) == ["email", "https://mail.google.com/", "openid", "profile"]
