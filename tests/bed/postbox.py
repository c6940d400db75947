"""A real SMTP server, aiosmtpd, that takes mail for anybody and keeps it: what the `smtp` output sends to in tests.

It signs people in by password or by XOAUTH2, whose tokens the bed's identity provider judges. A test may answer in its place.
"""

# aiosmtpd finds these methods by their names.
# ruff: noqa: N802

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.bed.processes import free_port
from worker.demo.certificates import Certificates

Hook = Callable[[Envelope], str | None]


@dataclass(frozen=True, slots=True)
class Posted:
    """One message that was taken: envelope, parameters of MAIL FROM, bytes, and who was signed in."""

    sender: str
    recipients: tuple[str, ...]
    options: tuple[str, ...]
    content: bytes
    user: str | None
    session: int


class _Server(SMTP):
    # RFC 4954 section 4.3: 12288 octets for what signs in, which a token needs.
    line_length_limit = 12_288


class _Controller(Controller):
    def factory(self) -> SMTP:
        return _Server(self.handler, **self.SMTP_kwargs)


class Postbox:
    """The server for the length of a `with` block, on loopback.

    Args:
        certificates: What it presents with `tls`.
        tls: TLS from the first byte, by STARTTLS, or none at all.
        passwords: Who may sign in, and by which password.
        introspection_url: Who judges tokens; without it XOAUTH2 is refused.
        auth_required: Whether mail is taken from those who have signed in only.
        size: The largest message, which is announced.
        extensions: Those of 8BITMIME and SMTPUTF8 that are offered.
    """

    def __init__(
        self,
        certificates: Certificates,
        *,
        tls: Literal["implicit", "starttls", "none"] = "none",
        passwords: Mapping[str, str] | None = None,
        introspection_url: str = "",
        auth_required: bool = False,
        size: int = 50_000_000,
        extensions: tuple[str, ...] = ("8BITMIME", "SMTPUTF8"),
    ) -> None:
        self.taken: list[Posted] = []
        self.tokens: list[str] = []
        self.sessions = 0
        self.answer_sender: Hook = lambda _: None
        self.answer_recipient: Callable[[str], str | None] = lambda _: None
        self.answer_data: Hook = lambda _: None
        self.ca_file = certificates.ca_file
        self._passwords = passwords or {}
        self._introspection_url = introspection_url
        self._left_out = {"8BITMIME", "SMTPUTF8"} - set(extensions)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.chain_file, certificates.key_file)
        options: dict[str, Any] = {
            "data_size_limit": size,
            "enable_SMTPUTF8": "SMTPUTF8" in extensions,
            "auth_required": auth_required,
            "auth_require_tls": tls == "starttls",
            "authenticator": self._password,
            "tls_context": context if tls == "starttls" else None,
            "require_starttls": tls == "starttls",
        }
        self.port = free_port()
        self._controller = _Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ssl_context=context if tls == "implicit" else None,
            **options,
        )

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            # It warns of sign-ins without TLS, which is what some tests are about.
            warnings.simplefilter("ignore", UserWarning)
            self._controller.start()
        # Starting it takes one connection, to see whether it listens.
        self.sessions = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    # -- what aiosmtpd asks its handler ------------------------------------------------------------------------------

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.sessions += 1
        session.host_name = hostname
        return [line for line in responses if line[4:] not in self._left_out]

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from, envelope.mail_options = address, options
        return self.answer_sender(envelope) or "250 2.1.0 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := self.answer_recipient(address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if refusal := self.answer_data(envelope):
            return refusal
        assert isinstance(envelope.original_content, bytes)
        user = session.auth_data if isinstance(session.auth_data, str) else None
        self.taken.append(
            Posted(
                (envelope.mail_from or "").removeprefix("<>"),
                tuple(envelope.rcpt_tos),
                tuple(envelope.mail_options),
                envelope.original_content,
                user,
                id(session),
            )
        )
        return "250 2.0.0 taken"

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:
        """Google's and Microsoft's mechanism: a refusal is a challenge first, and then the answer."""
        first = await server.challenge_auth("") if len(args) == 1 else base64.b64decode(args[1])
        if first is MISSING:
            return AuthResult(success=False)
        assert isinstance(first, bytes)
        fields = dict(part.partition("=")[::2] for part in first.decode().split("\x01") if part)
        token, user = fields["auth"].removeprefix("Bearer "), fields["user"]
        self.tokens.append(token)
        if self._opens(token, user):
            return AuthResult(success=True, auth_data=user)
        await server.challenge_auth('{"status":"400","schemes":"bearer"}')
        return AuthResult(success=False, handled=False)

    def _opens(self, token: str, user: str) -> bool:
        if not self._introspection_url:
            return False
        form = urllib.parse.urlencode({"token": token, "user": user, "service": "smtp"}).encode()
        with urllib.request.urlopen(self._introspection_url, form, timeout=5) as answer:
            return bool(json.load(answer)["active"])

    def _password(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: Any
    ) -> AuthResult:
        assert isinstance(auth_data, LoginPassword)
        user = auth_data.login.decode()
        good = self._passwords.get(user) == auth_data.password.decode()
        return AuthResult(success=good, handled=False, auth_data=user)


def attached(content: bytes) -> bytes:
    """The original in a forward, byte for byte: cut out between the boundaries, and not re-made by a parser."""
    boundary = re.search(rb'boundary="([^"]+)"', content)
    assert boundary
    part = content.split(b"--" + boundary[1])[2]
    head, _, body = part.partition(b"\r\n\r\n")
    # The line end before a boundary belongs to the boundary (RFC 2046 section 5.1.1).
    body = body.removesuffix(b"\r\n")
    return base64.b64decode(body) if b"base64" in head else body
