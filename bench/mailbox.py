"""The mailbox that every contestant pulls: mixed messages of about 70 kB on average, the same for every run.

Seven in ten are short letters, two carry a picture or a document, one in ten has a large attachment; bodies are random
and base64, as mail is, so that nothing is gained by compression.
"""

from __future__ import annotations

import base64
import random
from email.message import EmailMessage
from email.policy import SMTP


def mixed(count: int, *, seed: int = 1) -> list[bytes]:
    """`count` raw messages, about 70 kB each on average."""
    rng = random.Random(seed)
    return [_message(number, rng) for number in range(count)]


def _message(number: int, rng: random.Random) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = f"Sender {number % 97} <sender{number % 97}@example.com>"
    message["To"] = "quay@example.org"
    message["Subject"] = rng.choice(["Invoice", "Order", "Grüße vom Kai", "Re: berth plan"]) + f" {number}"
    message["Message-ID"] = f"<{number}.{rng.randrange(1 << 40):x}@example.com>"
    message["Date"] = "Mon, 23 Nov 2026 10:00:00 +0100"
    text = "\n".join(_line(rng) for _ in range(rng.randrange(10, 120)))
    message.set_content(text)
    kind = number % 10
    if kind >= 3:
        message.add_alternative(
            f"<html><body><p>{text.replace(chr(10), '</p><p>')}</p></body></html>", subtype="html"
        )
    if kind in {7, 8}:
        message.add_attachment(
            rng.randbytes(rng.randrange(20_000, 120_000)),
            maintype="image",
            subtype="png",
            filename="photo.png",
        )
    if kind == 9:
        message.add_attachment(
            rng.randbytes(rng.randrange(200_000, 550_000)),
            maintype="application",
            subtype="pdf",
            filename="plan.pdf",
        )
    return message.as_bytes()


def _line(rng: random.Random) -> str:
    return " ".join(
        base64.b32encode(rng.randbytes(rng.randrange(2, 6))).decode().lower().strip("=") for _ in range(9)
    )
