"""Stages by their types, with options from the command line: no configuration is read.

`text` is the stage of that type with its defaults, `text:links=yes` gives it an option, and the type again another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from pydantic import ValidationError

from pipelines.pipeline import Pipeline
from pipelines.registry import PluginError, load_stage

# The type may be `package.module:Class`; all that follows the first `=` is the value.
_SAID = re.compile(r"([\w.]+(?::\w+)?)(?::(\w+)=(.*))?", re.DOTALL)


class WrongStage(ValueError):
    """A stage cannot be made of what was said; the sentence says why."""


@cache
def pipeline(said: tuple[str, ...]) -> Pipeline:
    """Make the stages that were named, in the order of their first mention; what they find lies under their types.

    Raises:
        WrongStage: there is no such type, or an option is wrong.
    """
    options = _options(said)
    stages = []
    for type_, values in options.items():
        try:
            stage = load_stage(type_)
        except PluginError as error:
            raise WrongStage(f"{type_}: {error}") from error
        try:
            stages.append(stage(stage.type_name, stage.Options.model_validate(values)))
        except ValidationError as invalid:
            raise WrongStage(f"{type_}: {_sentence(invalid)}") from invalid
        except PluginError as error:
            raise WrongStage(f"{type_}: {error}") from error
    return Pipeline(stages)


def _options(said: Iterable[str]) -> dict[str, dict[str, str]]:
    options: dict[str, dict[str, str]] = {}
    for text in said:
        found = _SAID.fullmatch(text)
        if found is None:
            raise WrongStage(f"{text}: write TYPE or TYPE:OPTION=VALUE")
        type_, option, value = found.groups()
        values = options.setdefault(type_, {})
        if option is not None:
            values[option.lower()] = value
    return options


def _sentence(invalid: ValidationError) -> str:
    error = invalid.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, error["loc"])).upper()
    what = {"extra_forbidden": "is no option of it", "missing": "is required"}.get(
        error["type"], error["msg"]
    )
    return f"{where}: {what}" if where else what
