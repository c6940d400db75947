"""Stages are configured by variables, each mailbox names its own, and whatever is wrong is said of the variable."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from pipelines.stages.dedupe import DedupeOptions
from pipelines.stages.filter import FilterOptions
from worker.errors import ConfigurationError
from worker.quay import Quay
from worker.settings import load

BASE = {
    "REDIS_URL": "redis://localhost:1",
    "OUTPUT__CRM__TYPE": "jsonl",
    "OUTPUT__CRM__PATH": "mail.jsonl",
    **{
        f"MAILBOX__{name}__{key}": value
        for name in ("SUPPORT", "SALES")
        for key, value in {
            "HOST": "mail.example",
            "ADDRESS": f"{name.lower()}@mail.example",
            "PASSWORD": secrets.token_hex(),
            "OUTPUTS": "crm",
        }.items()
    },
}


def problems(cwd: Path, **environ: str) -> dict[str, str]:
    """Sentence by variable."""
    with pytest.raises(ConfigurationError) as caught:
        load(BASE | environ, cwd=cwd)
    return {problem.variable: problem.sentence for problem in caught.value.problems}


def test_each_mailbox_has_its_own_stages_in_its_own_order(tmp_path: Path) -> None:
    """Two stages of one type stand side by side; options come from the environment as words."""
    found = load(
        BASE
        | {
            "STAGE__NO_ROBOTS__TYPE": "filter",
            "STAGE__NO_ROBOTS__DROP": "findings.robots.automatic",
            "STAGE__INVOICES__TYPE": "filter",
            "STAGE__INVOICES__KEEP": 'subject.matches("(?i)invoice")',
            "STAGE__ROBOTS__TYPE": "automatic",
            "STAGE__ONCE__TYPE": "dedupe",
            "STAGE__ONCE__PATH": "seen.sqlite",
            "STAGE__ONCE__WINDOW": "36h",
            "MAILBOX__SUPPORT__STAGES": "robots,no_robots,once",
            "MAILBOX__SALES__STAGES": "Once, invoices",
        },
        cwd=tmp_path,
    )
    quay = Quay(found, "redis://localhost:1")

    assert [stage.name for stage in quay.pipeline("support").stages] == ["robots", "no_robots", "once"]
    assert [stage.name for stage in quay.pipeline("sales").stages] == ["once", "invoices"]
    invoices, once = found.stages["invoices"].options, found.stages["once"].options
    assert isinstance(invoices, FilterOptions)
    assert invoices.keep == 'subject.matches("(?i)invoice")'
    assert isinstance(once, DedupeOptions)
    assert once.window.total_seconds() == 36 * 3600
    quay.close()


@pytest.mark.parametrize(
    ("said", "variable", "sentence"),
    [
        ({"STAGE__X__TYPE": "filtr"}, "STAGE__X__TYPE", "did you mean filter"),
        ({"STAGE__X__KEEP": "true"}, "STAGE__X__TYPE", "is required; the types are auth_results, automatic, "),
        ({"STAGE__X__TYPE": "filter"}, "STAGE__X__DROP", "needs either KEEP or DROP"),
        ({"STAGE__X__TYPE": "filter", "STAGE__X__KEEP": "subject = 1"}, "STAGE__X__KEEP", "at character 9: the syntax"),
        ({"STAGE__X__TYPE": "filter", "STAGE__X__DROP": "subject"}, "STAGE__X__DROP", "must be true or false"),
        ({"STAGE__X__TYPE": "filter", "STAGE__X__KEPT": "true"}, "STAGE__X__KEPT", "did you mean STAGE__X__KEEP"),
        ({"STAGE__X__TYPE": "redact", "STAGE__X__KINDS": "card"}, "STAGE__X__KINDS", "must be some of cards"),
        ({"STAGE__X__TYPE": "redact", "STAGE__X__DROP_RAW": "perhaps"}, "STAGE__X__DROP_RAW", "write yes or no"),
        ({"STAGE__X__TYPE": "dedupe"}, "STAGE__X__PATH", "is required: File that remembers"),
        ({"MAILBOX__SALES__STAGES": "robots"}, "MAILBOX__SALES__STAGES", "name 1 of 1 is not configured; declare it with STAGE__NAME__TYPE"),
        (
            {"STAGE__ROBOTS__TYPE": "automatic", "MAILBOX__SALES__STAGES": "robots,robot"},
            "MAILBOX__SALES__STAGES",
            "name 2 of 2 is not configured; did you mean robots?",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_of_its_variable(
    tmp_path: Path, said: dict[str, str], variable: str, sentence: str
) -> None:
    """At the start, before any mail is touched."""
    found = problems(tmp_path, **said)

    assert sentence in found[variable]


def test_a_secret_in_the_wrong_variable_is_not_shown(tmp_path: Path) -> None:
    """An expression and a pattern are free text, so they may be anything."""
    mark = "s3cr3t" + secrets.token_hex(4)
    found = problems(
        tmp_path,
        STAGE__A__TYPE="filter",
        STAGE__A__KEEP=mark,
        STAGE__B__TYPE="filter",
        STAGE__B__DROP=f"subject.{mark}({mark})",
        STAGE__C__TYPE="redact",
        STAGE__C__PATTERN=f"({mark}",
        STAGE__C__MARK=f"<{mark}",
        STAGE__D__TYPE="redact",
        STAGE__D__KINDS=mark,
        STAGE__E__TYPE="dedupe",
        STAGE__E__PATH="x",
        STAGE__E__SCOPE=mark,
        STAGE__E__WINDOW=mark,
    )

    assert len(found) == 7
    assert mark not in str(found)
