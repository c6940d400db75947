"""The local identity provider, served over TLS from a thread of the test process, so that a test can look inside.

Everything that a person would do at a browser is done by plain requests to the same pages.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import msal
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.bed.browser import Browser
from tests.bed.processes import free_port
from worker.demo import harbour
from worker.demo.certificates import Certificates
from worker.demo.identity import FederatedCredential, IdentityProvider, Settings
from worker.demo.identity.claims import app_claims, user_claims
from worker.demo.identity.lab import entra_app
from worker.demo.identity.scopes import read_scopes
from worker.demo.web import listen, serving
from worker.quay import Quay

SCOPES = (
    "https://outlook.office.com/IMAP.AccessAsUser.All",
    "https://outlook.office.com/POP.AccessAsUser.All",
)
APP_SCOPE = "https://outlook.office365.com/.default"
# Whose tokens the robot may show instead of a secret, as a workload in a cluster has them.
ISSUER, SUBJECT = "https://cluster.harbour.example", "system:serviceaccount:mail:robot"


class Identity:
    """The running identity provider of the tests. Addresses stay the same over `stop` and `start`.

    `provider` is the real object: its `settings`, `requests`, `applications`, `counts()`, `revoke()`, `add_account()`,
    `newest_refresh_token()` may be used from the test. `offset` seconds are added to its clock. The robot proves itself
    by `robot_secret`, by `robot_certificate` (private key and certificate as PEM, one after the other) or by what
    `federated_assertion` makes.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.ca_file = certificates.ca_file
        self.client_id, self.robot_id = harbour.CLIENT_ID, harbour.ROBOT_ID
        self.robot_secret = secrets.token_urlsafe(24)
        self.offset = 0.0
        self._federation_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.robot_certificate, certificate = self_signed()
        self.provider: IdentityProvider = harbour.harbour(
            clock=self.now,
            robot_secret=self.robot_secret,
            robot_certificates=(certificate,),
            robot_federated=(FederatedCredential(ISSUER, SUBJECT, self._federation_key.public_key()),),
        )
        self._applications = dict(self.provider.applications)
        self._certificates = certificates
        self._ports = (free_port(), free_port())
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()

    def now(self) -> float:
        """The provider's clock, in seconds since the epoch."""
        return time.time() + self.offset

    @property
    def authority(self) -> str:
        """What MSAL calls the authority, with the tenant in it."""
        return f"https://localhost:{self._ports[0]}/{self.provider.tenant}"

    @property
    def lab_url(self) -> str:
        """Plain HTTP address of the lab page; `/introspect` below it judges tokens."""
        return f"http://127.0.0.1:{self._ports[1]}/_lab"

    def start(self) -> None:
        """Serve, and return when requests are answered."""
        listeners = [listen("127.0.0.1", port) for port in self._ports]
        self._stopping.clear()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listeners, ready), name="identity")
        self._thread.start()
        if not ready.wait(10):
            raise TimeoutError("the identity provider did not start within 10 s")

    def stop(self) -> None:
        """Go down: connections are refused until `start`. Nothing is forgotten."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Go down for good."""
        self.stop()
        self._loop.close()

    def calm(self) -> None:
        """Back to ordinary behaviour: default settings, applications, no staged answer, an empty log, the true time."""
        self.provider.settings = Settings()
        self.provider.applications = dict(self._applications)
        self.provider.requests.clear()
        self.offset = 0.0
        if self._thread is None:
            self.start()

    def session(self) -> requests.Session:
        """An HTTP client that trusts the test authority and ignores the environment; whoever asks closes it."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca_file)
        return session

    def public_app(self, session: requests.Session, **options: Any) -> Any:
        """MSAL's public client, as an operator would set it up."""
        return msal.PublicClientApplication(
            self.client_id,
            authority=self.authority,
            instance_discovery=False,
            http_client=session,
            **options,
        )

    def refreshes(self) -> int:
        """How often it was asked for new tokens for a refresh token, well or in vain."""
        return sum(seen.grant == "refresh_token" for seen in self.provider.requests)

    def newest_is_stored(self, quay: Quay, account: str) -> bool:
        """Whether the stored grant of an account holds the newest refresh token that it was given."""
        grant = quay.token_store.load(account).grant
        newest = self.provider.newest_refresh_token(account)
        return bool(grant and newest and newest in grant.cache)

    def robot_app(self, session: requests.Session, **options: Any) -> Any:
        """MSAL's confidential client; `credential` is what it proves itself by instead of the secret."""
        return msal.ConfidentialClientApplication(
            self.robot_id,
            client_credential=options.pop("credential", self.robot_secret),
            authority=self.authority,
            instance_discovery=False,
            http_client=session,
            **options,
        )

    def decide(self, user_code: str, upn: str, *, decision: str = "accept") -> None:
        """Do what the owner of an account does at the sign-in page: type the code in and decide."""
        address = f"{self.authority.rpartition('/')[0]}/devicelogin"
        with self.session() as session:
            form = {"user_code": user_code, "upn": upn, "decision": decision}
            session.post(address, data=form, timeout=5).raise_for_status()

    def authorize(self, address: str, upn: str, decision: str = "accept") -> str:
        """Do what a person does at the address that an authorization-code sign-in begins with: choose, decide.

        Returns:
            Where the browser is sent back to, with the answer in its query; when the client asked for `form_post`, the
            page by which it thanked for the answer.
        """
        with Browser(self.ca_file) as browser:
            page = browser.open(address)
            if not page.location:
                page = browser.submit(page, upn=upn, decision=decision)
            return page.location or browser.submit(page).text

    def federated_assertion(self, **extra: object) -> str:
        """A token of the issuer that the robot trusts, good for ten minutes; `extra` overrides claims."""
        now = int(self.now())
        claims = {
            "iss": ISSUER,
            "sub": SUBJECT,
            "aud": "api://AzureADTokenExchange",
            "iat": now,
            "exp": now + 600,
        }
        return jwt.encode({**claims, **extra}, self._federation_key, algorithm="RS256")

    def token(
        self, upn: str, *, lifetime: int | None = None, extra: Mapping[str, object] | None = None
    ) -> str:
        """A delegated access token for IMAP and POP3, made directly; `extra` overrides claims."""
        scopes = read_scopes(" ".join(SCOPES))
        claims = {**user_claims(upn, scopes), **(extra or {})}
        return self.provider.sign_access(self.client_id, scopes.resource, claims, lifetime=lifetime)

    def app_token(self) -> str:
        """An app-only access token of the confidential application, made directly."""
        robot = self.provider.application(self.robot_id)
        resource = read_scopes(APP_SCOPE).resource
        return self.provider.sign_access(self.robot_id, resource, app_claims(robot.roles))

    def _run(self, listeners: list[socket.socket], ready: threading.Event) -> None:
        self._loop.run_until_complete(self._serve(listeners, ready))

    async def _serve(self, listeners: list[socket.socket], ready: threading.Event) -> None:
        app = entra_app(self.provider)
        async with serving(app, listeners[0], self._certificates), serving(app, listeners[1]):
            ready.set()
            await self._stopping.wait()


def self_signed(*, days: int = 30) -> tuple[str, x509.Certificate]:
    """A new private key and its certificate as one PEM text, and the certificate by itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "robot")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode(), certificate
