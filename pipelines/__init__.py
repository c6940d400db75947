"""What happens to one message: it is parsed, goes through stages, and is delivered to outputs.

A plain library: no Celery, no Redis, no environment, and no network but in its outputs and, for the keys of
signers, in the stage `dkim`.
"""

from __future__ import annotations

from pipelines.message import Address, Defect, Message, Part, Source
from pipelines.parse import parse

__all__ = ["Address", "Defect", "Message", "Part", "Source", "parse"]
