"""The published schema describes what `Message.to_dict()` gives: every field, of every message."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import parse
from pipelines.defects import Code
from pipelines.message import VERSION
from pipelines.schema import schema
from tests.fuzz.mutations import FRAGMENTS

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.eml"))
BROKEN_MAIL = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map(b"".join)
PROPERTIES = ["header:Received", "header:From:asGroupedAddresses:all", "header:List-Post:asURLs"]


def closed(value: Any) -> Any:
    """The schema without room for fields that it does not describe."""
    if isinstance(value, list):
        return [closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {key: closed(item) for key, item in value.items()}
    return (
        inner | {"additionalProperties": False}
        if "required" in inner and "properties" in inner and "type" in inner
        else inner
    )


STRICT = jsonschema.Draft202012Validator(closed(schema()))


def described(value: Any, path: str = "") -> list[str]:
    """Return the places of all fields that the schema names and does not describe."""
    if not isinstance(value, dict):
        return []
    silent = [
        f"{path}/{name}"
        for name, field in value.get("properties", {}).items()
        if path not in {"/if", "/then", "/else"} and not ({"description", "$ref"} & field.keys())
    ]
    return silent + [place for key, item in value.items() for place in described(item, f"/{key}")]


def test_the_schema_is_one_and_names_its_version() -> None:
    """It is valid JSON Schema 2020-12, has the version of messages in its name, and describes every field."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$id"] == f"urn:mailquay:message:{VERSION}"
    assert schema()["properties"]["version"]["const"] == VERSION
    assert described(schema()) == []


def test_the_schema_lists_every_defect() -> None:
    """Whoever reads the schema finds the words that a defect may have."""
    assert schema()["$defs"]["defect"]["properties"]["code"]["examples"] == [code.value for code in Code]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_corpus_message_follows_the_schema(path: Path) -> None:
    """Also with what is there on request, and without what may be left out; no field is there that the schema does not know."""
    message = parse(path.read_bytes())
    STRICT.validate(orjson.loads(message.to_json()))
    STRICT.validate(orjson.loads(orjson.dumps(message.to_dict(properties=PROPERTIES, sha256=False))))
    assert list(message.to_dict()) == list(schema()["properties"])


@settings(max_examples=150, deadline=None)
@given(st.one_of(BROKEN_MAIL, st.binary(max_size=400)))
def test_any_bytes_follow_the_schema(raw: bytes) -> None:
    """Whatever comes, downstream systems get the shape that they were promised."""
    STRICT.validate(orjson.loads(parse(raw).to_json()))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("version", 2),
        ("size", -1),
        ("from", [{"name": "Ann"}]),
        ("sentAt", "yesterday"),
        ("attachments", None),
        ("more", 1),
    ],
)
def test_another_shape_does_not_follow_the_schema(field: str, wrong: object) -> None:
    """The schema is no rubber stamp."""
    values = copy.deepcopy(parse(b"Subject: x\r\n\r\nbody").to_dict())
    with pytest.raises(jsonschema.ValidationError):
        STRICT.validate(orjson.loads(orjson.dumps(values | {field: wrong})))
