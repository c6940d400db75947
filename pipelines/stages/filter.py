"""Keeps or drops messages by an expression over their JSON, in CEL (see `pipelines.expression`).

An expression that has no answer for a message, such as a look at a finding that is not there, drops nothing: the message
is kept, and the finding `{"unanswered": reason}` says why. What passes otherwise passes unchanged. Who drops mail on
purpose is counted and logged by whoever runs the stages.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipelines.expression import Expression
from pipelines.message import Message
from pipelines.stage import Stage, StageOptions


class FilterOptions(StageOptions):
    """What stays."""

    keep: str | None = Field(
        default=None,
        description="Messages for which this expression is true are kept, others are dropped.",
        examples=['subject.matches("(?i)invoice") && from.exists(a, a.email.endsWith("@example.com"))'],
    )
    drop: str | None = Field(
        default=None,
        validate_default=True,
        description="Messages for which this expression is true are dropped, others are kept.",
        examples=["has(findings.robots) && findings.robots.automatic"],
    )

    @field_validator("keep", "drop")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            Expression(value)
        return value

    @field_validator("drop")
    @classmethod
    def _one_of_both(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "keep" in info.data and (info.data["keep"] is None) == (value is None):
            raise PydanticCustomError("filter", "a filter needs either KEEP or DROP, and not both")
        return value


class FilterStage(Stage):
    """Answers with the message as it came, or drops it."""

    type_name: ClassVar[str] = "filter"
    Options: ClassVar[type[StageOptions]] = FilterOptions

    options: FilterOptions

    def __init__(self, name: str, options: FilterOptions) -> None:
        """Compile the expression, which the options have checked."""
        super().__init__(name, options)
        self._expression = Expression(options.keep or options.drop or "true")

    def apply(self, message: Message) -> Message | None:
        """Return the message, or None when the expression says that it is to be dropped."""
        found = self._expression.holds(message)
        if isinstance(found, str):
            return message.with_findings(self.name, {"unanswered": found})
        return message if found == (self.options.keep is not None) else None
