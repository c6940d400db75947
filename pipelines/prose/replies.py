"""The new words of a message told from those it quotes and from its signature.

What is quoted is found by its marks (`> `, blockquotes), by what mail programs write into their HTML, by introductions
("On Monday, Ann wrote:") and by header blocks ("From: … Sent: … To: …"). Answers below and between quoted lines are new
words. Where a program quotes without any mark below an introduction, all that follows counts as quoted, because nothing
tells it apart. A greeting such as "Best regards, Ann" is no signature: a signature stands behind `-- ` (RFC 3676 section
4.3), or its program says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from pipelines.prose import wording
from pipelines.prose.line import Line


class Kind(Enum):
    """What a line is."""

    NEW = "new"
    QUOTED = "quoted"
    SIGNATURE = "signature"


# Lines that an introduction may be wrapped to, lines of a header block, and of a signature.
_INTRODUCTION_LINES = 4
_HEADER_LINES = 14
_SIGNATURE_LINES = 25
_FIELDS_NEEDED = 3


class Split(NamedTuple):
    """The new words, the signature without its `-- `, whether anything is quoted, and what each line is."""

    reply: str
    signature: str | None
    is_quoted: bool
    kinds: list[Kind]


def split(lines: Sequence[Line]) -> Split:
    """Tell the lines of one text apart; the order of lines is kept."""
    kinds = [Kind.NEW if line.depth == 0 else Kind.QUOTED for line in lines]
    _mark_boxes(lines, kinds)
    for index, line in enumerate(lines):
        if line.mark == "quote":
            first = _line_above(lines, kinds, index)
            kinds[first:] = [Kind.QUOTED] * (len(lines) - first)
            break
        if line.mark == "attribution":
            kinds[index] = Kind.QUOTED
        elif line.mark == "signature" and kinds[index] is Kind.NEW:
            kinds[index] = Kind.SIGNATURE
    _mark_introductions(lines, kinds)
    _mark_rules(lines, kinds)
    _mark_signatures(lines, kinds)
    is_quoted = any(
        kind is Kind.QUOTED and line.text.strip() for kind, line in zip(kinds, lines, strict=True)
    )
    signature = _joined(lines, kinds, Kind.SIGNATURE)
    return Split(
        _joined(lines, kinds, Kind.NEW), signature.removeprefix("--").strip() or None, is_quoted, kinds
    )


def _mark_boxes(lines: Sequence[Line], kinds: list[Kind]) -> None:
    """Mark what a quoting element holds: all of it, or all before its first blockquote, since one may write below that."""
    quoted = {line.box for line in lines if line.box and line.depth}
    begun: set[int] = set()
    for index, line in enumerate(lines):
        if line.depth:
            begun.add(line.box)
        if line.box and (line.box not in quoted or line.box not in begun):
            kinds[index] = Kind.QUOTED


def _mark_introductions(lines: Sequence[Line], kinds: list[Kind]) -> None:
    """Mark introductions; without a quoted line behind it, one makes all that follows quoted."""
    for index, line in enumerate(lines):
        if kinds[index] is not Kind.NEW or line.text.strip()[-1:] not in {":", "："}:
            continue
        following = _next_words(lines, index + 1)
        before_quote = following is not None and kinds[following] is Kind.QUOTED
        first = _introduction(lines, kinds, index, before_quote=before_quote)
        if first is None:
            continue
        if before_quote:
            kinds[first : index + 1] = [Kind.QUOTED] * (index + 1 - first)
        elif following is not None:
            kinds[first:] = [Kind.QUOTED] * (len(lines) - first)
            return


def _introduction(
    lines: Sequence[Line], kinds: Sequence[Kind], last: int, *, before_quote: bool
) -> int | None:
    """Return where the introduction that ends with line `last` begins, or None if it is none."""
    words = ""
    with_day: int | None = None
    other: int | None = None
    for first in range(last, max(-1, last - _INTRODUCTION_LINES), -1):
        text = lines[first].text.strip()
        if not text or kinds[first] is not Kind.NEW or (first < last and text[-1] in ".!?:"):
            break
        words = f"{text} {words}".strip()
        # A lone > belongs to an address that began a line higher.
        if words.count(">") > words.count("<") or not wording.introduces(words, before_quote=before_quote):
            continue
        if wording.begins_with_word(text):
            return first
        if with_day is None and wording.begins_with_day(text):
            with_day = first
        other = first if other is None else other
    return other if with_day is None else with_day


def _mark_rules(lines: Sequence[Line], kinds: list[Kind]) -> None:
    """Mark header blocks and lines such as `-----Original Message-----`, and what follows them."""
    fields = [wording.field_of(line.text) for line in lines]
    index = 0
    while index < len(lines):
        text = lines[index].text
        end: int | None = None
        if kinds[index] is Kind.NEW and text.strip():
            if fields[index] is not None:
                end = _end_of_header(lines, fields, index)
            elif wording.is_rule(text):
                end = _end_of_header(lines, fields, index + 1) or index + 1
        if end is None:
            index += 1
            continue
        first = _line_above(lines, kinds, index)
        following = _next_words(lines, end)
        if following is None or lines[following].depth == 0:
            # Nothing marks what is quoted.
            kinds[first:] = [Kind.QUOTED] * (len(lines) - first)
            return
        kinds[first:end] = [Kind.QUOTED] * (end - first)
        index = end


def _end_of_header(lines: Sequence[Line], fields: Sequence[str | None], start: int) -> int | None:
    """Return where the header block ends that begins at `start`, blank lines aside; None if there is none."""
    found: set[str] = set()
    end: int | None = None
    position = _next_words(lines, start)
    if position is None or position > start + 2:
        return None
    depth = lines[position].depth
    for index in range(position, min(len(lines), position + _HEADER_LINES)):
        line = lines[index]
        field = fields[index]
        if line.depth != depth:
            break
        if field is not None:
            found.add(field)
            end = index + 1
        elif not line.text.strip():
            # Some programs put a blank line between the fields.
            ahead = _next_words(lines, index) if len(found) >= _FIELDS_NEEDED else None
            if ahead is not None and fields[ahead] is None:
                break
        elif not found:
            return None
        elif end is not None and index - end > 1:
            # A list of recipients goes on over several lines, but not for ever.
            break
    enough = len(found - {"copy"}) >= _FIELDS_NEEDED and not found.isdisjoint({"from", "sent"})
    return end if enough else None


def _line_above(lines: Sequence[Line], kinds: Sequence[Kind], index: int) -> int:
    """Return the place of a drawn line directly above, which belongs to what stands below it."""
    for above in range(index - 1, max(-1, index - 3), -1):
        if kinds[above] is Kind.NEW and wording.is_line(lines[above].text):
            return above
        if lines[above].text.strip():
            break
    return index


def _mark_signatures(lines: Sequence[Line], kinds: list[Kind]) -> None:
    """Mark signatures: each goes on to the next quoted line, or to the end."""
    index = 0
    while index < len(lines):
        if kinds[index] is not Kind.NEW:
            index += 1
            continue
        end = index
        while end < len(lines) and kinds[end] is Kind.NEW:
            end += 1
        _mark_signature(lines, kinds, index, end)
        index = end


def _mark_signature(lines: Sequence[Line], kinds: list[Kind], start: int, end: int) -> None:
    """Mark the signature at the end of the new words from `start` to `end`."""
    written = [index for index in range(start, end) if lines[index].text.strip()]
    for behind, index in enumerate(written):
        text = lines[index].text.strip()
        left = len(written) - behind
        is_foot = wording.is_line(text) and left > 1 and wording.is_list_foot(lines[written[behind + 1]].text)
        if (text == "--" and left <= _SIGNATURE_LINES) or is_foot or (left <= 2 and wording.is_mobile(text)):
            kinds[index:end] = [Kind.SIGNATURE] * (end - index)
            return


def _next_words(lines: Sequence[Line], start: int) -> int | None:
    """Return the place of the next line that is not blank."""
    return next((index for index in range(start, len(lines)) if lines[index].text.strip()), None)


def _joined(lines: Sequence[Line], kinds: Sequence[Kind], wanted: Kind) -> str:
    """Return the lines of one kind; where others stood between them, a blank line stands."""
    written: list[str] = []
    for line, kind in zip(lines, kinds, strict=True):
        text = line.text.rstrip() if kind is wanted else ""
        if text or (written and written[-1]):
            written.append(text)
    return "\n".join(written).strip("\n")
