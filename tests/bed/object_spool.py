"""A spool in an object store for tests: in obstore's memory, or on the S3-compatible server of the bed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from obstore.store import MemoryStore

from worker.spool.bucket import Bucket
from worker.spool.object import ObjectSpool


def bucket_of(client: Any) -> Bucket:
    """A store as the spool sees it; nobody waits between two tries."""
    return Bucket(client, server="the store", timeout="5s", sleep=lambda _: None)


def object_spool(
    folder: Path, *, clock: Callable[[], float], client: Any = None, **options: Any
) -> ObjectSpool:
    """A spool over a client, by default over a store of its own in memory."""
    bucket = bucket_of(client or MemoryStore())
    return ObjectSpool(bucket, scratch=folder / "scratch", clock=clock, **options)
