"""Makes the bucket that SPOOL_URL names; nothing is asked of the store."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.options import write_duration
from pipelines.store_client import Address, connect
from worker.errors import Misconfigured
from worker.spool.bucket import Bucket
from worker.spool_settings import SpoolSettings


def open_bucket(said: SpoolSettings, *, jitter: Callable[[], float]) -> Bucket:
    """Make a client for the store; `jitter` is a factor for the pauses between two tries.

    Raises:
        Misconfigured: the address and the keys do not make a store.
    """
    secret = None if said.spool_secret_key is None else said.spool_secret_key.get_secret_value()
    address = Address(
        said.spool_url or "", said.spool_endpoint, said.spool_region, said.spool_access_key, secret
    )
    try:
        certificate = said.spool_ca_file.read_bytes() if said.spool_ca_file else None
        # How often a request is tried, and what a lost answer means, is the bucket's to know.
        client = connect(address, timeout=said.spool_timeout, root_certificate=certificate)
    except OSError as error:
        raise Misconfigured(f"SPOOL_URL: {error.strerror}") from None
    return Bucket(client, server=address.server, timeout=write_duration(said.spool_timeout), jitter=jitter)
