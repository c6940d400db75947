"""SASL messages as bytes: XOAUTH2, OAUTHBEARER and PLAIN.

Pure: who sends them when is the sources' business. A payload holds a secret, so nothing here logs or raises with it.
"""

from __future__ import annotations

import base64

from worker.sources import Credentials, Endpoint

_TELLING = 12
"""So many letters of a secret in a row are no chance."""
_GUESSABLE = 4
"""A shorter password is a part of ordinary words."""


def mechanism(credentials: Credentials, offered: frozenset[str]) -> str | None:
    """Which mechanism to use of those a server offers: XOAUTH2 before OAUTHBEARER for a token, PLAIN for a password.

    XOAUTH2 comes first because Exchange and Gmail know it best. None when nothing fits. A server that names no
    mechanism at all is asked for the usual one.
    """
    wanted = ("XOAUTH2", "OAUTHBEARER") if credentials.bearer else ("PLAIN",)
    return next((name for name in wanted if name in offered), None)


def payload(mechanism: str, credentials: Credentials, endpoint: Endpoint) -> bytes:
    """The client's first message, not yet in base64."""
    if mechanism == "XOAUTH2":
        # The format of Google's and Microsoft's protocol pages; there is no RFC.
        return f"user={credentials.user}\x01auth=Bearer {credentials.secret}\x01\x01".encode()
    if mechanism == "OAUTHBEARER":
        # RFC 7628 section 3.1; in the GS2 header "," and "=" are escaped (RFC 5801 section 4).
        user = credentials.user.replace("=", "=3D").replace(",", "=2C")
        return (
            f"n,a={user},\x01host={endpoint.host}\x01port={endpoint.port}\x01"
            f"auth=Bearer {credentials.secret}\x01\x01"
        ).encode()
    # PLAIN, RFC 4616 section 2.
    return f"\0{credentials.user}\0{credentials.secret}".encode()


def encoded(mechanism: str, credentials: Credentials, endpoint: Endpoint) -> bytes:
    """The client's first message in base64, as both IMAP and POP3 carry it."""
    return base64.b64encode(payload(mechanism, credentials, endpoint))


def answer_to_challenge(mechanism: str) -> bytes:
    """What to answer to the error challenge, so that the server sends its refusal (RFC 7628 section 3.2.3)."""
    return b"AQ==" if mechanism == "OAUTHBEARER" else b""


def repeated(text: str, credentials: Credentials, endpoint: Endpoint) -> bool:
    """Whether a server's words repeat a secret, or a good part of it, as it is or in the base64 of a mechanism."""
    forms = [credentials.secret]
    forms += [encoded(name, credentials, endpoint).decode() for name in ("XOAUTH2", "OAUTHBEARER", "PLAIN")]
    return any(
        form[start : start + _TELLING] in text
        for form in forms
        if len(form) >= _GUESSABLE
        for start in range(max(1, len(form) - _TELLING + 1))
    )
