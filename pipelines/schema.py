"""The JSON Schema of a message's JSON, as downstream systems may rely on it; the file lies beside this module.

Its version is the `version` of every message. A later Mailquay may add fields within a version; it takes none away and
changes the meaning of none. So the schema leaves objects open, and readers should ignore what they do not know.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson

from pipelines.message import VERSION


def schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) of `Message.to_dict()`, read anew at each call."""
    found: dict[str, Any] = orjson.loads(
        files("pipelines").joinpath(f"message-{VERSION}.schema.json").read_bytes()
    )
    return found
