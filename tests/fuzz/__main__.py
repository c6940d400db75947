"""Runs broken mail through the parser for as long as asked, over all cores, and says what came of it.

    python -m tests.fuzz [--inputs 1000000] [--seed 1] [--processes 2]
    python -m tests.fuzz --atheris [options of libFuzzer, such as -runs=1000000]

An input fails when a promise does not hold or when it takes longer than a second; it is written to the folder
`--keep` names, to be made smaller and put into the corpus. Atheris, guided by coverage, has to be installed by hand
(`pip install atheris`); libFuzzer stops at its first failure and writes the input itself.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

SLOW_SECONDS = 1.0
_ROUND = 2_000


class Outcome(NamedTuple):
    """What came of some inputs: how many they were, the slowest time in seconds, and those that failed."""

    inputs: int
    slowest: float
    failures: list[tuple[str, bytes]]


def run(seed: int) -> Outcome:
    """Run one round of inputs."""
    from tests.fuzz.mutations import corpus, inputs
    from tests.fuzz.promises import assert_promises_hold

    slowest, failures = 0.0, []
    for raw in itertools.islice(inputs(seed, corpus()), _ROUND):
        # The CPU's time, so that a busy machine does not look like a slow parser.
        begin = time.process_time()
        try:
            assert_promises_hold(raw)
        except Exception as error:
            failures.append((f"{type(error).__name__}: {error}"[:200], raw))
        spent = time.process_time() - begin
        slowest = max(slowest, spent)
        if spent > SLOW_SECONDS:
            failures.append((f"took {spent:.1f} s", raw))
    return Outcome(_ROUND, slowest, failures)


def fuzz(*, inputs: int, seed: int, processes: int, keep: Path) -> int:
    """Run at least that many inputs; return the number of failures."""
    begin, done, slowest, failed = time.monotonic(), 0, 0.0, 0
    seeds = range(seed * 1_000_000, seed * 1_000_000 + -(-inputs // _ROUND))
    with multiprocessing.Pool(processes) as pool:
        for outcome in pool.imap_unordered(run, seeds):
            done += outcome.inputs
            slowest = max(slowest, outcome.slowest)
            for reason, raw in outcome.failures:
                failed += 1
                keep.mkdir(parents=True, exist_ok=True)
                path = keep / f"{hashlib.sha256(raw).hexdigest()[:16]}.eml"
                path.write_bytes(raw)
                print(f"{path}: {reason}", flush=True)
            if done % 50_000 < _ROUND:
                spent = time.monotonic() - begin
                print(
                    f"{done:,} inputs in {spent:.0f} s, slowest {slowest:.3f} s, {failed} failed", flush=True
                )
    print(f"{done:,} inputs, slowest {slowest:.3f} s, {failed} failed")
    return failed


def guided(arguments: list[str]) -> None:
    """Let libFuzzer look for inputs that reach new code."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["pipelines"]):
        from tests.fuzz.promises import assert_promises_hold

    def check(raw: bytes) -> None:
        assert_promises_hold(raw)

    atheris.Setup([sys.argv[0], f"-timeout={SLOW_SECONDS:.0f}", "-max_len=65536", *arguments], check)
    atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--atheris", action="store_true")
    options, rest = parser.parse_known_args()
    if options.atheris:
        guided(rest)
        return
    sys.exit(
        1
        if fuzz(inputs=options.inputs, seed=options.seed, processes=options.processes, keep=options.keep)
        else 0
    )


if __name__ == "__main__":
    main()
