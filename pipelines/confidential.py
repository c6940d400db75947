"""Where a text holds what nobody should read: card numbers, bank accounts, email addresses, telephone numbers.

Card numbers count only with a right check digit (Luhn, ISO/IEC 7812-1), bank accounts only as IBANs with the length of
their country and right check digits (ISO 13616). Telephone numbers have none, so they are told by their form, and
a number of another kind may pass for one. The work is linear in the text. It reads plain characters: a number that is
broken up by markup, by line ends or into single digits is not found, nor is one in an image.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from string import ascii_uppercase

Span = tuple[int, int]
"""Where something begins and ends in a text."""

# What people put between groups: blanks and hyphens of all kinds, and the blank that HTML writes out.
_SEPARATOR = r"(?:[ .\-\u00a0\u2007-\u200a\u2010-\u2013\u202f]|&nbsp;)"

_GROUPS = re.compile(rf"(?<!\w)\d++(?:{_SEPARATOR}\d++)*+")
_GROUP = re.compile(r"\d+")
_CARD_DIGITS = (13, 19)
# Nobody writes a card number in smaller groups, so it has six of them at most.
_CARD_GROUP = 3
_MOST_GROUPS = _CARD_DIGITS[1] // _CARD_GROUP
# Of the major industries of ISO/IEC 7812-1, those in which cards pay.
_CARD_BEGINS = frozenset("23456")
# The value of a digit in Luhn's sum, and of one that counts double.
_PLAIN = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))

_IBAN_BEGINS = re.compile(r"(?<![^\W_])([A-Za-z]{2})[0-9]{2}")
# The registry of IBANs: how many characters each country's have.
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FK FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HN HU LB NI PL SV", "29": "BR EG PS QA UA", "30": "JO KW MU YE", "31": "MT SC",
        "32": "LC", "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN_RESTS = {
    length: re.compile(rf"(?:{_SEPARATOR}?[0-9A-Za-z]){{{length - 4}}}(?![0-9A-Za-z])")
    for length in set(_IBAN_LENGTHS.values())
}
_NOT_OF_IBANS = re.compile(r"&nbsp;|[^0-9A-Za-z]")
_IBAN_VALUES = str.maketrans({letter: str(int(letter, 36)) for letter in ascii_uppercase})

_EMAIL = re.compile(r"(?<![\w.+%~&*-])[\w.+%~&*-]++@[\w-]++(?:\.[\w-]++)++")

_FILLERS = r"[\d() ./\u00a0\u2010-\u2013-]"
_PHONES = (
    # E.123: with the country's code. Then with a trunk zero, then as in North America.
    (8, 15, re.compile(rf"(?<![\w+])(?:\+|00)[ (]?[1-9]{_FILLERS}{{5,24}}\d(?!\w)")),
    (9, 12, re.compile(rf"(?<![\w./-])\(?0[1-9]{_FILLERS}{{6,20}}\d(?!\w)")),
    (10, 10, re.compile(r"(?<![\w./-])\(?[2-9]\d\d(?:\) ?|[ .-])[2-9]\d\d[ .-]\d{4}(?![\w-])")),
)
_DATE = re.compile(r"\(?\d{1,2}[./-]\d{1,2}[./-]\d{2,4}")


def cards(text: str) -> Iterator[Span]:
    """Yield the numbers of payment cards: 13 to 19 digits, in one piece or in groups."""
    for run in _GROUPS.finditer(text):
        if run.end() - run.start() < _CARD_DIGITS[0]:
            continue
        groups = [group.span() for group in _GROUP.finditer(text, *run.span())]
        if text[run.end() : run.end() + 1].isalnum():
            del groups[-1]
        yield from _cards_of(text, groups)


def _cards_of(text: str, groups: list[Span]) -> Iterator[Span]:
    """Yield the card numbers that some of the groups make up, the longest one from each group on."""
    digits = _ascii("".join([text[start:end] for start, end in groups]))
    sizes = [end - start for start, end in groups]
    offsets = list(accumulate(sizes, initial=0))
    sums = _luhn_sums(digits.encode())
    first = 0
    while first < len(groups):
        found, begin = 0, offsets[first]
        if sizes[first] >= _CARD_GROUP and digits[begin] in _CARD_BEGINS:
            for last in range(first, min(first + _MOST_GROUPS, len(groups))):
                end = offsets[last + 1]
                if sizes[last] < _CARD_GROUP or end - begin > _CARD_DIGITS[1]:
                    break
                ending = sums[end % 2]
                if end - begin >= _CARD_DIGITS[0] and (ending[end] - ending[begin]) % 10 == 0:
                    found = last + 1
        if found:
            yield groups[first][0], groups[found - 1][1]
        first = found or first + 1


def _luhn_sums(digits: bytes) -> tuple[array[int], array[int]]:
    """Return the sums of Luhn over every beginning, for numbers that end after an even and after an odd count of digits.

    The sum over a number is the difference of two of them, so each digit is added once, however many numbers hold it.
    """
    plain, doubled = digits.translate(_PLAIN), digits.translate(_DOUBLED)
    odd, even = bytearray(plain), bytearray(plain)
    even[::2], odd[1::2] = doubled[::2], doubled[1::2]
    return array("L", accumulate(even, initial=0)), array("L", accumulate(odd, initial=0))


def _ascii(digits: str) -> str:
    """Write digits of any script as 0 to 9."""
    return digits if digits.isascii() else digits.translate({ord(it): str(int(it)) for it in set(digits)})


def ibans(text: str) -> Iterator[Span]:
    """Yield the numbers of bank accounts."""
    end = 0
    for begin in _IBAN_BEGINS.finditer(text):
        length = _IBAN_LENGTHS.get(begin[1].upper())
        rest = _IBAN_RESTS[length].match(text, begin.end()) if length and begin.start() >= end else None
        if rest is not None:
            number = _NOT_OF_IBANS.sub("", rest[0] + begin[0])
            if int(number.upper().translate(_IBAN_VALUES)) % 97 == 1:
                end = rest.end()
                yield begin.start(), end


def emails(text: str) -> Iterator[Span]:
    """Yield the email addresses, in any script."""
    return (match.span() for match in _EMAIL.finditer(text))


def phones(text: str) -> Iterator[Span]:
    """Yield what looks like a telephone number."""
    end = 0
    # One form may find a part of what another found, so the earlier and then the longer one counts.
    for start, negative in sorted((start, -stop) for start, stop in _phones_of_any_form(text)):
        if start >= end:
            end = -negative
            yield start, end


def _phones_of_any_form(text: str) -> Iterator[Span]:
    for least, most, form in _PHONES:
        for match in form.finditer(text):
            count = end = 0
            for group in _GROUP.finditer(match[0]):
                count += group.end() - group.start()
                if least <= count <= most:
                    end = group.end()
            if end and (match[0][0] == "+" or _DATE.match(match[0]) is None):
                yield match.start(), match.start() + end


KINDS: Mapping[str, Callable[[str], Iterator[Span]]] = {
    "cards": cards,
    "ibans": ibans,
    "emails": emails,
    "phones": phones,
}
"""The kinds by the names that options use."""
