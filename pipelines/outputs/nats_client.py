"""A NATS connection to one server that says at once when it is good for nothing any more, and signs in over TLS or not at all.

The library would keep what was published and wait for a server to come back. An output answers instead, and comes again.
"""

from __future__ import annotations

import asyncio
import ssl

import nats.aio.client
import nats.errors
from nats.js.client import JetStreamContext


class NatsClient(nats.aio.client.Client):
    """`trouble` is done, with a reason for people, when the connection is good for nothing any more; `cause` is its last error."""

    def __init__(self, server: str, *, tls: ssl.SSLContext | None) -> None:
        """Make it, in the loop that is going to use it. `server` is what reasons call the server."""
        super().__init__()
        self._server = server
        self.trust = tls
        self.cause: Exception | None = None
        self.trouble: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stream: JetStreamContext = self.jetstream()

    async def heard(self, error: Exception) -> None:
        """Note what the server complains of: a publication that it forbids gets no answer else."""
        self.cause = error
        if "permissions violation" in str(error).lower():
            self._end(
                f"{self._server} does not let this user publish to SUBJECT, or hear its answers (_INBOX.>)"
            )

    async def closed(self) -> None:
        """Note that the connection is gone."""
        self._end(f"{self._server} broke off")

    def _end(self, reason: str) -> None:
        if not self.trouble.done():
            self.trouble.set_result(reason)

    def _connect_command(self) -> bytes:
        # The library asks for TLS when the server says so; somebody in between could say otherwise.
        if self.trust is not None and not self._server_info.get("tls_required"):
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()
