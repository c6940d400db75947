"""What the pages about outputs say is what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import metadata
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.options import Option, describe
from pipelines.output import Accepted, Receipt, Refused, Retry
from pipelines.outputs.webhook import judge
from pipelines.registry import load_output, output_types
from pipelines.testing import OutputContract

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


def test_the_table_at_the_top_has_every_output_in_the_order_of_the_sections() -> None:
    """Each with its extra, and with "once" where the output declares that it dedupes."""
    page = (DOCS / "outputs.md").read_text()
    top = page.partition("\n## ")[0]
    rows = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \|(.*)\|(.*)\|(.*)\|(.*)\|$", top, flags=re.MULTILINE)
    extras = set(metadata("mailquay").get_all("Provides-Extra") or ())

    assert [name for name, *_ in rows] == headings(page)
    assert sorted(headings(page)) == sorted(output_types())
    for name, link, extra, accepted, repeated, tested in rows:
        assert link == name
        assert extra.strip(" `") == (name.replace("_", "-") if name.replace("_", "-") in extras else "")
        assert accepted.strip()
        assert tested.strip()
        assert "once" in repeated or not load_output(name).dedupes, name


def test_the_readme_lists_every_output_with_a_link() -> None:
    """And nothing that is none."""
    readme = (DOCS.parent / "README.md").read_text()
    named = re.findall(r"\[`(\w+)`\]\(docs/outputs\.md#(\w+)\)", readme)

    assert sorted(name for name, _ in named) == sorted(output_types())
    assert all(name == link for name, link in named)


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


@pytest.fixture
def written(tmp_path: Path) -> dict[str, str]:
    """The files of docs/writing-an-output.md, as they stand, in a folder; and the page's env blocks."""
    page = (DOCS / "writing-an-output.md").read_text()
    output, tests, options = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (package,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    by_class, by_name, terms = re.findall(r"```env\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "table_output.py").write_text(output)
    (tmp_path / "test_table_output.py").write_text(tests)
    blocks = {"output": output, "options": options, "package": package}
    return {**blocks, "class": by_class, "name": by_name, "terms": terms}


def test_the_output_in_the_docs_passes_the_contract_tests_beside_it(
    tmp_path: Path, written: dict[str, str]
) -> None:
    """It is as short as promised, and its tests need nothing but the packages and pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    promises = [name for name in vars(OutputContract) if name.startswith("test_")]
    assert done.returncode == 0, done.stdout
    assert f"{len(promises)} passed" in done.stdout
    assert len(written["output"].splitlines()) <= 30


# What Mailquay makes of the environment: the options are checked and the messages delivered, twice.
DELIVER = """
import os, sqlite3, sys
from pathlib import Path
from pipelines.registry import load_output
from pipelines.samples import sample_messages
from worker.settings import load

said = load(os.environ, cwd=Path.cwd()).outputs["archive"]
output = load_output(said.type)(said.name, said.options)
output.open()
for _ in range(2):
    output.deliver(sample_messages(3))
output.close()
held = sqlite3.connect(said.options.path).execute("select count(*) from mail").fetchone()[0]
print(held, said.terms.ordered, said.terms.retry_for.days, said.terms.when)
"""


@pytest.mark.parametrize("way", ["class", "name"])
def test_the_output_in_the_docs_is_named_by_its_class_or_by_an_entry_point(
    tmp_path: Path, written: dict[str, str], way: str
) -> None:
    """`TYPE=table_output:TableOutput` without installing it, `TYPE=table` with what pip writes of its pyproject.toml."""
    if way == "name":
        project = tomllib.loads(written["package"])["project"]
        info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
        (points,) = project["entry-points"].items()
        lines = [f"[{points[0]}]", *(f"{name} = {value}" for name, value in points[1].items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
    blocks = (written[way] + written["terms"]).replace("/data/", f"{tmp_path}/")
    environ = {**dict(line.split("=", 1) for line in blocks.splitlines()), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", DELIVER],
        cwd=tmp_path,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout == '3 True 1 subject.matches("(?i)invoice")\n', done.stderr


def test_the_options_in_the_docs_are_checked_and_show_no_secret(
    tmp_path: Path, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third example is real, too: a token, a bounded TIMEOUT, and calls that overlap as PARALLEL says."""
    (tmp_path / "desk_output.py").write_text(written["options"] + "\n    def deliver(self, messages): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = load_output("desk_output:DeskOutput")
    finally:
        sys.modules.pop("desk_output", None)
    options = found.Options.model_validate({"token": "sword" + "fish", "timeout": "2s", "parallel": "7"})
    output = found("desk", options)

    assert "swordfish" not in repr(options)
    assert [option.name for option in describe(found.Options) if option.secret] == ["TOKEN"]
    assert (output.batch_size, output.parallel) == (1, 7)
    with pytest.raises(ValidationError, match="timeout"):
        found.Options.model_validate({"token": "x", "timeout": "2h"})
