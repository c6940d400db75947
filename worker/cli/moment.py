"""Moments as people write and read them: `2h`, `3d`, or a date and a time; in the zone of this machine unless they say."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import click
from pydantic_core import PydanticCustomError

from pipelines.options import read_duration


class Moment(click.ParamType[float]):
    """A moment in the past, in Unix seconds: so long ago, or an ISO 8601 date, with or without a time and a zone."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; a date alone is its first second."""
        if isinstance(value, float):
            return value
        try:
            ago = read_duration(value)
        except PydanticCustomError:
            ago = None
        if isinstance(ago, timedelta):
            return time.time() - ago.total_seconds()
        try:
            # `astimezone` takes a time without a zone for one of this machine's.
            return datetime.fromisoformat(str(value).strip()).astimezone().timestamp()
        except (ValueError, OverflowError):
            self.fail("must be a while ago such as 2h or 3d, or a date such as 2026-01-31T14:00", param, ctx)


class Span(click.ParamType[float]):
    """A while, such as 90s or 10m, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it as settings are read."""
        try:
            span = read_duration(value)
        except PydanticCustomError as error:
            self.fail(error.message(), param, ctx)
        return span.total_seconds() if isinstance(span, timedelta) else float(value)


def at(moment: float) -> str:
    """A moment in Unix seconds as people read it, and as `Moment` reads it again."""
    return datetime.fromtimestamp(int(moment)).astimezone().isoformat("T")


def span(seconds: float) -> str:
    """How long, in the largest unit of which there is one."""
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f} {letter}"
    return f"{max(seconds, 0):.0f} s"


def ago(moment: float, now: float) -> str:
    """How long ago a moment was, for people; 0 means never. Both in Unix seconds."""
    return f"{span(now - moment)} ago" if moment else "never"


def ahead(moment: float | None, now: float) -> str:
    """How soon a moment comes, for people."""
    if moment is None:
        return "-"
    return f"in {span(moment - now)}" if moment > now else "now"
