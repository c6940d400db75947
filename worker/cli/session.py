"""What most verbs begin with: settings, logging, Redis (embedded when none is named), and the quay over them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker import log, settings
from worker.embedded import embedded
from worker.quay import Quay
from worker.settings import Settings


def configured(*, quiet: bool = True) -> Settings:
    """The settings of the environment and the files here; logging is set up. `quiet`: warnings only on a terminal.

    Raises:
        ConfigurationError: with every problem.
    """
    said = settings.load(os.environ, cwd=Path.cwd())
    level = "warning" if quiet and said.log_level == "info" else said.log_level
    log.configure(level=level, form=said.log_format)
    return said


def has_terminal() -> bool:
    """Whether bars can be drawn, as rich sees it; what draws them is loaded only then, because a short verb is to be short."""
    return sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))


@contextmanager
def redis_url(said: Settings) -> Iterator[str]:
    """The configured Redis, or the embedded one for the length of the block."""
    if said.redis_url:
        yield said.redis_url
    else:
        with embedded(said.data_dir) as url:
            yield url


@contextmanager
def session(*, quiet: bool = True) -> Iterator[Quay]:
    """A quay for the length of the block."""
    said = configured(quiet=quiet)
    with redis_url(said) as url:
        quay = Quay(said, url)
        try:
            yield quay
        finally:
            quay.close()
