"""The words in which outputs, stages and settings say what they can be told.

An option is declared once, as a pydantic field with a type, a default, a line of help and an example; validation,
`.env.example`, the reference pages and the masking of secrets all follow from that one line. Values come as strings
from environment variables or as natural types from Python. Nothing here reads the environment or a file, and no
message quotes the value it complains about, because a value may be a secret that landed in the wrong variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
# Largest first: a size is written in the largest unit that divides it.
_UNIT_BYTES = {
    "TiB": 2**40, "TB": 10**12, "GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6, "KiB": 2**10, "KB": 10**3, "B": 1,
}  # fmt: skip
_FLAGS = {
    "yes": True,
    "true": True,
    "1": True,
    "on": True,
    "no": False,
    "false": False,
    "0": False,
    "off": False,
}


class Options(BaseModel):
    """What one part of Mailquay can be told: read once, checked whole, unchangeable afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Form:
    """How a type looks in an environment variable: the word for it, and the way from a value back to text."""

    kind: str
    write: Callable[[Any], str] = str


def read_duration(value: object) -> object:
    """Turn `500ms`, `90s`, `5m`, `1h`, `3d` or `1.5h` into a timedelta; leave other types to pydantic.

    Raises:
        PydanticCustomError: the text is no duration. Six digits are the limit, so that a date plus a duration
            always is a date.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", value.strip())
    if match is None:
        raise PydanticCustomError("duration", "write a number and a unit, for example 90s, 5m, 1h or 3d")
    return timedelta(seconds=float(match[1]) * _UNIT_SECONDS[match[2]])


def write_duration(value: timedelta) -> str:
    """Write a timedelta the way it is read, in the largest unit that divides it."""
    milliseconds = round(value / timedelta(milliseconds=1))
    for unit in ("d", "h", "m", "s"):
        size = round(_UNIT_SECONDS[unit] * 1000)
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def read_size(value: object) -> object:
    """Turn `25MB` (millions), `16MiB` (powers of two), `2GB` or plain bytes into an int; leave other types alone.

    Raises:
        PydanticCustomError: the text is no size.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([a-z]*)", value.strip().lower())
    units = {unit.lower(): size for unit, size in _UNIT_BYTES.items()} | {"": 1}
    if match is None or match[2] not in units:
        raise PydanticCustomError("size", "write a number and a unit, for example 500KB, 25MB, 16MiB or 2GB")
    return int(float(match[1]) * units[match[2]]) if "." in match[1] else int(match[1]) * units[match[2]]


def write_size(value: int) -> str:
    """Write a number of bytes the way it is read, in the largest unit that divides it."""
    unit, size = next(
        (unit, size)
        for unit, size in _UNIT_BYTES.items()
        if (value % size == 0 and value >= size) or unit == "B"
    )
    return f"{value // size}{unit}"


def read_names(value: object) -> object:
    """Turn `a, b` into `("a", "b")`: blanks around names and repeated names are dropped; other types are left alone."""
    if not isinstance(value, str):
        return value
    return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))


def read_flag(value: object) -> object:
    """Turn yes/no, true/false, on/off and 1/0, in any case, into a bool; leave other types to pydantic.

    Raises:
        PydanticCustomError: the text is none of these words.
    """
    if not isinstance(value, str):
        return value
    if value.strip().lower() not in _FLAGS:
        raise PydanticCustomError("flag", "write yes or no")
    return _FLAGS[value.strip().lower()]


def read_path(value: object) -> object:
    """Refuse an empty path, which would mean the working directory, and one that no file system can hold.

    Raises:
        PydanticCustomError: the text is empty or holds a NUL.
    """
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise PydanticCustomError("path", "write the path of a file or folder")
    return value


Duration = Annotated[timedelta, BeforeValidator(read_duration), Form("duration", write_duration)]
ByteSize = Annotated[int, BeforeValidator(read_size), Form("size", write_size)]
Names = Annotated[tuple[str, ...], BeforeValidator(read_names), Form("names, separated by commas", ",".join)]
Flag = Annotated[bool, BeforeValidator(read_flag), Form("yes or no", lambda value: "yes" if value else "no")]
# Nothing checks that the file exists: whoever opens it says what is wrong with it.
FilePath = Annotated[Path, BeforeValidator(read_path), Form("path")]

CaFile = Annotated[
    FilePath | None,
    Field(
        description="Certificates (PEM) that the server is verified against, instead of those of the system.",
        examples=["/etc/mailquay/ca.pem"],
    ),
]
Parallel = Annotated[
    int, Field(ge=1, le=64, description="How many requests of one process are under way at once.")
]

_PLAIN_FORMS = {
    str: Form("text"),
    int: Form("whole number"),
    float: Form("number"),
    Path: Form("path"),
    SecretStr: Form("secret", lambda _: "…"),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option as a person reads about it. `default` and `example` are written as in an environment variable."""

    name: str
    kind: str
    description: str
    required: bool
    default: str | None
    example: str | None
    secret: bool


def describe(model: type[BaseModel]) -> list[Option]:
    """List the options of a model in the order in which they are declared, for reference pages and `.env.example`.

    Raises:
        TypeError: a field has no description, or a type that has no form in an environment variable.
    """
    return [_describe(model, name, field) for name, field in model.model_fields.items()]


def _describe(model: type[BaseModel], name: str, field: FieldInfo) -> Option:
    if not field.description:
        raise TypeError(
            f"{model.__name__}.{name} has no description: give it one with Field(description=...)"
        )
    form = next(_forms(field.annotation, field.metadata), None)
    if form is None:
        raise TypeError(
            f"{model.__name__}.{name} has a type that cannot be written in an environment variable"
        )
    default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    example = field.examples[0] if field.examples else None
    return Option(
        name=name.upper(),
        kind=form.kind,
        description=field.description,
        required=field.is_required(),
        default=None if default is None else form.write(default),
        example=example if example is None or isinstance(example, str) else form.write(example),
        secret=form is _PLAIN_FORMS[SecretStr],
    )


def _forms(annotation: object, metadata: list[Any]) -> Iterator[Form]:
    """Find how a type is written: what it says of itself comes before what is known of plain types."""
    yield from (extra for extra in metadata if isinstance(extra, Form))
    if annotation in _PLAIN_FORMS:
        yield _PLAIN_FORMS[annotation]
    elif get_origin(annotation) is Literal:
        yield Form(" or ".join(str(choice) for choice in get_args(annotation)))
    elif get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        yield from _forms(inner, extras)
    elif get_origin(annotation) in {Union, UnionType}:
        for choice in get_args(annotation):
            yield from _forms(choice, [])
