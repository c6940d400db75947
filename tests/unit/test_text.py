"""The text stage finds what a person would read, in plain text and in HTML, and never takes long over it."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.parse import parse
from pipelines.prose.markup import attributes, tokens, unescape
from pipelines.stages.text import TextOptions, TextStage
from tests.bed.patience import BUSY


def found(raw: bytes, **options: object) -> dict[str, object]:
    finding = TextStage("words", TextOptions.model_validate(options)).apply(parse(raw)).findings["words"]
    assert isinstance(finding, dict)
    return finding


def html(markup: str) -> bytes:
    return b"Content-Type: text/html; charset=utf-8\r\n\r\n" + markup.encode()


def shown(markup: str, **options: object) -> object:
    """The text of some HTML."""
    finding = found(html(markup), **options)
    assert finding["from"] in {"html", "none"}
    return finding["text"]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        # White space collapses; blocks begin lines; paragraphs keep a blank line.
        ("<p>One\n two</p><p>three</p>", "One two\n\nthree"),
        ("<div>one</div><div>two</div>three<br>four", "one\ntwo\nthree\nfour"),
        ("<div>one</div><div><br></div><div>two</div>", "one\n\ntwo"),
        ("a<br><br><br><br>b", "a\n\nb"),
        ("<b>bo</b>ld", "bold"),
        ("one <b> two </b> three", "one two three"),
        # Outlook's lines are paragraphs without a margin, its blank lines hold a space that does not break.
        ("<p class=MsoNormal>a</p><p class=MsoNormal>b</p><p class=MsoNormal>&nbsp;</p><p class=MsoNormal>c</p>", "a\nb\n\nc"),
        ('<p style="margin:0">a</p><p style="margin:0 0 12px">b</p><p>c</p>', "a\nb\n\nc"),
        # What is not shown.
        ("<head><title>t</title><style>p {}</style></head><script>if (a < b) {'</p>'}</script><p>x</p>", "x"),
        ('<div style="display:none">preheader<div>more</div></div>x', "x"),
        ('<span style="DISPLAY : none !important">no</span>x<span hidden>no</span>', "x"),
        ("<!-- <p>no</p> -->x<!--[if mso]><p>no</p><![endif]-->", "x"),
        ("<![if !mso]>x<![endif]>", "x"),
        # What is shown although it looks hidden: generators of newsletters write so.
        ('<td style="font-size:0px"><div style="font-size:13px">x</div></td>', "x"),
        # Lists.
        ("<ul><li>a<li>b<ol start=3><li>c</li><li value=9>d</li><li>e</li></ol></ul>f", "* a\n* b\n  3. c\n  9. d\n  10. e\n\nf"),
        ("<ol start=x><li>a</ol>", "1. a"),
        ("<ul><li></li><li>a</li></ul>", "* a"),
        # Tables row by row.
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c<td><p>d</p></table>", "a | b\nc | d"),
        ("x<table><tr><th>a</th><td></td><td>b</td></tr></table>y", "x\na | b\ny"),
        ("<table><tr><td>a<br>b</td><td>c</td></tr></table>", "a\nb\nc"),
        ("<table><tr><td><table><tr><td>a</td><td>b</td></tr></table></td></tr><tr><td>c</td></tr></table>", "a | b\nc"),
        ("<table><tr><td>a</td><td></td></tr><tr><td>b</td></tr></table>", "a\nb"),
        # Quotes; a blockquote that only indents is none.
        ("a<blockquote>b<blockquote>c</blockquote></blockquote>d", "a\n> b\n>> c\nd"),
        ("a<blockquote><p>b</p><p>c</p></blockquote>", "a\n\n> b\n>\n> c"),
        ('<blockquote style="margin:0 0 0 40px; border:none; padding:0px">a</blockquote>', "a"),
        # Preformatted.
        ("<pre>a\n  b\n\n\tc</pre>d", "a\n  b\n\n        c\n\nd"),
        ('<div style="white-space: pre-wrap">a\n  b</div>', "a\n  b"),
        # Characters.
        ("&lt;b&gt; &amp;amp; &copy; &#8364; &#x20AC; &nbsp;x &nosuch; &", "<b> &amp; © € €  x &nosuch; &"),
        ("a&#0;b&#xD800;c&#99999999999999999999;d", "a\ufffdb\ufffdc\ufffdd"),
        ("so&shy;ft &zwnj;&#8203;x", "soft \u200cx"),
        ("<p>a</p><p>&#847;&zwnj;&nbsp;&#847;&zwnj;&nbsp;</p><p>b</p>", "a\n\nb"),
        # Broken.
        ("a < b and 1<2 <3", "a < b and 1<2 <3"),
        ("a<p", "a"),
        ('a<p title="never closed>b</p>c', "a\n\nb\n\nc"),
        ("a<!-- never closed <p>b</p>", "a"),
        ("a<style>never closed <p>b</p>", "a"),
        ("</div></p>a</b></i><b>b</p>c", "ab\n\nc"),
        ("<p style='display:none'>a<p>b", "b"),
        ("<table><tr><td style=display:none>a<td>b</table>", "b"),
        ("<td>a</div>b</td>", "ab"),
        ("<a href='x>y'>a</a>", "a"),
        ("<o:p>a</o:p><unknown-tag>b</unknown-tag>", "ab"),
        # Pictures by their words, but for what a program made up.
        ('<img alt="Our  shop"><img alt=""><img alt="image001.png"><img alt=x width=1 height=1>', "[Our shop]"),
        ("a<hr>b", "a\n---\nb"),
        ("", ""),
    ],
)  # fmt: skip
def test_html_reads_as_in_a_browser(markup: str, text: str) -> None:
    """Line by line what a person sees, without the looks."""
    assert shown(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ('<a href="https://example.com/a?b=1&amp;c=2">here</a>.', "here (https://example.com/a?b=1&c=2)."),
        ('<a href="https://www.example.com/">example.com</a>', "example.com"),
        ('<a href="mailto:a@example.com">a@example.com</a> <a href="mailto:a@example.com">Ann</a>', "a@example.com Ann (a@example.com)"),
        ('<a href="javascript:alert(1)">x</a><a href="#top">y</a><a name=z>z</a>', "xyz"),
        ('<a href="https://example.com/"><img src=x></a>', ""),
        (f'<a href="https://example.com/{"x" * 3000}">long</a>', "long"),
    ],
)  # fmt: skip
def test_links_stand_behind_their_words_when_asked_for(markup: str, text: str) -> None:
    """Where they say more than the words, and lead to somewhere."""
    assert shown(markup, links="yes") == text
    assert "(" not in str(shown(markup))


BOTH = (
    b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n%s\r\n'
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>from <b>html</b></p>\r\n--b--\r\n"
)


def test_plain_text_comes_first_unless_told_otherwise_or_empty() -> None:
    """An empty plain text beside HTML is what careless programs send."""
    assert found(BOTH % b"from plain") == {"text": "from plain", "from": "plain", "isTruncated": False}
    assert found(BOTH % b"from plain", prefer="html") == {
        "text": "from html",
        "from": "html",
        "isTruncated": False,
    }
    assert found(BOTH % b" \r\n ") == {"text": "from html", "from": "html", "isTruncated": False}


def test_all_texts_of_a_message_are_joined() -> None:
    """A text, an attachment and a foot that a list added: the attachment is not read."""
    raw = (
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\none\r\n'
        b'--b\r\nContent-Type: text/plain; name="a.txt"\r\nContent-Disposition: attachment\r\n\r\nno\r\n'
        b"--b\r\nContent-Type: text/html\r\n\r\n<i>two</i>\r\n--b--\r\n"
    )

    assert found(raw) == {"text": "one\n\ntwo", "from": "html", "isTruncated": False}


def test_a_message_without_text_has_none() -> None:
    """Such as one that is a picture."""
    assert found(b"Content-Type: image/png\r\n\r\nx") == {"text": "", "from": "none", "isTruncated": False}
    assert found(b"") == {"text": "", "from": "none", "isTruncated": False}


@pytest.mark.parametrize(
    ("parameters", "body", "text"),
    [
        # RFC 3676 sections 4.1 to 4.5.
        ("format=flowed", "one \ntwo\nthree", "one two\nthree"),
        ("format=Flowed; delsp=yes", "one  \ntwo long \nword", "one two longword"),
        ("format=flowed", "> a \n> b\n>> c \nd", "> a b\n>> c\nd"),
        ("format=flowed", " >stuffed\n From here\n  indented", ">stuffed\nFrom here\n indented"),
        ("format=flowed", "text \n-- \nAnn", "text\n--\nAnn"),
        ("format=fixed", "one \ntwo", "one\ntwo"),
    ],
)
def test_flowed_text_is_made_whole(parameters: str, body: str, text: str) -> None:
    """Paragraphs that were wrapped for the way are whole again, also within quotes."""
    raw = f"Content-Type: text/plain; {parameters}\n\n{body}\n".encode()

    assert found(raw)["text"] == text


def test_the_length_is_bounded_and_it_is_said() -> None:
    """In characters, for plain text and for HTML; no more, and no less than that either."""
    plain = found(b"\n" + b"word " * 100, longest=42)
    converted = found(html("<p>" + "word " * 100), longest=42)

    for finding in (plain, converted):
        assert (len(str(finding["text"])), finding["isTruncated"]) == (42, True)
    assert found(b"\nword", longest=4)["isTruncated"] is False


def test_a_part_that_the_parser_cut_is_truncated() -> None:
    """More than two megabytes of text are not read at all."""
    assert found(b"\n" + b"word " * 500_000, longest=10_000_000)["isTruncated"] is True
    assert found(html("<p>word " * 300_000), longest=10_000_000)["isTruncated"] is True


HOSTILE = [
    "<", "<a", "<a ", "<!--", "<!", "<?", "</", "<![CDATA[", '<a x="', "<a x='>' ", '<a x=">" ', "<a =", "<b>", "</b>", "<div>", "</div>",
    "<p>a", "<td>a", "<tr><td>a", "<li>a", "<ul><li>a", "<table><tr><td>a", "<blockquote>a", "<script>", "<style></", "<pre>a\n\n", "&amp;", "&#1",
    "&#x", "&a", "<q style='display:none;x' class=a>", "<a href=https://a.example>b", "<div><span></div>", "<img alt=a>", "<br>", " ", "\u00a0", "x\n",
    "<a " + "b=c " * 200 + ">", "<i><div></i>", "<title>", "<p style='margin:" + "0 " * 500 + "'>",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_ten_megabytes_of_anything_take_at_most_two_seconds(piece: str) -> None:
    """They are read as far as the limits go; what was left out is said."""
    message = parse(html(piece * (10_000_000 // len(piece.encode()))))
    stage = TextStage("words", TextOptions(links=True))
    begun = time.process_time()
    finding = stage.apply(message).findings["words"]

    assert time.process_time() - begun < 2 * BUSY
    assert isinstance(finding, dict)
    assert finding["isTruncated"] is True


def test_the_work_grows_with_the_length_and_not_with_its_square() -> None:
    """Nested elements, end tags without a beginning, and both at once: four times as much takes no sixteen times."""
    stage = TextStage("words", TextOptions())

    def seconds(markup: str) -> float:
        message = parse(html(markup))
        begun = time.process_time()
        stage.apply(message)
        return time.process_time() - begun

    for opened, closed in (
        ("<div>", "</p>"),
        ("<i>", "</b><b>"),
        ("<td><p>", "</div>"),
        ("<a x='>", "<a x='"),
    ):
        short, long = (min(seconds(opened * n + closed * n) for _ in range(2)) for n in (3_000, 12_000))
        assert long < 10 * short + 0.05, opened


SCRAPS = st.sampled_from(
    [
        *(piece for piece in HOSTILE if len(piece) < 40),
        "word",
        ">",
        '"',
        "'",
        "=",
        "-->",
        "</script>",
        "</table>",
        "</a>",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(SCRAPS, max_size=60).map("".join))
def test_what_is_cut_into_pieces_lies_in_order_and_loses_no_text(markup: str) -> None:
    """Pieces follow each other without overlap; what lies outside of any is markup."""
    pieces = list(tokens(markup))

    assert all(first.end <= second.start for first, second in pairwise(pieces))
    assert all(piece.start < piece.end for piece in pieces)
    assert all(piece.name.isascii() and not piece.name.startswith("/") for piece in pieces)
    if "<" not in markup:
        assert [(piece.start, piece.end) for piece in pieces] == ([(0, len(markup))] if markup else [])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "alpha",
                "beta",
                "gamma",
                " ",
                "<p>",
                "</p>",
                "<b>",
                "</div>",
                "<td>",
                "<li>",
                "<blockquote>",
                "<br>",
            ]
        ),
        max_size=40,
    )
)
def test_no_word_that_is_shown_is_lost_or_doubled(pieces: list[str]) -> None:
    """Whatever the tags do, each word between them is in the text once."""
    words = Counter({word: pieces.count(word) for word in ("alpha", "beta", "gamma") if word in pieces})
    text = str(shown("".join(pieces)))

    assert Counter({word: text.count(word) for word in ("alpha", "beta", "gamma") if word in text}) == words


def test_attributes_are_read_as_browsers_read_them() -> None:
    """Quoted or not, the first of a name counts, names in lower case, no end of them."""
    assert attributes(' A=1 b=\'2 "\' c="3 &amp;" d e = f A=9 /') == {
        "a": "1",
        "b": '2 "',
        "c": "3 &",
        "d": "",
        "e": "f",
    }
    assert len(attributes(" ".join(f"a{n}=1" for n in range(1000)))) == 60


def test_a_number_of_any_length_is_a_character() -> None:
    """Python's own conversion raises on more than 4,300 digits."""
    assert unescape("&#" + "1" * 10_000 + ";x") == "\ufffdx"
    assert unescape("&#x" + "f" * 10_000 + ";x") == "\ufffdx"
    assert unescape("&#0000000000000065;") == "A"
