"""Encoded words (RFC 2047): text beyond ASCII inside of headers.

More forgiving than RFC 8621 section 4.1.2.2 asks for: words that touch other text, stand in a quoted string or
hold spaces are decoded too, because mail is full of them and every mail reader shows them decoded. Neighbours
in one charset are joined before they are decoded, since senders cut characters in two. The work is linear.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from typing import NamedTuple

from pipelines import charset, limits, transfer
from pipelines.defects import Code, Defects

_CONTROLS = re.compile("[\x00-\x1f\x7f]")
# Normalizing takes quadratic time for a run of combining marks; no honest word has as many characters.
_LONGEST_WORD = 500
# Spaces are written as underscores, so white space beside one is that of a fold within the word.
_FOLD = re.compile(r"(?<![ \t])[ \t]++(?=_)|(?<=_)[ \t]++")
_START = re.compile(r"=\?([^?\s]{1,75})\?([bBqQ])\?")


class _Word(NamedTuple):
    charset: str
    data: bytes


def decode_words(text: str, *, where: str, defects: Defects) -> str:
    """Return an unfolded header text with its encoded words decoded, in Unicode form NFC.

    White space between neighbours is dropped, and so are control characters that a word holds. A word in an
    unknown charset is read as UTF-8, and stays as it is if it is none. `where` names the header in a defect.
    """
    if "=?" not in text:
        return _nfc(text)
    pieces: list[str] = []
    run: list[_Word] = []
    position = count = 0
    while (found := _next_word(text, position)) is not None:
        start, end, word = found
        between = text[position:start]
        if not run or (between and not between.isspace()):
            pieces += [_decode_run(run, where=where, defects=defects), between]
            run = []
        if charset.lookup(word.charset) is None and not _is_readable(word.data):
            defects.add(
                Code.ENCODED_WORD_DAMAGED, f"{where}: a word in an unknown charset was left undecoded"
            )
            pieces += [
                _decode_run(run, where=where, defects=defects),
                between if run else "",
                text[start:end],
            ]
            run = []
        else:
            run.append(word)
        position = end
        count += 1
        if count == limits.ENCODED_WORDS:
            detail = f"{where}: what follows {limits.ENCODED_WORDS} encoded words was left undecoded"
            defects.add(Code.LIMIT_ENCODED_WORDS, detail)
            break
    pieces += [_decode_run(run, where=where, defects=defects), text[position:]]
    return _nfc("".join(pieces))


def _next_word(text: str, position: int) -> tuple[int, int, _Word] | None:
    """Find the next encoded word: where it starts and ends, and its bytes."""
    while (start := text.find("=?", position)) != -1:
        head = _START.match(text, start)
        if head is None:
            position = start + 2
            continue
        end = text.find("?=", head.end())
        if end == -1:
            return None
        name, _, _language = head[1].partition("*")
        # Raw characters beyond ASCII do not belong into a word; where they stand, they are of its charset.
        encoded = charset.encode(_FOLD.sub("", text[head.end() : end]), name)
        if head[2] in "bB":
            data = transfer.decode_base64(encoded).data
        else:
            data = binascii.a2b_qp(encoded, header=True)
        return start, end + 2, _Word(name, data)
    return None


def _decode_run(run: list[_Word], *, where: str, defects: Defects) -> str:
    """Decode neighbours, joined as long as they share a charset."""
    pieces: list[str] = []
    index = 0
    while index < len(run):
        name = run[index].charset
        stop = index
        while stop < len(run) and run[stop].charset.lower() == name.lower():
            stop += 1
        pieces.append(_decode_one(run[index:stop], where=where, defects=defects))
        index = stop
    return "".join(pieces)


def _decode_one(words: list[_Word], *, where: str, defects: Defects) -> str:
    decoded = charset.decode(b"".join(word.data for word in words), words[0].charset, detect=False)
    if decoded.problem is not None:
        what = (
            "names an unknown charset" if decoded.problem is Code.CHARSET_UNKNOWN else "is not in its charset"
        )
        detail = f"{where}: an encoded word {what} and was read as {decoded.codec}"
        defects.add(Code.ENCODED_WORD_DAMAGED, detail)
    return _CONTROLS.sub("", decoded.text)


def _is_readable(data: bytes) -> bool:
    """Whether it can be taken for UTF-8; escape sequences are of another charset."""
    text = charset.strictly_utf8(data)
    return bool(data) and text is not None and _CONTROLS.search(text) is None


def _nfc(text: str) -> str:
    """Normalize word by word, which is the same since nothing combines with a space, and leave monsters as they are."""
    if text.isascii():
        return text
    if len(text) <= _LONGEST_WORD:
        return unicodedata.normalize("NFC", text)
    words = text.split(" ")
    return " ".join(w if len(w) > _LONGEST_WORD else unicodedata.normalize("NFC", w) for w in words)
