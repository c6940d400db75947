"""What docs/delivering.md says is what the program does: its settings load, its commands print what stands there."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import click
import pytest

from bench.picture_delivering import TARGET, drawn
from pipelines.message import Message
from pipelines.output import Accepted, Output, OutputOptions, Receipt, Refused
from tests.bed.batches import spooled
from tests.bed.errands import deliver_due
from tests.bed.installation import Installation, numbered
from tests.faults.plugins import PathOptions
from tests.test_sign_in_docs import fences, settings_in, spans
from worker.cli import VERBS
from worker.settings import load

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "delivering.md").read_text(encoding="utf-8")
CONSOLE = [content for language, content in fences(PAGE) if language == "console"]

# What is another at every run, and how it is compared.
CHANGING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", "TIME"),
    (r"\b(in|since) [\d.]+ s\b", r"\1 N s"),
    (r"\b\d+ s ago\b", "N s ago"),
    (r"[\d.]+ [TGM]B free", "N GB free"),
    # Columns are as wide as what stands in them.
    (r" {2,}", "  "),
    (r" +$", ""),
    # A probe may be due at this moment.
    (r"\bnow\b", "in N s"),
)


class Crm(Output):
    """Is away while the file `PATH.away` exists; refuses message 7 for want of a customer number until `PATH.known` does."""

    type_name: ClassVar[str] = "crm"
    Options: ClassVar[type[OutputOptions]] = PathOptions
    options: PathOptions

    def deliver(self, messages: Sequence[Message]) -> Sequence[Receipt]:
        if self.options.path.with_suffix(".away").exists():
            raise ConnectionRefusedError(111, os.strerror(111))
        refused = Refused("crm.example answered 422: the customer number is missing")
        is_known = self.options.path.with_suffix(".known").exists()
        return [
            refused if b"X-Number: 7\r" in bytes(message.raw) and not is_known else Accepted()
            for message in messages
        ]


@pytest.fixture
def ours(installation: Installation) -> Installation:
    """A mailbox with five messages delivered, of which `crm` refused one; then it is away, and forty more wait for it."""
    installation.environ |= {
        "KEEP": "7d",
        "OUTPUT__ARCHIVE__TYPE": "jsonl",
        "OUTPUT__ARCHIVE__PATH": str(installation.folder / "archive.jsonl"),
        "OUTPUT__CRM__TYPE": "tests.test_delivering_docs:Crm",
        "OUTPUT__CRM__PATH": str(installation.folder / "crm"),
        "LOG_LEVEL": "error",
    }
    for name in ("LINES", "POST"):
        del installation.environ[f"OUTPUT__{name}__TYPE"], installation.environ[f"OUTPUT__{name}__PATH"]
    installation.mailbox(
        "support", address="a@example.com", host="localhost", password="x", outputs="crm,archive"
    )
    quay = installation.quay()
    spooled(quay, "support", [numbered(n) for n in range(3)], size=3)
    spooled(quay, "support", [numbered(n) for n in (6, 7)], first=6, size=2)
    deliver_due(quay)
    (installation.folder / "crm.away").touch()
    spooled(quay, "support", [numbered(n) for n in range(10, 50)], first=10)
    deliver_due(quay)
    quay.standings.well("support", time.time() - 20)
    quay.standings.count("support", "pulled", 45)
    return installation


def run(installation: Installation, command: str) -> str:
    """What a command prints; log lines are left out."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", *shlex.split(command)[1:]],
        cwd=installation.folder,
        env=installation.full_environ(COLUMNS="140"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith("{"))


def constant(text: str) -> str:
    """Text without what changes from run to run."""
    for pattern, instead in CHANGING:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text.strip()


def test_the_commands_print_what_the_page_shows(ours: Installation) -> None:
    """One after the other, on one installation; only times and sizes of disks are others."""
    assert len(CONSOLE) == 8
    for block in CONSOLE:
        command, _, shown = block.removeprefix("$ ").partition("\n")
        if command.startswith("mailquay failed retry"):
            (ours.folder / "crm.known").touch()
        if command == "mailquay drain":
            (ours.folder / "crm.away").unlink()
        assert constant(run(ours, command)) == constant(shown), command


def test_every_command_and_option_of_the_page_exists() -> None:
    """In blocks and in prose."""
    commands = re.findall(r"\bmailquay ([a-z][^`\n|]*)", "\n".join([*spans(PAGE), *CONSOLE]))
    assert {command.split()[0] for command in commands} >= {"failed", "replay", "drain", "status"}
    known: set[str] = set()
    for command in commands:
        verb, *words = shlex.split(command)
        assert verb in VERBS
        found: click.Command = importlib.import_module(f"worker.cli.{verb}").command
        if isinstance(found, click.Group) and words and not words[0].startswith("-"):
            found = found.commands[words[0]]
        options = {option for parameter in found.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, command
    for verb in ("failed", "replay", "drain"):
        found = importlib.import_module(f"worker.cli.{verb}").command
        for part in (*found.commands.values(),) if isinstance(found, click.Group) else (found,):
            known |= {option for parameter in part.params for option in parameter.opts}
    assert {span.split()[0] for span in spans(PAGE) if span.startswith("--")} <= known


def test_the_settings_of_the_page_load_together(tmp_path: Path) -> None:
    """Over outputs of these names."""
    lines = "\n".join(settings_in(PAGE))
    base = {
        "MAILBOX__SUPPORT__ADDRESS": "a@example.com",
        "MAILBOX__SUPPORT__HOST": "localhost",
        "MAILBOX__SUPPORT__PASSWORD": "x",
    } | {
        f"OUTPUT__{name}__{key}": value
        for name in ("CRM", "ARCHIVE", "REST")
        for key, value in {"TYPE": "jsonl", "PATH": f"{name}.jsonl"}.items()
    }
    said = dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)

    settings = load({**base, **said}, cwd=tmp_path)

    assert len(said) == 6
    assert settings.mailboxes["support"].fallback == "rest"
    assert settings.outputs["crm"].terms.ordered
    assert settings.keep.days == 7


def test_the_picture_is_what_its_script_draws() -> None:
    """Whoever changes it changes the script."""
    assert TARGET.read_text(encoding="utf-8") == drawn()
