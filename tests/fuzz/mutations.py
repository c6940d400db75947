"""Broken mail without end: corpus messages that are cut, crossed, repeated and strewn with what breaks parsers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"

# What hostile and broken mail is made of; joined at random it reaches every corner that random bytes do not.
FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b"\xff", b"\xc3\xa9", b":", b";", b",", b'"', b"\\",
    b"(", b")", b"<", b">", b"@", b"=", b"?=", b"=?", b"*", b"'", b"%", b"--", b"--b", b"--b--", b"\r\n--b\r\n",
    b"\r\n--b--\r\n", b"From ", b"From: ", b"To: ", b"Subject: ", b"Subject : ", b"Date: ", b"Message-ID: ",
    b"References: ", b"Content-Type: ", b"Content-Disposition: ", b"Content-Transfer-Encoding: ", b"Content-ID: ",
    b"Content-Language: ", b"multipart/mixed; boundary=b", b'multipart/alternative; boundary="b"',
    b"message/rfc822", b"text/plain", b"text/html", b"; charset=", b"utf-8", b"utf-7", b"iso-2022-jp", b"unknown",
    b"idna", b"; name*", b"; name*0*=utf-8''%C3", b"; filename=", b"base64", b"quoted-printable", b"x-uuencode",
    b"attachment", b"=?utf-8?q?=C3?=", b"=?utf-8?b?w6k?=", b"=?x?q?y?=", b"=?utf-7?q?+2AA-?=", b"a@b", b"<a@b>", b"Team: ",
    b"Mon, 23 Nov 2026 10:00:00 +0100", b"99 Foo 0000 99:99:99 +9999", b"YWJj", b"YQ==", b"+2AA-", b"\x1b$B",
    b"<style>", b"</style>", b"<!--", b"&#xD800;", b"&amp;", b"begin 644 x\n", b"#86)C\n", b"`\nend\n",
]  # fmt: skip


def corpus() -> list[bytes]:
    """Return every message of the corpus."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.eml"))]


def inputs(seed: int, seeds: Sequence[bytes]) -> Iterator[bytes]:
    """Yield inputs for ever, the same ones for the same `seed`."""
    rng = random.Random(seed)
    while True:
        choice = rng.random()
        if choice < 0.05:
            yield rng.randbytes(rng.randrange(600))
        elif choice < 0.25:
            yield b"".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 60)))
        else:
            raw = rng.choice(seeds)
            for _ in range(rng.choice((1, 1, 2, 3, 8))):
                raw = mutated(rng, raw, seeds)
            yield raw[: 256 << 10]


def mutated(rng: random.Random, raw: bytes, seeds: Sequence[bytes]) -> bytes:
    """Break a message in one place."""
    start = rng.randrange(len(raw) + 1)
    end = min(len(raw), start + int(rng.expovariate(1 / 40)))
    kind = rng.randrange(9)
    if kind == 0:
        return raw[:start] + raw[end:]
    if kind == 1:
        return raw[:end] + raw[start:end] * rng.choice((1, 2, 50)) + raw[end:]
    if kind == 2:
        return raw[:start] + rng.randbytes(rng.randrange(1, 8)) + raw[end:]
    if kind == 3:
        other = rng.choice(seeds)
        return raw[:start] + other[rng.randrange(len(other) + 1) :]
    if kind == 4:
        return raw[:start]
    if kind == 5:
        line_end = rng.choice((b"\r", b"\n", b"\r\n", b"\r\r\n", b"\n\r"))
        return raw.replace(b"\r\n", line_end) if rng.random() < 0.5 else raw.replace(b"\n", line_end)
    if kind == 6 and raw:
        place = rng.randrange(len(raw))
        return raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :]
    if kind == 7:
        return swapped_lines(rng, raw)
    return raw[:start] + b"".join(rng.choices(FRAGMENTS, k=rng.randrange(1, 6))) + raw[start:]


def swapped_lines(rng: random.Random, raw: bytes) -> bytes:
    """Put one line in the place of another."""
    lines = raw.splitlines(keepends=True)
    if lines:
        lines[rng.randrange(len(lines))] = rng.choice(lines)
    return b"".join(lines)
