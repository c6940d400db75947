"""What docs/message.md says of a message is what the parser makes of the message on that page."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipelines import Message, Source, limits, parse
from pipelines import defects as defects_module
from pipelines.defects import Code
from pipelines.schema import schema

PAGE = (Path(__file__).parents[2] / "docs/message.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| `(.+?)` \| (\S.*?) \| (.+?) \| ([\d.]*) ?\|$", PAGE, re.MULTILINE)
PROPERTIES = ["header:List-Post:asURLs", "header:Received:asText:all"]


def message() -> Message:
    """The message of the page, with what its words say of where it lay."""
    (raw,) = re.findall(r"```eml\n(.*?)```", PAGE, re.DOTALL)
    return parse(
        raw.replace("\n", "\r\n").encode(),
        id="5f2e8c0a9d3b47716e1f0c2d8a4b9e35",
        mailbox="support",
        source=Source(folder="INBOX", uidvalidity=1_700_000_000, uid=42, flags=("\\Seen",)),
        received_at=datetime.fromisoformat("2026-11-23T09:00:05+00:00"),
    )


def field(values: Any, path: str) -> Any:
    """Follow a path such as `attachments[0].name`."""
    if path.startswith("header:"):
        return values[path]
    for text, index, name in re.findall(r'\["([^"]+)"\]|\[(\d+)\]|(\w+)', path):
        values = values[int(index)] if index else values[text or name]
    return values


@pytest.mark.parametrize(("path", "example"), [row[:2] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_field_has_the_value_that_the_page_shows(path: str, example: str) -> None:
    """The examples are those of one real message."""
    values = orjson.loads(orjson.dumps(message().to_dict(properties=PROPERTIES)))
    assert field(values, path) == orjson.loads(example)


def test_the_whole_json_is_on_the_page() -> None:
    """Word for word, in the same order."""
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert orjson.dumps(orjson.loads(shown)) == message().to_json()


def test_every_field_of_the_schema_is_explained() -> None:
    """Those of the message, of an address, a part, a text, a source and a defect."""
    named = {re.split(r"[.\[]", path)[-1].rstrip("]") for path, *_ in ROWS if not path.startswith("header:")}
    named |= set(re.findall(r"`(\w+)`", PAGE))
    described = set(schema()["properties"])
    for part in schema()["$defs"].values():
        described |= set(part["properties"])
    assert described - named == set()


def test_what_may_be_null_is_what_the_schema_says() -> None:
    """A field that the page calls never null has no null among its types, and the other way round."""
    definitions = schema()["$defs"] | {"": schema()}
    types = {name: field for part in definitions.values() for name, field in part["properties"].items()}
    for path, _, _, null, _ in ROWS:
        name = path.rpartition(".")[2]
        if name in types and "type" in types[name]:
            assert ("null" in types[name]["type"]) == (null != "no"), path


def test_every_defect_is_explained_as_in_the_code() -> None:
    """The table has every code with the words that stand above it in pipelines/defects.py."""
    source = Path(defects_module.__file__).read_text(encoding="utf-8")
    said = {
        code: re.sub(r"\s*\n\s*# ", " ", comment).strip()
        for comment, code in re.findall(r'^    # ((?:.*\n    # )*.*)\n    [A-Z0-9_]+ = "([a-z0-9-]+)"$', source, re.MULTILINE)
    }  # fmt: skip
    page = PAGE.partition("| code | what it means")[2]
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([^`|].*) \|$", page, re.MULTILINE))
    codes = {code.value for code in Code if not code.value.startswith("limit-")}
    assert table == {code: said[code] for code in codes}


def test_every_limit_is_named_with_its_number_and_its_defect() -> None:
    """The numbers are those of pipelines/limits.py."""
    table = re.findall(r"^\| ([\d,]+) \| .+? \| (.*) \|$", PAGE, re.MULTILINE)
    numbers = {
        name: value
        for name, value in vars(limits).items()
        if name.isupper() and name not in {"CHARSET_SAMPLE_BYTES", "PREVIEW_HTML_CHARACTERS"}
    }
    assert sorted(int(number.replace(",", "")) for number, _ in table) == sorted(numbers.values())
    named = set(re.findall(r"`(limit-[a-z-]+)`", "".join(defect for _, defect in table)))
    assert named == {code.value for code in Code if code.value.startswith("limit-")}
