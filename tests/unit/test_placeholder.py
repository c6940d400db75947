"""Exchange's letters in the place of messages: recognised by all of their marks, and by nothing less."""

from __future__ import annotations

import base64
import quopri

import pytest

from tests.bed.placeholder import PLACEHOLDER
from worker.sources import Fetched, Ref, Withheld
from worker.sources.placeholder import is_placeholder, judged

HEAD, TEXT = PLACEHOLDER.split(b"\r\n\r\n", 1)
IN_BASE64 = HEAD.replace(b"quoted-printable", b"base64") + b"\r\n\r\n" + base64.encodebytes(TEXT)
IN_HTML = (
    HEAD.replace(b"text/plain", b"text/html")
    + b"\r\n\r\n"
    + quopri.encodestring(
        b"<html><body><p>The server couldn&#8217;t retrieve the <b>following</b> message:</p>"
    )
)


@pytest.mark.parametrize(
    "letter",
    [
        PLACEHOLDER,
        PLACEHOLDER.replace(b"IMAP4", b"POP3"),
        PLACEHOLDER.replace(b'"Microsoft Exchange Server" <microsoft@unknown>', b"microsoft@unknown"),
        PLACEHOLDER.replace(b"<microsoft@unknown>", b"<postmaster@contoso.com>"),
        PLACEHOLDER.replace(b"\r\n message:", b" message:"),
        PLACEHOLDER.replace(b"\r\n", b"\n"),
        IN_BASE64,
        IN_HTML,
    ],
    ids=[
        "as it comes",
        "POP3",
        "no name",
        "another address",
        "unfolded",
        "bare line ends",
        "base64",
        "HTML",
    ],
)
def test_the_letter_is_recognised_however_it_is_written(letter: bytes) -> None:
    """Delivered as mail it would stand for the original, which would never be asked for again."""
    assert is_placeholder(letter)


@pytest.mark.parametrize(
    "letter",
    [
        PLACEHOLDER.replace(
            b'"Microsoft Exchange Server" <microsoft@unknown>', b"Bob <bob@contoso.com>"
        ).replace(b"to find out", b"microsoft@unknown to find out"),
        PLACEHOLDER.replace(b"Subject: Retrieval", b"Subject: Re: Retrieval"),
        PLACEHOLDER.replace(b"Retrieval using the IMAP4", b"News of the IMAP4"),
        PLACEHOLDER.replace(b"couldn't retrieve", b"has found"),
        HEAD + b"\r\n\r\n",
        b"From: Bob <bob@contoso.com>\r\nContent-Type: message/rfc822\r\n\r\n" + PLACEHOLDER,
        PLACEHOLDER + b"x" * 20_000,
        b"",
        b"\xff\x00microsoft@unknown",
    ],
    ids=[
        "another sender",
        "an answer to it",
        "another subject",
        "another text",
        "no text",
        "attached",
        "long",
        "empty",
        "garbage",
    ],
)
def test_a_letter_that_only_resembles_it_is_mail(letter: bytes) -> None:
    """People forward such letters, and ask about them."""
    assert not is_placeholder(letter)


def test_a_message_is_handed_on_as_it_came() -> None:
    """Piece by piece when it is streamed: looking at its beginning takes nothing away."""
    ref = Ref(uid=7, size=6)
    in_memory = Fetched(ref, (b"Subject: x\r\n\r\n",), ("\\Seen",))
    assert judged(in_memory) == in_memory
    streamed = judged(Fetched(ref, iter([b"one", b"two"])))
    assert isinstance(streamed, Fetched)
    assert list(streamed.chunks) == [b"one", b"two"]


def test_a_message_without_content_is_withheld_unless_it_is_listed_so() -> None:
    """RFC822.SIZE may be wrong, but no server counts the octets of nothing."""
    for chunks in ((), (b"",)):
        found = judged(Fetched(Ref(uid=7, size=6), chunks))
        assert isinstance(found, Withheld)
        assert (found.ref, found.size) == (Ref(uid=7, size=6), 6)
        assert isinstance(judged(Fetched(Ref(uid=7), chunks)), Fetched)
