"""What can be wrong with a message, one word each.

A defect never stops a message: it says where the parser met something broken and what it did about it. The
codes are part of the published JSON and change only with a new version of its schema. A detail names places
and numbers (a part id, a header's name, a charset), never the content of a header or a body.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipelines import limits


class Code(StrEnum):
    """Every defect code; the comment above each says what the parser did about it."""

    # The message has no byte at all.
    EMPTY_MESSAGE = "empty-message"
    # Blank lines, or an mbox "From " line, stand before the first header; they were skipped.
    JUNK_BEFORE_HEADERS = "junk-before-headers"
    # Lines among the headers are neither a header nor a folded one; they were skipped.
    JUNK_IN_HEADERS = "junk-in-headers"
    # The body begins without a blank line after the headers.
    NO_BLANK_LINE = "no-blank-line"
    # "Name : value": the space was ignored.
    SPACE_BEFORE_COLON = "space-before-colon"
    # Lines end with a lone CR; it was read as a line end.
    MIXED_LINE_ENDS = "mixed-line-ends"
    # A header that may stand once stands several times; the last one counts (RFC 8621 section 4.1.3); of several types,
    # the multipart that the body holds from its first delimiter to its last.
    DUPLICATE_HEADER = "duplicate-header"
    # A header holds bytes beyond ASCII that are no UTF-8; they were read in a charset that was guessed.
    RAW_8BIT_HEADER = "raw-8bit-header"
    # An encoded word (RFC 2047) names an unknown charset and was read as UTF-8, or kept as it stands if it is none; or it
    # is damaged and was decoded as far as it goes.
    ENCODED_WORD_DAMAGED = "encoded-word-damaged"
    # An address header holds something that is no address; it was kept as well as it could be read.
    ADDRESS_DAMAGED = "address-damaged"
    # The Date header cannot be read as a date; sentAt is null.
    DATE_UNREADABLE = "date-unreadable"
    # A message id header holds something that is no message id.
    MESSAGE_ID_DAMAGED = "message-id-damaged"
    # Content-Type cannot be read; the part was taken for the default type, or what stands behind its type was ignored.
    CONTENT_TYPE_DAMAGED = "content-type-damaged"
    # A multipart names no boundary that occurs in it, and none could be guessed; it was read as text.
    BOUNDARY_MISSING = "boundary-missing"
    # A multipart names no boundary that occurs in it; the one found in its body was used.
    BOUNDARY_GUESSED = "boundary-guessed"
    # A multipart has the boundary of the one around it; it was taken to end at the first closing delimiter.
    BOUNDARY_REUSED = "boundary-reused"
    # A multipart ends without its closing delimiter; what is there was kept.
    BOUNDARY_UNCLOSED = "boundary-unclosed"
    # Parts follow the closing delimiter of a multipart; they were read too.
    PART_AFTER_CLOSE = "part-after-close"
    # Content-Transfer-Encoding is unknown; the body was taken as it stands.
    TRANSFER_ENCODING_UNKNOWN = "transfer-encoding-unknown"
    # A base64 body holds other characters, or ends amid a group; what is base64 was decoded, without words that stand
    # below its padding.
    BASE64_DAMAGED = "base64-damaged"
    # An x-uuencode body has no begin or end, or lines that are none of uuencode; what is uuencode was decoded.
    UUENCODE_DAMAGED = "uuencode-damaged"
    # A text holds a file in uuencode (begin ... end), as before MIME; it was left in the text.
    UUENCODE_IN_TEXT = "uuencode-in-text"
    # A text declares a charset that nobody knows; another was used.
    CHARSET_UNKNOWN = "charset-unknown"
    # A text is not in the charset it declares; another was used, or its malformed bytes were replaced.
    CHARSET_WRONG = "charset-wrong"
    # A text declares no charset and is not ASCII; one was found out.
    CHARSET_GUESSED = "charset-guessed"
    # The parser failed on this message in a way that nobody foresaw; only the raw message is to be had.
    PARSER_FAILED = "parser-failed"
    # The limits: what lies beyond was not read, and is to be had in the raw message only.
    LIMIT_HEADER_BYTES = "limit-header-bytes"
    LIMIT_HEADER_COUNT = "limit-header-count"
    LIMIT_VALUE_BYTES = "limit-value-bytes"
    LIMIT_ADDRESSES = "limit-addresses"
    LIMIT_MESSAGE_IDS = "limit-message-ids"
    LIMIT_ENCODED_WORDS = "limit-encoded-words"
    LIMIT_PARAMETERS = "limit-parameters"
    LIMIT_PARTS = "limit-parts"
    LIMIT_DEPTH = "limit-depth"
    LIMIT_DELIMITERS = "limit-delimiters"
    LIMIT_DEFECTS = "limit-defects"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong with a message: `code` is one of `Code`, `detail` says where and what was done."""

    code: str
    detail: str


class Defects:
    """Collects the defects of one message while it is read; the same one is kept once, and not without end."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[Defect, None] = {}

    def add(self, code: Code, detail: str) -> None:
        """Note a defect; beyond `limits.DEFECTS` just one more says that there are others."""
        if len(self._found) >= limits.DEFECTS:
            code, detail = (
                Code.LIMIT_DEFECTS,
                f"more than {limits.DEFECTS} defects; the others are not listed",
            )
        self._found[Defect(code.value, detail)] = None

    def found(self) -> tuple[Defect, ...]:
        """Return what was noted so far, in the order of first sight."""
        return tuple(self._found)
