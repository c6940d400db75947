"""Numbers and addresses are told from what looks like them, in time linear in the text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.confidential import KINDS
from tests.bed.patience import BUSY


def found(kind: str, text: str) -> list[str]:
    return [text[start:end] for start, end in KINDS[kind](text)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        # The numbers that card networks publish for tests, in the groups that people write.
        *(("cards", text) for text in ("4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "3400 000000 00009")),
        *(("cards", text) for text in ("6011000000000004", "4222222222222", "4111\u00a01111\u00a01111\u00a01111", "4111&nbsp;1111&nbsp;1111&nbsp;1111")),
        ("cards", "٤١١١ ١١١١ ١١١١ ١١١١"),
        # From the registry of IBANs.
        *(("ibans", text) for text in ("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32")),
        *(("ibans", text) for text in ("NO9386011117947", "fr1420041010050500013m02606", "MT84MALT011000012345MTLCAST001S")),
        *(("emails", text) for text in ("ann@example.com", "a.b+c@mail.example.co.uk", "jörg@müller.example")),
        *(("phones", text) for text in ("+49 30 1234567", "+1 (555) 234-5678", "0049 30 1234567", "030/1234567", "(030) 123 45 67", "(555) 234-5678", "555-234-5678")),
    ],
)  # fmt: skip
def test_what_it_says_it_finds_it_finds(kind: str, text: str) -> None:
    """As the whole text, within a sentence, and after another number."""
    assert found(kind, text) == [text]
    assert found(kind, f"See {text}, please.") == [text]
    assert found(kind, f"({text})") == [text] or kind == "phones"
    assert found(kind, f"Nr. 12: {text}\n{text}") == [text, text]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("cards", text) for text in ("4111111111111112", "0000000000000000", "41111111111111114111111111111111")),
        *(("cards", text) for text in ("id4111111111111111", "4111111111111111x", "1234567890123", "2026-02-01 10:00:00")),
        *(("ibans", text) for text in ("DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000", "ADE89370400440532013000")),
        *(("emails", text) for text in ("ann@localhost", "@example.com", "ann@", "a @ b.c", "@@@@")),
        *(("phones", text) for text in ("01.02.2026 10:00", "1.2.2026", "2026-02-01", "12345", "+1", "4711-0815", "1.000.000,00")),
    ],
)  # fmt: skip
def test_what_merely_looks_like_it_is_left(kind: str, text: str) -> None:
    """A wrong check digit, another length, a part of a longer word, a date."""
    assert found(kind, text) == []


def test_a_card_number_is_found_among_other_groups() -> None:
    """Digits before and behind it do not hide it."""
    text = "12 4111 1111 1111 1111 4711 2026"

    assert found("cards", text) == ["4111 1111 1111 1111"]


@given(
    st.lists(
        st.one_of(
            st.text("0123456789", min_size=1, max_size=7), st.sampled_from(["4111", "1111", "5500", "0004"])
        ),
        max_size=12,
    )
)
def test_every_card_number_among_groups_is_found(groups: list[str]) -> None:
    """Those of a search that tries each number of groups from each group on, and adds up its digits anew."""

    def is_card(number: str) -> bool:
        doubled = (sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
        return number[0] in "23456" and (sum(map(int, number[::-1][::2])) + sum(doubled)) % 10 == 0

    expected, first = [], 0
    while first < len(groups):
        ends = [
            end
            for end in range(first + 1, len(groups) + 1)
            if 13 <= len("".join(groups[first:end])) <= 19
            and min(map(len, groups[first:end])) >= 3
            and is_card("".join(groups[first:end]))
        ]
        if ends:
            expected.append(" ".join(groups[first : ends[-1]]))
        first = ends[-1] if ends else first + 1

    assert found("cards", " ".join(groups)) == expected


@given(st.text(alphabet="0123456789 -.+@()aDEé\n\u00a0", max_size=300))
def test_spans_lie_in_the_text_and_are_not_empty(text: str) -> None:
    """For any text whatever."""
    for find in KINDS.values():
        assert all(0 <= start < end <= len(text) for start, end in find(text))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "piece",
    ["4", "4 ", "411 ", "411 111 ", "4111111111111111 ", "DE89", "DE89 ", "a", "a@", "a@b.", ".", "+49 ", "0 1 ", "030/", "(", "&nbsp;4",
     "555-", "212 555 1234 ", "01.02.2026 ", "DE89370400440532013001 "],
)  # fmt: skip
def test_no_text_takes_long(kind: str, piece: str) -> None:
    """A megabyte of text, all of it made to be searched, takes no second."""
    text = piece * (1_000_000 // len(piece))
    begun = time.process_time()

    list(KINDS[kind](text))

    assert time.process_time() - begun < 1 * BUSY
