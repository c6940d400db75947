"""Each output that needs a library has an extra of its name, and without the library a sentence that says so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import metadata, packages_distributions

import orjson
import pytest

from pipelines.registry import output_types

# Loads outputs in a process where a library is hidden: what each says, in JSON.
LOAD = """
import json, sys
from pipelines.registry import PluginError, load_output

hidden, *names = sys.argv[1:]

class Hides:
    def find_spec(self, name, path=None, target=None):
        if name in hidden.split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hides())
said = {}
for name in names:
    try:
        load_output(name)
    except PluginError as error:
        said[name] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


def without(hidden: list[str], *outputs: str) -> dict[str, str]:
    """What the outputs say that cannot be loaded when these libraries are not installed."""
    command = [sys.executable, "-c", LOAD, ",".join(hidden), *outputs]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    said: dict[str, str] = orjson.loads(done.stdout)
    return said


def libraries() -> list[tuple[str, str]]:
    """Each extra of an output with each library that it brings, by the name under which it is imported."""
    modules = {
        normal(package): name for name, packages in packages_distributions().items() for package in packages
    }
    found = []
    for requirement in metadata("mailquay").get_all("Requires-Dist") or []:
        match = re.fullmatch(r"([\w.-]+).*extra == '([\w-]+)'", requirement)
        if match and match[2].replace("-", "_") in output_types():
            found.append((match[2].replace("-", "_"), modules[normal(match[1])]))
    return found


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize(("output", "library"), libraries())
def test_a_missing_library_is_a_sentence_that_names_the_extra(output: str, library: str) -> None:
    """Whoever runs `mailquay check` without it is told the command that installs it."""
    extra = output.replace("_", "-")

    assert without([library], output) == {
        output: f"MissingExtra: {output} needs the library {library}, which is not installed: pip install 'mailquay[{extra}]'"
    }


def test_an_output_without_an_extra_needs_no_library_of_one() -> None:
    """With all of them missing, those that need none are there; so the extras are complete."""
    missing = without(sorted({library for _, library in libraries()}), *output_types())

    assert set(missing) == {output for output, _ in libraries()}


def test_the_extra_outputs_is_all_of_them() -> None:
    """`pip install 'mailquay[outputs]'` leaves nothing to install."""
    requirements = metadata("mailquay").get_all("Requires-Dist") or []
    brought = {text.partition(";")[0] for text in requirements if text.endswith("extra == 'outputs'")}
    needed = {
        text.partition(";")[0]
        for text in requirements
        for output, _ in libraries()
        if text.endswith(f"extra == '{output.replace('_', '-')}'")
    }

    assert brought == needed
    assert needed
