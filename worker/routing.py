"""Which outputs get a message: those that the mailbox names, and of these those whose WHEN is true for it.

A message that no condition lets through goes to the mailbox's FALLBACK; without one it owes nothing and is done. A
condition that has no answer for a message, such as a look at a finding that is not there, lets it through: mail is not lost
for a word. Nothing is remembered: the same message has the same answers at every attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.expression import Expression
    from pipelines.message import Message


class Routing:
    """The conditions of the outputs of one mailbox, and its fallback."""

    def __init__(self, conditions: Mapping[str, Expression], fallback: str | None) -> None:
        self._conditions = conditions
        self._fallback = fallback

    def outputs(self, message: Message, owed: tuple[str, ...], accepted: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the outputs that a message is owed to which are to have it, or its fallback when nobody is."""
        wanted = tuple(output for output in owed if self._wants(output, message))
        if wanted or accepted or self._fallback is None:
            return wanted
        return (self._fallback,)

    def _wants(self, output: str, message: Message) -> bool:
        if output == self._fallback or output not in self._conditions:
            return True
        return self._conditions[output].holds(message) is not False


def condition(text: str) -> Expression:
    """Make an expression of what a person wrote.

    Raises:
        ValueError: it cannot be used, or its library is missing; the sentence says which, and quotes nothing of it.
    """
    try:
        from pipelines.expression import Expression
    except ModuleNotFoundError:
        raise ValueError("needs a library that is not installed: pip install 'mailquay[filter]'") from None
    return Expression(text)
