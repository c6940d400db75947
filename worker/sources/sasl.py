"""SASL messages as the sources send them: those of `pipelines.sasl`, for a mailbox's credentials and server.

Pure: who sends them when is the sources' business. A payload holds a secret, so nothing here logs or raises with it.
"""

from __future__ import annotations

import base64

from pipelines import sasl
from worker.sources import Credentials, Endpoint

_TELLING = 12
"""So many letters of a secret in a row are no chance."""
_GUESSABLE = 4
"""A shorter password is a part of ordinary words."""


def mechanism(credentials: Credentials, offered: frozenset[str]) -> str | None:
    """Which mechanism to use of those a server offers; None when nothing fits (`pipelines.sasl`)."""
    return sasl.mechanism(bearer=credentials.bearer, offered=offered)


def payload(mechanism: str, credentials: Credentials, endpoint: Endpoint) -> bytes:
    """The client's first message, not yet in base64."""
    return sasl.payload(
        mechanism, credentials.user, credentials.secret, host=endpoint.host, port=endpoint.port
    )


def encoded(mechanism: str, credentials: Credentials, endpoint: Endpoint) -> bytes:
    """The client's first message in base64, as both IMAP and POP3 carry it."""
    return base64.b64encode(payload(mechanism, credentials, endpoint))


def answer_to_challenge(mechanism: str) -> bytes:
    """What to answer to the error challenge, so that the server sends its refusal."""
    return sasl.answer_to_challenge(mechanism)


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
