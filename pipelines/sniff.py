"""What a content seems to be by its first bytes, whatever its sender declares.

A table of the file formats that come by mail, and of those that are dangerous when they come under another name. It
is a hint for people and filters and no proof: a file may be two things at once, and plain text is nothing that
could be told from a few bytes. Bytes in, a media type or None out; nothing is opened, unpacked or executed.
"""

from __future__ import annotations

import re

# How many bytes at the beginning of a content are looked at; the magic number of tar stands at 257.
HEAD_BYTES = 512
# An archive is looked at further, because what it holds says which kind of document it is.
ARCHIVE_HEAD_BYTES = 4096

_ZIP = "application/zip"

# Longer signatures stand before shorter ones that they begin with.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"\0\0\1\0", "image/vnd.microsoft.icon"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"PK\3\4", _ZIP),
    (b"PK\5\6", _ZIP),
    (b"Rar!\x1a\7", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"MSCF\0\0\0\0", "application/vnd.ms-cab-compressed"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"\x78\x9f\x3e\x22", "application/vnd.ms-tnef"),
    (b"{\\rtf", "application/rtf"),
    (b"%!PS", "application/postscript"),
    (b"MZ", "application/vnd.microsoft.portable-executable"),
    (b"\x7fELF", "application/x-elf"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xce\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xca\xfe\xba\xbe", "application/java-vm"),
    (b"L\0\0\0\1\x14\2\0\0\0\0\0\xc0\0\0\0\0\0\0F", "application/x-ms-shortcut"),
    (b"ITSF", "application/vnd.ms-htmlhelp"),
    (b"#!", "text/x-shellscript"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "application/ogg"),
    (b"#!AMR", "audio/amr"),
    (b"MThd", "audio/midi"),
    (b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"-----BEGIN PGP SIGNATURE", "application/pgp-signature"),
    (b"-----BEGIN PGP MESSAGE", "application/pgp-encrypted"),
    (b"-----BEGIN PGP PUBLIC KEY", "application/pgp-keys"),
)
_BY_FIRST_BYTE: dict[int, list[tuple[bytes, str]]] = {}
for _signature in sorted(_SIGNATURES, key=lambda entry: -len(entry[0])):
    _BY_FIRST_BYTE.setdefault(_signature[0][0], []).append(_signature)

# Formats within a container that names them at byte 8 (RIFF) or from byte 4 on (ISO base media).
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/vnd.wave", b"AVI ": "video/x-msvideo"}
_BRANDS = {
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"avif": "image/avif",
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"3gp4": "video/3gpp",
    b"3gp5": "video/3gpp",
}
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+(?:(?P<html><!doctype html|<html|<head|<script|<body)|(?P<svg><svg)|(?P<xml><\?xml)"
    rb"|(?P<calendar>BEGIN:VCALENDAR)|(?P<card>BEGIN:VCARD))",
    re.IGNORECASE,
)
_MARKUP_TYPES = {
    "html": "text/html",
    "svg": "image/svg+xml",
    "xml": "text/xml",
    "calendar": "text/calendar",
    "card": "text/vcard",
}

_OPEN_DOCUMENT = re.compile(
    rb"PK\x03\x04.{22}\x08\x00..mimetype(application/[\w.+-]{1,80}?)(?=PK|\Z)", re.DOTALL
)
_OFFICE = {
    b"word/": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    b"xl/": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    b"ppt/": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    b"META-INF/": "application/java-archive",
}
_MEMBER = re.compile(rb"PK\x03\x04.{26}(word/|xl/|ppt/|META-INF/)", re.DOTALL)


def sniff(head: bytes) -> str | None:
    """Return the media type that the first bytes of a content speak for, or None if they speak for none.

    `HEAD_BYTES` are enough, and `ARCHIVE_HEAD_BYTES` of what begins with `PK`. The types are IANA's where it has one.
    """
    for signature, media_type in _BY_FIRST_BYTE.get(head[0], ()) if head else ():
        if head.startswith(signature):
            return _archive(head) if media_type is _ZIP else media_type
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[257:262] == b"ustar":
        return "application/x-tar"
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "image/bmp"
    markup = _MARKUP.match(head)
    return None if markup is None else _MARKUP_TYPES[markup.lastgroup or ""]


def is_archive(media_type: str) -> bool:
    """Whether a second look, at `ARCHIVE_HEAD_BYTES`, may tell more."""
    return media_type == _ZIP


def _archive(head: bytes) -> str:
    """Tell documents from other archives by the names of their first members."""
    document = _OPEN_DOCUMENT.match(head)
    if document is not None:
        return document[1].decode("ascii")
    member = _MEMBER.search(head)
    return _ZIP if member is None else _OFFICE[member[1]]
