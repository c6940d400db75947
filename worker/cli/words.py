"""Numbers with their nouns, as people say them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 message`, `2 messages`, `2 batches`."""
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{number} {noun if number == 1 else plural}"
