"""The filter keeps and drops by an expression that was checked before the first message, and always comes to an end."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from pipelines.message import Message
from pipelines.parse import parse
from pipelines.stages.filter import FilterOptions, FilterStage
from tests.bed.patience import BUSY

LETTER = parse(
    b"From: Ann <ann@example.com>\r\nTo: support@example.com\r\nSubject: Your INVOICE 4711\r\nX-Spam-Flag: YES\r\n"
    b"Date: Mon, 2 Feb 2026 10:00:00 +0100\r\nMessage-ID: <one@example.com>\r\n\r\nPlease pay.\r\n",
    mailbox="support",
)


def stage(**said: str) -> FilterStage:
    return FilterStage("gate", FilterOptions.model_validate(said))


def kept(expression: str, message: Message = LETTER, **said: str) -> bool:
    """Whether KEEP lets the message through; DROP of the same always does the opposite."""
    passed = stage(keep=expression, **said).apply(message)
    dropped = stage(drop=expression, **said).apply(message)
    assert (passed is None) != (dropped is None)
    assert message in (passed, dropped)
    return passed is not None


@pytest.mark.parametrize(
    "expression",
    [
        'subject.contains("INVOICE")',
        'subject.lowerAscii().startsWith("your invoice")',
        'subject.matches("(?i)invoice [0-9]+$")',
        'from.exists(a, a.email.endsWith("@example.com") && a.name == "Ann")',
        'mailbox == "support" && size < 10000 && !hasAttachment',
        'headers["X-Spam-Flag"] == "YES" && headers["X-Other"] == ""',
        'bodyValues.exists(id, bodyValues[id].value.contains("pay"))',
        'messageId == ["one@example.com"] && references.size() == 0',
        'timestamp(sentAt) > timestamp("2026-01-01T00:00:00Z")',
        "cc.size() == 0",
        "!findings.?robots.?automatic.orValue(false)",
    ],
)
def test_an_expression_sees_the_json(expression: str) -> None:
    """Every field under its own name; header fields that HEADERS names."""
    assert kept(expression)
    assert not kept(f"!({expression})")


def test_an_expression_sees_what_earlier_stages_found() -> None:
    """Under the names of those stages."""
    robot = LETTER.with_findings("robots", {"automatic": True, "kind": "list"})

    assert kept('findings.robots.automatic && findings.robots.kind in ["list", "bulk"]', robot)
    assert kept("findings.robots.automatic", robot)


def test_what_is_null_in_the_json_is_empty() -> None:
    """A message without a subject is no error: every field is of one type."""
    bare = parse(b"From: ann@example.com\r\n\r\n")

    assert not kept('subject.contains("x") || sentAt != "" || to.exists(a, true)', bare)
    assert kept('from.all(a, a.name == "")', bare)
    unnamed = parse(b"Content-Type: image/png\r\nContent-Disposition: attachment\r\n\r\nx")
    assert kept('attachments.exists(p, p.name.contains("x") || p.type == "image/png")', unnamed)
    assert not kept('attachments.exists(p, p.name.endsWith(".pdf"))', unnamed)


@pytest.mark.parametrize(
    "expression",
    ['findings.robots.kind == "list"', "timestamp(subject) > timestamp(sentAt)", "1 / 0 == 1", "findings"],
)
def test_an_expression_without_an_answer_drops_nothing(expression: str) -> None:
    """Neither KEEP nor DROP does, and the message says why."""
    expression = "findings.size" if expression == "findings" else expression
    for said in ({"keep": expression}, {"drop": expression}):
        passed = stage(**said).apply(LETTER)
        assert passed is not None
        found = passed.findings["gate"]
        assert isinstance(found, dict)
        assert found.keys() == {"unanswered"}


@pytest.mark.parametrize(
    ("said", "field", "sentence"),
    [
        ({"keep": 'subject.contians("x")'}, "keep", "at character 17: there is no such field or function"),
        ({"drop": 'subjekt == "x"'}, "drop", "at character 1: there is no such field or function"),
        ({"keep": "subject == 5"}, "keep", "at character 9: found no matching overload"),
        ({"keep": "subject =="}, "keep", "at character 11: the syntax is wrong"),
        ({"keep": "subject"}, "keep", "must be true or false"),
        ({"keep": 'subject.matches("(")'}, "keep", "pattern 1 in it is no regular expression"),
        ({"keep": "subject.matches(r'(?<=a)b') || true"}, "keep", "pattern 1 in it is no regular expression"),
        ({"keep": "(" * 2000}, "keep", "is no expression in CEL"),
        ({"keep": "true || " * 5000 + "true"}, "keep", "at most 10000 characters"),
        ({"keep": "\ud800"}, "keep", "is no expression in CEL"),
        ({"keep": ""}, "keep", "the syntax is wrong"),
        ({}, "drop", "either KEEP or DROP, and not both"),
        ({"keep": "true", "drop": "true"}, "drop", "either KEEP or DROP, and not both"),
    ],
)
def test_a_wrong_expression_is_an_error_of_the_configuration(
    said: dict[str, str], field: str, sentence: str
) -> None:
    """Found before the first message; the sentence says where, and quotes nothing of it."""
    with pytest.raises(ValidationError) as caught:
        stage(**said)

    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert sentence in error["msg"]
    assert not {"contians", "subjekt"} & set(error["msg"].replace("'", " ").split())


@pytest.mark.parametrize(
    "expression",
    [
        'subject.matches("(a+)+$")',
        'bodyValues.exists(id, bodyValues[id].value.matches("(x+x+)+y"))',
        "from.all(a, to.all(b, cc.all(c, a.email != b.email && b.email != c.email)))",
    ],
)
def test_no_message_makes_an_expression_run_for_long(expression: str) -> None:
    """Patterns are linear, and a walk over lists has a budget, beyond which there is no answer and nothing is dropped."""
    many = b", ".join(b"a%d@example.com" % number for number in range(3000))
    head = (
        b"From: "
        + many
        + b"\r\nTo: "
        + many
        + b"\r\nCc: "
        + many
        + b"\r\nSubject: "
        + b"a" * 100_000
        + b"!\r\n\r\n"
    )
    hostile = parse(head + b"x" * 1_000_000)
    begun = time.process_time()

    stage(drop=expression).apply(hostile)

    assert time.process_time() - begun < 2 * BUSY
