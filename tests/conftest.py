"""What every test gets: a clean environment, the test bed's fixtures, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import hypothesis
import pytest

from tests.bed.clock import Clock
from tests.bed.fixtures import (
    certificates,
    dovecot,
    fresh_identity,
    fresh_valkey,
    identity,
    installation,
    mariadb,
    nats_server,
    oidc_dovecot,
    oidc_provider,
    postgres,
    rabbitmq,
    valkey,
)
from tests.bed.leaks import Leaks
from tests.bed.lookout import Lookout, watching
from tests.bed.processes import descendants, mark_descendants
from tests.bed.valkey import Valkey

__all__ = [
    "certificates",
    "dovecot",
    "fresh_identity",
    "fresh_valkey",
    "identity",
    "installation",
    "mariadb",
    "nats_server",
    "oidc_dovecot",
    "oidc_provider",
    "postgres",
    "rabbitmq",
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


@pytest.fixture(scope="session", autouse=True)
def no_secret_leaks(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Lookout]:
    """Fail the run when a secret of any test is in a log, an error, a file, a Redis value or a process's arguments (P7)."""
    leaks = Leaks(tmp_path_factory.getbasetemp())
    with watching(leaks) as lookout:
        pytestconfig.pluginmanager.register(lookout)
        yield lookout
        pytestconfig.pluginmanager.unregister(lookout)
    leaks.look_into(leaks.root)
    if found := leaks.found():
        # The last test's report shows it, because nothing comes later.
        pytest.fail("secrets leaked:\n" + "\n".join(map(str, found)), pytrace=False)


@pytest.fixture(autouse=True)
def looked_at(request: pytest.FixtureRequest, no_secret_leaks: Lookout) -> Iterator[None]:
    """Look at Redis and at processes while it is known which test left them so."""
    valkey: Valkey | None = None
    if "valkey" in request.fixturenames:
        valkey = request.getfixturevalue("valkey")
    yield
    no_secret_leaks.between_tests(valkey.journals if valkey else ())


@pytest.fixture(autouse=True)
def no_process_left_behind(looked_at: None) -> Iterator[None]:
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


@pytest.fixture
def clock() -> Clock:
    """A clock that a test moves on."""
    return Clock()
