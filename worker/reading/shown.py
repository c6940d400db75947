"""Words of strangers on a terminal: nothing in them moves the cursor, turns the writing round, or hides."""

from __future__ import annotations


def shown(text: str, *, most: int = 200) -> str:
    r"""Return `text` with every character that is none to look at as its escape (`\x1b`, `\u202e`), cut to `most`.

    Control characters, bidirectional overrides and lone surrogates are such; a blank other than a space is too.
    """
    if len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
