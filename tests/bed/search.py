"""The answers of OpenSearch and Elasticsearch to index templates and bulk requests, as their documentation shows them.

No server of either can be had here. This one keeps documents and answers `create` in the documented form; what it shows
is that requests are well formed and answers are read right, and nothing about how a real cluster indexes, or refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import orjson

from tests.bed.scripted_http import Request, ScriptedHttp, said, scripted_http

ACKNOWLEDGED = b'{"acknowledged":true}'


def created(index: str, id_: str) -> bytes:
    """What is said of a document that was new."""
    return (
        b'{"create":{"_index":"%s","_id":"%s","_version":1,"result":"created",'
        b'"_shards":{"total":2,"successful":1,"failed":0},"_seq_no":0,"_primary_term":1,"status":201}}'
    ) % (index.encode(), id_.encode())


def conflict(index: str, id_: str) -> bytes:
    """What is said of a document that is there."""
    reason = f"[{id_}]: version conflict, document already exists (current version [1])"
    return failed(index, id_, 409, "version_conflict_engine_exception", reason)


def failed(index: str, id_: str, status: int, kind: str, reason: str) -> bytes:
    """What is said of a document that was not taken."""
    error = {
        "type": kind,
        "reason": reason,
        "index_uuid": "aAsFqTI0Tc2W0LCWgPNrOA",
        "shard": "0",
        "index": index,
    }
    return orjson.dumps({"create": {"_index": index, "_id": id_, "status": status, "error": error}})


def answer(items: list[bytes]) -> bytes:
    """The answer to a bulk request."""
    errors = b"true" if any(b'"error"' in item for item in items) else b"false"
    body = b'{"took":7,"errors":%s,"items":[%s]}' % (errors, b",".join(items))
    return said("200 OK", body, "content-type: application/json; charset=UTF-8")


class Cluster:
    """Documents by index and id; `faults` says what becomes of single ids instead of being created."""

    def __init__(self, server: ScriptedHttp) -> None:
        self.server = server
        self.url = server.url
        self.documents: dict[tuple[str, str], bytes] = {}
        self.templates: dict[str, Mapping[str, object]] = {}
        self.faults: dict[str, tuple[int, str, str]] = {}
        self._lock = threading.Lock()
        server.answer = self.reply

    def reply(self, request: Request) -> bytes:
        """Do what a request asks."""
        if request.method == "PUT" and request.path.startswith("/_index_template/"):
            self.templates[request.path.rpartition("/")[2]] = orjson.loads(request.body)
            return said("200 OK", ACKNOWLEDGED)
        assert request.path.startswith("/_bulk")
        assert request.headers["content-type"] == "application/x-ndjson"
        assert request.body.endswith(b"\n")
        lines = request.body[:-1].split(b"\n")
        with self._lock:
            return answer([self._create(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)])

    def _create(self, action: bytes, document: bytes) -> bytes:
        place = orjson.loads(action)["create"]
        index, id_ = place["_index"], place["_id"]
        if id_ in self.faults:
            return failed(index, id_, *self.faults[id_])
        if (index, id_) in self.documents:
            return conflict(index, id_)
        self.documents[index, id_] = document
        return created(index, id_)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster for the time of a test."""
    with scripted_http() as server:
        yield Cluster(server)
