"""Options are read as people write them, refuse what they cannot mean, and describe themselves."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, TypeAdapter

from pipelines.options import (
    ByteSize,
    Duration,
    FilePath,
    Flag,
    Names,
    Option,
    Options,
    describe,
    read_duration,
    read_size,
    write_duration,
    write_size,
)
from pipelines.registry import load_output, load_stage, output_types, stage_types

MARKER = "swordfish-4711"


class Everything(Options):
    """One option of each type."""

    wait: Duration = Field(default=timedelta(minutes=5), description="How long.")
    limit: ByteSize = Field(default=25_000_000, description="How much.")
    folders: Names = Field(default=("INBOX",), description="Which.", examples=["INBOX,Junk Email"])
    enabled: Flag = Field(default=True, description="Whether.")
    path: FilePath = Field(description="Where.", examples=["/data/x"])
    count: int = Field(default=4, ge=1, description="How many.")
    mode: Literal["fast", "safe"] = Field(default="safe", description="How.")
    key: SecretStr | None = Field(default=None, description="A secret.")
    later: Duration | None = Field(default=None, description="Perhaps.", examples=[timedelta(hours=1)])


def read(**values: object) -> Everything:
    return Everything.model_validate({"path": "/data/x", **values})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("3d", 259_200),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (" 2s ", 2),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    """From milliseconds to days."""
    assert read(wait=text).wait == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 minutes", "5M", "-5m", "1h30m", "٥m", "1e3s", "9999999d", "nan s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number without a unit is refused too: nobody can know what it means."""
    with pytest.raises(pydantic.ValidationError, match="write a number and a unit, for example 90s"):
        read(wait=text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("25MB", 25_000_000), ("16MiB", 2**24), ("2GB", 2 * 10**9), ("500", 500), ("500B", 500), ("1kb", 1000),
        ("1.5 GiB", 3 * 2**29), ("0", 0),
    ],
)  # fmt: skip
def test_a_size_is_a_number_and_a_unit_or_plain_bytes(text: str, size: int) -> None:
    """MB are millions, MiB are powers of two, in any case."""
    assert read(limit=text).limit == size


@pytest.mark.parametrize("text", ["", "MB", "25 Megabyte", "-1MB", "1e6", "1,5MB", "9" * 5000])
def test_what_is_no_size_is_refused(text: str) -> None:
    """With a sentence that shows how to write one."""
    with pytest.raises(pydantic.ValidationError, match="write a number and a unit, for example 500KB"):
        read(limit=text)


@given(st.integers(min_value=0, max_value=10**14))
def test_a_size_is_written_the_way_it_is_read(size: int) -> None:
    """Defaults in reference pages can be copied."""
    assert read_size(write_size(size)) == size


@given(st.integers(min_value=0, max_value=999_999_999))
def test_a_duration_is_written_the_way_it_is_read(milliseconds: int) -> None:
    """Whenever it can be read at all: six digits are the limit."""
    duration = timedelta(milliseconds=milliseconds)
    text = write_duration(duration)
    if len(text.rstrip("smhd")) <= 6:
        assert read_duration(text) == duration


def test_names_are_separated_by_commas() -> None:
    """Blanks around a name and repeated names do not count; blanks within do."""
    assert read(folders=" INBOX, Junk Email ,,INBOX").folders == ("INBOX", "Junk Email")
    assert read(folders="").folders == ()


@pytest.mark.parametrize(
    ("text", "flag"), [("yes", True), ("ON", True), ("1", True), ("No", False), ("false", False)]
)
def test_a_flag_is_yes_or_no_in_many_words(text: str, flag: bool) -> None:
    """People write it in many ways."""
    assert read(enabled=text).enabled is flag


@pytest.mark.parametrize("text", ["", "maybe", "2", "y"])
def test_what_is_neither_yes_nor_no_is_refused(text: str) -> None:
    """An unclear word is not taken for no."""
    with pytest.raises(pydantic.ValidationError, match="write yes or no"):
        read(enabled=text)


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    """An empty path would silently be the working directory."""
    with pytest.raises(pydantic.ValidationError, match="write the path"):
        read(path=text)


def test_natural_types_are_taken_as_they_are() -> None:
    """Python code need not write text."""
    options = read(wait=timedelta(seconds=1), limit=5, folders=["a"], enabled=False, path=Path("/p"), count=2)

    assert options == Everything(
        wait=timedelta(seconds=1), limit=5, folders=("a",), enabled=False, path=Path("/p"), count=2
    )


def test_an_unknown_option_is_refused() -> None:
    """A misspelt option must not be silently without effect."""
    with pytest.raises(pydantic.ValidationError, match="colour"):
        read(colour="red")


def test_no_error_shows_a_value() -> None:
    """A value may be a secret that landed in the wrong variable."""
    values = dict.fromkeys(Everything.model_fields, MARKER) | {"path": f"{MARKER}\0", "extra": MARKER}
    with pytest.raises(pydantic.ValidationError) as caught:
        Everything.model_validate(values)

    assert caught.value.error_count() >= 7
    assert MARKER not in str(caught.value)


def test_options_do_not_change() -> None:
    """They are shared by whoever asks, so nobody may change them."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        read().count = 5


def test_options_describe_themselves_in_the_words_of_the_environment() -> None:
    """Reference pages and `.env.example` are made from this and from nothing else."""
    rows = {option.name: option for option in describe(Everything)}

    assert list(rows) == ["WAIT", "LIMIT", "FOLDERS", "ENABLED", "PATH", "COUNT", "MODE", "KEY", "LATER"]
    assert rows["WAIT"] == Option(
        name="WAIT",
        kind="duration",
        description="How long.",
        required=False,
        default="5m",
        example=None,
        secret=False,
    )
    assert [rows[name].default for name in rows] == [
        "5m",
        "25MB",
        "INBOX",
        "yes",
        None,
        "4",
        "safe",
        None,
        None,
    ]
    assert (rows["PATH"].required, rows["PATH"].kind, rows["PATH"].example) == (True, "path", "/data/x")
    assert rows["MODE"].kind == "fast or safe"
    assert (rows["KEY"].secret, rows["KEY"].kind) == (True, "secret")
    assert (rows["LATER"].kind, rows["LATER"].example) == ("duration", "1h")


def test_a_default_secret_is_not_described() -> None:
    """Even a default that somebody put into code stays out of reference pages."""

    class Careless(Options):
        key: SecretStr = Field(default=SecretStr(MARKER), description="A key.")

    assert MARKER not in str(describe(Careless))


def test_an_option_without_description_or_form_is_the_programmers_mistake() -> None:
    """Both are found by describing, which the contract tests do."""

    class Silent(Options):
        count: int = 4

    class Strange(Options):
        shape: complex = Field(default=1j, description="A shape.")

    with pytest.raises(TypeError, match=r"Silent\.count has no description"):
        describe(Silent)
    with pytest.raises(TypeError, match=r"Strange\.shape has a type"):
        describe(Strange)


@pytest.mark.parametrize("model", [
    *(load_output(name).Options for name in output_types()), *(load_stage(name).Options for name in stage_types()),
])  # fmt: skip
def test_every_default_can_be_written_and_read_again(model: type[Options]) -> None:
    """A default copied from a reference page into the environment changes nothing."""
    for option in describe(model):
        if option.default is not None:
            field = model.model_fields[option.name.lower()]
            # The field alone: some options depend on others that have no default.
            read = TypeAdapter(Annotated[(field.annotation, "", *field.metadata)])
            assert read.validate_python(option.default) == field.get_default()
