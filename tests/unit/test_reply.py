"""The reply stage finds the new words in what many mail programs write, and takes nothing else for quoted."""

from __future__ import annotations

import time
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.parse import parse
from pipelines.prose import wording
from pipelines.prose.flowed import plain_lines
from pipelines.prose.replies import Kind, split
from pipelines.stages.reply import ReplyOptions, ReplyStage
from tests.bed.patience import BUSY

HERE = Path(__file__).parents[1] / "replies"
MESSAGES = sorted(HERE.glob("*.eml"))


def found(raw: bytes, **options: object) -> dict[str, object]:
    """What the stage finds in a message."""
    finding = ReplyStage("new", ReplyOptions.model_validate(options)).apply(parse(raw)).findings["new"]
    assert isinstance(finding, dict)
    return finding


def html(markup: str) -> bytes:
    return b"Content-Type: text/html; charset=utf-8\r\n\r\n" + markup.encode()


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_reply_of_the_corpus_gives_its_new_words(path: Path) -> None:
    """Each file is what one program writes in one language, and beside it what a person would call new."""
    expected = orjson.loads(path.with_suffix(".json").read_bytes())
    finding = found(path.read_bytes())

    assert {key: finding[key] for key in expected} == expected
    assert finding.keys() == {"reply", "quoted", "signature", "html"}


def test_the_corpus_is_large_and_every_message_has_its_answer() -> None:
    """Both files of a pair are there."""
    assert len(MESSAGES) >= 40
    assert {path.stem for path in MESSAGES} == {path.stem for path in HERE.glob("*.json")}


NEW = st.lists(
    st.sampled_from(["Yes.", "No, not yet.", "See the list:", "Bob said so.", ""]), min_size=1, max_size=4
)
OLD = st.lists(
    st.sampled_from(["> Did it come?", ">> deeper", "> On Monday, Bob wrote:", ">"]), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NEW, OLD), min_size=1, max_size=5), NEW)
def test_new_words_between_quoted_lines_are_all_kept(
    blocks: list[tuple[list[str], list[str]]], last: list[str]
) -> None:
    """Wherever one answers: above, below, between; a line that introduces nothing in particular may go with the quote."""
    lines = [line for new, old in blocks for line in (*new, "", *old, "")] + last
    wanted = [line for line in lines if line and not line.startswith(">")]
    got = split(list(plain_lines("\n".join(lines)))).reply

    assert [line for line in got.split("\n") if line] == wanted


SCRAPS = st.sampled_from(
    [*">-_:.@<1", " ", "\n", "\n> ", "\n\n", "wrote:", "On 1/5/26 10:00 ", "From: x\n", "Sent: x\n", "To: x\n", "Subject: x\n",
     "\n-- \n", "-----Original Message-----\n", "Sent from my iPhone\n", "word"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(SCRAPS, max_size=60).map("".join))
def test_every_line_is_new_or_quoted_or_signature(text: str) -> None:
    """Whatever stands there, every line that is not blank is in exactly one place, and new words keep their order."""
    lines = list(plain_lines(text))
    done = split(lines)

    assert len(done.kinds) == len(lines)
    kept = [line.text.rstrip() for line, kind in zip(lines, done.kinds, strict=True) if kind is Kind.NEW]
    assert [line for line in done.reply.split("\n") if line] == [line for line in kept if line]
    assert all(kind is not Kind.NEW for line, kind in zip(lines, done.kinds, strict=True) if line.depth)


class Balance(HTMLParser):
    """Counts what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in {"br", "img", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


TAGS = st.sampled_from(
    ["<p>", "</p>", "<div>", "</div>", "<b>", "</b>", "<blockquote>", "</blockquote>", "<br>", "x ", "y\n", "<td>", "</td>",
     '<div class="gmail_quote">', '<div id="divRplyFwdMsg">', "<pre>a\nb\n", "</pre>", "<span style='display:none'>", "</span>"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(TAGS, max_size=40), st.integers(1, 200))
def test_the_html_of_a_reply_closes_what_it_opens(pieces: list[str], longest: int) -> None:
    """Whatever is cut out and wherever the limit lies, it can be put into a page."""
    given_ = found(html("".join(pieces)), longest=longest)["html"]
    balance = Balance()
    balance.feed(str(given_ or ""))

    assert balance.open == []


def test_the_html_can_be_left_out() -> None:
    """For those who never show it."""
    assert found(html("<p>Yes.</p>"))["html"] == "<p>Yes.</p>"
    assert found(html("<p>Yes.</p>"), html="no")["html"] is None


def test_what_a_script_says_is_not_in_the_html() -> None:
    """It is no word of the sender, and nobody wants it."""
    assert found(html("<p>Yes.<script>var x = '<p>no</p>';</script> Sir</p>"))["html"] == "<p>Yes. Sir</p>"


def test_what_is_hidden_within_a_quote_goes_with_it() -> None:
    """It was quoted as well, though nobody saw it."""
    quote = "<blockquote> <i hidden>secret</i> old</blockquote>"

    assert found(html(f"<p>Yes.</p>{quote}"))["html"] == "<p>Yes.</p>"
    assert found(html(f"{quote}<p>Yes.</p>"))["html"] == "<p>Yes.</p>"


def test_everything_is_bounded() -> None:
    """`longest` holds for each text that is found."""
    finding = found(html("<p>" + "word " * 1000 + "</p>"), longest=100)

    assert len(str(finding["reply"])) == 100
    assert len(str(finding["html"])) < 130


@pytest.mark.parametrize(
    "piece",
    ["From: a\n", "> \n", "On 1/5/26 10:00 wrote:\n", "a:\n\n", "--\n", "From: a\nTo: b\n\n\n", "-" * 30 + "\n", "wrote: ",
     "On 1/5/26 ", "\n", "Subject: x\n>\n", "Sent from my ", ":", "1:11 ", "__\n", "a@", "a.", "Get Outlook for "],
)  # fmt: skip
def test_two_megabytes_of_anything_take_a_moment(piece: str) -> None:
    """Nothing is looked at more often than a fixed number of times."""
    raw = b"Content-Type: text/plain; charset=utf-8\n\nHi\n" + (piece * (2_000_000 // len(piece))).encode()
    message = parse(raw)
    begun = time.process_time()
    ReplyStage("new", ReplyOptions()).apply(message)

    assert time.process_time() - begun < 2 * BUSY


@pytest.mark.parametrize(
    "piece",
    ["<tr><td>a", "<blockquote>a", "<p>a", "<li>a", "<pre>a\n\n", "<b>a</b>", "<div class=gmail_quote>a"],
)
def test_ten_megabytes_of_html_take_a_moment(piece: str) -> None:
    """What is read of it is bounded, and so is what is written."""
    message = parse(html(piece * (10_000_000 // len(piece))))
    begun = time.process_time()
    ReplyStage("new", ReplyOptions()).apply(message)

    assert time.process_time() - begun < 2 * BUSY


@pytest.mark.parametrize(
    ("line", "field"),
    [("From: Bob", "from"), ("*Von:* Bob", "from"), ("Envoyé : lundi", "sent"), ("件名：配達", "subject"), ("Кому: Ann", "to"),
     ("Cc: Carl", "copy"), ("Foo: bar", None), ("From Bob", None), ("Fromage: brie", None), ("", None)],
)  # fmt: skip
def test_a_field_of_a_quoted_header_is_known_in_many_languages(line: str, field: str | None) -> None:
    """By its label and its colon, in bold or not."""
    assert wording.field_of(line) == field
