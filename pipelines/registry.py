"""Finds outputs and stages by the word in `TYPE=`.

Built-in and third-party types are registered alike, as entry points in the groups `mailquay.outputs` and
`mailquay.stages`; a class that is not registered is named as `package.module:Class`. A type is imported when it is asked
for and not before, so that a broken or unfinished plugin hurts only those who use it.
"""

from __future__ import annotations

import difflib
import inspect
import re
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from pipelines.output import Output
from pipelines.stage import Stage

OUTPUTS = "mailquay.outputs"
STAGES = "mailquay.stages"


class PluginError(Exception):
    """A type cannot be used; the sentence says why and what to do, and fits behind the name of a variable."""


class UnknownType(PluginError):
    """No installed package offers the type, or the named module or class does not exist.

    The sentence does not repeat the word it complains about: it may be a secret that landed in the wrong variable.
    """


class BrokenPlugin(PluginError):
    """The type exists but cannot be imported, or is not what it claims to be."""


class MissingExtra(PluginError):
    """The type needs a library that comes with an extra which is not installed."""


def output_types() -> tuple[str, ...]:
    """Name the registered outputs, sorted, without importing any of them."""
    return tuple(sorted(_registered(OUTPUTS)))


def stage_types() -> tuple[str, ...]:
    """Name the registered stages, sorted, without importing any of them."""
    return tuple(sorted(_registered(STAGES)))


def load_output(type: str) -> type[Output]:  # noqa: A002 - the word that people write
    """Import the output that `type` names: a registered name, or `package.module:Class`.

    Raises:
        UnknownType: nothing of that name; near names are suggested.
        MissingExtra: a library is missing; the sentence holds the command that installs it.
        BrokenPlugin: the import fails otherwise, or finds something that is no output.
    """
    found = _load(type, group=OUTPUTS)
    if not (inspect.isclass(found) and issubclass(found, Output) and not inspect.isabstract(found)):
        raise BrokenPlugin(
            f"{type} is not an output: it has to be a class that derives from pipelines.output.Output and delivers"
        )
    return found


def load_stage(type: str) -> type[Stage]:  # noqa: A002 - the word that people write
    """Import the stage that `type` names: a registered name, or `package.module:Class`.

    Raises:
        UnknownType: nothing of that name; near names are suggested.
        MissingExtra: a library is missing; the sentence holds the command that installs it.
        BrokenPlugin: the import fails otherwise, or finds something that is no stage.
    """
    found = _load(type, group=STAGES)
    if not (inspect.isclass(found) and issubclass(found, Stage) and not inspect.isabstract(found)):
        raise BrokenPlugin(
            f"{type} is not a stage: it has to be a class that derives from pipelines.stage.Stage and applies"
        )
    return found


@cache
def _registered(group: str) -> dict[str, EntryPoint]:
    """Look the entry points of a group up once: it reads the metadata of every installed package."""
    return {point.name: point for point in entry_points(group=group)}


def _load(type_name: str, *, group: str) -> object:
    registered = _registered(group)
    if type_name in registered:
        point = registered[type_name]
    elif re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:\w+", type_name):
        point = EntryPoint(name=type_name, value=type_name, group=group)
    else:
        near = difflib.get_close_matches(type_name, registered, n=3) or sorted(registered)
        raise UnknownType(f"there is no such type; did you mean {' or '.join(near)}?")
    try:
        module = import_module(point.module)
    except ModuleNotFoundError as error:
        raise _missing(point, error) from error
    except Exception as error:
        # A plugin may fail in any way while it is imported. Its sentence stays in the chain only: it may hold anything.
        raise BrokenPlugin(
            f"{type_name} cannot be imported: its module raises {error.__class__.__name__}"
        ) from error
    found: object = getattr(module, point.attr, None)
    if found is None:
        raise UnknownType("the module of this type has no such class; write package.module:Class")
    return found


def _missing(point: EntryPoint, error: ModuleNotFoundError) -> PluginError:
    """Tell a module that is not there from a library that its module needs."""
    module = error.name or "a module"
    if f"{point.module}.".startswith(f"{module}."):
        return UnknownType("the module of this type cannot be found; is it installed, or on PYTHONPATH?")
    # An extra is called like the type that needs it; metadata writes it with hyphens (PEP 685).
    extra = point.name.replace("_", "-")
    if point.dist is not None and extra in (point.dist.metadata.get_all("Provides-Extra") or ()):
        command = f"pip install '{point.dist.name}[{extra}]'"
        return MissingExtra(f"{point.name} needs the library {module}, which is not installed: {command}")
    return BrokenPlugin(f"{point.name} needs the library {module}, which is not installed")
