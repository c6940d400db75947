"""docs/servers.md is true: each of its rows names a test that exists, and that plays the words which the row quotes."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/servers.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
HEADS = ("what one sees", "---")
GUIDE = "Where the words are"


@dataclass(frozen=True)
class Row:
    """One row of a table: what one sees, what Mailquay does, which tests prove it."""

    section: str
    seen: str
    done: str
    proof: str

    @property
    def quotes(self) -> list[str]:
        """The server's own words, in backticks; `…` stands for whatever a server puts there."""
        return [part.strip() for said in re.findall(r"`([^`]+)`", self.seen) for part in said.split("…")]

    @property
    def tests(self) -> list[tuple[str, str]]:
        """The tests it names, as file and function."""
        return TEST.findall(self.proof)


def rows() -> list[Row]:
    """Every row of every table on the page. A `|` that a server says is spelled as an entity there."""
    found: list[Row] = []
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith(tuple(f"| {head}" for head in HEADS)):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 3 or section == GUIDE, f"{section}: not three cells: {line}"
            found.extend([Row(section, *cells)] if section != GUIDE else [])
    return found


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@cache
def words(path: str) -> str:
    """Every string of a test's file and of the files of tests that it imports, as the program sees them; no docstring."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
    comments = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    said = [
        node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in comments
    ]
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    files = [f"{name.replace('.', '/')}.py" for name in sorted(imported) if name.startswith("tests.")]
    return "\n".join([*said, *map(words, files)])


def test_every_row_names_a_test_that_exists() -> None:
    """What nobody proves is not claimed, and a test that was renamed is renamed here."""
    assert rows()
    for row in rows():
        assert row.tests, f"{row.section}: no test is named for {row.seen!r}"
        for path, name in row.tests:
            assert (ROOT / path).is_file(), f"{row.section}: there is no {path}"
            assert name in functions(path), f"{row.section}: {path} has no {name}"


def test_the_words_of_servers_are_those_that_the_tests_play() -> None:
    """Who searches this page for what stands in his log finds what was really tried."""
    for row in rows():
        played = "\n".join(words(path) for path, _ in row.tests)
        for quote in row.quotes:
            assert quote in played, f"{row.section}: no test named there says {quote!r}"


def test_no_section_is_empty() -> None:
    """A heading without a row would say that nothing is known of a server."""
    sections = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert set(sections) - {GUIDE} == {row.section for row in rows()}
