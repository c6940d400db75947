"""What docs/stages.md says is what the stages do: each option is listed, and each example is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipelines.options import Option, describe
from pipelines.parse import parse
from pipelines.registry import load_stage, stage_types

PAGE = (Path(__file__).parents[2] / "docs/stages.md").read_text(encoding="utf-8")
ELSEWHERE: dict[str, str] = {
    "dkim": "tests/unit/test_dkim.py",
    "dedupe": "test_the_example_of_dedupe_is_true",
}
"""Stages whose examples need more than a message, and the test that runs them."""

# A message, the options that are not the default, and what the JSON of the message holds then, among others.
EXAMPLE = re.compile(r"```email\n(.*?)```\n(?:\n```env\n(.*?)```\n)?\n```json\n(.*?)```", re.DOTALL)
VARIABLE = re.compile(r"^STAGE__\w+?__(\w+)=(.*)$", re.MULTILINE)


def section(title: str) -> str:
    """The text under one heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/stages.md has no section `## {title}`"
    return found[1]


def row(option: Option) -> str:
    """One option as a row of its table."""
    meaning = option.description + (f" Example: `{option.example}`" if option.example else "")
    default = "required" if option.required else f"`{option.default}`" if option.default else ""
    return f"| `{option.name}` | {meaning} | {option.kind} | {default} |"


def within(part: Any, whole: Any) -> bool:
    """Whether every key that is shown has the value that is shown."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    return bool(part == whole)


@pytest.mark.parametrize("name", stage_types())
def test_the_page_lists_every_option_of_every_stage(name: str) -> None:
    """The table is the declared options, word for word; copy the expected one when this fails."""
    options = describe(load_stage(name).Options)
    table = ["| option | meaning | kind | default |", "| --- | --- | --- | --- |", *map(row, options), ""]

    assert ("\n".join(table) if options else "It has no options.\n") in section(name)


@pytest.mark.parametrize("name", sorted(set(stage_types()) - set(ELSEWHERE)))
def test_every_example_of_every_stage_is_true(name: str) -> None:
    """Each message of the page goes through the stage, under the stage's type as its name."""
    type_ = load_stage(name)
    examples = EXAMPLE.findall(section(name))

    assert examples
    assert section(name).count("```email") == len(examples)
    for raw, variables, json in examples:
        values = {key.lower(): value for key, value in VARIABLE.findall(variables)}
        changed = type_(name, type_.Options.model_validate(values)).apply(parse(raw.encode()))
        found = None if changed is None else orjson.loads(changed.to_json())
        shown = orjson.loads(json)
        assert within(shown, found), orjson.dumps(
            (found or {}).get("findings"), option=orjson.OPT_INDENT_2
        ).decode()


def test_the_table_names_every_stage_and_links_to_its_section() -> None:
    """In the table of the page each has its row."""
    for name in stage_types():
        assert f"\n| [`{name}`](#{name}) | " in PAGE


def test_the_example_of_dedupe_is_true(tmp_path: Path) -> None:
    """With its file elsewhere: of two that came different ways one passes, and passes again."""
    (variables,) = re.findall(r"^```\n(STAGE.*?)```", section("dedupe"), re.MULTILINE | re.DOTALL)
    values = {key.lower(): value for key, value in VARIABLE.findall(variables)} | {
        "path": str(tmp_path / "seen")
    }
    type_ = load_stage(values.pop("type"))
    once = type_("once", type_.Options.model_validate(values))
    letter = b"Message-ID: <a@example.com>\r\nSubject: x\r\n\r\nHi\r\n"
    first, copy = parse(letter, id="a" * 32), parse(b"Received: later\r\n" + letter, id="b" * 32)

    assert [once.apply(message) for message in (first, copy, first)] == [first, None, first]
