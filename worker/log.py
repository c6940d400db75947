"""Logging: structlog for everything, JSON when nobody is looking at a terminal.

One canonical event a pull and one a delivery, named `noun.past_participle`; context is bound once for a task. No
secret, token, subject or body is ever handed to a logger (promise P7); other libraries' records pass the same chain.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, level: str, form: str) -> None:
    """Set up logging for this process. `form` is `auto`, `json` or `console`; auto is console on a terminal."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The pretty one prints local variables, and tokens are among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    final = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    if not console:
        final.insert(1, structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These speak of every connection and every task; their troubles come as warnings.
    for noisy in ("httpx2", "httpcore2", "httpx", "urllib3", "celery", "kombu"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # It logs a whole answer that it cannot read, refresh token included; what it means is said by worker.tokens.
    logging.getLogger("msal").setLevel(logging.CRITICAL)
    logging.getLogger("celery.worker.consumer").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
