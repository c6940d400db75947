"""FETCH answers as servers send them: in any order, with more and with less than was asked for."""

from __future__ import annotations

from itertools import permutations

import pytest

from worker.sources.fetch_answer import Answer, fields


def test_items_come_in_any_order() -> None:
    """RFC 3501 fixes none, and servers use that."""
    said = (
        b"UID 7",
        b"FLAGS (\\Seen $Forwarded)",
        b'INTERNALDATE " 1-Feb-2026 09:08:07 +0100"',
        b"RFC822.SIZE 12",
        b"BODY[] \0",
    )
    expected = Answer(7, 12, ("\\Seen", "$Forwarded"), " 1-Feb-2026 09:08:07 +0100", (b"raw message",))

    for items in permutations(said):
        assert fields(b"* 3 FETCH (" + b" ".join(items) + b")", (b"raw message",)) == expected


@pytest.mark.parametrize(
    ("line", "literals", "expected"),
    [
        (b"* 1 FETCH (UID 7)", (), Answer(7)),
        (b"* 1 fetch (uid 7 body[] \0)", (b"x",), Answer(7, body=(b"x",))),
        (b"* 1 FETCH (FLAGS () UID 7)", (), Answer(7)),
        (b"* 1 FETCH (UID 7 BODY[] NIL)", (), Answer(7)),
        (b'* 1 FETCH (UID 7 BODY[] "a \\"b\\" \\\\c")', (), Answer(7, body=(b'a "b" \\c',))),
        (b'* 1 FETCH (UID 7 BODY[] "")', (), Answer(7, body=(b"",))),
        (b"* 1 FETCH (X-NOTE \0 UID 7 BODY[] \0)", (b"note", b"raw"), Answer(7, body=(b"raw",))),
        (b"* 1 FETCH (UID 7 BODY[]<0> \0)", (b"raw",), Answer(7, body=(b"raw",))),
        (b"* 1 FETCH (FLAGS (\\Seen))", (), Answer(flags=("\\Seen",))),
        (b"* 1 FETCH ()", (), Answer()),
    ],
)
def test_what_is_there_is_read_and_what_is_not_has_its_default(
    line: bytes, literals: tuple[bytes, ...], expected: Answer
) -> None:
    """A flag that changed meanwhile, an expunged message, a body in quotes, a literal that nobody asked for."""
    assert fields(line, literals) == expected


@pytest.mark.parametrize(
    "line", [b"* 3 EXISTS", b"* OK [UIDNEXT 7]", b"A1 OK FETCH (UID 7)", b"* FETCH (UID 7)", b""]
)
def test_other_lines_are_not_fetch_answers(line: bytes) -> None:
    """They come in between at any time."""
    assert fields(line, ()) is None
