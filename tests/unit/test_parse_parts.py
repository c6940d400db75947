"""Attachments are slices of the raw message, decoded when asked for, whole or piece by piece."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import mmap
import random
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipelines import parse, transfer
from pipelines.defects import Code
from pipelines.octets import WINDOW, Octets


def with_attachment(body: bytes, encoding: str) -> bytes:
    head = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n'
    part = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: %s\r\n\r\n" % encoding.encode()
    return head + part + body + b"\r\n--b--\r\n"


DATA = bytes(range(256)) * 10_000
ENCODED = {
    "base64": base64.encodebytes(DATA).replace(b"\n", b"\r\n"),
    "quoted-printable": binascii.b2a_qp(DATA, istext=False),
    "binary": DATA,
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_an_attachment_is_read_whole_or_in_pieces(encoding: str) -> None:
    """An attachment of many windows is the same bytes through decode, chunks and open, with exact size."""
    (part,) = parse(with_attachment(ENCODED[encoding], encoding)).attachments
    assert part.size == len(DATA)
    assert part.decode() == DATA
    assert b"".join(part.chunks()) == DATA
    with part.open() as file:
        assert file.read(7) == DATA[:7]
        assert file.read() == DATA[7:]
    assert part.sha256() == hashlib.sha256(DATA).hexdigest()


def test_an_attachment_is_a_slice_of_the_raw_message() -> None:
    """The content of a part lies in the raw message itself and is no copy of it."""
    raw = with_attachment(ENCODED["base64"], "base64")
    (part,) = parse(raw).attachments
    assert part.content.obj is raw


@pytest.mark.parametrize("length", [1, 75, 76, 998, 1_000_000, 10_000_000])
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b" \t\r\n"])
def test_base64_in_lines_of_any_length_is_whole(length: int, line_end: bytes) -> None:
    """Lines that end amid a group of four letters, and lines longer than a window, are no damage."""
    data = DATA[:500_000]
    letters = base64.b64encode(data)
    body = line_end.join(letters[start : start + length] for start in range(0, len(letters), length))
    message = parse(with_attachment(body, "base64"))
    (part,) = message.attachments
    assert part.decode() == b"".join(part.chunks()) == data
    assert part.size == len(data)
    assert message.defects == ()


@pytest.mark.parametrize("damage", [b"*", b"====", b"YQ==", b"A", b"\0\xff"])
def test_damaged_base64_has_one_size_whatever_way_it_is_read(damage: bytes) -> None:
    """Junk or padding amid a large base64 body is a defect; size, decode and chunks still agree."""
    body = ENCODED["base64"][: 2 * WINDOW] + damage + ENCODED["base64"][:1_000]
    message = parse(with_attachment(body, "base64"))
    (part,) = message.attachments
    assert part.size == len(part.decode()) == sum(map(len, part.chunks()))
    assert part.decode()[:1_000_000] == DATA[:1_000_000]
    assert [defect.code for defect in message.defects] == [Code.BASE64_DAMAGED]


def test_a_footer_below_large_base64_is_no_content() -> None:
    """Words below padded base64 of several windows are left out, with one size whatever way the part is read."""
    body = ENCODED["base64"] + b"____\r\nTo leave this list, write to us\r\n"
    message = parse(with_attachment(body, "base64"))
    (part,) = message.attachments
    assert part.decode() == b"".join(part.chunks()) == DATA
    assert part.size == len(DATA)
    assert [defect.code for defect in message.defects] == [Code.BASE64_DAMAGED]


def test_base64_in_many_joined_pieces_is_read_whole() -> None:
    """Base64 that was encoded and padded piece by piece, and then joined, gives all pieces."""
    message = parse(with_attachment(b"YQ==\r\nYmM=\r\n" * 1_000, "base64"))
    (part,) = message.attachments
    assert part.decode() == b"".join(part.chunks()) == b"abc" * 1_000
    assert part.size == 3_000


def test_white_space_at_the_very_end_of_quoted_printable_is_dropped() -> None:
    """White space that a relay added to the last line is no content, whatever way the part is read."""
    (part,) = parse(with_attachment(b"a \t\r\nb=20 \t ", "quoted-printable")).attachments
    assert part.decode() == b"".join(part.chunks()) == b"a\r\nb "
    assert part.size == 5


def test_quoted_printable_without_line_ends_is_read_in_pieces() -> None:
    """Quoted-printable that fills several windows with one line is cut at no escape."""
    part = parse(with_attachment(b"=C3=A9" * 500_000, "quoted-printable")).attachments[0]
    assert b"".join(part.chunks()) == "é".encode() * 500_000


def test_an_attached_message_is_parsed_by_its_content() -> None:
    """The decoded content of a nested message is a message again, also when it was base64."""
    corpus = Path(__file__).parents[1] / "corpus"
    message = parse((corpus / "nested-message.eml").read_bytes())
    assert [parse(part.decode()).subject for part in message.attachments] == ["Inner", "Second"]


def test_the_blob_id_is_the_same_for_the_same_bytes() -> None:
    """The blob id depends on the raw bytes and the part's number alone."""
    raw = with_attachment(b"YWJj", "base64")
    first, second = parse(raw, id="1" * 32), parse(raw, id="2" * 32, mailbox="other")
    assert first.attachments[0].blob_id == second.attachments[0].blob_id == f"{first.digest[:32]}.2"


def test_a_large_mapped_message_takes_little_memory(tmp_path: Path) -> None:
    """Parsing a mapped message of 60 MB allocates less than a tenth of it, and so does reading its attachment."""
    path = tmp_path / "large.eml"
    line = base64.b64encode(bytes(57)) + b"\r\n"
    with path.open("wb") as made:
        made.write(with_attachment(b"", "base64")[: -len(b"\r\n--b--\r\n")])
        for _ in range(60):
            made.write(line * (1_000_000 // len(line)))
        made.write(b"\r\n--b--\r\n")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        tracemalloc.start()
        message = parse(view)
        message.to_json()
        (part,) = message.attachments
        assert sum(map(len, part.chunks())) == part.size
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del message, part
        view.release()
    assert peak < 6_000_000


def test_a_search_finds_what_lies_across_two_windows() -> None:
    """A search in a large buffer finds every place, also across the edges of its window, forwards and back."""
    spots = [0, WINDOW - 3, 2 * WINDOW - 1, 2 * WINDOW + 5, 3 * WINDOW - 6]
    buffer = bytearray(3 * WINDOW)
    for spot in spots:
        buffer[spot : spot + 6] = b"needle"
    octets = Octets(memoryview(buffer))
    found, position = [], 0
    while (position := octets.find(b"needle", position, len(octets))) != -1:
        found.append(position)
        position += 1
    assert found == spots
    assert octets.find(b"needle", 0, len(octets)) == 0
    assert octets.find(b"needle", 1, WINDOW + 2) == -1
    assert octets.find(b"needle", 1, WINDOW + 3) == WINDOW - 3


def test_transfer_encodings_are_known_by_their_usual_misspellings() -> None:
    """Case, hyphens and comments do not matter; another word is unknown."""
    names = [
        "BASE64",
        "Base-64",
        "quoted/printable",
        "8-bit",
        "7bit (really)",
        "base64;",
        "x-UUencode",
        "x-foo",
    ]
    known = ["base64", "base64", "quoted-printable", "8bit", "7bit", "base64", "x-uuencode", None]
    assert [transfer.known_encoding(name) for name in names] == known


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_uuencode_is_read_across_windows(line_end: bytes) -> None:
    """Whole, in chunks and measured, the same; what stands after its end is no content."""
    data = random.Random(1).randbytes(2_500_000)
    lines = [binascii.b2a_uu(data[at : at + 45]).rstrip(b"\n") for at in range(0, len(data), 45)]
    content = memoryview(line_end.join([b"begin 644 x.bin", *lines, b"`", b"end", b"#86)C", b""]))
    assert transfer.decode(content, "x-uuencode") == (data, False)
    assert b"".join(transfer.chunks(content, "x-uuencode")) == data
    assert transfer.measure(content, "x-uuencode") == (len(data), False)


def test_white_space_at_the_end_of_quoted_printable_is_dropped_everywhere() -> None:
    """Also from a last line without a line end, read in chunks as read whole (RFC 2045 section 6.7 (3))."""
    for content in (b"a =\r\nb \t ", b"one  ", b"x =20 \n y\t", b"a= ", b" "):
        view = memoryview(content)
        whole = transfer.decode(view, "quoted-printable").data
        assert b"".join(transfer.chunks(view, "quoted-printable")) == whole
        assert whole == whole.rstrip(b" \t") or content.startswith(b"x")


def test_attachments_carry_the_hash_of_their_content() -> None:
    """The decoded content, also in the tree; not multiparts, nor texts, whose hash would betray what is redacted in them."""
    values: dict[str, Any] = orjson.loads(parse(with_attachment(b"YWJj", "base64")).to_json())
    expected = hashlib.sha256(b"abc").hexdigest()
    assert [part["sha256"] for part in values["attachments"]] == [expected]
    assert [part["sha256"] for part in values["textBody"]] == [None]
    assert values["bodyStructure"]["sha256"] is None
    assert [part["sha256"] for part in values["bodyStructure"]["subParts"]] == [None, expected]


def test_content_that_was_taken_away_has_no_hash() -> None:
    """The hash of nothing would say that the attachment was empty; an empty one has it."""
    part = parse(with_attachment(b"YWJj", "base64")).attachments[0]
    assert dataclasses.replace(part, content=memoryview(b"")).to_dict()["sha256"] is None
    empty = parse(with_attachment(b"", "base64")).attachments[0]
    assert empty.to_dict()["sha256"] == hashlib.sha256(b"").hexdigest()


def test_the_json_is_to_be_had_without_hashes() -> None:
    """Whoever does not need them spares the decoding, and no part is decoded."""
    message = parse(with_attachment(b"YWJj", "base64"))
    assert b"sha256" not in orjson.dumps(message.to_dict(sha256=False)["attachments"])
