"""SASL messages as text and bytes: XOAUTH2, OAUTHBEARER, PLAIN and LOGIN, for sources and outputs alike.

Pure: who sends them, and when, is the callers' business. What is made here holds a secret, so nothing logs or raises with it.
"""

from __future__ import annotations

from collections.abc import Collection


def mechanism(*, bearer: bool, offered: Collection[str]) -> str | None:
    """Which mechanism to use of those a server offers: XOAUTH2 before OAUTHBEARER for a token, PLAIN for a password.

    XOAUTH2 comes first because Exchange and Gmail know it best. None when nothing fits.
    """
    wanted = ("XOAUTH2", "OAUTHBEARER") if bearer else ("PLAIN",)
    return next((name for name in wanted if name in offered), None)


def payload(mechanism: str, user: str, secret: str, *, host: str, port: int) -> bytes:
    """The client's first message, not yet in base64."""
    if mechanism == "XOAUTH2":
        # The format of Google's and Microsoft's protocol pages; there is no RFC.
        return f"user={user}\x01auth=Bearer {secret}\x01\x01".encode()
    if mechanism == "OAUTHBEARER":
        # RFC 7628 section 3.1; in the GS2 header "," and "=" are escaped (RFC 5801 section 4).
        name = user.replace("=", "=3D").replace(",", "=2C")
        return f"n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {secret}\x01\x01".encode()
    # PLAIN, RFC 4616 section 2.
    return f"\0{user}\0{secret}".encode()


def answer_to_challenge(mechanism: str) -> bytes:
    """What to answer to the error challenge, so that the server sends its refusal (RFC 7628 section 3.2.3)."""
    return b"AQ==" if mechanism == "OAUTHBEARER" else b""
