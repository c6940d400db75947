"""Every built-in stage keeps the promises of `pipelines.testing`; a new stage adds its case here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.message import Message
from pipelines.parse import parse
from pipelines.registry import load_stage, stage_types
from pipelines.stage import Stage, StageOptions
from pipelines.stages.auth_results import AuthResultsOptions, AuthResultsStage
from pipelines.stages.automatic import AutomaticStage
from pipelines.stages.bounce import BounceStage
from pipelines.stages.calendar import CalendarStage
from pipelines.stages.dedupe import DedupeOptions, DedupeStage
from pipelines.stages.dkim import DkimOptions, DkimStage
from pipelines.stages.filter import FilterOptions, FilterStage
from pipelines.stages.redact import RedactOptions, RedactStage
from pipelines.stages.reply import ReplyOptions, ReplyStage
from pipelines.stages.text import TextOptions, TextStage
from pipelines.stages.thread import ThreadStage
from pipelines.stages.tnef import TnefOptions, TnefStage
from pipelines.testing import StageContract, sample_messages

CORPUS = Path(__file__).parents[1] / "corpus"

# Any bytes, and bytes that look like the beginning of a mail, so that they get further.
HEADS = st.sampled_from(
    [
        b"",
        b"From: a@example.com\r\nSubject: ",
        b"Content-Type: text/html\r\n\r\n",
        b"Content-Type: text/plain; format=flowed; delsp=yes\r\n\r\n",
        b"Content-Type: text/calendar; method=REQUEST\r\n\r\nBEGIN:VCALENDAR\r\n",
        b"Content-Type: application/ms-tnef; name=winmail.dat\r\n\r\n\x78\x9f\x3e\x22",
        b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n",
        b"Authentication-Results: ",
        b"DKIM-Signature: ",
        b"References: ",
    ]
)


@cache
def corpus() -> list[Message]:
    return [parse(path.read_bytes(), mailbox="support") for path in sorted(CORPUS.glob("*.eml"))]


class BuiltIn(StageContract):
    """The contract, over the whole corpus and over what nobody would write."""

    def messages(self) -> Sequence[Message]:
        return [*sample_messages(6), *corpus()]

    # The type of an example and not the instance, because hypothesis and pytest each make their own.
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(HEADS, st.binary(max_size=400))
    def test_any_bytes_pass(self, head: bytes, rest: bytes) -> None:
        """What a stranger sends stops no message."""
        self.check(parse(head + rest))


class TestAutomatic(BuiltIn):
    def make(self) -> Stage:
        return AutomaticStage("robots", StageOptions())


class TestText(BuiltIn):
    def make(self) -> Stage:
        return TextStage("words", TextOptions(links=True))


class TestReply(BuiltIn):
    def make(self) -> Stage:
        return ReplyStage("new", ReplyOptions())


class TestThread(BuiltIn):
    def make(self) -> Stage:
        return ThreadStage("conversation", StageOptions())


class TestCalendar(BuiltIn):
    def make(self) -> Stage:
        return CalendarStage("invitations", StageOptions())


class TestAuthResults(BuiltIn):
    def make(self) -> Stage:
        return AuthResultsStage("judged", AuthResultsOptions())


class TestBounce(BuiltIn):
    def make(self) -> Stage:
        return BounceStage("bounced", StageOptions())

    def messages(self) -> Sequence[Message]:
        reports = sorted((CORPUS.parent / "bounces").glob("*.eml"))
        return [*super().messages(), *(parse(path.read_bytes()) for path in reports)]


class TestDkim(BuiltIn):
    def make(self) -> Stage:
        # A name server that knows no key; those that do not answer are in tests/unit/test_dkim.py.
        return DkimStage("verified", DkimOptions(), lookup=lambda _name, _timeout: [])


class TestTnef(BuiltIn):
    def make(self) -> Stage:
        return TnefStage("winmail", TnefOptions())


class TestFilter(BuiltIn):
    def make(self) -> Stage:
        expression = (
            'from.all(a, to.exists(b, a.email == b.email)) && subject.matches("(?i)(a+)+$") && findings.x.y == 1 '
            '|| bodyValues.exists(id, bodyValues[id].value.contains("x")) || headers["Subject"] == ""'
        )
        return FilterStage("gate", FilterOptions(drop=expression))


class TestRedact(BuiltIn):
    def make(self) -> Stage:
        options = RedactOptions(
            kinds=("cards", "ibans", "emails", "phones"), pattern="[a-z]{9}|é", envelope=True, drop_raw=True
        )
        return RedactStage("marks", options)


class TestDedupe(BuiltIn):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "seen.sqlite"

    def make(self) -> Stage:
        return DedupeStage("once", DedupeOptions(path=self.path))


def test_every_registered_stage_has_its_contract_tests() -> None:
    """A stage that is registered and not tested here has not promised anything."""
    tested = {
        "auth_results": TestAuthResults,
        "automatic": TestAutomatic,
        "bounce": TestBounce,
        "calendar": TestCalendar,
        "dedupe": TestDedupe,
        "dkim": TestDkim,
        "filter": TestFilter,
        "redact": TestRedact,
        "reply": TestReply,
        "text": TestText,
        "thread": TestThread,
        "tnef": TestTnef,
    }

    assert set(stage_types()) == set(tested)
    assert all(load_stage(name).type_name == name for name in tested)
