"""The wire to an identity provider: deadlines and limits on every call, and answers made safe before MSAL reads them.

MSAL believes what it is told: an empty refresh token replaces a good one, a lifetime that is no number ends in a traceback
after the provider has rotated, and a body that is no JSON is logged whole. So of a token answer only known fields of the
right type go on, redirects are not followed, and nothing is sent in clear. It decides nothing about tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests

from worker.tokens.claims import client_information, decoded

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 20.0
_WHOLE_SECONDS = 30.0
"""A provider that sends an octet now and then is hung up on after so long."""
_ANSWER_LIMIT = 1 << 20
"""Octets. A token answer has some ten thousand; more is another page, or an attack on the memory."""

_TEXTS = (
    *("access_token", "refresh_token", "id_token", "token_type", "scope", "client_info"),
    *("device_code", "user_code", "verification_uri", "verification_url", "message"),
    *("error", "suberror"),
)
_NUMBERS = (
    *("expires_in", "ext_expires_in", "refresh_in", "refresh_token_expires_in", "refresh_expires_in"),
    "interval",
)
_LONGEST_SECONDS = 10 * 366 * 86400
"""Ten years. A longer life is no number of seconds."""

_UNKNOWN_LIFE_SECONDS = 300
"""How long a token is taken to live whose provider says something that is no time: it is asked again soon, not always."""


class Unusable(requests.RequestException):
    """The provider answered with something that is no answer. Never holds the body."""


class ProviderSession(requests.Session):
    """An HTTP session for one question to a provider. `before_post` is called right before a secret is sent.

    `status` and `retry_after` (seconds) are those of the last answer, `asked` its method.

    Raises:
        Unusable: the address is not https, or the answer is too long, too slow, a redirect, or no JSON object.
    """

    def __init__(
        self,
        *,
        before_post: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._before_post = before_post
        self._clock = clock
        self.status = 0
        self.asked = ""
        self.retry_after: float | None = None

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        """Send one request, and read its answer whole."""
        if urlsplit(str(url)).scheme != "https":
            raise Unusable("the identity provider named an address that is not https")
        self.asked = str(method).upper()
        if self.asked == "POST":
            self._before_post()
        options |= {"timeout": (_CONNECT_SECONDS, _READ_SECONDS), "allow_redirects": False, "stream": True}
        self.status, self.retry_after = 0, None
        with super().request(method, url, *args, **options) as answer:
            self.status = answer.status_code
            with suppress(KeyError, ValueError):
                self.retry_after = float(answer.headers["Retry-After"])
            body = _read(answer, self._clock)
        if self.asked == "POST":
            body = orjson.dumps(cleaned(_object(body)))
        answer._content = body  # noqa: SLF001  (requests has no other way to replace a body)
        return answer


def _read(answer: requests.Response, clock: Callable[[], float]) -> bytes:
    if answer.is_redirect:
        raise Unusable("the identity provider redirected the request")
    give_up = clock() + _WHOLE_SECONDS
    body = b""
    # What has arrived is looked at at once: a whole piece of some size might never come.
    while piece := answer.raw.read1(1 << 14, decode_content=True):
        body += piece
        if len(body) > _ANSWER_LIMIT or clock() > give_up:
            raise Unusable("the identity provider's answer is too long or too slow")
    return body


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Without a chain: the error holds the body.
        raise Unusable("the identity provider's answer is no JSON") from None
    if not isinstance(found, dict):
        raise Unusable("the identity provider's answer is no JSON object")
    return found


def cleaned(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Of an answer to a POST the known fields that are of the right type and not empty (RFC 6749 sections 5.1, 5.2).

    An id token or client information that cannot be read is left out: MSAL would fail over it, and on a refresh nobody
    needs it.
    """
    texts = {name: answer[name] for name in _TEXTS if isinstance(answer.get(name), str) and answer[name]}
    numbers = {name: _seconds(answer[name]) for name in _NUMBERS if name in answer}
    found: dict[str, Any] = {**texts, **{name: number for name, number in numbers.items() if number}}
    if "expires_in" in answer:
        found.setdefault("expires_in", _UNKNOWN_LIFE_SECONDS)
    claims = decoded(texts.get("id_token", ""))
    if claims is None or not isinstance(claims.get("sub"), str):
        found.pop("id_token", None)
    if not client_information(texts.get("client_info", "")):
        found.pop("client_info", None)
    if isinstance(answer.get("error_codes"), list):
        found["error_codes"] = [code for code in answer["error_codes"] if isinstance(code, int)]
    return found


def _seconds(value: object) -> int | None:
    """A number of seconds, however it is written; None for what is none."""
    with suppress(ValueError, OverflowError, TypeError):
        seconds = int(float(value))  # type: ignore[arg-type]  # whatever it is, it becomes a number or nothing
        if 0 < seconds <= _LONGEST_SECONDS:
            return seconds
    return None
