"""Plain clients from the standard library that sign in with XOAUTH2: a second opinion beside Mailquay's own sources."""

from __future__ import annotations

import base64
import imaplib
import poplib
import ssl
from pathlib import Path
from typing import Any


def trusting(ca_file: Path) -> ssl.SSLContext:
    """A TLS context that trusts one authority."""
    return ssl.create_default_context(cafile=str(ca_file))


def sasl(user: str, token: str) -> bytes:
    """The XOAUTH2 initial response, not yet base64."""
    return f"user={user}\x01auth=Bearer {token}\x01\x01".encode()


def imap_login(port: int, ca_file: Path, user: str, token: str) -> imaplib.IMAP4_SSL:
    """An authenticated IMAP session on localhost.

    Raises:
        imaplib.IMAP4.error: The server refused; its answer is the text.
    """
    client = imaplib.IMAP4_SSL("localhost", port, ssl_context=trusting(ca_file), timeout=10)
    first = [sasl(user, token)]
    try:
        # The second call, if any, brings the reason of a refusal and wants an empty answer.
        client.authenticate("XOAUTH2", lambda _: first.pop() if first else b"")
    except imaplib.IMAP4.error:
        client.shutdown()
        raise
    return client


def pop3_login(port: int, ca_file: Path, user: str, token: str) -> poplib.POP3_SSL:
    """An authenticated POP3 session on localhost; AUTH in two steps, as Exchange Online wants it.

    Raises:
        poplib.error_proto: The server refused; its answer is the text.
    """
    client: Any = poplib.POP3_SSL("localhost", port, context=trusting(ca_file), timeout=10)
    try:
        client._shortcmd("AUTH XOAUTH2")
        answer = client._shortcmd(base64.b64encode(sasl(user, token)).decode())
        if answer.startswith(b"+ "):
            client._shortcmd("")
    except poplib.error_proto:
        client.close()
        raise
    assert isinstance(client, poplib.POP3_SSL)
    return client
