"""Bytes become text in whatever charset they claim, and what had to be done about it is said."""

from __future__ import annotations

import encodings.aliases

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import charset
from pipelines.defects import Code

RUSSIAN = (
    "Добрый день! Отправляем вам счёт за октябрь. Пожалуйста, проверьте реквизиты и оплатите до конца месяца."
)
FRENCH = (
    "Chère Hélène, le contrat est prêt. Il sera envoyé très tôt à votre siège, où vous pourrez le signer."
)
POLISH = "Dzień dobry, proszę o przesłanie faktury za październik. Z góry dziękuję za szybką odpowiedź."
JAPANESE = "いつもお世話になっております。先日の件について、確認をお願いいたします。"


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("utf-8", "utf_8"),
        ("UTF8", "utf_8"),
        ('"utf-8"', "utf_8"),
        ("charset=utf-8", "utf_8"),
        ("utf-8;", "utf_8"),
        ("uft-8", "utf_8"),
        ("ISO_8859-1:1987", "latin_1"),
        ("iso8859_1", "latin_1"),
        ("Windows-1252", "cp1252"),
        ("windows1251", "cp1251"),
        ("ks_c_5601-1987", "euc_kr"),
        ("x-sjis", "shift_jis"),
        ("us-ascii (the usual)", "ascii"),
        ("koi8-u", "koi8_u"),
        ("iso-8859-8-i", "iso8859_8"),
        ("", None),
        ("x-unknown", None),
        ("a" * 10_000, None),
        ("idna", None),
        ("punycode", None),
        ("base64", None),
        ("rot13", None),
        ("unicode_escape", None),
        ("undefined", None),
        ("os", None),
    ],
)
def test_charset_names_are_known_as_mail_spells_them(label: str, codec: str | None) -> None:
    """Misspelt and quoted names are known; codecs that are no charsets, and modules, are not."""
    assert charset.lookup(label) == codec


def test_unknown_names_leave_no_trace_in_the_codec_registry() -> None:
    """Looking up a stranger's charset name does not grow Python's cache of codecs."""
    known = dict(encodings._cache)
    for number in range(100):
        assert charset.lookup(f"x-stranger-{number}") is None
    assert encodings._cache == known


@pytest.mark.parametrize(
    ("text", "codec", "declared", "problem"),
    [
        ("plain", "ascii", None, None),
        ("plain", "ascii", "x-unknown", Code.CHARSET_UNKNOWN),
        ("café", "utf-8", "utf-8", None),
        ("café", "utf-8", None, Code.CHARSET_GUESSED),
        ("café", "utf-8", "us-ascii", Code.CHARSET_WRONG),
        ("café", "utf-8", "x-unknown", Code.CHARSET_UNKNOWN),
        ("café", "cp1252", "utf-8", Code.CHARSET_WRONG),
        ("“café”", "cp1252", "iso-8859-1", None),
        (RUSSIAN, "koi8-r", None, Code.CHARSET_GUESSED),
        (RUSSIAN, "cp1251", "x-unknown", Code.CHARSET_UNKNOWN),
        (RUSSIAN, "cp1251", "utf-8", Code.CHARSET_WRONG),
        (FRENCH, "cp1252", None, Code.CHARSET_GUESSED),
        (POLISH, "cp1250", None, Code.CHARSET_GUESSED),
        (JAPANESE, "cp932", None, Code.CHARSET_GUESSED),
        (JAPANESE, "euc_jp", None, Code.CHARSET_GUESSED),
        (JAPANESE, "iso2022_jp", None, Code.CHARSET_GUESSED),
        (JAPANESE, "iso2022_jp", "us-ascii", Code.CHARSET_WRONG),
        ("①株式会社", "iso2022_jp_2004", "iso-2022-jp", None),
        ("①株式会社", "cp932", "shift_jis", None),
        ("朱镕基", "gb18030", "gb2312", None),
    ],
)
def test_text_is_read_in_the_charset_that_it_is_in(
    text: str, codec: str, declared: str | None, problem: Code | None
) -> None:
    """Whatever is declared, text of many languages is read right, and a wrong declaration is said."""
    decoded = charset.decode(text.encode(codec), declared)
    assert (decoded.text, decoded.problem) == (text, problem)


def test_a_few_malformed_bytes_are_replaced_in_the_declared_charset() -> None:
    """A text that is mostly well-formed stays in its charset, with U+FFFD where it is malformed."""
    decoded = charset.decode("äöüß".encode() + b"\xff", "utf-8")
    assert decoded == ("äöüß\ufffd", "utf_8", Code.CHARSET_WRONG)


def test_a_cut_last_character_is_left_out_of_a_partial_text() -> None:
    """The beginning of a text may end amid a character without being malformed."""
    assert charset.decode("aé".encode()[:2], "utf-8", partial=True) == ("a", "utf_8", None)
    assert charset.decode("日本".encode("gb18030")[:3], "gb2312", partial=True).text == "日"


def test_byte_order_marks_are_dropped() -> None:
    """A byte order mark is no part of the text."""
    assert charset.decode(b"\xef\xbb\xbfa", "utf-8").text == "a"
    assert charset.decode("a".encode("utf-16"), "utf-16").text == "a"


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([None, *sorted(set(charset._CODECS.values())), "nonsense"]),
    st.booleans(),
)
def test_decoding_never_fails_and_always_gives_encodable_text(
    data: bytes, declared: str | None, partial: bool
) -> None:
    """Any bytes in any charset become a text that UTF-8 can encode and that has no NUL."""
    text = charset.decode(data, declared, partial=partial).text
    text.encode("utf-8")
    assert "\0" not in text


def test_surrogates_and_nuls_are_cleaned_from_text() -> None:
    """A lone surrogate becomes U+FFFD and a NUL disappears; other text is the same object."""
    text = "größe"
    assert charset.clean("a\ud800b\0c") == "a\ufffdbc"
    assert charset.clean(text) == text
