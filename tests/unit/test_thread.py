"""The thread stage gives all messages of a conversation one key, as far as one message can tell."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.parse import parse
from pipelines.stage import StageOptions
from pipelines.stages.thread import ThreadStage, bare_subject

FIRST = "Message-ID: <1@example.com>"


def found(*fields: str) -> dict[str, object]:
    raw = "\r\n".join((*fields, "", "Hello.", "")).encode()
    finding = ThreadStage("conversation", StageOptions()).apply(parse(raw)).findings["conversation"]
    assert isinstance(finding, dict)
    return finding


def index(conversation: bytes, *, answers: int = 0) -> str:
    """A Thread-Index as Exchange writes it (MS-OXOMSG section 2.2.1.3)."""
    return (
        "Thread-Index: " + base64.b64encode(b"\1\xdc\x7e\1\2\3" + conversation + b"abcde" * answers).decode()
    )


def test_a_message_and_its_answers_have_one_key_in_any_order() -> None:
    """The first message by its own id, the others by the first of those they name."""
    messages = [
        (FIRST, "Subject: Delivery"),
        ("Message-ID: <2@example.org>", "In-Reply-To: <1@example.com>", "Subject: Re: Delivery"),
        (
            "Message-ID: <3@example.com>",
            "References: <1@example.com> <2@example.org>",
            "In-Reply-To: <2@example.org>",
        ),
        (
            "Message-ID: <4@example.net>",
            "References:\r\n <1@EXAMPLE.com>\r\n <2@example.org>\r\n <3@example.com>",
        ),
    ]

    for order in itertools.permutations(messages):
        assert len({found(*fields)["key"] for fields in order}) == 1
    assert [found(*fields)["by"] for fields in messages] == [
        "messageId",
        "inReplyTo",
        "references",
        "references",
    ]


def test_another_conversation_has_another_key() -> None:
    """Also with the same subject between the same people."""
    people = ("From: a@example.com", "To: b@example.com", "Subject: Invoice")

    assert found(FIRST, *people)["key"] != found("Message-ID: <9@example.com>", *people)["key"]


def test_the_key_is_the_same_for_ever() -> None:
    """Receivers store it: 128 bits in hex, from what the message says and from nothing else."""
    assert found(FIRST)["key"] == "ba995d9cc08ebd7746273394a410c098"


def test_other_keys_join_what_one_message_cannot() -> None:
    """An answer to an answer that names just that one shares a key with it, for those who remember keys."""
    answer = found("Message-ID: <2@example.org>", "References: <1@example.com>")
    second = found("Message-ID: <3@example.com>", "In-Reply-To: <2@example.org>")

    assert answer["key"] != second["key"]
    assert second["key"] in answer["otherKeys"]  # type: ignore[operator]


def test_an_answer_that_names_no_message_takes_the_index_of_exchange() -> None:
    """Siblings agree; and with the first message by its other keys."""
    conversation = bytes(range(16))
    first = found(FIRST, "Subject: x", index(conversation))
    answers = [
        found(f"Message-ID: <{n}@example.com>", "Subject: AW: x", index(conversation, answers=n))
        for n in (2, 3)
    ]
    stranger = found("Message-ID: <4@example.com>", "Subject: AW: x", index(bytes(16)))

    assert {answer["by"] for answer in answers} == {"threadIndex"}
    assert answers[0]["key"] == answers[1]["key"] != stranger["key"]
    assert answers[0]["key"] in first["otherKeys"]  # type: ignore[operator]


def test_gmails_thread_id_is_used_where_there_is_one() -> None:
    """Archives that Google hands out have it in every message."""
    one, two = (found(f"Message-ID: <{n}@a.example>", "Subject: Re: x", "X-GM-THRID: 1745") for n in (1, 2))

    assert one["by"] == "gmail"
    assert one["key"] == two["key"]
    assert found(FIRST, "X-GM-THRID: x", "Subject: Re: y")["by"] == "messageId"


def test_a_subject_counts_only_for_answers_that_name_nothing_and_with_the_people() -> None:
    """In both directions between them; never for a first message that has an id."""
    there = found(
        "Message-ID: <1@a>", "From: A <a@example.com>", "To: b@example.com", "Subject: Re: [shop] Broken  lid"
    )
    back = found(
        "Message-ID: <2@b>", "From: B@example.com", "To: a@example.com", "Subject: RE: SV: broken lid"
    )
    others = found("Message-ID: <3@c>", "From: c@example.com", "To: a@example.com", "Subject: Re: broken lid")

    assert there["by"] == back["by"] == "subject"
    assert there["key"] == back["key"] != others["key"]
    assert found("From: a@example.com", "Subject: no id")["by"] == "subject"


def test_a_message_that_says_nothing_has_a_key_of_its_own() -> None:
    """By its bytes."""
    assert found()["by"] == "none"
    assert found("X-A: 1")["key"] != found("X-A: 2")["key"]


@pytest.mark.parametrize(
    ("subject", "bare", "is_answer"),
    [
        ("Delivery", "Delivery", False),
        ("Re: Delivery", "Delivery", True),
        ("RE: AW: Antw: SV: VS: Odp: Delivery", "Delivery", True),
        ("Re[2]: Re(3): Re^4: Delivery", "Delivery", True),
        ("Fwd: WG: TR: Delivery", "Delivery", False),
        ("FW: Re: Delivery (fwd)", "Delivery", True),
        ("[staff] Re: [staff] Delivery (was: Broken lid)", "Delivery", True),
        ("回复: 答复：配達", "配達", True),
        ("Re : Livraison", "Livraison", True),
        ("Re: ", "", True),
        ("[only this]", "[only this]", False),
        ("Re: [only this]", "[only this]", True),
        ("Reminder: Delivery", "Reminder: Delivery", False),
        ("Regarding Re: Delivery", "Regarding Re: Delivery", False),
        ("  two   spaces ", "two spaces", False),
        ("(fwd)", "(fwd)", False),
        ("", "", False),
        ("Re: " * 200 + "x", "Re: " * 150 + "x", True),
        ("x" * 9999, "x" * 500, False),
    ],
)
def test_a_subject_is_bared(subject: str, bare: str, is_answer: bool) -> None:
    """Of what programs and lists put around it, in many languages, and of nothing that a person wrote."""
    assert bare_subject(subject) == (bare[:500], is_answer)


@given(st.text(max_size=300))
def test_baring_a_subject_twice_changes_nothing_more_than_once(subject: str) -> None:
    """Except beyond its limits, which no test of this length meets; what stays is part of what was there."""
    bare, _ = bare_subject(subject)

    assert bare in " ".join(subject.split())
    assert bare == bare.strip()


@pytest.mark.parametrize(
    "value", ["", "AQ==", "not base64!", "A" * 100_000, "é", base64.b64encode(bytes(22)).decode()]
)
def test_a_broken_index_is_none(value: str) -> None:
    """Whatever stands there."""
    assert found(FIRST, f"Thread-Index: {value}")["otherKeys"] == []
