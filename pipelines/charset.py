"""Bytes to text, whatever charset a message claims: declared, then UTF-8, then found out, then Latin-1.

Decoding never fails and says what it had to do. Charset names are looked up in a fixed table and never in
Python's codec registry, which imports modules by name, remembers each miss for ever, and knows codecs that
are no charsets. Every text that leaves this module can be encoded as UTF-8 and has no NUL.
"""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases as _python_aliases
from typing import NamedTuple

from pipelines import limits
from pipelines.defects import Code

_UNENCODABLE = re.compile("[\x00\ud800-\udfff]")
_LABEL = re.compile(r"(?:charset=)?[\"']?([\w.:+*() -]*)", re.IGNORECASE)
_SQUASH = re.compile(r"[^a-z0-9]+")

# Python's own spellings that its table of aliases leaves out.
_WITHOUT_ALIAS = (
    "cp720 cp737 cp856 cp874 cp875 cp1006 koi8_t koi8_u mac_croatian mac_farsi mac_romanian utf_8_sig"
)

# Codecs of Python that turn bytes into something else than the text of a mail.
_NO_CHARSETS = (
    "base64_codec bz2_codec hex_codec idna mbcs oem punycode quopri_codec raw_unicode_escape rot_13 undefined "
    "unicode_escape uu_codec zlib_codec"
)

# Names that mail programs use, or misspell, beside those that Python knows.
_MORE_NAMES = {
    "cp1252": "ansi win1252",
    "cp874": "windows874 dos874 iso885911",
    "cp949": "windows949 xwindows949 ksc5601 kscode5601",
    "euc_jp": "xeucjp",
    "gb18030": "xgbk gb23121980 xcp936 windows936",
    "iso8859_6": "iso88596i iso88596e",
    "iso8859_8": "iso88598i iso88598e",
    "mac_cyrillic": "xmaccyrillic",
    "mac_roman": "xmacroman mac",
    "shift_jis": "xsjis",
    "utf_16_be": "iso10646ucs2 ucs2",
    "utf_7": "unicode11utf7 xunicode20utf7",
    "utf_8": "uft8 utf8mb4 utf utf08 xunicode20utf8 unicode11utf8 utf8unicode",
}

# What mail labelled with the first name really uses: the larger charset that Windows and the Web put in its
# place (WHATWG Encoding Standard).
_LARGER = {
    "gb2312": ("gb18030",),
    "gbk": ("gb18030",),
    "hz": ("hz", "gb18030"),
    "euc_kr": ("cp949",),
    "shift_jis": ("cp932", "shift_jis_2004"),
    "big5": ("cp950", "big5hkscs"),
    "iso2022_jp": ("iso2022_jp", "iso2022_jp_2004", "iso2022_jp_ext"),
    "iso8859_9": ("cp1254", "iso8859_9"),
    "tis_620": ("cp874",),
    "latin_1": ("cp1252", "latin_1"),
}

# Bytes beyond ASCII from which a charset can be told; fewer are most likely a few Western accents.
_ENOUGH_TO_DETECT = 8
_ASCII = bytes(range(128))

# Codecs whose text may hold surrogates.
_MAY_HOLD_SURROGATES = frozenset({"utf_7", "utf_16", "utf_16_be", "utf_16_le"})

# Where detection looks; few enough that it takes milliseconds, and that rare ones do not win by accident.
_DETECTABLE = ["cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "cp932", "euc_jp",
               "gb18030", "big5", "cp949"]  # fmt: skip


def _table() -> dict[str, str]:
    names = {name: name for name in (*_python_aliases.values(), *_WITHOUT_ALIAS.split())}
    names |= _python_aliases
    table = {
        _SQUASH.sub("", name.lower()): codec for name, codec in names.items() if codec not in _NO_CHARSETS
    }
    for codec, more in _MORE_NAMES.items():
        table.update(dict.fromkeys(more.split(), codec))
    return table


_CODECS = _table()


class Decoded(NamedTuple):
    """A text, the codec that read it, and what was wrong with the declared charset, if anything."""

    text: str
    codec: str
    problem: Code | None


def clean(text: str) -> str:
    """Return the text with lone surrogates replaced by U+FFFD and NULs dropped."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNENCODABLE.sub(lambda match: "" if match[0] == "\0" else "\ufffd", text)


def lookup(label: str) -> str | None:
    """Return Python's codec for a charset's name as mail spells it, or None if nobody knows it."""
    codec = _CODECS.get(label.lower())
    if codec is None and len(label) <= 100:
        match = _LABEL.match(label.strip())
        assert match is not None
        codec = _CODECS.get(_SQUASH.sub("", match[1].partition("(")[0].lower()))
    return codec


def decode(data: bytes, declared: str | None, *, detect: bool = True, partial: bool = False) -> Decoded:
    """Decode `data`, which never fails.

    The declared charset comes first, then UTF-8, then what a bounded sample looks like (unless `detect` is
    false, as for a few words of a header), then Windows-1252 or Latin-1. A text that is mostly well-formed in
    its declared charset stays there, with U+FFFD for what is malformed (RFC 8621 section 4.1.4). With
    `partial`, the last character may be cut and is left out then.
    """
    codec = "ascii" if declared is None else lookup(declared)
    if codec in {"ascii", "utf_8", None}:
        text = _strictly(data, ("ascii",), partial=False)
        if text is not None and "\x1b$" not in text and "\x1b(" not in text:
            problem = Code.CHARSET_UNKNOWN if codec is None else None
            return Decoded(text.replace("\0", ""), codec or "ascii", problem)
    if codec is not None and codec != "ascii":
        text = _strictly(data, _LARGER.get(codec, (codec,)), partial=partial)
        if text is not None:
            return Decoded(_cleaned(text, codec), codec, None)
    if codec is None:
        problem = Code.CHARSET_UNKNOWN
    else:
        problem = Code.CHARSET_GUESSED if declared is None else Code.CHARSET_WRONG
    return _decode_anyway(data, codec, problem=problem, detect=detect, partial=partial)


def encode(text: str, label: str) -> bytes:
    """Return the bytes of raw characters that were taken for Latin or UTF-8, as they stand in a text of that charset."""
    if text.isascii():
        return text.encode("ascii")
    codec = lookup(label)
    for candidate in (*(_LARGER.get(codec, (codec,)) if codec else ()), "cp1252", "latin_1"):
        try:
            return text.encode(candidate)
        except UnicodeError:
            continue
    return text.encode("utf-8", "replace")


def _decode_anyway(data: bytes, codec: str | None, *, problem: Code, detect: bool, partial: bool) -> Decoded:
    """Decode what is not in its declared charset, or declares none that is known."""
    if b"\x1b" in data:
        text = _strictly(data, _LARGER["iso2022_jp"], partial=partial)
        if text is not None:
            return Decoded(_cleaned(text, "iso2022_jp"), "iso2022_jp", problem)
    text = _strictly(data, ("utf_8",), partial=partial)
    if text is not None:
        return Decoded(_cleaned(text, "utf_8"), "utf_8", problem)
    if codec is not None and codec != "ascii":
        text = data.decode(_LARGER.get(codec, (codec,))[0], "replace")
        malformed, well_formed = _count(text)
        # No other charset looks like well-formed UTF-8 by accident, so one character of it in two will do.
        if malformed < well_formed or (codec == "utf_8" and malformed == well_formed):
            return Decoded(clean(text), codec, problem)
    else:
        text = data.decode("utf_8", "replace")
        malformed, well_formed = _count(text)
        if malformed * 2 <= well_formed:
            return Decoded(_cleaned(text, "utf_8"), "utf_8", problem)
    found = find_out(data) if detect else None
    text = _strictly(data, (*((found,) if found else ()), "cp1252"), partial=partial)
    if text is None:
        return Decoded(_cleaned(data.decode("latin_1"), "latin_1"), "latin_1", problem)
    return Decoded(_cleaned(text, found or "cp1252"), found or "cp1252", problem)


def _count(text: str) -> tuple[int, int]:
    """Count malformed and well-formed characters beyond ASCII."""
    malformed = text.count("\ufffd")
    return malformed, len(text) - len(text.encode("ascii", "ignore")) - malformed


def _strictly(data: bytes, candidates: tuple[str, ...], *, partial: bool) -> str | None:
    """Decode without tolerance in the first codec that can, or return None."""
    for codec in candidates:
        try:
            if partial:
                return codecs.getincrementaldecoder(codec)("strict").decode(data, final=False)
            return data.decode(codec)
        except (UnicodeError, ValueError):
            continue
    return None


def _cleaned(text: str, codec: str) -> str:
    """Drop a byte order mark and NULs, and surrogates where the codec may leave some."""
    text = text.removeprefix("\ufeff")
    if codec in _MAY_HOLD_SURROGATES:
        return clean(text)
    return text.replace("\0", "")


def strictly_utf8(data: bytes) -> str | None:
    """Return the text of well-formed UTF-8, or None."""
    return _strictly(data, ("utf_8",), partial=False)


def find_out(data: bytes) -> str | None:
    """Find out a charset from a bounded sample around the first byte beyond ASCII; None if there are too few."""
    start = len(data) - len(data.lstrip(_ASCII))
    begin = max(0, start - limits.CHARSET_SAMPLE_BYTES // 4)
    sample = data[begin : begin + limits.CHARSET_SAMPLE_BYTES]
    if len(sample.translate(None, _ASCII)) < _ENOUGH_TO_DETECT:
        return None
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=_DETECTABLE, preemptive_behaviour=False)
    best = matches.best()
    if best is None:
        return None
    # Western and Central European texts look alike to the detector; then the more frequent one is taken.
    western = any(
        match.encoding == "cp1252" and match.chaos <= best.chaos and match.coherence >= best.coherence - 0.05
        for match in matches
    )
    return "cp1252" if western or "cp1252" in best.could_be_from_charset else best.encoding
