"""Hostile mail costs no more than its bytes: each limit cuts the work, says so, and delivers the message.

What is asserted is the work that was left (counts, defects, what is still read), and, against quadratic time,
that ten times the input takes nowhere near a hundred times as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pipelines import limits, parse
from pipelines.defects import Code


def codes(raw: bytes) -> set[str]:
    return {defect.code for defect in parse(raw).defects}


def test_encoded_words_beyond_the_limit_are_left_undecoded() -> None:
    """Of 20,000 encoded words in a subject the first 2,000 are decoded, and the rest stays as it is."""
    message = parse(b"Subject:" + b" =?utf-8?q?a?= b" * 20_000 + b"\r\n\r\n")
    assert message.subject is not None
    assert message.subject.count("a b") == limits.ENCODED_WORDS
    assert message.subject.count("=?utf-8?q?a?=") == 20_000 - limits.ENCODED_WORDS
    assert {defect.code for defect in message.defects} == {Code.LIMIT_ENCODED_WORDS}


def test_header_lines_beyond_the_limit_are_not_read() -> None:
    """Of 100,000 header lines the first 5,000 are read, and the body is still found behind all of them."""
    message = parse(b"Subject: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\nbody")
    assert len(list(message.headers)) == limits.HEADER_COUNT
    assert message.body_values["1"].value == "body"
    assert {defect.code for defect in message.defects} == {Code.LIMIT_HEADER_COUNT}


def test_header_bytes_beyond_the_limit_are_not_read() -> None:
    """Headers of 3 MB are read up to the limit, and the body is still found behind them."""
    message = parse(b"Subject: x\r\n" + (b"X: " + b"y" * 990 + b"\r\n") * 3_000 + b"To: a@b\r\n\r\nbody")
    assert message.subject == "x"
    assert message.to is None
    assert message.body_values["1"].value == "body"
    assert {defect.code for defect in message.defects} == {Code.LIMIT_HEADER_BYTES}


def test_a_header_value_beyond_the_limit_is_cut() -> None:
    """A subject of 600 kB is read up to the limit."""
    message = parse(b"Subject: " + b"x" * 600_000 + b"\r\n\r\n")
    assert message.subject is not None
    assert len(message.subject) == limits.VALUE_BYTES
    assert {defect.code for defect in message.defects} == {Code.LIMIT_VALUE_BYTES}


@pytest.mark.parametrize("address", [b"a@b.example, ", b'"A, B" <a@b>, ', b"=?utf-8?q?a?= <a@b>, "])
def test_a_million_recipients_are_read_up_to_the_limit(address: bytes) -> None:
    """Of a million recipients those within the limits are read, whatever way they are written."""
    message = parse(b"To: " + address * 1_000_000 + b"\r\nSubject: lost\r\n\r\nbody")
    assert message.to is not None
    assert 9_000 < len(message.to) <= limits.ADDRESSES
    assert message.body_values["1"].value == "body"
    assert Code.LIMIT_HEADER_BYTES in {defect.code for defect in message.defects}


def test_addresses_beyond_the_limit_are_not_read() -> None:
    """Of 20,000 short addresses 10,000 are read."""
    message = parse(b"To: " + b"a@b, " * 20_000 + b"\r\n\r\n")
    assert message.to is not None
    assert len(message.to) == limits.ADDRESSES
    assert {defect.code for defect in message.defects} == {Code.LIMIT_ADDRESSES}


def test_message_ids_beyond_the_limit_are_not_read() -> None:
    """Of 5,000 references 1,000 are read."""
    message = parse(b"References: " + b"<a@b> " * 5_000 + b"\r\n\r\n")
    assert message.references == ("a@b",) * limits.MESSAGE_IDS
    assert {defect.code for defect in message.defects} == {Code.LIMIT_MESSAGE_IDS}


def test_parameters_beyond_the_limit_are_not_read() -> None:
    """Of 5,000 parameters the first 200 are read, also when they are sections of one name."""
    sections = b"".join(b"; name*%d=x" % (number % 1000) for number in range(5_000))
    message = parse(b"Content-Type: application/x-y" + sections + b"\r\n\r\n")
    assert message.structure.name == "x" * limits.PARAMETERS
    assert {defect.code for defect in message.defects} == {Code.LIMIT_PARAMETERS}


def test_nested_parts_beyond_the_limit_are_kept_as_one_attachment() -> None:
    """Of 10,000 multiparts within each other 50 are opened; the next is an attachment that holds the rest."""
    raw = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(10_000)
    )
    message = parse(raw)
    (attachment,) = message.attachments
    assert attachment.type == "application/octet-stream"
    assert attachment.part_id == ".".join("1" * limits.DEPTH)
    assert attachment.decode().endswith(b"--b9999\r\n")
    assert Code.LIMIT_DEPTH in {defect.code for defect in message.defects}


@pytest.mark.parametrize(
    "nested", [b"", b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n--c--\r\n"]
)
def test_parts_beyond_the_limit_are_kept_as_one_attachment(nested: bytes) -> None:
    """Of 100,000 parts 1,000 are read; one attachment holds all that follow."""
    raw = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + (b"--b\r\n" + nested + b"\r\nx\r\n") * 100_000
    )
    message = parse(raw)
    last = message.attachments[-1]
    assert len(list(message.structure.walk())) <= limits.PARTS + 3
    assert last.type == "application/octet-stream"
    assert len(last.decode()) > len(raw) * 0.9
    assert Code.LIMIT_PARTS in {defect.code for defect in message.defects}


def test_lines_that_only_look_like_a_delimiter_are_searched_up_to_a_limit() -> None:
    """After 100,000 lines that begin like a delimiter and are none, the search ends."""
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx" + b"\n--bx" * 200_000
    assert Code.LIMIT_DELIMITERS in codes(raw)


def test_defects_beyond_the_limit_are_counted_out() -> None:
    """A message with thousands of defects lists a hundred, and one that says there are more."""
    raw = b"".join(b"X%d : y\r\n" % number for number in range(4_000)) + b"\r\n"
    defects = parse(raw).defects
    assert len(defects) == limits.DEFECTS + 1
    assert defects[-1].code == Code.LIMIT_DEFECTS


def test_a_text_beyond_the_limit_is_truncated_between_characters() -> None:
    """A text of 3 MB ends within 2 MiB, amid no character, and says that it was truncated; the part has it all."""
    text = "aé€😀" * 300_000
    message = parse(b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + text.encode())
    value = message.body_values["1"]
    assert value.is_truncated
    assert not value.is_encoding_problem
    assert text.startswith(value.value)
    assert limits.BODY_VALUE_BYTES - 4 < len(value.value.encode()) <= limits.BODY_VALUE_BYTES
    assert message.structure.text() == text


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
def test_html_is_not_truncated_inside_of_a_tag(encoding: str) -> None:
    """HTML beyond the limit ends before the tag that the limit would cut, in any transfer encoding."""
    import binascii

    markup = b"<p>" + (b"x" * 60 + b"\r\n") * 33_815 + b"<a href='" + b"y" * 1_000_000 + b"'>z</a>"
    body = {
        "base64": binascii.b2a_base64(markup),
        "quoted-printable": binascii.b2a_qp(markup, istext=True),
        "8bit": markup,
    }[encoding]
    raw = b"Content-Type: text/html\r\nContent-Transfer-Encoding: %s\r\n\r\n" % encoding.encode() + body
    value = parse(raw).body_values["1"]
    assert value.is_truncated
    assert value.value.endswith("x\n")


def test_texts_share_one_limit() -> None:
    """Many texts together stay within the limit of one message."""
    raw = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        + (b"--b\r\n\r\n" + b"x" * 100_000 + b"\r\n") * 40
    )
    values = parse(raw).body_values
    assert sum(len(value.value) for value in values.values()) == limits.BODY_VALUE_BYTES
    assert values["1"].is_truncated is False
    assert values["40"].is_truncated is True


QUADRATIC: dict[str, Callable[[int], bytes]] = {
    "encoded words without end": lambda n: b"Subject: " + b"=?utf-8?q?a" * n + b"\n\n",
    "encoded word starts": lambda n: b"Subject: " + b"=?" * n + b"\n\n",
    "parentheses that open": lambda n: b"To: " + b"(" * n + b"\n\n",
    "parentheses that open and one that closes": lambda n: b"To: " + b"(" * n + b")\n\n",
    "parentheses in a date": lambda n: b"Date: " + b"(" * n + b"\n\n",
    "quotes": lambda n: b"To: a" + b'"' * (n | 1) + b"\n\n",
    "escaped quotes": lambda n: b'To: "' + b'\\"' * n + b"\n\n",
    "angle brackets": lambda n: b"To: " + b"<" * n + b"\n\n",
    "quotes in angle brackets": lambda n: b"To: " + b'<">,' * n + b"\n\n",
    "spaces in addresses": lambda n: b"To: a" + b" " * n + b"b\n\n",
    "spaces in parameters": lambda n: b"Content-Type: a" + b" " * n + b"b=\n\n",
    "spaces before a quote in parameters": lambda n: b"Content-Type: a/b;" + b" " * n + b'"=\n\n',
    "open quotes in parameters": lambda n: b"Content-Type: a/b" + b'; c="' * n + b"\n\n",
    "combining marks": lambda n: b"Subject: a" + "\u0301\u0316".encode() * (n // 4) + b"\n\n",
    "junk between headers": lambda n: b"A: b\n" + b"junk\nC: d\n" * (n // 10) + b"From: e\n\n",
    "carriage returns": lambda n: b"A: b" + b"\r" * n + b"\nC: d\n\n",
    "carriage returns before line ends": lambda n: (b"A: b" + b"\r" * 60_000 + b"\n") * (n // 60_000) + b"\n",
    "spaces before line ends": lambda n: (
        b"Content-Transfer-Encoding: quoted-printable\n\n" + b" " * n + b"x\r\n"
    ),
    "unclosed styles": lambda n: b"Content-Type: text/html\n\n" + b"<style>" * n,
    "unclosed comments": lambda n: b"Content-Type: text/html\n\n" + b"<!--" * n,
    "paddings": lambda n: b"Content-Type: a/b\nContent-Transfer-Encoding: base64\n\n" + b"AA=" * n,
    "one boundary again and again": lambda n: (
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" * (n // 40)
    ),
}


@pytest.mark.parametrize("build", QUADRATIC.values(), ids=QUADRATIC)
def test_time_grows_with_the_bytes_and_not_with_their_square(build: Callable[[int], bytes]) -> None:
    """Ten times as much of what makes parsers quadratic takes about ten times as long, and less than a second."""

    def seconds(raw: bytes) -> float:
        best = float("inf")
        for _ in range(2):
            begin = time.process_time()
            parse(raw)
            best = min(best, time.process_time() - begin)
        return best

    small, large = seconds(build(20_000)), seconds(build(200_000))
    assert large < max(25 * small, 0.1)
    assert large < 1
