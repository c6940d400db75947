"""Finds a key that all messages of a conversation have in common, without remembering any of them.

The key is made from the first id in References, else from the first in In-Reply-To, else from the message's own id: a
first message and all replies to it that name it agree, in any order. An answer that names no other message takes
Exchange's Thread-Index or Gmail's X-GM-THRID, else its subject and the people it goes between.

What no single message tells cannot be known: an answer to an answer that has In-Reply-To alone, or whose References lost
their beginning, has another key than the first message. `otherKeys` are for receivers that do remember: two messages
that share any of their keys belong together.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import ClassVar, Literal

from pipelines.message import Message
from pipelines.stage import Stage

By = Literal["references", "inReplyTo", "threadIndex", "gmail", "messageId", "subject", "none"]

# Answers: Re in many languages, also counted as in Re[2]:, Re(2): and Re^2:. Then forwards.
_ANSWER = "re|aw|antw|antwort|sv|vs|ref|odp|ynt|yan|rif|r|res|bls|bl|atb|ad|hf|vá|va|απ|σχετ|отв|ответ|на|回复|回覆|答复|返信|답장|הנדון|השב|رد"
_FORWARD = "fwd?|wg|tr|rv|enc|i|pd|vl|vb|vl|ilt|doorst|továbbítás|πρθ|пересл|转发|轉寄|転送|전달|הועבר"
_PREFIX = re.compile(
    rf"\s*+(?:(?P<answer>{_ANSWER})|(?P<forward>{_FORWARD})|(?P<list>\[[^\[\]]{{1,80}}\]))"
    r"(?(list)|\s?(?:\[\d{1,3}\]|\(\d{1,3}\)|\^\d{1,3}|\*\d{1,3})?\s?[:：])",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"\s*+\((?:fwd|was:[^()]{0,200})\)\s*+$", re.IGNORECASE)
_PREFIXES, _LONGEST_SUBJECT = 50, 500
# A conversation index: a header of 22 bytes, of which the last 16 are an id (MS-OXOMSG section 2.2.1.3).
_INDEX = slice(6, 22)
_SHORTEST_INDEX, _LONGEST_INDEX = 22, 20_000


class ThreadStage(Stage):
    """Adds the key of the conversation that a message belongs to, and its bare subject."""

    type_name: ClassVar[str] = "thread"

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        subject, is_answer = bare_subject(message.subject or "")
        ways = list(_ways(message, subject=subject, is_answer=is_answer))
        by, key = ways[0]
        others = dict.fromkeys(
            other for way, other in ways[1:] if way not in {"subject", "none"} and other != key
        )
        found = {"key": key, "by": by, "subject": subject, "otherKeys": list(others)}
        return message.with_findings(self.name, found)


def bare_subject(subject: str) -> tuple[str, bool]:
    """Return a subject without Re:, Fwd: and [list], and whether it was an answer's (compare RFC 5256 section 2.1)."""
    subject = " ".join(subject[: 4 * _LONGEST_SUBJECT].split())
    position, is_answer = 0, False
    for _ in range(_PREFIXES):
        prefix = _PREFIX.match(subject, position)
        # A subject that is nothing but [this] keeps it.
        if prefix is None or (prefix["list"] and not subject[prefix.end() :].strip()):
            break
        is_answer = is_answer or prefix["answer"] is not None
        position = prefix.end()
    bare = subject[position:].strip()
    suffix = _SUFFIX.search(bare[-250:])
    if suffix is not None:
        bare = bare[: len(bare) - (suffix.end() - suffix.start())].rstrip() or bare
    return bare[:_LONGEST_SUBJECT], is_answer


def _ways(message: Message, *, subject: str, is_answer: bool) -> Iterator[tuple[By, str]]:
    """Yield each key that a message could be known by, the surest first."""
    own: list[tuple[By, str]] = [("messageId", _of_id(each)) for each in (message.message_id or ())[:1]]
    if message.references:
        yield "references", _of_id(message.references[0])
    if message.in_reply_to:
        yield "inReplyTo", _of_id(message.in_reply_to[0])
    names_another = bool(message.references or message.in_reply_to)
    if not is_answer or names_another:
        yield from own
    index = _thread_index(message.header("Thread-Index") or "")
    if index is not None:
        yield "threadIndex", _key("thread-index", index)
    gmail = (message.header("X-GM-THRID") or "").strip()
    if re.fullmatch(r"[0-9]{1,20}", gmail):
        yield "gmail", _key("gmail", str(int(gmail)))
    people = sorted(
        {each.email.lower() for each in (*(message.from_ or ()), *(message.to or ()), *(message.cc or ()))}
    )
    if subject and people and (is_answer or not own):
        yield "subject", _key("subject", subject.casefold(), *people)
    if is_answer and not names_another:
        yield from own
    yield "none", _key("digest", message.digest)


def _of_id(message_id: str) -> str:
    """Return the key of a message id; the case of its domain does not count."""
    local, at, domain = message_id.rpartition("@")
    return _key("id", f"{local}{at}{domain.lower()}")


def _thread_index(text: str) -> str | None:
    """Return the id of the conversation in a Thread-Index, in hex, or None if it is none."""
    try:
        data = binascii.a2b_base64("".join(text[:_LONGEST_INDEX].split()))
    except (binascii.Error, ValueError):
        return None
    return data[_INDEX].hex() if len(data) >= _SHORTEST_INDEX and data[0] == 1 else None


def _key(kind: str, *words: str) -> str:
    """Return 32 hex digits, the same wherever they are made."""
    return hashlib.sha256("\0".join((kind, *words)).encode("utf-8", "replace")).hexdigest()[:32]
