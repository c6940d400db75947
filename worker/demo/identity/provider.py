"""The identity provider: accounts, applications, sign-ins and tokens, all in memory.

It decides; it speaks no HTTP. Every method is short and does not wait, so that one event loop may call it without a
lock. Errors of the protocol are raised as `EntraRefusal`. Secrets come from the operating system, time from `clock`.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping

from worker.demo.identity import refusals
from worker.demo.identity.access import Verdict, judge
from worker.demo.identity.claims import (
    access_claims,
    app_claims,
    client_info,
    id_claims,
    object_id,
    user_claims,
)
from worker.demo.identity.credentials import Proof, check_proof
from worker.demo.identity.grants import (
    Application,
    Code,
    DeviceSignIn,
    RefreshToken,
    Seen,
    Session,
)
from worker.demo.identity.refusals import EntraRefusal
from worker.demo.identity.scopes import Scopes, read_scopes
from worker.demo.identity.settings import Settings
from worker.demo.identity.signing import Signer

# Letters of user codes: no vowels, so that no words appear, and none that look like digits.
USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


class IdentityProvider:
    """One tenant with its accounts and applications.

    Args:
        tenant: The tenant's domain; its id is derived from it.
        accounts: User principal names that may sign in; each owns the mailbox of the same address.
        full_access: For each shared mailbox the accounts that may open it.
        applications: The registered applications.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        tenant: str,
        accounts: Iterable[str],
        full_access: Mapping[str, Collection[str]],
        applications: Iterable[Application],
        clock: Callable[[], float],
    ) -> None:
        self.tenant = tenant
        self.tenant_id = object_id(tenant)
        self.issuer = f"https://login.microsoftonline.com/{self.tenant_id}/v2.0"
        self.clock = clock
        self.settings = Settings()
        self.signer = Signer()
        self.accounts: set[str] = set()
        self.applications = {application.client_id: application for application in applications}
        self.full_access: dict[str, set[str]] = {}
        self.requests: deque[Seen] = deque(maxlen=100_000)
        self._devices: dict[str, DeviceSignIn] = {}
        self._codes: dict[str, Code] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._sessions: list[Session] = []
        for account in accounts:
            self.add_account(account)
        for mailbox, users in full_access.items():
            self.full_access.setdefault(mailbox.lower(), set()).update(users)

    # People and applications

    def add_account(self, upn: str, *, mailboxes: Iterable[str] = ()) -> None:
        """Let `upn` sign in, own the mailbox of its address, and open `mailboxes` too."""
        self.accounts.add(upn)
        for mailbox in (upn, *mailboxes):
            self.full_access.setdefault(mailbox.lower(), set()).add(upn)

    def revoke(self, upn: str) -> None:
        """End every session of an account, as a new password does. Access tokens live on until they expire."""
        for session in self._sessions:
            if session.upn == upn:
                session.revoked = True

    def application(self, client_id: str) -> Application:
        """The application of that id.

        Raises:
            EntraRefusal: There is none.
        """
        application = self.applications.get(client_id)
        if application is None:
            raise EntraRefusal(refusals.UNKNOWN_CLIENT)
        return application

    def authenticate(self, client_id: str, proof: Proof, *, audience: str) -> Application:
        """The application of that id, once a confidential one has proved that it is itself.

        Raises:
            EntraRefusal: Unknown application, or as `check_proof`.
        """
        application = self.application(client_id)
        check_proof(application, proof, audience=audience, now=self.clock())
        return application

    # Sign-in by device code, RFC 8628

    def begin_device(self, client_id: str, scope: str) -> tuple[str, DeviceSignIn]:
        """Begin a sign-in: the device code for the client, and the record with the user code for the person."""
        self.application(client_id)
        letters = (secrets.choice(USER_CODE_LETTERS) for _ in range(9))
        sign_in = DeviceSignIn(
            client_id, read_scopes(scope), "".join(letters), self.clock() + self.settings.device_lifetime
        )
        device_code = secrets.token_urlsafe(32)
        self._devices[device_code] = sign_in
        return device_code, sign_in

    def decide_device(self, user_code: str, upn: str, *, accept: bool) -> bool:
        """Record what a person decided; False when the code or the account is not known or the code is over."""
        wanted = user_code.replace("-", "").strip().upper()
        for sign_in in self._devices.values():
            if sign_in.user_code == wanted and sign_in.expires_at > self.clock() and upn in self.accounts:
                sign_in.upn, sign_in.declined = upn, not accept
                return True
        return False

    def redeem_device(self, client_id: str, device_code: str) -> dict[str, object]:
        """One poll of the token endpoint: tokens once the person has agreed.

        Raises:
            EntraRefusal: Pending, declined, expired, unknown, or against the tenant's policy.
        """
        sign_in = self._devices.get(device_code)
        if sign_in is None or sign_in.client_id != client_id:
            raise EntraRefusal(refusals.DEVICE_UNKNOWN)
        if sign_in.expires_at <= self.clock():
            raise EntraRefusal(refusals.DEVICE_EXPIRED)
        if sign_in.declined:
            raise EntraRefusal(refusals.DECLINED)
        if sign_in.upn is None:
            raise EntraRefusal(refusals.PENDING)
        if self.settings.device_code_blocked:
            raise EntraRefusal(refusals.POLICY)
        del self._devices[device_code]
        return self._begin_session(client_id, sign_in.upn, sign_in.scopes)

    # Sign-in by authorization code, RFC 6749 section 4.1 with RFC 7636

    def issue_code(
        self, *, client_id: str, scope: str, redirect_uri: str, upn: str, challenge: str, nonce: str | None
    ) -> str:
        """A code that `upn` has agreed to, good once and only for the holder of the challenge's verifier."""
        self.application(client_id)
        if upn not in self.accounts:
            raise EntraRefusal(refusals.CANCELLED)
        code = secrets.token_urlsafe(32)
        expires_at = self.clock() + self.settings.code_lifetime
        self._codes[code] = Code(
            client_id, read_scopes(scope), redirect_uri, upn, challenge, nonce, expires_at
        )
        return code

    def redeem_code(
        self, client_id: str, text: str, *, redirect_uri: str, verifier: str
    ) -> dict[str, object]:
        """Tokens for a code.

        Raises:
            EntraRefusal: The code is unknown, used, expired, of another application, or the verifier is wrong.
        """
        code = self._codes.get(text)
        if code is None or code.client_id != client_id or code.redirect_uri != redirect_uri:
            raise EntraRefusal(refusals.UNKNOWN_GRANT)
        if code.used:
            raise EntraRefusal(refusals.CODE_USED)
        if code.expires_at <= self.clock():
            raise EntraRefusal(refusals.USED)
        if _challenge_of(verifier) != code.challenge:
            raise EntraRefusal(refusals.WRONG_VERIFIER)
        code.used = True
        return self._begin_session(client_id, code.upn, code.scopes, nonce=code.nonce)

    # Staying signed in, RFC 6749 section 6

    def refresh(self, client_id: str, text: str, scope: str) -> dict[str, object]:
        """New tokens for a refresh token; with strict rotation the old one dies.

        Raises:
            EntraRefusal: Unknown, revoked, idle too long, used before (strict rotation), or a scope without consent.
        """
        token = self._refresh_tokens.get(text)
        if token is None or token.session.client_id != client_id:
            raise EntraRefusal(refusals.UNKNOWN_GRANT)
        session = token.session
        if session.revoked:
            raise EntraRefusal(refusals.REVOKED)
        if token.expires_at <= self.clock():
            raise EntraRefusal(refusals.IDLE)
        if self.settings.strict_rotation and text != session.newest:
            session.revoked = True
            raise EntraRefusal(refusals.USED)
        scopes = read_scopes(scope) if scope else session.scopes
        if not set(scopes.text.split()) <= set(session.scopes.text.split()):
            raise EntraRefusal(refusals.NO_CONSENT)
        return self._answer(session, scopes, again=True)

    def newest_refresh_token(self, upn: str) -> str | None:
        """The newest refresh token of an account's newest sign-in, or None when there is none."""
        for session in reversed(self._sessions):
            if session.upn == upn:
                return session.newest or None
        return None

    # Applications on their own, RFC 6749 section 4.4

    def issue_app_token(self, application: Application, scope: str) -> dict[str, object]:
        """An app-only access token; the scope must be one resource's `/.default`.

        Raises:
            EntraRefusal: The application is a public one, or the scope is another one.
        """
        if not application.confidential:
            raise EntraRefusal(refusals.NO_SECRET)
        if not scope.endswith("/.default"):
            raise EntraRefusal(refusals.NOT_DEFAULT)
        resource = read_scopes(scope).resource
        token = self.sign_access(application.client_id, resource, app_claims(application.roles))
        lifetime = self.settings.token_lifetime
        return {
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": token,
        }

    # Tokens

    def sign_access(
        self, client_id: str, audience: str, extra: Mapping[str, object], *, lifetime: int | None = None
    ) -> str:
        """A signed access token of `lifetime` seconds (default: the setting) that also states `extra`."""
        return self.signer.sign(
            {
                **access_claims(
                    client_id=client_id,
                    tenant_id=self.tenant_id,
                    audience=audience,
                    now=int(self.clock()),
                    lifetime=self.settings.token_lifetime if lifetime is None else lifetime,
                ),
                **extra,
            }
        )

    def introspect(self, token: str, *, mailbox: str, service: str) -> Verdict:
        """Whether a mail server should let the token's holder open `mailbox` over `service`."""
        return judge(
            self.signer.read(token),
            mailbox=mailbox,
            service=service,
            now=self.clock(),
            full_access=self.full_access,
            app_mailboxes={
                application.client_id: {mailbox.lower() for mailbox in application.mailboxes}
                for application in self.applications.values()
            },
        )

    # What came in

    def note(self, endpoint: str, outcome: str, *, grant: str = "", client_id: str = "") -> None:
        """Remember a request; `outcome` is `ok`, an OAuth error or the kind of a staged answer."""
        self.requests.append(Seen(self.clock(), endpoint, grant, client_id, outcome))

    def counts(self) -> dict[str, int]:
        """How often each `GRANT:OUTCOME` was seen, or `ENDPOINT:OUTCOME` where no grant was involved."""
        return dict(Counter(f"{seen.grant or seen.endpoint}:{seen.outcome}" for seen in self.requests))

    def _begin_session(
        self, client_id: str, upn: str, scopes: Scopes, *, nonce: str | None = None
    ) -> dict[str, object]:
        session = Session(client_id, upn, scopes)
        self._sessions.append(session)
        return self._answer(session, scopes, nonce=nonce)

    def _answer(
        self, session: Session, scopes: Scopes, *, nonce: str | None = None, again: bool = False
    ) -> dict[str, object]:
        """The body of a successful answer; a refresh token only for those who asked for offline access.

        `again` is True when the client came with a refresh token.
        """
        lifetime = self.settings.token_lifetime
        claims = user_claims(session.upn, scopes)
        answer: dict[str, object] = {
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": self.sign_access(session.client_id, scopes.resource, claims),
            "client_info": client_info(session.upn, self.tenant_id),
        }
        if self.settings.echo_scope:
            answer["scope"] = scopes.text
        if "offline_access" in session.scopes.openid:
            if self.settings.rotates or not again:
                answer["refresh_token"] = self._new_refresh_token(session)
            if self.settings.refresh_expires_in is not None:
                answer["refresh_token_expires_in"] = self.settings.refresh_expires_in
        if "openid" in session.scopes.openid:
            answer["id_token"] = self._id_token(session, nonce=nonce)
        return answer

    def _new_refresh_token(self, session: Session) -> str:
        session.newest = secrets.token_urlsafe(48)
        expires_at = self.clock() + self.settings.refresh_lifetime
        self._refresh_tokens[session.newest] = RefreshToken(session, expires_at)
        return session.newest

    def _id_token(self, session: Session, *, nonce: str | None) -> str:
        claims = {
            **id_claims(
                client_id=session.client_id,
                tenant_id=self.tenant_id,
                issuer=self.issuer,
                upn=session.upn,
                nonce=nonce,
                now=int(self.clock()),
                lifetime=self.settings.token_lifetime,
            ),
            **self.settings.claims,
        }
        return self.signer.sign({key: value for key, value in claims.items() if value is not None})


def _challenge_of(verifier: str) -> str:
    """The S256 challenge of a verifier (RFC 7636 section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
