"""Messages as IMAP servers send them, torn, in every spelling, or by the gigabyte: what a whole pull makes of them."""

from __future__ import annotations

import re
import time

import pytest

from tests.bed.errands import flow
from tests.bed.installation import Installation, numbered
from tests.faults.quirky import (
    COUNT,
    DONE,
    FETCH,
    Quirky,
    all_came,
    checkpoint,
    impatient,
    numbers,
    quay,
    server,
)
from tests.faults.withholding import _numbers
from worker.errors import Unreachable
from worker.quay import Quay

__all__ = ["impatient", "quay", "server"]


TORN = {
    "longer than announced": b"* 3 FETCH (UID 3 BODY[] {20}\r\n%s)\r\n<tag> OK done\r\n",
    "longer, with brackets": b"* 3 FETCH (UID 3 BODY[] {5}\r\nFrom:)crane)\r\n%s)\r\n<tag> OK done\r\n",
    "shorter than announced": b"* 3 FETCH (UID 3 BODY[] {250}\r\n%s)\r\n<tag> OK done\r\n* OK .\r\n* OK .......................\r\n",
    "shorter, then nothing more": b"* 3 FETCH (UID 3 BODY[] {5000}\r\n%s)\r\n",
    "negative": b"* 3 FETCH (UID 3 BODY[] {-5}\r\n%s)\r\n<tag> OK done\r\n",
    "no number": b"* 3 FETCH (UID 3 BODY[] {}\r\n%s)\r\n<tag> OK done\r\n",
    "thousands of digits": b"* 3 FETCH (UID 3 BODY[] {" + b"9" * 5000 + b"}\r\n%s)\r\n<tag> OK done\r\n",
}


@pytest.mark.parametrize("answer", TORN.values(), ids=TORN)
def test_a_literal_that_lies_tears_no_message(
    installation: Installation, server: Quirky, impatient: Quay, answer: bytes
) -> None:
    """What came before it is kept, of itself nothing, and the next pull has all."""
    server.instead[FETCH] = [server.whole(1) + server.whole(2) + answer % server.letters[3]]

    result = flow(impatient, "box")

    assert isinstance(result.trouble, Unreachable)
    assert result.messages == 2
    all_came(installation, impatient)
    assert sorted(installation.posted().values()) == sorted(server.letters.values())


def test_a_literal_that_always_lies_does_not_stop_its_folder(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """After five sessions the message waits in the repair queue, and what lies behind it comes."""
    lie = TORN["longer than announced"] % server.letters[3]
    answered = server._imap

    def lying(said: bytes) -> bytes:
        found = re.match(rb"UID FETCH (\S+) \(UID FLAGS", said)
        asked = _numbers(found[1]) if found else []
        return b"".join(server.whole(uid) for uid in asked if uid < 3) + lie if 3 in asked else answered(said)

    server._say = lying

    for _ in range(8):
        flow(quay, "box")

    assert numbers(installation) == ["0", "1", "3", "4"]
    assert checkpoint(quay) == COUNT
    assert len(quay.repairs.of("box")) == 1


def test_a_literal_of_a_hundred_gigabytes_is_not_read(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """`{99999999999}`: it is larger than MESSAGE_MAX, and waits in the repair queue while the others come."""
    server.always[b"UID FETCH 3 (UID"] = b"* 3 FETCH (UID 3 BODY[] {99999999999}\r\nFrom: crane"
    server.instead[FETCH] = [server.whole(1) + b"* 3 FETCH (UID 3 BODY[] {99999999999}\r\nFrom: crane"]

    now = [time.time()]
    quay = installation.quay(clock=lambda: now[0])
    for _ in range(4):
        flow(quay, "box")
        now[0] += 61

    assert numbers(installation) == ["0", "1", "3", "4"]
    assert checkpoint(quay) == COUNT


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{0}\r\n", None),
        (b"NIL", None),
        (b'""', None),
        (b'"From: a\\"b\\\\c"', b'From: a"b\\c'),
        (b"~{7}\r\nFrom: a", b"From: a"),
        (b"{7+}\r\nFrom: a", b"From: a"),
        (b"{7}\r\nF\0om: a", b"F\0om: a"),
    ],
    ids=["no octets", "NIL", "an empty string", "a string", "a literal8", "a non-sync literal", "a NUL byte"],
)
def test_a_body_comes_in_every_spelling(
    installation: Installation, server: Quirky, quay: Quay, body: bytes, expected: bytes | None
) -> None:
    """As a string, or as a literal of any kind; without any content it is withheld, not delivered as an empty message."""
    server.letters = {1: b"From: a"}
    server.always[b"UID FETCH 1 (UID FLAGS"] = b"* 1 FETCH (UID 1 BODY[] " + body + b")\r\n" + DONE

    flow(quay, "box")

    assert list(installation.posted().values()) == ([expected] if expected else [])
    assert len(quay.repairs.of("box")) == (0 if expected else 1)


def test_a_group_that_is_answered_early_fills_no_memory(
    installation: Installation, server: Quirky, quay: Quay
) -> None:
    """A server may answer two commands at once; what it sends ahead is no more than what it listed, twice over."""
    quay = installation.quay(BATCH_MESSAGES="2")
    ahead = server.letters[4] = numbered(3, size=4_000_000)
    server.listed[4] = 200
    early = b"* 4 FETCH (UID 4 BODY[] {%d}\r\n%s)\r\n" % (len(ahead), ahead)
    server.instead[b"UID FETCH 1:2 (UID FLAGS"] = [early + server.whole(1) + server.whole(2) + DONE]

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert "more than twice" in trouble.sentence
    all_came(installation, quay)


@pytest.mark.parametrize("size", [200, 3_000_000], ids=["small", "streamed"])
def test_literals_without_an_end_in_one_answer_fill_no_memory(
    installation: Installation, server: Quirky, size: int
) -> None:
    """Each is within its limits; all of one answer together are not."""
    server.letters[1] = raw = numbered(0, size=size)
    quay = installation.quay(MESSAGE_MAX="4MB")
    flood = b" X {60000}\r\n" + b"x" * 60_000
    answer = b"* 1 FETCH (UID 1 BODY[] {%d}\r\n%s" % (len(raw), raw) + flood * 1_500
    for start in (FETCH, b"UID FETCH 1 (UID FLAGS"):
        server.instead[start] = [answer]

    trouble = flow(quay, "box").trouble

    assert isinstance(trouble, Unreachable)
    assert re.search("MESSAGE_MAX|nobody asked for", trouble.sentence)
