"""What every test gets: a clean environment, the test bed's fixtures, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import hypothesis
import pytest

from tests.bed.fixtures import (
    certificates,
    dovecot,
    fresh_identity,
    fresh_valkey,
    identity,
    installation,
    oidc_dovecot,
    oidc_provider,
    valkey,
)
from tests.bed.processes import descendants, mark_descendants

__all__ = [
    "certificates",
    "dovecot",
    "fresh_identity",
    "fresh_valkey",
    "identity",
    "installation",
    "oidc_dovecot",
    "oidc_provider",
    "valkey",
]

# Anything here would lead a test to somebody's real mail, Redis or proxy.
PREFIXES = (
    "MAILBOX",
    "OUTPUT__",
    "STAGE__",
    "ENTRA__",
    "GOOGLE__",
    "OIDC__",
    "ALERT__",
    "SPOOL",
    "CELERY",
    "TOKEN_KEYS",
    "REDIS_",
    "MAILQUAY",
)
NAMES = {
    "DATA_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
}
# How long a process may take to leave after its test has ended.
GRACE = 3.0


def pytest_configure() -> None:
    """Scrub the environment before any test module is read."""
    for name in list(os.environ):
        if name.upper().startswith(PREFIXES) or name.upper() in NAMES:
            del os.environ[name]
    mark_descendants()
    # A busy machine is no reason for an example to fail.
    hypothesis.settings.register_profile("mailquay", deadline=None)
    hypothesis.settings.load_profile("mailquay")


@pytest.fixture(autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail a test that ends while a process that it started still runs; the process is killed."""
    before = descendants()
    yield
    deadline = time.monotonic() + GRACE
    while (left := descendants().keys() - before.keys()) and time.monotonic() < deadline:
        time.sleep(0.02)
    if not left:
        return
    commands = [f"{pid} {command[:200]}" for pid, command in descendants().items() if pid in left]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    pytest.fail("processes left behind:\n" + "\n".join(commands), pytrace=False)
