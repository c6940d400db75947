"""What Python's own `email` makes of the test corpus and of hostile heads: why Mailquay has a reader of its own.

    python -m bench.oracle [--differences]

For each value that Mailquay reads from a message of tests/corpus (addresses, subject, date, ids, the types of the parts, names,
texts, contents) `policy.default` is asked for the same one: does it agree, does it raise? With `--differences` all
that differ are printed. Then both parse heads that are quadratic for the package, with a limit on its processor time.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import multiprocessing
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from pipelines import Message, Part, parse

CORPUS = Path(__file__).parents[1] / "tests/corpus"
PATIENCE_SECONDS = 10
_ADDRESSES = {"From": "from_", "To": "to", "Cc": "cc", "Reply-To": "reply_to"}

HOSTILE: dict[str, bytes] = {
    "20,000 encoded words": b"Subject:" + b" =?utf-8?q?a?= b" * 20_000 + b"\r\n\r\n",
    "100,000 header lines": b"X: y\r\n" * 100_000 + b"\r\nbody",
    "10,000 nested parts": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(10_000)
    ),
    "20,000 recipients": b"To: " + b"a@b.example, " * 20_000 + b"\r\n\r\n",
    "1,000,000 recipients": b"To: " + b"a@b.example, " * 1_000_000 + b"\r\n\r\n",
}

Question = tuple[str, object, Callable[[], object]]


def questions(ours: Message, theirs: EmailMessage) -> Iterator[Question]:
    """Yield what is asked: the kind of value, ours, and how the package is asked for its own."""

    def last(name: str) -> Any:
        return theirs.get_all(name, [])[-1]

    if ours.subject is not None:
        yield "subject", ours.subject, lambda: str(last("Subject")).strip()
    if ours.message_id is not None:
        yield (
            "ids",
            ours.message_id,
            lambda: tuple(word.strip("<>") for word in str(last("Message-ID")).split()),
        )
    if ours.header("Date") is not None:
        yield "date", ours.sent_at, lambda: _aware(last("Date").datetime)
    for name, attribute in _ADDRESSES.items():
        if (addresses := getattr(ours, attribute)) is not None:
            yield (
                "addresses",
                list(map(tuple, addresses)),
                lambda name=name: [  # type: ignore[misc]
                    (address.display_name or None, address.addr_spec) for address in last(name).addresses
                ],
            )
    mine = [part for part in ours.structure.walk() if part.sub_parts is None]
    parts = list(leaves(theirs))
    yield "structure", [part.type for part in mine], lambda: [part.get_content_type() for part in parts]
    if len(mine) == len(parts):
        for part, other in zip(mine, parts, strict=True):
            yield from _questions_of_part(ours, part, other)


def _questions_of_part(ours: Message, part: Part, other: EmailMessage) -> Iterator[Question]:
    yield "names", part.name, other.get_filename
    if part.part_id in ours.body_values:
        text = ours.body_values[part.part_id].value
        yield "texts", text.rstrip("\n"), lambda: other.get_content().replace("\r\n", "\n").rstrip("\n")
    elif not part.type.startswith(("text/", "message/")):
        yield "contents", part.decode(), lambda: other.get_payload(decode=True)


def leaves(mail: EmailMessage) -> Iterator[EmailMessage]:
    """Yield the parts that have content; a message within a message is one of them."""
    if mail.get_content_maintype() == "multipart" and mail.is_multipart():
        for part in mail.iter_parts():
            yield from leaves(part)  # type: ignore[arg-type]
    else:
        yield mail


def _aware(moment: Any) -> Any:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def compare(*, differences: bool) -> None:
    """Print how many values of the corpus are the same, and in how many messages the package raises."""
    asked: Counter[str] = Counter()
    same: Counter[str] = Counter()
    raising: dict[str, set[str]] = {}
    paths = sorted(CORPUS.glob("*.eml"))
    for path in paths:
        raw = path.read_bytes()
        try:
            for kind, value, ask in questions(
                parse(raw), email.message_from_bytes(raw, policy=email.policy.default)
            ):
                asked[kind] += 1
                try:
                    found = ask()
                    same[kind] += found == value
                    if differences and found != value:
                        print(f"{path.stem}, {kind}\n    {value!r:.300}\n    {found!r:.300}")
                except Exception as error:  # Whatever it raises is the answer.
                    raising.setdefault(path.stem, set()).add(type(error).__name__)
        except Exception as error:
            raising.setdefault(path.stem, set()).add(type(error).__name__)
    for kind, count in asked.items():
        print(f"{kind:<12}{same[kind]:>6} of {count:>5}")
    print(f"{'all':<12}{same.total():>6} of {asked.total():>5}, {same.total() / asked.total():.1%}")
    print(
        f"it raises in {len(raising)} of {len(paths)} messages: {', '.join(sorted(set().union(*raising.values())))}"
    )


def read_all(raw: bytes) -> None:
    """Read the structure and all headers with the package, within limits on its time."""
    resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE_SECONDS, PATIENCE_SECONDS))
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    for value in mail.values():
        str(value)
    for part in mail.walk():
        part.get_content_type()


def hostile() -> None:
    """Print what hostile heads cost here and there."""
    for name, raw in HOSTILE.items():
        begin = time.process_time()
        parse(raw).to_json()
        ours = time.process_time() - begin
        before = _seconds_of_children()
        process = multiprocessing.get_context("spawn").Process(target=read_all, args=(raw,))
        process.start()
        process.join()
        theirs = _seconds_of_children() - before
        ended = {0: "", 1: "then it raises"}.get(process.exitcode or 0, "then it was ended")
        print(f"{name:<24}{ours:>7.3f} s; email: {theirs:>6.2f} s {ended}")


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print both."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--differences", action="store_true", help="print what differs, ours first")
    differences = arguments.parse_args().differences
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(differences=differences)
    hostile()


if __name__ == "__main__":
    main()
