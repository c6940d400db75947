"""The terms on which an output is delivered to: what a person may say of any output, whatever its type.

They are options of the worker, beside those that the type declares itself: `pipelines` knows nothing of time and order.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, field_validator

from pipelines.options import Duration, Flag, Options
from worker.owing import RETRY_FOR


class OutputTerms(Options):
    """How long, in which order, and which messages."""

    retry_for: Duration = Field(
        default=RETRY_FOR,
        ge=timedelta(seconds=1),
        description="How long a message is tried again that the output does not take; then it waits in `failed`.",
        examples=["1d"],
    )
    ordered: Flag = Field(
        default=False,
        description="`yes` hands the messages of each mailbox over in the order in which they were pulled, one at a time.",
        examples=["yes"],
    )
    when: str | None = Field(
        default=None,
        description="Expression in CEL, as of the stage `filter`; the output gets the messages for which it is true.",
        examples=['subject.matches("(?i)invoice")'],
    )

    @field_validator("when")
    @classmethod
    def _compiles(cls, when: str | None) -> str | None:
        if when is not None:
            # The library comes with an extra.
            from worker.routing import condition

            condition(when)
        return when
