"""What a content seems to be by its first bytes."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import parse, sniff
from pipelines.part import Part


def archive(*members: str) -> bytes:
    """A zip with these members, stored or compressed as office programs do."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name in members:
            file.writestr(name, f"<{name}>" * 20)
    return target.getvalue()


def open_document() -> bytes:
    """A zip that says its own type first, as OpenDocument (ODF 1.3 part 2, section 3.3) and EPUB want it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.text", zipfile.ZIP_STORED)
        file.writestr("content.xml", "<x/>")
    return target.getvalue()


def tape() -> bytes:
    """A tar archive."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as file:
        file.addfile(tarfile.TarInfo("a"))
    return target.getvalue()


OFFICE = "application/vnd.openxmlformats-officedocument."


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"%PDF-1.7\n", "application/pdf"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image/jpeg"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "audio/vnd.wave"),
        (b"RIFF\x10\0\0\0????", None),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "image/heic"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video/mp4"),
        (b"BM\x36\0\0\0\0\0\0\0", "image/bmp"),
        (b"BM is a company", None),
        (b"MZ\x90\0", "application/vnd.microsoft.portable-executable"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
        (b"\x78\x9f\x3e\x22\0\0", "application/vnd.ms-tnef"),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML>", "text/html"),
        (b"<svg xmlns=", "image/svg+xml"),
        (b"BEGIN:VCALENDAR\r\n", "text/calendar"),
        (b"-----BEGIN PGP SIGNATURE-----", "application/pgp-signature"),
        (archive("a.txt"), "application/zip"),
        (
            archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"),
            f"{OFFICE}wordprocessingml.document",
        ),
        (archive("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"), f"{OFFICE}spreadsheetml.sheet"),
        (archive("[Content_Types].xml", "ppt/presentation.xml"), f"{OFFICE}presentationml.presentation"),
        (archive("META-INF/MANIFEST.MF"), "application/java-archive"),
        (open_document(), "application/vnd.oasis.opendocument.text"),
        (tape(), "application/x-tar"),
        (b"Just words.", None),
        (b"", None),
    ],
)
def test_first_bytes_tell_a_type(content: bytes, media_type: str | None) -> None:
    """Formats of everyday mail, those that are dangerous, and what is none of them."""
    assert sniff.sniff(content) == media_type


def test_a_part_is_told_whatever_it_declares_and_however_it_is_encoded() -> None:
    """Also a document whose kind stands far behind its first bytes."""
    import base64

    document = archive(
        "[Content_Types].xml", "_rels/.rels", *(f"docProps/{n}.xml" for n in range(12)), "word/document.xml"
    )
    raw = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(
        document
    )
    part = parse(raw).structure
    assert (part.type, part.sniffed_type()) == ("image/png", f"{OFFICE}wordprocessingml.document")


def test_only_the_first_bytes_of_a_part_are_decoded() -> None:
    """A broken end, and a hundred megabytes, change nothing."""
    content = memoryview(b"JVBERi0xLjcK" + b"!" * 1_000_000)
    assert Part(encoding="base64", content=content).sniffed_type() == "application/pdf"


def test_a_multipart_is_not_told() -> None:
    """It has no content."""
    assert (
        parse(
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n%PDF-\r\n--b--"
        ).structure.sniffed_type()
        is None
    )


@given(st.binary(max_size=600))
def test_any_bytes_are_some_type_or_none(content: bytes) -> None:
    """No content makes it raise, and what it answers is a media type."""
    found = sniff.sniff(content)
    assert found is None or found.count("/") == 1
