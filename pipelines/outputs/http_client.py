"""What the outputs that speak HTTP have in common: how a server is called, named, trusted and waited for.

Every wait has a deadline, TLS is always verified, redirects are not followed, and proxies and credentials from the
environment or `.netrc` are not used: what Mailquay does stands in its own configuration. Statuses are read by each
output for itself.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2
from pydantic_core import PydanticCustomError

from pipelines.outputs.http_answer_time import HurriedBackend

# A receiver may ask for patience, and may be wrong about how much.
PATIENCE = timedelta(days=1)
# Many servers close an idle connection after five seconds; ours is gone first, so that no request meets a closed one.
KEEP_ALIVE_SECONDS = 3.0


def new_client(*, timeout: timedelta, connections: int, ca_file: Path | None) -> httpx2.Client:
    """Make a client that waits at most `timeout` for the connection and for each piece of sending and of the answer.

    A whole answer, head and body, has at most twice that.

    Raises:
        OSError: `ca_file` cannot be read or holds no certificate.
    """
    transport = httpx2.HTTPTransport(
        verify=trust(ca_file),
        limits=httpx2.Limits(max_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS),
        trust_env=False,
    )
    # The library has no other way to say it; a test notices when it moves.
    transport._pool._network_backend = HurriedBackend()  # noqa: SLF001
    return httpx2.Client(
        transport=transport, timeout=timeout.total_seconds(), follow_redirects=False, trust_env=False
    )


def check_address(url: str) -> str:
    """Return the URL of a server.

    Raises:
        PydanticCustomError: it is not http or https, or names no host.
    """
    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        address = httpx2.URL("")
    if address.scheme not in {"http", "https"} or not address.host:
        raise PydanticCustomError("url", "write a whole address: http or https, host and path")
    return url


def server_of(url: str) -> str:
    """Return what reasons show of a URL: no credentials, path or query, which may be as good as a password."""
    address = httpx2.URL(url)
    return f"{address.scheme}://{address.netloc.decode()}"


def read_answer(
    answer: httpx2.Response, *, most: int, seconds: float, clock: Callable[[], float]
) -> bytes | None:
    """Read the body of an answer, or return None when it breaks off, has more than `most` bytes or takes too long.

    `clock` counts seconds. Compression is not undone. A body read to its end leaves a connection that can be used again.
    """
    deadline = clock() + seconds
    read = bytearray()
    with suppress(httpx2.HTTPError):
        for piece in answer.iter_raw():
            read += piece
            if len(read) > most or clock() > deadline:
                return None
        return bytes(read)
    return None


def read_retry_after(value: str | None, *, now: datetime) -> datetime | None:
    """Read a Retry-After header (RFC 9110 section 10.2.3): seconds or a date, at most a day ahead; None if neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        # More than nine digits are beyond any patience, and could be beyond what int() accepts.
        return now + min(timedelta(seconds=int(value[:9])), PATIENCE)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(moment if moment.tzinfo else moment.replace(tzinfo=UTC), now + PATIENCE)


def trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    """Return what servers are verified against: the authorities in `ca_file`, or True for those of the system.

    Raises:
        OSError: `ca_file` cannot be read or holds no certificate.
    """
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        # With a number, because of an OSError without one nothing but its class is told to people.
        sentence = f"CA_FILE {ca_file} gives no certificate: {error.strerror or error}"
        raise OSError(errno.EINVAL, sentence) from error
