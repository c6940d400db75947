"""The bounce stage says of each report in tests/bounces/ exactly what stands beside it, and costs little for any other."""

from __future__ import annotations

import re
import time
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.parse import parse
from pipelines.reports.standard import PART_BYTES
from pipelines.reports.status import find_codes, is_permanent, more_precise, read_status, reason
from pipelines.stage import StageOptions
from pipelines.stages.bounce import BounceStage
from tests.bed.patience import BUSY

HERE = Path(__file__).parents[1] / "bounces"
MESSAGES = sorted(HERE.glob("*.eml"))


def found(raw: bytes) -> object:
    """What the stage finds in a message, as whoever reads the JSON sees it."""
    changed = BounceStage("bounce", StageOptions()).apply(parse(raw))
    return orjson.loads(changed.to_json())["findings"]["bounce"]


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_report_gives_what_stands_beside_it(path: Path) -> None:
    """Kind, recipients with why and whether for good, the original message, key by key."""
    expected = orjson.loads(path.with_suffix(".json").read_bytes())

    assert found(path.read_bytes()) == expected


def test_each_report_has_one_reason() -> None:
    """The reasons name every message once and no other, and there are enough of them."""
    names = re.findall(r"^\| ([a-z][a-z0-9-]+) \| \S", (HERE / "reasons.md").read_text(), re.MULTILINE)

    assert sorted(names) == sorted(["message", *(path.stem for path in MESSAGES)])
    assert len(MESSAGES) >= 20


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_line_ends_make_no_difference(path: Path) -> None:
    """A report that was stored with bare line feeds says the same."""
    raw = path.read_bytes()

    assert found(raw.replace(b"\r\n", b"\n")) == found(raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("550 5.1.1 no such user", (550, "5.1.1")),
        ("550-5.7.26 unauthenticated", (550, "5.7.26")),
        ("550 #5.1.0 Address rejected", (550, "5.1.0")),
        ("no mailbox here by that name. (#5.1.1)", (None, "5.1.1")),
        ("554 Denied", (554, None)),
        ("554: delivery error", (554, None)),
        ("connect to 192.0.2.7: 4.4.1 timed out", (None, "4.4.1")),
        # Neither addresses nor versions nor ports nor times are codes.
        ("relay 5.1.1.1 refused", (None, None)),
        ("host 10.5.1.1 said no", (None, None)),
        ("mx-450 said no", (None, None)),
        ("at 4500 bytes", (None, None)),
        ("", (None, None)),
    ],
)
def test_codes_are_found_in_text(text: str, codes: tuple[int | None, str | None]) -> None:
    """The enhanced code beside its reply comes first; numbers of other kinds are none."""
    assert find_codes(text) == codes


@pytest.mark.parametrize(
    ("status", "permanent", "why"),
    [
        ("5.1.1", True, "no-such-mailbox"),
        ("5.1.2", True, "no-such-domain"),
        ("5.2.1", True, "mailbox-disabled"),
        ("5.7.1", True, "policy"),
        ("5.0.0", True, "other"),
        ("4.4.1", False, "unreachable"),
        # Announced as permanent, and over in a while.
        ("5.2.2", False, "mailbox-full"),
        ("5.3.1", False, "server-full"),
        ("5.4.7", False, "expired"),
        ("5.3.4", True, "too-large"),
        ("5.99.1", True, "other"),
    ],
)
def test_the_class_of_a_code_says_whether_it_is_for_good(status: str, permanent: bool, why: str) -> None:
    """RFC 3463 section 3.1, with the exceptions that practice knows."""
    assert is_permanent(action="failed", status=status, smtp_code=550, words=None) is permanent
    assert reason(status) == why


def test_what_is_late_or_has_come_is_not_for_good() -> None:
    """Whatever code stands beside it."""
    assert is_permanent(action="delayed", status="5.1.1", smtp_code=None, words=True) is False
    assert is_permanent(action="delivered", status="2.0.0", smtp_code=None, words=None) is None
    assert is_permanent(action="failed", status=None, smtp_code=450, words=True) is False
    assert is_permanent(action="failed", status=None, smtp_code=None, words=None) is None


def test_a_status_may_have_a_comment_and_a_vague_one_gives_way() -> None:
    """RFC 3464 section 2.3.4; only within its class."""
    assert read_status("5.1.1 (bad mailbox)") == "5.1.1"
    assert read_status("failed") is None
    assert more_precise("5.0.0", "5.1.1") == "5.1.1"
    assert more_precise("4.0.0", "5.1.1") == "4.0.0"
    assert more_precise("5.2.2", "5.1.1") == "5.2.2"


def hostile() -> dict[str, bytes]:
    head = b"From: MAILER-DAEMON@mx.example.net\r\nReturn-Path: <>\r\n"
    status = head + b"Content-Type: message/delivery-status\r\n\r\n"
    text = head + b"\r\n"
    return {
        "recipients": status + b"Final-Recipient: rfc822; a@example.com\r\n\r\n" * 50_000,
        "fields": status + b"A: b\r\n" * 200_000,
        "one-field": status + b"Diagnostic-Code: smtp; " + b"5.1.1." * 300_000,
        "blank-lines": status + b" \t\r\n" * 300_000,
        "xtext": status + b"Final-Recipient: utf-8; " + rb"\x{110000}\x{D800}\x{0}" * 10_000,
        "dashes": text + b"-" * 100_000,
        "spaces": text + b"delivery to the following recipient failed\r\n" + b" " * 100_000,
        "addresses": text + b"Unable to deliver your message to the following address\r\n" + b"<a@b.c>:\r\n" * 9_000,
        "ats": text + b"Delivery to the following recipient failed\r\n" + b"a@" * 50_000,
        "brackets": text + b"Delivery to the following recipient failed\r\n" + b"a (" * 40_000,
        "failed": b"X-Failed-Recipients: " + b"a" * 400_000 + b"\r\n" + text,
        "numbers": text + b"This message was created automatically by mail delivery software\r\n\r\n  a@b.c\r\n"
        + b"550-" * 20_000,
        "returned": head + b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: message/delivery-status\r\n\r\nFinal-Recipient: a@b.c\r\n--b\r\n"
        b"Content-Type: message/rfc822\r\n\r\n" + b"From: a@b.c\r\n" * 200_000 + b"\r\n--b--\r\n",
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_report_costs_little(name: str) -> None:
    """Under a second of processor time each, and the finding stays small."""
    message = parse(hostile()[name])
    begun = time.process_time()
    changed = BounceStage("bounce", StageOptions()).apply(message)
    took = time.process_time() - begun

    assert took < 1.0 * BUSY
    assert len(orjson.dumps(changed.findings["bounce"])) < PART_BYTES


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([path.read_bytes() for path in MESSAGES]), st.data())
def test_a_damaged_report_raises_nothing(raw: bytes, data: st.DataObject) -> None:
    """Bytes cut out of a report, put in or doubled: the finding is JSON all the same."""
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 200)))
    middle = data.draw(st.one_of(st.binary(max_size=30), st.just(raw[start:end] * 2)))

    assert found(raw[:start] + middle + raw[end:]) is not None
