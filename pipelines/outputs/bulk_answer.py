"""What the bulk API of OpenSearch and Elasticsearch says of each document, as receipts.

The answer to a request is 200 also when no document was taken; what became of each is in its items, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.search_document import PROPERTIES

# What is said of a document that does not fit the mapping. Other errors with status 400 blame the index or the cluster
# (index_closed_exception, validation_exception for too many shards), which a person can mend.
REFUSED_ERRORS = frozenset(
    {"mapper_parsing_exception", "document_parsing_exception", "strict_dynamic_mapping_exception"}
)
_FIELD = re.compile(r"failed to parse field \[(\w+)")


def judge(item: Mapping[str, Any], *, server: str) -> Receipt:
    """Turn one item of a bulk answer into a receipt.

    Reasons name the type of an error and a field of ours; the cluster's own words quote the document.
    """
    status, error = item.get("status"), item.get("error") or {}
    kind, words = str(error.get("type", "")), str(error.get("reason", ""))
    if status == 201 or (status == 409 and kind == "version_conflict_engine_exception"):
        return Accepted()
    if status == 200:
        # An ingest pipeline with a drop processor answers so (`"result": "noop"`).
        return Refused(f"{server} dropped the message: an ingest pipeline of its index does that")
    said = f"{server} answered {status} ({kind if kind.isidentifier() else 'no error type'})"
    if kind in REFUSED_ERRORS or "immense term" in words:
        field = _FIELD.search(words)
        return Refused(
            f"{said}: the field {field[1]} does not fit" if field and field[1] in PROPERTIES else said
        )
    if kind == "cluster_block_exception":
        return Retry(f"{said}: the index is read-only, most often because a disk is nearly full")
    if kind in {"validation_exception", "illegal_argument_exception"}:
        return Retry(f"{said}: the cluster takes no more shards or fields, or its index is set up otherwise")
    return Retry(said)


def read_items(body: bytes) -> Sequence[Mapping[str, Any]]:
    """Return what is said of each document, or nothing when it is no such answer."""
    try:
        items = orjson.loads(body)["items"]
        return [item["create"] for item in items]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []
