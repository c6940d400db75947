"""Compares full parsing (parse and JSON with hashes) with Python's `email` package, in one run on one machine.

    python bench/parse.py [--seconds 4]

The mail is made here, from a fixed seed: plain, alternative and HTML mail with the headers that relays add, and
attachments from 10 kB to 2 MB. The contestants take turns, round by round. For each kind it prints
medians of processor time: parsing alone, the full JSON, bare `email.message_from_bytes` (compat32, structure only), and
`policy.default` with headers and bodies read; and the ratios of the full JSON to the last two.
The bars: mixed mail at most 1.5 times bare compat32; with attachments of 1 MB and more at most a fifth of it.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import random
import statistics
import time
from collections.abc import Callable, Sequence
from email.message import EmailMessage

from pipelines import parse

SENTENCE = (
    "the mail server holds every message until somebody fetches it and asks for größe café naïve prices"
)
WORDS = SENTENCE.split()


def text(rng: random.Random, size: int) -> str:
    """Make lines of words, beyond ASCII too."""
    lines, length = [], 0
    while length < size:
        line = " ".join(rng.choices(WORDS, k=11))
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines) + "\n"


def markup(rng: random.Random, size: int) -> str:
    """Make a table with styles and links, as newsletters are."""
    rows = "\n".join(
        f'<tr><td style="padding:4px 8px"><a href="https://shop.example/p?id={rng.random()}">{line}</a></td></tr>'
        for line in text(rng, size // 2).splitlines()
    )
    style = "<style>" + "td{color:#333;font:14px sans-serif}\n" * 40 + "</style>"
    return f"<html><head>{style}</head><body><table>\n{rows}\n</table></body></html>\n"


def message(rng: random.Random, kind: str, size: int) -> bytes:
    """Make one mail with CRLF line ends; `size` is that of its largest part."""
    mail = EmailMessage()
    mail["Return-Path"] = "<bounce@news.example>"
    for hop in range(4):
        path = f"from mx{hop}.example (10.0.0.{hop}) by relay{hop}.example with ESMTPS id {rng.random()}"
        mail["Received"] = f"{path}; Mon, 23 Nov 2026 10:00:00 +0100"
    mail["Authentication-Results"] = (
        "mx.example; spf=pass smtp.mailfrom=news.example; dkim=pass header.d=news.example"
    )
    mail["DKIM-Signature"] = (
        "v=1; a=rsa-sha256; d=news.example; s=k1; bh=" + "Zm9v" * 10 + "; b=" + "YmFy" * 60
    )
    for index in range(12):
        mail[f"X-Filter-{index}"] = " ".join(rng.choices(WORDS[:11], k=12))
    mail["From"] = '"Größe, Jörg" <joerg@example.org>'
    mail["To"] = "Ann <ann@example.org>, bob@example.org"
    mail["Cc"] = ", ".join(f"Person {n} <p{n}@example.org>" for n in range(rng.randrange(1, 8)))
    mail["Subject"] = "Größenangaben für die Bestellung " + " ".join(rng.choices(WORDS, k=8))
    mail["Message-ID"] = f"<{rng.random()}@example.org>"
    mail["References"] = " ".join(f"<{rng.random()}@example.org>" for _ in range(4))
    mail["Date"] = "Mon, 23 Nov 2026 10:00:00 +0100"
    if kind == "plain":
        mail.set_content(text(rng, size), cte=rng.choice(["8bit", "quoted-printable"]))
    elif kind == "html":
        mail.set_content(markup(rng, size), subtype="html", cte=rng.choice(["quoted-printable", "base64"]))
    else:
        mail.set_content(text(rng, 3_000), cte="quoted-printable")
        mail.add_alternative(
            markup(rng, 20_000 if kind == "attachment" else size), subtype="html", cte="quoted-printable"
        )
    if kind == "attachment":
        mail.add_attachment(rng.randbytes(size), maintype="application", subtype="pdf", filename="Größe.pdf")
    return mail.as_bytes(policy=email.policy.SMTP)


def corpora() -> dict[str, list[bytes]]:
    """Make the mail: `mixed` averages about 70 kB a message."""
    rng = random.Random(8621)
    kinds = {
        "plain 4 kB": [message(rng, "plain", 4_000) for _ in range(20)],
        "alternative 30 kB": [message(rng, "alternative", 24_000) for _ in range(20)],
        "html 60 kB": [message(rng, "html", 50_000) for _ in range(20)],
        "attachment 10 kB": [message(rng, "attachment", 10_000) for _ in range(10)],
        "attachment 250 kB": [message(rng, "attachment", 250_000) for _ in range(10)],
        "attachment 1 MB": [message(rng, "attachment", 1_000_000) for _ in range(3)],
        "attachment 2 MB": [message(rng, "attachment", 2_000_000) for _ in range(3)],
    }
    mixed = [
        *kinds["plain 4 kB"], *kinds["alternative 30 kB"], *kinds["html 60 kB"],
        *kinds["attachment 10 kB"], *kinds["attachment 250 kB"][:8],
    ]  # fmt: skip
    return {"mixed": mixed, **kinds}


def parsed(raw: bytes) -> None:
    """Parse, and write nothing."""
    parse(raw, id="0" * 32, mailbox="bench")


def full(raw: bytes) -> None:
    """Parse to the full JSON."""
    parse(raw, id="0" * 32, mailbox="bench").to_json()


def compat32(raw: bytes) -> None:
    """Parse the structure alone, as the `email` package does by default."""
    email.message_from_bytes(raw)


def default(raw: bytes) -> None:
    """Parse with the `email` package's modern policy, and read headers and texts."""
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    for value in mail.values():
        str(value)
    for part in mail.walk():
        if part.get_content_maintype() == "text":
            part.get_content()


CONTESTANTS: tuple[Callable[[bytes], None], ...] = (parsed, full, compat32, default)


def seconds_each(mails: Sequence[bytes], *, budget: float) -> list[float]:
    """Return for each contestant the median over rounds of its processor time for one message."""
    rounds: list[list[float]] = []
    deadline = time.perf_counter() + budget
    while len(rounds) < 3 or time.perf_counter() < deadline:
        rounds.append([])
        for work in CONTESTANTS:
            begin = time.process_time()
            for raw in mails:
                work(raw)
            rounds[-1].append((time.process_time() - begin) / len(mails))
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seconds", type=float, default=4.0, help="time for each kind of mail")
    budget = arguments.parse_args().seconds
    names = "".join(f"{work.__name__:>12}" for work in CONTESTANTS)
    print(f"{'ms of processor time':<22}{'kB each':>8}{names}{'/ compat32':>12}{'/ default':>11}")
    for name, mails in corpora().items():
        size = sum(map(len, mails)) / len(mails) / 1000
        times = seconds_each(mails, budget=budget)
        _, ours, bare, rich = times
        shown = "".join(f"{seconds * 1e3:>12.3f}" for seconds in times)
        print(f"{name:<22}{size:>8.0f}{shown}{ours / bare:>12.2f}{ours / rich:>11.3f}")


if __name__ == "__main__":
    main()
