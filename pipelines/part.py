"""One part of a message: what its headers say, and its content, decoded only when someone asks.

The content is a slice of the raw message, never a copy; a large attachment is read through `open` or `chunks`
without ever being in memory as a whole.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines import charset, sniff, transfer
from pipelines.headers import Headers

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part as RFC 8621's EmailBodyPart (section 4.1.4); `type` is in lower case, `size` counts decoded octets.

    `part_id` is the part's number as IMAP counts (RFC 9051 section 6.4.5); it and `blob_id` are None exactly
    for multiparts, which have `sub_parts` instead of `content`. `encoding` is the transfer encoding of `content`.
    """

    part_id: str | None = "1"
    blob_id: str | None = None
    size: int = 0
    name: str | None = None
    type: str = "text/plain"
    charset: str | None = "us-ascii"
    disposition: str | None = None
    cid: str | None = None
    language: tuple[str, ...] | None = None
    location: str | None = None
    sub_parts: tuple[Part, ...] | None = None
    headers: Headers = field(default_factory=Headers.empty, repr=False, compare=False)
    encoding: str = "7bit"
    content: memoryview = field(default=memoryview(b""), repr=False)
    _sha256: str | None = field(default=None, init=False, repr=False, compare=False)

    def decode(self) -> bytes:
        """Return the whole content with its transfer encoding undone."""
        return transfer.decode(self.content, self.encoding).data

    def chunks(self) -> Iterator[bytes]:
        """Yield the content with its transfer encoding undone, about 100 kB at a time."""
        return transfer.chunks(self.content, self.encoding)

    def open(self) -> io.BufferedReader:
        """Return the content with its transfer encoding undone as a file to read, which cannot seek."""
        return io.BufferedReader(_Chunks(self.chunks()))

    def text(self) -> str:
        """Return the whole content as text, in whatever charset it turns out to be, with LF line ends."""
        return charset.decode(self.decode(), self.declared_charset()).text.replace("\r\n", "\n")

    def declared_charset(self) -> str | None:
        """Return the charset that the part itself declares, and not the one that RFC 2045 implies."""
        value = self.headers.parameterized("Content-Type")
        return None if value is None else value.parameters.get("charset")

    def sha256(self) -> str:
        """Return the SHA-256 of the decoded content in hex; computed once and kept."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for chunk in self.chunks():
                digest.update(chunk)
            object.__setattr__(self, "_sha256", digest.hexdigest())
        assert self._sha256 is not None
        return self._sha256

    def sniffed_type(self) -> str | None:
        """Return the media type that the first bytes speak for, whatever the sender declares, or None."""
        if self.sub_parts is not None:
            return None
        found = sniff.sniff(self._beginning(sniff.HEAD_BYTES))
        if found is not None and sniff.is_archive(found):
            found = sniff.sniff(self._beginning(sniff.ARCHIVE_HEAD_BYTES))
        return found

    def _beginning(self, size: int) -> bytes:
        """Decode about the first `size` bytes, which no encoding writes with more than four for one and line ends."""
        if self.encoding not in {"base64", "quoted-printable", "x-uuencode"}:
            return bytes(self.content[:size])
        return transfer.decode(self.content[: 4 * size], self.encoding).data[:size]

    def walk(self) -> Iterator[Part]:
        """Yield this part and all parts below it, each before its own parts."""
        yield self
        for part in self.sub_parts or ():
            yield from part.walk()

    def to_dict(self, *, shown: Container[str | None] = (), sha256: bool = True) -> dict[str, object]:
        """Return the JSON of RFC 8621's EmailBodyPart, without its content; `subParts` only for a multipart.

        With `sha256` it has the hash of the content, which is decoded for it. That is None for multiparts, for content that
        a stage took away, and for the parts in `shown`: those whose text stands beside it in the JSON, where a hash would
        betray what a stage redacted there.
        """
        result: dict[str, object] = {
            "partId": self.part_id,
            "blobId": self.blob_id,
            "size": self.size,
            "name": self.name,
            "type": self.type,
            "charset": self.charset,
            "disposition": self.disposition,
            "cid": self.cid,
            "language": None if self.language is None else list(self.language),
            "location": self.location,
            "sniffedType": self.sniffed_type(),
        }
        if sha256:
            is_here = self.sub_parts is None and (len(self.content) > 0 or self.size == 0)
            result["sha256"] = self.sha256() if is_here and self.part_id not in shown else None
        if self.sub_parts is not None:
            result["subParts"] = [part.to_dict(shown=shown, sha256=sha256) for part in self.sub_parts]
        return result


class _Chunks(io.RawIOBase):
    """Reads an iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
