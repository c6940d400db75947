"""The rules of docs/architecture.md, read from the code itself.

Each test is one rule. Where a module may break one, it stands here with the reason; an exception that nobody needs any
more fails as well, so that the lists stay short.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Module:
    """One file of the program."""

    path: str

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def imports_at_once(self) -> frozenset[str]:
        """What is imported when the file is: not inside of functions."""
        return frozenset(found for node in self.tree.body for found in self._imported(node))

    @cached_property
    def imports(self) -> frozenset[str]:
        """Every module that is imported anywhere in the file, also inside functions and for types only."""
        return frozenset(found for node in ast.walk(self.tree) for found in self._imported(node))

    def _imported(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{self.path}: imports are absolute"
            assert node.module
            # `from worker.sources import sasl` imports a module, and only that.
            if not all(is_module(f"{node.module}.{alias.name}") for alias in node.names):
                yield node.module
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if is_module(f"{node.module}.{alias.name}")
            )

    def imports_of(self, *roots: str) -> set[str]:
        """Those of its imports that lie in these packages."""
        return {
            name
            for name in self.imports
            if any(name == root or name.startswith(f"{root}.") for root in roots)
        }


@cache
def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


# A file is read and parsed once.
module_at = cache(Module)


def modules(*folders: str) -> list[Module]:
    return [
        module_at(str(path.relative_to(ROOT))) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))
    ]  # fmt: skip


PROGRAM = modules("worker", "pipelines")
WORKER, PIPELINES = modules("worker"), modules("pipelines")


def importers(among: list[Module], *roots: str) -> set[str]:
    return {module.path for module in among if module.imports_of(*roots)}


# -- 1 and 2: who may know what --------------------------------------------------------------------------------------


def test_pipelines_are_a_plain_library() -> None:
    """They know nothing of the worker, of Celery, Redis, MSAL or the environment."""
    assert importers(PIPELINES, "worker", "msal", "tests") == set()
    assert importers(PIPELINES, "redis") <= {"pipelines/outputs/redis_stream.py"}
    assert importers(PIPELINES, "celery", "kombu") <= {"pipelines/outputs/celery_task.py"}
    words = {
        module.path: {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
        for module in PIPELINES
    }
    assert {path for path, found in words.items() if found & {"environ", "getenv"}} == set()


def test_celery_is_known_where_bells_are_rung_and_heard_and_nowhere_else() -> None:
    """Pull, deliver and sweep run without it: `once` has no broker."""
    assert importers(WORKER, "celery", "kombu") == {"worker/app.py", "worker/schedule.py", "worker/tasks.py"}
    tasks = importers(WORKER, "worker.app", "worker.tasks", "worker.schedule")
    # The watcher is no Celery worker; all it does is ring.
    assert tasks <= {"worker/tasks.py", "worker/cli/watch.py"}


def test_msal_is_known_in_one_place() -> None:
    """Its pitfalls are dealt with once."""
    assert importers(WORKER, "msal") == {"worker/tokens/entra.py"}


def test_redis_clients_are_built_in_one_place() -> None:
    """With its deadlines, its retries and its one error; key names and scripts beside them.

    The embedded server is asked whether it lives before there is anything to coordinate, and there a retry is wrong.
    """
    assert importers(WORKER, "redis") == {"worker/state.py", "worker/embedded.py"}
    keys = [module.path for module in WORKER if re.search(r"""["']mailquay:""", module.text)]
    # Celery's own keys have a prefix of their own, so that nothing is ever mistaken for one of ours.
    assert keys == ["worker/app.py", "worker/state.py"]


# -- 3 and 4: who may know whom --------------------------------------------------------------------------------------

STATIONS = ("worker.sources", "worker.tokens", "worker.spool", "worker.lease", "worker.checkpoint")


@pytest.mark.parametrize("station", STATIONS)
def test_stations_do_not_know_each_other(station: str) -> None:
    """Pull, deliver and sweep compose them; each can be read, tested and replaced alone."""
    ours = [module for module in WORKER if module.name == station or module.name.startswith(f"{station}.")]
    others = [name for name in STATIONS if name != station]
    composers = [
        *("worker.pull", "worker.errand", "worker.bring", "worker.settle"),
        *("worker.route", "worker.begin", "worker.backfill", "worker.catch_up"),
        *("worker.deliver", "worker.sweep", "worker.quay", "worker.settings"),
    ]

    assert ours
    assert importers(ours, *others, *composers) == set()


IMPLEMENTATIONS = {
    "worker/quay.py": "it is the place that chooses",
    "worker/settings.py": "a file of keys that holds none is a problem of the configuration",
}
"""Who names an implementation, and why."""
DATA = {
    "worker.sources.providers",
    "worker.sources.sasl",
    "worker.tokens.claims",
    "worker.tokens.credential",
    "worker.tokens.verdict",
}
"""Not implementations but tables and pure readings: what is known of providers, and what a token or an answer says."""


def test_callers_know_contracts_and_not_implementations() -> None:
    """What is behind `sources`, `tokens` and `spool` may change without their callers; one module chooses."""
    found: dict[str, set[str]] = {}
    for package in ("worker.sources", "worker.tokens", "worker.spool"):
        for module in WORKER:
            if module.name != package and not module.name.startswith(f"{package}."):
                inside = {name for name in module.imports_of(package) if name != package} - DATA
                if inside:
                    found.setdefault(module.path, set()).update(inside)

    assert found.keys() == IMPLEMENTATIONS.keys(), found


def test_contracts_know_no_implementation() -> None:
    """Else importing a contract would bring everything behind it."""
    for package in ("worker/sources", "worker/tokens", "worker/spool"):
        contract = module_at(f"{package}/__init__.py")
        assert {name for name in contract.imports_of("worker") if name != "worker.errors"} == set()


def test_nothing_but_the_command_line_knows_the_command_line_and_the_demo() -> None:
    """The demo is for trying out; no part of the program leans on it."""
    outside = [module for module in PROGRAM if not module.path.startswith(("worker/cli/", "worker/demo/"))]

    assert importers(outside, "worker.cli", "worker.demo") == set()
    assert importers(modules("worker/cli"), "worker.demo") <= {"worker/cli/demo.py"}
    assert importers(PROGRAM, "tests", "bench") == set()


@cache
def imported_by(start: str) -> set[str]:
    """Every module of ours that importing `start` brings along, through imports at the beginning of files."""
    known = {module.name: module for module in PROGRAM}
    found: set[str] = set()
    ahead = [start]
    while ahead:
        name = ahead.pop()
        if name in known and name not in found:
            found.add(name)
            ahead.extend(known[name].imports_at_once)
    return found


def test_modules_import_each_other_in_one_direction() -> None:
    """A circle cannot be read from any side."""
    for module in PROGRAM:
        for name in module.imports_at_once:
            if name != module.name and not module.name.startswith(f"{name}."):
                assert module.name not in imported_by(name), f"{module.name} and {name} import each other"


# -- 5: nothing happens at import ------------------------------------------------------------------------------------

WATCH = """
import importlib, os, sys, threading

ROOTS, NAMES = tuple(sys.argv[1:3]), sys.argv[3:]
TOUCHY = ("open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.", "time.sleep", "glob.", "pathlib.", "mmap.",
          "fcntl.", "signal.", "sqlite3.")

def ours():
    # The innermost frame that is ours, unless a library is being imported in between: then it is the library's doing.
    frame = sys._getframe(2)
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(ROOTS):
            return f"{name}:{frame.f_lineno}"
        # pydantic looks for plugins of its own when the first model is made.
        if name.startswith("<frozen importlib") or "/site-packages/pydantic/" in name:
            return None
        frame = frame.f_back

def watch(event, arguments):
    if event.startswith(TOUCHY) and (place := ours()):
        print(place, event, *map(repr, arguments[:1]))

class Environ(type(os.environ)):
    def __getitem__(self, key):
        # Libraries look at their own variables at any time; ours is what a module of ours reads itself.
        frame = sys._getframe(1)
        while frame and frame.f_code.co_filename.startswith(("<frozen", os.__file__)):
            frame = frame.f_back
        if frame and frame.f_code.co_filename.startswith(ROOTS):
            print(f"{frame.f_code.co_filename}:{frame.f_lineno} environment", key)
        return super().__getitem__(key)

os.environ.__class__ = Environ
sys.addaudithook(watch)
for name in NAMES:
    importlib.import_module(name)
if threading.active_count() > 1:
    print("threads", threading.enumerate())
"""


def test_nothing_happens_at_import() -> None:
    """No file, no socket, no process, no thread, no client, no look at the environment: proved by doing it.

    A pool's child makes its own clients, and a test sets its own environment. `__main__` is what runs a program.
    """
    names = [module.name for module in PROGRAM if not module.name.endswith("__main__")]
    folders = [f"{ROOT}/worker/", f"{ROOT}/pipelines/"]
    command = [sys.executable, "-c", WATCH, *folders, *names]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# -- 6: time, chance and sleep come in as arguments ------------------------------------------------------------------

CLOCKS = re.compile(
    r"time\.(time|monotonic|perf_counter|sleep)|(datetime|date)\.(now|utcnow|today)|asyncio\.sleep"
    r"|random\.\w+|secrets\.token_\w+|secrets\.choice|uuid\.uuid[14]|os\.urandom"
)
EDGES = {
    "worker/quay.py": "chance enters the worker here, as time does",
    "worker/bring.py": "looks whether the deadline it was given has come",
    "worker/pull.py": "measures how long it took, and whether the deadline it was given has come",
    "worker/deliver.py": "measures how long it took",
    "worker/tasks.py": "sets the deadline of a pull",
    "worker/once.py": "is a whole program",
    "worker/embedded.py": "waits for a server that it starts and stops, in real time",
    "worker/spool/file.py": "names unfinished files, so that no two writers meet",
    "worker/spool/notes.py": "names unfinished files, as batches do",
    "worker/cli/": "is where a person's time passes",
    "worker/demo/": "plays the world outside",
}
"""Files and folders that ask a clock or throw dice themselves, each with its reason."""


def test_time_chance_and_sleep_come_in_as_arguments() -> None:
    """Naming `time.time` as an argument's default is the way; calling it is not, but at the edges listed here."""
    callers = {
        module.path
        for module in PROGRAM
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and CLOCKS.fullmatch(ast.unparse(node.func))
    }

    needed = {edge for edge in EDGES if any(path.startswith(edge) for path in callers)}
    assert {path for path in callers if not path.startswith(tuple(EDGES))} == set()
    assert needed == EDGES.keys(), "an exception that nobody needs any more"


# -- 7: plugins ------------------------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(("kind", "root"), [("outputs", "Output"), ("stages", "Stage")])
def test_every_output_and_stage_has_its_entry_point_and_the_other_way_round(kind: str, root: str) -> None:
    """One file, one line in pyproject.toml, and its word is the one that its class says."""
    classes = {}
    for module in modules(f"pipelines/{kind}"):
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and root in map(ast.unparse, node.bases):
                words = [
                    statement.value.value
                    for statement in node.body
                    if isinstance(statement, ast.Assign | ast.AnnAssign)
                    and isinstance(statement.value, ast.Constant)
                    and "type_name" in ast.unparse(statement)
                ]
                classes[f"{module.name}:{node.name}"] = words

    listed = PROJECT["entry-points"][f"mailquay.{kind}"]
    assert {place: [word] for word, place in listed.items()} == classes
    assert classes


def test_no_other_file_knows_an_output_or_a_stage() -> None:
    """A new one is found by its entry point; nothing has to be changed for it."""
    for kind in ("outputs", "stages"):
        package = f"pipelines.{kind}"
        outside = [module for module in PROGRAM if not module.name.startswith(package)]
        assert importers(outside, package) == set()


# -- 8: names and sizes ----------------------------------------------------------------------------------------------


def test_no_module_has_a_name_that_means_anything() -> None:
    """What is in `utils` nobody finds, and everything ends there."""
    words = {
        word for module in modules("worker", "pipelines", "tests", "bench") for word in module.name.split(".")
    }

    assert (
        words & {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc", "core", "types"}
        == set()
    )


def test_files_are_short() -> None:
    """What does not fit into the head does not fit into a file."""
    sizes = {module.path: module.text.count("\n") for module in PROGRAM}

    assert {path: size for path, size in sizes.items() if size > 500} == {}
    assert statistics.median(sizes.values()) < 120


def test_every_module_says_what_it_is_for() -> None:
    """In the first line, in one sentence."""
    silent = [
        module.path
        for module in PROGRAM
        if module.text.strip() and not (ast.get_docstring(module.tree) or "").strip()
    ]
    assert silent == []


def test_the_architecture_page_names_every_module_once_at_the_top() -> None:
    """Whoever reads it finds every file and no other."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = {
        f"{folder}/{name}"
        for folder, names in re.findall(r"^\| `(worker|pipelines)/([^|]+?)\|", page, re.MULTILINE)
        for name in re.findall(r"(?:worker/|pipelines/)?([\w.]+(?:/|\.py))", names)
    }
    there = {
        f"{folder}/{path.name}" + ("/" if path.is_dir() else "")
        for folder in ("worker", "pipelines")
        for path in (ROOT / folder).iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }

    assert named == there
