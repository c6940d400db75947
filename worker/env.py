"""Where settings are written: the process environment, env files, one env file a mailbox, and files with secrets.

Promises that every value keeps the variable it came from, that the process environment beats files, that nothing of
ours is dropped without a word, and that no problem ever shows a value. It knows how variables are spelled, not what
they mean: types, defaults and required keys are the business of `worker.settings`.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream

from worker.errors import Problem

PROCESS = "environment"
PREFIXES = (
    "MAILBOX__",
    "MAILBOX_DEFAULTS__",
    "OUTPUT__",
    "STAGE__",
    "ENTRA__",
    "GOOGLE__",
    "OIDC__",
    "ALERT__",
)
# Double underscores part the words of a variable, so a name holds none and neither begins nor ends with one.
NAME = re.compile(r"[a-z0-9-]+(_[a-z0-9-]+)*")
NAME_RULE = "a name is made of letters, digits, - and single _ between them"
# A file that holds one value is a password, a key or an address. More than this is the wrong file.
VALUE_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One value, the variable that carries it, and where it was written: `environment`, or the file's name."""

    variable: str
    value: str = field(repr=False)
    origin: str = PROCESS

    def problem(self, sentence: str) -> Problem:
        """A problem with this variable; the file is named when it was not the process environment."""
        return Problem(
            self.variable, sentence if self.origin == PROCESS else f"{sentence} (in {self.origin})"
        )


@dataclass(frozen=True, slots=True)
class Section:
    """The entries behind one prefix, such as `MAILBOX__SUPPORT__`, by the key that follows it."""

    prefix: str
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Environment:
    """Every variable of ours by its full name, and what was wrong on the way."""

    values: Mapping[str, Entry]
    problems: tuple[Problem, ...]


def read(environ: Mapping[str, str], *, cwd: Path, names: Collection[str]) -> Environment:
    """Gather our variables from env files, the mailbox folder and `environ`; the process environment wins.

    `names` are the variables without a prefix that mean something; foreign ones are left alone. `ENV_FILE` is a comma
    list of files (default `.env`): a later one beats an earlier one, and one that does not exist says nothing.
    Relative paths start at `cwd`.
    """
    process = {key: Entry(key, value) for key, value in environ.items() if _ours(key, names)}
    listed, problems = _early(process, "ENV_FILE", cwd=cwd)
    files: dict[str, Entry] = {}
    for origin in filter(None, map(str.strip, (listed.value if listed else ".env").split(","))):
        entries, found = _entries(cwd / origin, origin=origin, variable="ENV_FILE", names=names)
        problems += found
        for key, entry in entries.items():
            if key == "ENV_FILE":
                problems.append(entry.problem("has no effect in a file; set it in the process environment"))
            elif _ours(key, names):
                files[key] = entry
            elif nearest := _nearest(key, names):
                problems.append(entry.problem(f"unknown; did you mean {nearest}?"))

    folder, found = _early({**files, **process}, "MAILBOX_DIR", cwd=cwd)
    problems += found
    if folder:
        entries, found = _mailboxes(folder, cwd=cwd)
        problems += found
        problems += [
            Problem(key, f"is set in {files[key].origin} and again in {entry.origin}; remove one of them")
            for key, entry in entries.items()
            if key in files
        ]
        files |= entries
    return Environment(files | process, tuple(problems))


def named(values: Mapping[str, Entry], kind: str) -> tuple[dict[str, Section], list[Problem]]:
    """Sort the entries of one kind (`MAILBOX`, `OUTPUT`, `STAGE`) by name; names are lower-cased."""
    problems: list[Problem] = []
    spellings: dict[str, str] = {}
    sections: dict[str, dict[str, Entry]] = {}
    for variable, entry in values.items():
        if not variable.startswith(f"{kind}__"):
            continue
        spelling, _, key = variable.removeprefix(f"{kind}__").partition("__")
        name = spelling.lower()
        if not key:
            problems.append(entry.problem(f"unknown; write {kind}__NAME__KEY"))
        elif not NAME.fullmatch(name):
            problems.append(entry.problem(f"{NAME_RULE}; rename it"))
        elif (first := spellings.setdefault(name, spelling)) != spelling:
            problems.append(entry.problem(f"says {name} again, beside {kind}__{first}__…; use one spelling"))
        else:
            sections.setdefault(name, {})[key] = entry
    return {
        name: Section(f"{kind}__{spellings[name]}__", entries) for name, entries in sections.items()
    }, problems


def resolve(
    section: Section, fields: Collection[str], *, cwd: Path
) -> tuple[dict[str, Entry], list[Problem]]:
    """What a section says of each field (lower-case), with `KEY_FILE` read from its file; every other key is unknown.

    A field whose own name ends in `_file` (`ca_file`) is itself, never a pointer. An empty value counts as not said,
    because that is what `${VARIABLE:-}` in a compose file hands over.
    """
    keys = {name.upper() for name in fields}
    said: dict[str, Entry] = {}
    problems: list[Problem] = []
    for key, entry in section.entries.items():
        target = key if key in keys else key.removesuffix("_FILE")
        if target not in keys:
            problems.append(entry.problem(_unknown(key, keys, prefix=section.prefix)))
        elif not entry.value:
            continue
        elif target == key:
            said[key.lower()] = entry
        elif (beside := section.entries.get(target)) and beside.value:
            problems.append(entry.problem(f"is set beside {beside.variable}; remove one of them"))
        else:
            content, why = _content(cwd / entry.value)
            if why:
                problems.append(entry.problem(f"the file it names {why}"))
            else:
                said[target.lower()] = Entry(entry.variable, content, entry.origin)
    return said, problems


def _ours(key: str, names: Collection[str]) -> bool:
    return key.startswith(PREFIXES) or key in names or key.removesuffix("_FILE") in names


def _early(values: Mapping[str, Entry], key: str, *, cwd: Path) -> tuple[Entry | None, list[Problem]]:
    """One variable that is needed before all of them are known."""
    entries = {name: values[name] for name in (key, f"{key}_FILE") if name in values}
    said, problems = resolve(Section("", entries), [key.lower()], cwd=cwd)
    return said.get(key.lower()), problems


def _mailboxes(folder: Entry, *, cwd: Path) -> tuple[dict[str, Entry], list[Problem]]:
    """The files of the mailbox folder: `HOST` in `support.env` becomes `MAILBOX__SUPPORT__HOST`."""
    values: dict[str, Entry] = {}
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    try:
        files = sorted(
            path
            for path in (cwd / folder.value).iterdir()
            if path.suffix == ".env" and not path.name.startswith(".")
        )
    except (OSError, ValueError) as error:
        return {}, [folder.problem(f"the folder it names {reason(error)}")]
    for path in files:
        name = path.stem.lower()
        if not NAME.fullmatch(name):
            problems.append(folder.problem(f"the file {path.name} names no mailbox: {NAME_RULE}; rename it"))
            continue
        if (first := owners.setdefault(name, path.name)) != path.name:
            problems.append(folder.problem(f"{first} and {path.name} are one mailbox; merge them"))
            continue
        origin = str(Path(folder.value) / path.name)
        entries, found = _entries(
            path, origin=origin, variable=folder.variable, prefix=f"MAILBOX__{name.upper()}__"
        )
        problems += found
        values |= entries
    return values, problems


def _entries(
    path: Path, *, origin: str, variable: str, names: Collection[str] = (), prefix: str = ""
) -> tuple[dict[str, Entry], list[Problem]]:
    """The keys of one env file behind `prefix`, as python-dotenv reads them, but with `$` left alone.

    Interpolation is off because secrets hold `$`: a password such as `pa$$word` has to arrive as it was written.
    `variable` is the one that a person changes when the file itself cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        # An env file may be absent; one that a folder lists may not: it is a dangling link.
        absent = isinstance(error, FileNotFoundError) and not prefix
        return {}, [] if absent else [Problem(variable, f"{origin} {reason(error)}")]
    values: dict[str, Entry] = {}
    problems: list[Problem] = []
    for binding in parse_stream(io.StringIO(text)):
        # The parser counts from the blank lines before a statement.
        written = binding.original.string
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        key = f"{prefix}{binding.key}"
        if binding.error:
            problems.append(Problem(variable, f"line {line} of {origin} is not KEY=value; check its quotes"))
        elif binding.key is None:
            continue
        elif binding.value is not None and key not in values:
            values[key] = Entry(key, binding.value, origin)
        elif _ours(key, names):
            fault = "is set again" if key in values else "has no ="
            problems.append(Problem(key, f"{fault} on line {line} of {origin}; correct that line"))
    return values, problems


def _content(path: Path) -> tuple[str, str]:
    """The one value in a file without its last newline, or why there is none; the path may be a secret by mistake."""
    try:
        with path.open("rb") as file:
            raw = file.read(VALUE_LIMIT + 1)
        text = raw.decode()
    except (OSError, ValueError) as error:
        return "", reason(error)
    if len(raw) > VALUE_LIMIT:
        return "", "is longer than 64 KiB, so it is not the file of one value"
    text = re.sub(r"\r?\n\Z", "", text)
    return text, "" if text else "is empty"


def reason(error: OSError | ValueError) -> str:
    """Why a file or folder cannot be read, without its path, which may be a secret in the wrong place."""
    if isinstance(error, OSError):
        return f"cannot be read: {(error.strerror or 'input or output error').lower()}"
    return "cannot be read: it is not UTF-8 text"


def _unknown(key: str, keys: Iterable[str], *, prefix: str) -> str:
    """The sentence for an unknown key of a section, with the nearest known one when there is one."""
    known = sorted(keys)
    near = difflib.get_close_matches(
        key.upper(), [*known, *(f"{name}_FILE" for name in known)], n=1, cutoff=0.6
    )
    return (
        f"unknown; did you mean {prefix}{near[0]}?" if near else f"unknown; the keys are {', '.join(known)}"
    )


def _nearest(key: str, names: Collection[str]) -> str | None:
    """What a foreign-looking key of an env file was probably meant to be; most, such as COMPOSE_FILE, are foreign."""
    head, parts, rest = key.upper().partition("__")
    known = PREFIXES if parts else [*names, *(f"{name}_FILE" for name in names)]
    near = difflib.get_close_matches(f"{head}{parts}", known, n=1, cutoff=0.8 if parts else 0.85)
    if near:
        return f"{near[0]}{rest}"
    return "MAILBOX__NAME__KEY" if head.startswith("MAILBOX_") else None
