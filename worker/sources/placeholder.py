"""Whether what a server sent is the message that was asked for, or nothing, or a letter put in its place.

Exchange answers for a message that it cannot convert with one of its own making, from nobody, that names the message and
holds none of it. Delivered as mail it would pass for the original, which would then never be pulled. Only a letter
that has all of its marks counts as one: sender, subject and text. Nothing else of a message is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from worker.sources import Fetched, Withheld

_LONGEST = 16 * 1024
"""Octets; Exchange's letters have about two thousand, and a larger message is not searched for their marks."""
_SENDERS = ("microsoft@unknown", "Microsoft Exchange Server")
"""One of them stands in every such letter, and nothing else is looked for in an ordinary message."""
_SUBJECT = re.compile(
    r"Retrieval using the (IMAP4?|POP3?) protocol failed for the following message:", re.IGNORECASE
)
_TEXT = re.compile(r"The server couldn.t retrieve the following message:", re.IGNORECASE)


def is_placeholder(raw: bytes | bytearray) -> bool:
    """Whether this is Exchange's own letter in the place of a message (seen by freescout#3203, Mailspring#2038)."""
    if len(raw) > _LONGEST or not any(mark.encode() in raw for mark in _SENDERS):
        return False
    # Imported here, because it is needed for one message in a million.
    from pipelines.parse import parse

    letter = parse(bytes(raw))
    senders = [*(letter.from_ or ()), *(letter.sender or ())]
    texts = [letter.preview, *(value.value for value in letter.body_values.values())]
    return (
        any(one.email in _SENDERS or one.name in _SENDERS for one in senders)
        and bool(_SUBJECT.match((letter.subject or "").strip()))
        and any(_TEXT.search(text) for text in texts)
    )


def judged(fetched: Fetched) -> Fetched | Withheld:
    """The message as it came, or why it is not the one that was asked for; reads its first piece.

    A server that listed octets and sends none withholds the message: nobody sends letters without a head.
    """
    pieces = iter(fetched.chunks)
    first = next(pieces, b"")
    if not first and fetched.ref.size:
        return Withheld(fetched.ref, "the server sent it without any content", fetched.ref.size)
    # What is short enough to be such a letter is in one piece.
    if is_placeholder(first):
        return Withheld(fetched.ref, "the server sent a letter of its own in its place", fetched.ref.size)
    return replace(fetched, chunks=_put_back(first, fetched.chunks, pieces))


def _put_back(
    first: bytes | bytearray, whole: Iterable[bytes | bytearray], rest: Iterable[bytes | bytearray]
) -> Iterable[bytes | bytearray]:
    """All pieces again. Those that lie in memory stay as they are: one piece is written faster than many."""
    return whole if isinstance(whole, tuple) else chain((first,), rest)
