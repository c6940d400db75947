"""Where a broker is, and by what route messages go into it: URLs and routes as options of the outputs to brokers.

A URL may hold a password, so nothing here repeats one: people are shown host and port, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from pipelines.message import Message


def check_url(url: SecretStr, *, schemes: Collection[str]) -> SecretStr:
    """Return the URL as it is.

    Raises:
        PydanticCustomError: it has another scheme, no host, a port that is none, or options behind a question mark,
            which could undo a deadline. The sentence does not show it.
    """
    try:
        parts = urlsplit(url.get_secret_value())
        fits = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        fits = False
    if not fits:
        known = " or ".join(f"{scheme}://" for scheme in sorted(schemes))
        raise PydanticCustomError(
            "url", "write a whole address: {known}, host and port, no options", {"known": known}
        )
    return url


def check_trust(ca_file: Path | None, info: ValidationInfo, *, tls: str) -> Path | None:
    """Return CA_FILE as it is; `info` knows the URL that was checked before it, `tls` is the scheme that verifies.

    Raises:
        PydanticCustomError: the URL asks for no TLS, so that nothing would be verified.
    """
    url = info.data.get("url")
    if ca_file is not None and url is not None and urlsplit(url.get_secret_value()).scheme != tls:
        raise PydanticCustomError("trust", "there is no TLS without {tls}:// in URL", {"tls": tls})
    return ca_file


def host_and_port(url: SecretStr, *, port: int) -> str:
    """Return what people are shown of a checked URL; `port` is the scheme's own, for a URL without one."""
    parts = urlsplit(url.get_secret_value())
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or port}"


def check_route(route: str) -> str:
    """Return a route that may hold `{mailbox}` as it is.

    Raises:
        PydanticCustomError: it holds another word in braces, a brace alone, or a control character.
    """
    rest = route.replace("{mailbox}", "")
    if re.search(r"[{}\x00-\x1f\x7f]", rest):
        raise PydanticCustomError(
            "route", "write a name; {mailbox} is all that may stand in braces", {"mailbox": "{mailbox}"}
        )
    return route


def route_of(message: Message, route: str) -> str:
    """Return the route of one message: `{mailbox}` becomes the name of its mailbox."""
    return route.replace("{mailbox}", message.mailbox)
