"""A few thousand broken messages in every run of the tests; `python -m tests.fuzz` runs a million."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import parse
from tests.fuzz.__main__ import SLOW_SECONDS, fuzz, run
from tests.fuzz.mutations import FRAGMENTS, corpus, inputs
from tests.fuzz.promises import assert_promises_hold

SEEDS = corpus()
MESSAGES = 3_000


@pytest.mark.parametrize("seed", range(2))
def test_mutated_mail_keeps_every_promise_and_takes_no_second(seed: int) -> None:
    """Corpus mail that was cut, crossed and strewn with fragments; the seed makes a failure come again."""
    for number, raw in enumerate(itertools.islice(inputs(seed, SEEDS), MESSAGES)):
        begin = time.process_time()
        try:
            assert_promises_hold(raw)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}: {raw[:2000]!r}") from error
        assert time.process_time() - begin < SLOW_SECONDS, raw[:2000]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.integers(1, 2_000)), max_size=8))
def test_repeated_fragments_take_no_second(pieces: list[tuple[bytes, int]]) -> None:
    """What is quadratic shows when something is repeated: two thousand times, several things in a row."""
    raw = b"".join(fragment * count for fragment, count in pieces)
    begin = time.process_time()
    assert_promises_hold(raw)
    assert time.process_time() - begin < SLOW_SECONDS


def test_the_driver_counts_what_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends without failures and says how many inputs it ran; the same seed gives the same inputs."""
    assert fuzz(inputs=2_000, seed=7, processes=1, keep=tmp_path) == 0
    assert "2,000 inputs" in capsys.readouterr().out
    assert list(itertools.islice(inputs(3, SEEDS), 20)) == list(itertools.islice(inputs(3, SEEDS), 20))


def test_the_driver_tells_of_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that breaks a promise comes back with its reason; the others are run all the same."""

    def broken(raw: bytes) -> None:
        if b"--b" in raw:
            raise LookupError("a delimiter")

    monkeypatch.setattr("tests.fuzz.promises.assert_promises_hold", broken)
    outcome = run(1)

    assert outcome.failures
    assert len(outcome.failures) < outcome.inputs
    assert {reason for reason, _ in outcome.failures} == {"LookupError: a delimiter"}
    assert all(b"--b" in raw for _, raw in outcome.failures)


HEADERS = [
    b"Subject: ", b"To: ", b"To: a@b ", b'To: "x" <', b"References: ", b"Date: ", b"Content-Type: text/plain; ",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n", b'Content-Disposition: attachment; filename="',
    b"Content-Type: text/html\r\n\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
    b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 644 x\n", b"Content-Transfer-Encoding: base64\r\n\r\n", b"",
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_no_header_and_no_body_takes_quadratic_time(header: bytes) -> None:
    """Every short fragment forty thousand times; colons in an address list once took a minute."""
    for fragment in FRAGMENTS:
        if len(fragment) <= 3:
            raw = header + fragment * 40_000
            begin = time.process_time()
            message = parse(raw)
            for part in message.structure.walk():
                part.to_dict()
                sum(map(len, part.chunks()))
            assert time.process_time() - begin < SLOW_SECONDS, fragment
