"""The corpus: each message gives exactly the JSON beside it, for the reason that reasons.md names."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from pipelines import parse
from pipelines.defects import Code

HERE = Path(__file__).parents[1] / "corpus"
MESSAGES = sorted(HERE.glob("*.eml"))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_corpus_message_gives_the_expected_json(path: Path) -> None:
    """A message of the corpus is parsed to the JSON beside it, key by key and in the same order."""
    message = parse(path.read_bytes())
    expected = orjson.loads(path.with_suffix(".json").read_bytes())
    assert orjson.loads(message.to_json()) == expected
    assert list(message.to_dict()) == list(expected)


def test_each_corpus_message_has_one_reason() -> None:
    """The reasons name every message of the corpus once, and no other."""
    names = re.findall(r"^\| ([a-z][a-z0-9-]+) \| \S", (HERE / "reasons.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(["message", *(path.stem for path in MESSAGES)])


def test_each_repair_of_broken_mail_is_shown_in_the_corpus() -> None:
    """Every defect code but the limits and the last resort, which have tests of their own, is in the corpus."""
    shown = {defect.code for path in MESSAGES for defect in parse(path.read_bytes()).defects}
    others = {code for code in Code if code.value.startswith("limit-")} | {Code.PARSER_FAILED}
    assert shown == set(Code) - others


def test_the_standards_own_example_has_the_lists_that_it_gives() -> None:
    """The example of RFC 8621 section 4.1.4 gives the three lists that the RFC prints: A to K by their letters."""
    message = parse((HERE / "rfc8621-structure.eml").read_bytes())
    letters = [
        "".join(part.decode().decode().strip() for part in parts)
        for parts in (message.text_body, message.html_body, message.attachments)
    ]
    assert letters == ["ABCDK", "AEK", "CFGHJ"]
