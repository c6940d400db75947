"""The demo's IMAP server: pymap over TLS, with XOAUTH2 as the only way in, as Exchange Online has it.

Every protocol command is pymap's. This module brings the sign-in, where the identity provider judges the token, and
the mailboxes of the demo's `MailStore`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from argparse import Namespace
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NoReturn
from uuid import uuid4

from proxyprotocol.sock import SocketInfo
from pymap.backend.dict import Session
from pymap.backend.dict.filter import FilterSet
from pymap.concurrent import Subsystem
from pymap.config import BackendCapability, IMAPConfig
from pymap.exceptions import InvalidAuth, NotAllowedError
from pymap.imap import IMAPServer
from pymap.interfaces.login import IdentityInterface, LoginInterface
from pymap.interfaces.token import TokensInterface
from pymap.token import AllTokens
from pymap.user import UserMetadata
from pysasl import SASLAuth
from pysasl.creds.external import ExternalVerificationRequired
from pysasl.creds.server import ServerCredentials
from pysasl.mechanism.oauth import OAuth2Mechanism

from worker.demo.identity import IdentityProvider
from worker.demo.mail_store import MailStore


@contextlib.asynccontextmanager
async def serving_imap(
    provider: IdentityProvider, store: MailStore, listener: socket.socket, tls: ssl.SSLContext
) -> AsyncIterator[None]:
    """Speak IMAP on `listener` for the length of the block."""
    config = _Config(tls)
    server = IMAPServer(_Login(provider, store, config), config)

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # pymap's own callback starts a task that nobody holds, and the garbage collector ends it in mid-answer.
        await server(reader, writer, SocketInfo.get(writer, None, unique_id=uuid4().bytes))

    listening = await asyncio.start_server(session, sock=listener, ssl=tls)
    try:
        yield
    finally:
        # Open sessions end with the event loop; waiting for their clients here could take for ever.
        listening.close()


class _Config(IMAPConfig):
    """What pymap asks of its configuration: TLS from the first byte, one mechanism, Exchange's greeting."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        arguments = Namespace(passlib_cfg=None, proxy_protocol=None)
        super().__init__(
            arguments,
            host=None,
            port=0,
            ssl_context=tls,
            tls_enabled=False,
            cpu_subsystem=Subsystem.for_asyncio(),
        )

    @property
    def backend_capability(self) -> BackendCapability:
        return BackendCapability(idle=True, object_id=True, multi_append=True)

    @property
    def tls_auth(self) -> SASLAuth:
        return SASLAuth([OAuth2Mechanism(b"XOAUTH2")])

    @property
    def greeting(self) -> bytes:
        return b"The Microsoft Exchange IMAP4 service is ready."


class _Login(LoginInterface):
    """Lets a client in when the identity provider says that its token opens the mailbox it named."""

    def __init__(self, provider: IdentityProvider, store: MailStore, config: _Config) -> None:
        self._provider = provider
        self._store = store
        self._config = config

    @property
    def tokens(self) -> TokensInterface:
        return AllTokens(self._config)

    async def authenticate(self, credentials: ServerCredentials) -> IdentityInterface:
        mailbox = credentials.authzid
        try:
            credentials.verify(None)
        except ExternalVerificationRequired as required:
            verdict = self._provider.introspect(required.token or "", mailbox=mailbox, service="imap")
            if verdict.active:
                return _Opened(mailbox, self._store, self._config)
        raise InvalidAuth

    async def authorize(self, authenticated: IdentityInterface, authzid: str) -> IdentityInterface:
        # The provider has judged the token for this very mailbox already.
        if authenticated.name != authzid:
            raise InvalidAuth
        return authenticated


class _Opened(IdentityInterface):
    """A mailbox that somebody was let into. pymap would let administrators change users here; nobody is one."""

    def __init__(self, mailbox: str, store: MailStore, config: _Config) -> None:
        self._mailbox = mailbox
        self._store = store
        self._config = config

    @property
    def name(self) -> str:
        return self._mailbox

    @property
    def roles(self) -> frozenset[str]:
        return frozenset()

    @contextlib.asynccontextmanager
    async def new_session(self) -> AsyncIterator[Session]:
        config: Any = self._config
        yield Session(self._mailbox, config, self._store.folders(self._mailbox), FilterSet())

    async def get(self) -> UserMetadata:
        return UserMetadata(self._config, self._mailbox)

    async def new_token(self, *, expiration: datetime | None = None) -> None:  # noqa: ARG002
        return None

    async def set(self, metadata: UserMetadata) -> NoReturn:  # noqa: ARG002
        raise NotAllowedError

    async def delete(self) -> NoReturn:
        raise NotAllowedError
