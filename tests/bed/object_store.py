"""An S3-compatible server: moto's, over real HTTP on loopback, in memory.

It keeps what it is told and answers conditional requests as S3 documents them. It is no evidence for what the real S3 is
about: that what was confirmed survives, that conditions hold among many machines, and that signatures are checked.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

ACCESS_KEY = "AKIA" + secrets.token_hex(8).upper()
SECRET_KEY = secrets.token_hex(20)


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own for each test."""

    endpoint: str
    name: str

    def options(self, prefix: str = "") -> dict[str, str]:
        """What an output is told to write here."""
        return {
            "url": f"s3://{self.name}/{prefix}",
            "endpoint": self.endpoint,
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
        }

    def store(self) -> S3Store:
        """A client of the test's own."""
        config: Any = {
            "endpoint": self.endpoint,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
        }
        return S3Store(self.name, config=config, client_options={"allow_http": True})

    def objects(self) -> dict[str, bytes]:
        """Every object by its key."""
        store = self.store()
        keys = [found["path"] for some in obstore.list(store) for found in some]
        return {key: bytes(obstore.get(store, key).bytes()) for key in keys}


class ObjectServer:
    """The server for a test run; make a bucket for each test."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"

    def bucket(self) -> Bucket:
        """A new bucket, empty."""
        name = f"mail-{secrets.token_hex(8)}"
        httpx2.put(f"{self.endpoint}/{name}", trust_env=False).raise_for_status()
        return Bucket(self.endpoint, name)

    def stop(self) -> None:
        """End it."""
        self._server.stop()


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """Run the server for the time of a module's tests."""
    server = ObjectServer()
    try:
        yield server
    finally:
        server.stop()
