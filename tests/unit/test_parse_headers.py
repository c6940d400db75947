"""Headers as mail has them, one odd form at a time."""

from __future__ import annotations

import pytest

from pipelines import parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b", [(None, "a@b")]),
        ("A  B <a@b>, c@d", [("A B", "a@b"), (None, "c@d")]),
        ('"Doe, John" <j@d>', [("Doe, John", "j@d")]),
        ('"A" "B" C <a@b>', [("A B C", "a@b")]),
        ("a@b (John (x) Doe)", [("John (x) Doe", "a@b")]),
        ('Eve <"a>b"@c>, d@e', [("Eve", '"a>b"@c'), (None, "d@e")]),
        ("<@a,@b:c@d>", [(None, "c@d")]),
        ("<<a@b>>", [(None, "a@b")]),
        ("John <a@b, c@d", [("John", "a@b"), (None, "c@d")]),
        ("a@b; c@d", [(None, "a@b"), (None, "c@d")]),
        ("a@b c@d", [(None, "a@b"), (None, "c@d")]),
        ("A <a@b> B <c@d>", [("A", "a@b"), ("B", "c@d")]),
        ("mailto:a@b", [(None, "a@b")]),
        ("john @ example.com", [(None, "john@example.com")]),
        ("=?utf-8?B?Sm9obiA8YUBiPg==?=", [("John", "a@b")]),
        ("=?utf-8?Q?a=40b?=", [(None, "a@b")]),
        ("Foo (bar", [(None, "Foo bar")]),
        ("John <>", [("John", "")]),
        ("<>", []),
        (",,a@b,,", [(None, "a@b")]),
        ("", []),
    ],
)
def test_an_address_header_is_read_as_well_as_it_can_be(
    text: str, expected: list[tuple[str | None, str]]
) -> None:
    """Each form, well-formed or broken, gives the addresses that a person reads in it."""
    addresses = parse(f"To: {text}\r\n\r\n".encode()).to
    assert addresses is not None
    assert [tuple(address) for address in addresses] == expected


def test_semicolons_outside_of_a_group_only_separate() -> None:
    """Addresses that are separated by semicolons stand in one list, not in groups of one."""
    groups = parse(b"To: a@b; c@d\r\n\r\n").headers.grouped_addresses("To")
    assert groups is not None
    assert [(group.name, len(group.addresses)) for group in groups] == [(None, 2)]


def test_a_mailto_scheme_is_no_name_of_a_group() -> None:
    """An address that was pasted as a link stands outside of any group."""
    groups = parse(b"To: mailto:a@b\r\n\r\n").headers.grouped_addresses("To")
    assert groups is not None
    assert [group.name for group in groups] == [None]


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("=?utf-8?q?a?= =?x-unknown?q?=E4?= =?utf-8?q?c?=", "a =?x-unknown?q?=E4?= c"),
        ("=?utf-8?q?a?= =?x-unknown?q?b?= =?x-unknown?b?w6Q=?=", "abä"),
        ("=?x-unknown?b?GyRC?= =?x-unknown?q??=", "=?x-unknown?b?GyRC?= =?x-unknown?q??="),
        ("=?utf-8?q?a?==?utf-8?q?b?=", "ab"),
        ("=?utf-8?q?a b?=", "a b"),
        ("=?utf-8?q??=x", "x"),
        ("=?utf-8?q?what??= yes", "what? yes"),
        ("=?utf-8?x?a?= =?utf-8?q?b?=", "=?utf-8?x?a?= b"),
        ("=? =?utf-8?q?b?=", "=? b"),
        ("=?utf-8?b?YQ=?=", "a"),
        ("=?utf-8?b?!?=", ""),
    ],
)
def test_encoded_words_are_decoded_as_far_as_they_go(subject: str, expected: str) -> None:
    """Each way of breaking an encoded word leaves the others and the text around them intact."""
    assert parse(f"Subject: {subject}\r\n\r\n".encode()).subject == expected


def test_a_body_without_a_blank_line_before_it_keeps_lines_with_a_colon() -> None:
    """Text that begins right after the headers is body as a whole, even where a line looks like a header."""
    message = parse(b"Subject: x\r\nDear Bob\r\nNote: y\r\n\r\nrest")
    assert message.body_values["1"].value == "Dear Bob\nNote: y\n\nrest"
    assert message.header("Note") is None


def test_white_space_inside_of_a_message_id_is_dropped() -> None:
    """A message id that was folded is one id without white space."""
    assert parse(b"Message-ID: <abc.\r\n def@x>\r\n\r\n").message_id == ("abc.def@x",)


def test_control_characters_are_dropped_from_a_file_name() -> None:
    """A bell, a tab or a line end in a file name is gone, raw, percent-encoded or in an encoded word."""
    for name in (b'"a\x07b.txt"', b'"a\tb.txt"', b'"=?utf-8?q?a=0D=0Ab.txt?="'):
        assert (
            parse(b"Content-Disposition: attachment; filename=" + name + b"\r\n\r\n").structure.name
            == "ab.txt"
        )
    raw = b"Content-Disposition: attachment; filename*=utf-8''a%0D%0Ab.txt\r\n\r\n"
    assert parse(raw).structure.name == "ab.txt"


@pytest.mark.parametrize(
    ("markup", "preview"),
    [
        ("<!-- a > b --><p>text</p>", "text"),
        ("<style>a{}</style >one<br>two", "one two"),
        ("<head>never closed<p>text", "never closed text"),
        ("<SCRIPT>x</script><p>&#233;t&eacute;</p>", "été"),
        ("text <b", "text"),
        ("", ""),
    ],
)
def test_a_preview_of_html_shows_what_a_browser_shows(markup: str, preview: str) -> None:
    """Comments, styles, scripts and heads are left out; entities are decoded; a tag that is cut hides nothing else."""
    assert parse(b"Content-Type: text/html; charset=utf-8\r\n\r\n" + markup.encode()).preview == preview


def test_a_preview_has_at_most_256_characters() -> None:
    """A long text gives the first 256 characters, with white space collapsed."""
    assert parse(b"\r\n\r\n" + b"word  \r\n" * 1_000).preview == ("word " * 52)[:256].rstrip()
