"""What `parse` promises for any bytes whatever: it returns, changes nothing, and its JSON can be encoded."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines import parse
from tests.fuzz.mutations import FRAGMENTS
from tests.fuzz.promises import assert_promises_hold

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.eml"))

BROKEN_MAIL = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
@example(b"")
@example(b"\0")
@example(b"\r")
def test_random_bytes_are_parsed_and_kept(raw: bytes) -> None:
    """Any bytes become a message whose raw bytes, digest and sizes are exact and whose JSON can be encoded."""
    assert_promises_hold(raw)


@settings(max_examples=200, deadline=None)
@given(BROKEN_MAIL)
@example(b"Content-Type: multipart/mixed; name*\n\n")
@example(b"Content-Disposition: filename=x\n\n")
@example(b"To: (c):\n\n")
@example(b'To: "\n\n')
@example(b"Message-ID: <[0123abcd]@example.org>\n\n")
def test_broken_mail_is_parsed_and_kept(raw: bytes) -> None:
    """Mail syntax joined at random is parsed with the same exactness, also what the email package raises on."""
    assert_promises_hold(raw)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CORPUS), st.data())
def test_damaged_corpus_mail_is_parsed_and_kept(path: Path, data: st.DataObject) -> None:
    """Corpus mail that lost, gained or repeated bytes anywhere is parsed with the same exactness."""
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 200)))
    inserted = data.draw(st.one_of(BROKEN_MAIL, st.just(raw[start:end] * 2), st.binary(max_size=20)))
    assert_promises_hold(raw[:start] + inserted + raw[end:])


# An empty file cannot be mapped.
@pytest.mark.parametrize("path", [path for path in CORPUS if path.stat().st_size], ids=lambda path: path.stem)
def test_a_mapped_file_is_parsed_as_its_bytes_are(path: Path) -> None:
    """A memoryview of a mapped file gives the same JSON as the file's bytes."""
    raw = path.read_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        message = parse(view)
        json = message.to_json()
        del message
        view.release()
    assert json == parse(raw).to_json()


def test_a_mail_cut_anywhere_is_parsed() -> None:
    """A message that ends anywhere, as after a lost connection, is parsed with what is there."""
    raw = max((path.read_bytes() for path in CORPUS), key=lambda raw: raw.count(b"Content-Type"))
    for end in range(0, len(raw), 3):
        assert_promises_hold(raw[:end])


def test_a_view_of_other_items_than_bytes_is_parsed() -> None:
    """A memoryview with gaps or of larger items is read as the bytes it stands for."""
    raw = b"Subject: x\r\n\r\nbody"
    spread = memoryview(b"".join(bytes([byte, 0]) for byte in raw))[::2]
    assert parse(spread).subject == "x"
