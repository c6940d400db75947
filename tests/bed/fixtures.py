"""The test bed as pytest fixtures. Session-scoped ones start on first use, once for each pytest process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.database import MariaDb, Postgres
from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from tests.bed.nats import NatsServer
from tests.bed.oidc_provider import OidcProvider
from tests.bed.rabbitmq import RabbitMq
from tests.bed.valkey import Valkey
from worker.demo.certificates import Certificates, write_certificates
from worker.demo.harbour import MAILBOXES


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate for localhost and 127.0.0.1."""
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def identity(certificates: Certificates) -> Iterator[Identity]:
    """The identity provider, over TLS."""
    identity = Identity(certificates)
    identity.start()
    yield identity
    identity.close()


@pytest.fixture
def fresh_identity(identity: Identity) -> Iterator[Identity]:
    """The identity provider with default settings and an empty log, set right again afterwards."""
    identity.calm()
    yield identity
    identity.calm()


@pytest.fixture(scope="session")
def dovecot(certificates: Certificates, identity: Identity) -> Iterator[Dovecot]:
    """A real Dovecot that asks `identity`. Use an address of your own test's, so that tests do not meet."""
    _require_dovecot()
    dovecot = Dovecot(
        certificates=certificates,
        introspection_url=f"{identity.lab_url}/introspect",
        passwords=MAILBOXES,
    )
    dovecot.start()
    yield dovecot
    dovecot.remove()


@pytest.fixture(scope="session")
def oidc_provider(certificates: Certificates) -> Iterator[OidcProvider]:
    """An identity provider that nobody here wrote: the npm package oidc-provider, over TLS."""
    if not OidcProvider.installed():
        pytest.fail("oidc-provider is not installed here; `make test` installs it.", pytrace=False)
    provider = OidcProvider(certificates)
    provider.start()
    yield provider
    provider.remove()


@pytest.fixture(scope="session")
def oidc_dovecot(certificates: Certificates, oidc_provider: OidcProvider) -> Iterator[Dovecot]:
    """A second real Dovecot, which takes the tokens of `oidc_provider`, and no password."""
    _require_dovecot()
    dovecot = Dovecot(certificates=certificates, introspection_url=oidc_provider.introspection_url)
    dovecot.start()
    yield dovecot
    dovecot.remove()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A real Valkey; what a test leaves in it the next one finds."""
    valkey = Valkey()
    valkey.start()
    yield valkey
    valkey.remove()


@pytest.fixture
def fresh_valkey(valkey: Valkey) -> Iterator[Valkey]:
    """A running, empty Valkey."""
    if not valkey.running:
        valkey.start()
    valkey.flush()
    yield valkey
    if not valkey.running:
        valkey.start()


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """A real nats-server with JetStream; what a test leaves in it the next one finds."""
    server = NatsServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def rabbitmq(certificates: Certificates) -> Iterator[RabbitMq]:
    """A real RabbitMQ. Use exchanges and queues of your own test's, so that tests do not meet."""
    if not RabbitMq.installed():
        pytest.fail("RabbitMQ is not unpacked here; `make test` does it.", pytrace=False)
    rabbitmq = RabbitMq(certificates)
    rabbitmq.start()
    yield rabbitmq
    rabbitmq.remove()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL. Make a database of your own test's, so that tests do not meet."""
    postgres = Postgres()
    postgres.start()
    yield postgres
    postgres.remove()


@pytest.fixture(scope="session")
def mariadb(certificates: Certificates) -> Iterator[MariaDb]:
    """A real MariaDB. Make a database of your own test's, so that tests do not meet."""
    if not MariaDb.installed():
        pytest.fail("MariaDB is not unpacked here; `make test` does it.", pytrace=False)
    mariadb = MariaDb(certificates)
    mariadb.start()
    yield mariadb
    mariadb.remove()


@pytest.fixture
def installation(tmp_path: Path, fresh_valkey: Valkey) -> Iterator[Installation]:
    """An installation over an empty Valkey, with nothing configured but its outputs."""
    installation = Installation(tmp_path, redis_url=fresh_valkey.url)
    yield installation
    installation.close()


def _require_dovecot() -> None:
    if not Dovecot.installed():
        pytest.fail("Dovecot is not installed here; `make test` installs it.", pytrace=False)
