"""Types are found by name, imported when asked for, and a broken one hurts only those who use it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from pipelines import registry
from pipelines.outputs.jsonl import JsonlOutput
from pipelines.registry import (
    BrokenPlugin,
    MissingExtra,
    PluginError,
    UnknownType,
    load_output,
    load_stage,
    output_types,
    stage_types,
)
from pipelines.stages.automatic import AutomaticStage

PLUGIN = """
    from pipelines.output import Accepted, Output

    class Parrot(Output):
        type_name = "parrot"

        def deliver(self, messages):
            return [Accepted()] * len(messages)

    class Unfinished(Output):
        type_name = "unfinished"

    number = 4711
"""
ENTRY_POINTS = """
    [mailquay.outputs]
    parrot = parrot_plugin:Parrot
    lacking = parrot_lacking:Lacking
    rare_bird = parrot_lacking:Lacking
    raising = parrot_raising:Raising
    gone = parrot_gone:Gone
    classless = parrot_plugin:Nobody
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed third-party package with good and bad types."""
    info = tmp_path / "mailquay_parrot-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mailquay-parrot\nVersion: 1.0\nProvides-Extra: rare-bird\n"
    )
    (info / "entry_points.txt").write_text(dedent(ENTRY_POINTS))
    (tmp_path / "parrot_plugin.py").write_text(dedent(PLUGIN))
    (tmp_path / "parrot_lacking.py").write_text("import a_library_that_nobody_has\n")
    (tmp_path / "parrot_raising.py").write_text("raise RuntimeError('swordfish')\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._registered.cache_clear()
    yield
    registry._registered.cache_clear()
    for name in [name for name in sys.modules if name.startswith("parrot_")]:
        del sys.modules[name]


def test_built_in_types_are_registered() -> None:
    """They are entry points like any other."""
    assert {"jsonl", "maildir", "webhook"} <= set(output_types())
    assert "automatic" in stage_types()
    assert load_output("jsonl") is JsonlOutput
    assert load_stage("automatic") is AutomaticStage


def test_naming_the_types_imports_none_of_them() -> None:
    """A program that uses one output does not pay for the others."""
    script = (
        "import sys, pipelines.registry as r; r.output_types(); r.stage_types(); r.load_output('jsonl');"
        "print('httpx2' in sys.modules, 'pipelines.outputs.maildir' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )

    assert done.stdout.split() == ["False", "False"]


@pytest.mark.usefixtures("plugin")
def test_an_installed_package_adds_a_type() -> None:
    """One entry point, nothing else."""
    assert "parrot" in output_types()
    assert load_output("parrot").type_name == "parrot"


@pytest.mark.usefixtures("plugin")
def test_a_class_is_named_by_its_module() -> None:
    """`package.module:Class` needs no registration."""
    assert load_output("parrot_plugin:Parrot").type_name == "parrot"


def test_an_unknown_type_suggests_near_ones() -> None:
    """The sentence fits behind the name of a variable."""
    with pytest.raises(UnknownType, match=r"^there is no such type; did you mean jsonl\?$"):
        load_output("jsnol")
    with pytest.raises(UnknownType, match="did you mean automatic"):
        load_stage("automatc")


def test_an_unknown_type_like_nothing_else_shows_what_there_is() -> None:
    """All registered types, since none is near."""
    with pytest.raises(UnknownType, match=re.escape(" or ".join(output_types()))):
        load_output("zzz")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("type_name", "error", "sentence"),
    [
        ("swordfish_module:Parrot", UnknownType, "the module of this type cannot be found"),
        ("parrot_plugin.sword:Fish", UnknownType, "the module of this type cannot be found"),
        ("parrot_plugin:Swordfish", UnknownType, "has no such class"),
        ("https://user:swordfish@h/", UnknownType, "there is no such type"),
        ("", UnknownType, "there is no such type"),
        (":", UnknownType, "there is no such type"),
        (".:x", UnknownType, "there is no such type"),
        ("parrot_plugin:number", BrokenPlugin, "is not an output"),
        ("parrot_plugin:Unfinished", BrokenPlugin, "is not an output"),
        ("pipelines.stages.automatic:AutomaticStage", BrokenPlugin, "is not an output"),
        ("gone", UnknownType, "cannot be found"),
        ("classless", UnknownType, "has no such class"),
        ("raising", BrokenPlugin, "raising cannot be imported: its module raises RuntimeError"),
        ("lacking", BrokenPlugin, "lacking needs the library a_library_that_nobody_has"),
        ("rare_bird", MissingExtra, r"pip install 'mailquay-parrot\[rare-bird\]'"),
    ],
)
def test_a_type_that_cannot_be_used_says_why(type_name: str, error: type[PluginError], sentence: str) -> None:
    """Each fault has its class and its remedy, and none repeats what may be a secret."""
    with pytest.raises(error, match=sentence) as caught:
        load_output(type_name)

    assert "swordfish" not in str(caught.value).lower()


@pytest.mark.usefixtures("plugin")
def test_a_broken_type_does_not_hurt_the_others() -> None:
    """It is listed, because it is there, and it fails only when asked for."""
    assert {"raising", "jsonl"} <= set(output_types())
    assert load_output("jsonl") is JsonlOutput


def test_an_output_is_no_stage() -> None:
    """The two roles are not mixed up."""
    with pytest.raises(BrokenPlugin, match="is not a stage"):
        load_stage("pipelines.outputs.jsonl:JsonlOutput")
