"""What the pages about outputs say is what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.options import Option, describe
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.webhook import judge
from pipelines.registry import load_output, output_types

DOCS = Path(__file__).parents[2] / "docs"
RECEIPTS: dict[str, type[Receipt]] = {"accepted": Accepted, "retry": Retry, "refused": Refused}


def section(page: str, title: str) -> str:
    """The text under one heading of the second level."""
    return re.split(r"^## ", page, flags=re.MULTILINE)[[*headings(page)].index(title) + 1]


def headings(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", page, flags=re.MULTILINE)


def row(option: Option) -> str:
    """One option as a row of a reference table."""
    meaning = option.description + (f" Example: `{option.example}`" if option.example else "")
    default = "required" if option.required else f"`{option.default}`" if option.default else ""
    return f"| `{option.name}` | {meaning} | {option.kind} | {default} |"


@pytest.mark.parametrize("name", output_types())
def test_the_page_lists_every_option_of_every_output(name: str) -> None:
    """The table in docs/outputs.md is the declared options, word for word; copy the expected one when this fails."""
    expected = "\n".join(
        [
            "| option | meaning | kind | default |",
            "| --- | --- | --- | --- |",
            *(row(option) for option in describe(load_output(name).Options)),
            "",
        ]
    )

    assert expected in section((DOCS / "outputs.md").read_text(), name)


def test_the_page_says_how_every_status_is_taken() -> None:
    """The table of answers in docs/outputs.md is what the webhook does with each status from 200 to 599."""
    page = section((DOCS / "outputs.md").read_text(), "webhook")
    told: dict[int, str] = {}
    for answers, receipt in re.findall(r"^\| ([\d, –]+) \| (\w+) \|", page, flags=re.MULTILINE):
        for answer in answers.split(","):
            first, _, last = answer.strip().partition("–")
            told |= dict.fromkeys(range(int(first), int(last or first) + 1), receipt)

    assert len(told) > 300
    for status in range(200, 600):
        receipt = judge(status, retry_after=None, server="https://h", now=datetime(2026, 1, 1, tzinfo=UTC))
        assert isinstance(receipt, RECEIPTS[told.get(status, "retry")]), status


def test_the_output_in_the_docs_passes_the_contract_tests_beside_it(tmp_path: Path) -> None:
    """Both files of docs/writing-an-output.md, copied as they stand, work; the output is as short as promised."""
    output, tests = re.findall(
        r"```python\n(.*?)```", (DOCS / "writing-an-output.md").read_text(), flags=re.DOTALL
    )
    (tmp_path / "table_output.py").write_text(output)
    (tmp_path / "test_table_output.py").write_text(tests)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ.copy(), capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
    assert len(output.splitlines()) < 40


def test_the_output_in_the_docs_is_named_by_module_and_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TYPE=table_output:TableOutput` finds it, as the page says, without installing it."""
    page = (DOCS / "writing-an-output.md").read_text()
    output = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    (tmp_path / "table_output.py").write_text(output)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "TYPE=table_output:TableOutput" in page
        assert load_output("table_output:TableOutput").type_name == "table"
    finally:
        sys.modules.pop("table_output", None)
