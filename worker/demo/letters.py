"""Writes realistic mail: the same letters again for the same numbers, random source and time.

Ten kinds take turns, so that any ten letters in a row have one of each: plain, HTML, attachments, replies, automatic
answers, list mail, and one whose header is raw 8-bit. Every letter carries its number in `X-Letter`. People and
companies are invented and live below example.com.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

PEOPLE = (
    ("Imke Harms", "imke.harms@tidewater-freight.example.com"),
    ("José Ibáñez", "jose@puerto-claro.example.com"),
    ("Siân Llewellyn", "sian@brass-anchor.example.com"),
    ("Zoë Ångström", "zoe@nordljus-shipping.example.com"),
    ("Ngozi Adeyemi", "ngozi.adeyemi@lagoon-traders.example.com"),
    ("山田 花子", "hanako@minato-marine.example.com"),
    ("Paweł Żuraw", "pawel@dzwig-i-syn.example.com"),
    ("Customer Desk", "desk@lighthouse-supplies.example.com"),
)
SUBJECTS = (
    "Berth {n} for the Meridian on Thursday",
    "Where is container TLLU {n}?",
    "Invoice 2026-{n} for rope and fenders",
    "Grüße vom Kai {n}",
    "Quote {n}: repainting two cranes",
    "Customs papers for lot {n} – one stamp missing",
    "Cold store {n}: temperature log",
    "見積書 {n} をお送りします",
    "Pilot boat at gate {n}, 05:40",
    "Lost umbrella on ferry {n} ☂",
)
SENTENCES = (
    "The tide turns at a quarter past five, so the pilot would like to leave by half past four.",
    "Could you tell us when the crane at the north quay is free again?",
    "We counted forty-two crates, and the papers say forty-three.",
    "Please send the invoice to the new address; the old one belongs to the museum now.",
    "The crew is happy with the fenders and asks for six more of the same.",
    "Nothing urgent, but the lamp at berth nine has been blinking since Sunday.",
    "Für die schnelle Hilfe gestern vielen Dank, auch im Namen der Mannschaft.",
    "Le capitaine confirme l'arrivée pour jeudi matin, sauf brouillard.",
    "If it is easier for you, we can talk on the phone tomorrow after ten.",
)


def letter(n: int, *, to: str, rng: random.Random, now: datetime) -> bytes:
    """The letter of number `n`, with CRLF line ends.

    Args:
        n: Counts letters; it decides the kind.
        to: The recipient's address.
        rng: Where sender, words and sizes come from.
        now: Its date; must be aware.
    """
    name, address = rng.choice(PEOPLE)
    message = EmailMessage(policy=SMTP)
    message["From"] = f'"{name}" <{address}>'
    message["To"] = to
    message["Subject"] = rng.choice(SUBJECTS).format(n=n)
    message["Date"] = format_datetime(now)
    message["Message-ID"] = message_id(n)
    message["X-Letter"] = str(n)
    KINDS[n % len(KINDS)](message, n, rng)
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        # The library would draw boundaries from a random source of its own.
        part.set_boundary(f"=_quay_{n}_{number}")
    raw = message.as_bytes()
    return _with_raw_header(raw) if KINDS[n % len(KINDS)] is _odd else raw


def message_id(n: int) -> str:
    """The Message-ID of letter `n`."""
    return f"<letter-{n}@mail.harbour-lane.example.com>"


def _prose(rng: random.Random, *, sentences: int = 4) -> str:
    return "\n".join(("Good morning,", "", *rng.sample(SENTENCES, sentences), "", "Kind regards")) + "\n"


def _plain(message: EmailMessage, _: int, rng: random.Random) -> None:
    message.set_content(_prose(rng))


def _alternative(message: EmailMessage, _: int, rng: random.Random) -> None:
    prose = _prose(rng)
    message.set_content(prose)
    paragraphs = "".join(f"<p>{line}</p>" for line in prose.splitlines() if line)
    message.add_alternative(f"<!doctype html><body style='color:#123'>{paragraphs}</body>", subtype="html")


def _with_pdf(message: EmailMessage, n: int, rng: random.Random) -> None:
    message.set_content(_prose(rng))
    pdf = b"%PDF-1.4\n" + rng.randbytes(rng.randint(8_000, 60_000)) + b"\n%%EOF\n"
    message.add_attachment(pdf, maintype="application", subtype="pdf", filename=f"Rechnung für Kai {n}.pdf")


def _with_picture(message: EmailMessage, n: int, rng: random.Random) -> None:
    _alternative(message, n, rng)
    html = message.get_payload()[1]  # type: ignore[index]
    assert isinstance(html, EmailMessage)
    html.add_related(_png(rng), maintype="image", subtype="png", cid=f"<harbour-{n}@example.com>")


def _with_table(message: EmailMessage, n: int, rng: random.Random) -> None:
    message.set_content(_prose(rng, sentences=2))
    rows = "".join(f"{hour:02}:00;{rng.uniform(-21, -17):.1f}\r\n" for hour in range(24))
    message.add_attachment(f"hour;°C\r\n{rows}", subtype="csv", filename=f"cold-store-{n}.csv")


def _reply(message: EmailMessage, n: int, rng: random.Random) -> None:
    earlier = [message_id(number) for number in range(n - 3, n)]
    message["In-Reply-To"] = earlier[-1]
    message["References"] = " ".join(earlier)
    message.replace_header("Subject", f"Re: {message['Subject']}")
    quoted = "".join(f"> {line}\n" for line in rng.sample(SENTENCES, 2))
    message.set_content(f"{_prose(rng, sentences=2)}\nOn Tuesday you wrote:\n{quoted}")


def _automatic(message: EmailMessage, _: int, rng: random.Random) -> None:
    message["Auto-Submitted"] = "auto-replied"  # RFC 3834 section 5
    message["X-Auto-Response-Suppress"] = "All"
    message.replace_header("Subject", f"Automatic reply: {message['Subject']}")
    message.set_content(f"I am at sea until the {rng.randint(2, 28)}th and read no mail there.\n")


def _from_list(message: EmailMessage, _: int, rng: random.Random) -> None:
    message["List-Id"] = "Harbour masters <masters.lists.example.com>"  # RFC 2919
    message["List-Unsubscribe"] = "<mailto:leave-masters@lists.example.com>"  # RFC 2369
    message["Precedence"] = "list"
    message.set_content(_prose(rng) + "\n-- \nHarbour masters, once a week\n")


def _quoted_printable(message: EmailMessage, n: int, rng: random.Random) -> None:
    message["Cc"] = "Κώστας Λιμενάρχης <kostas@piraeus-lines.example.com>"
    message["Reply-To"] = f"berth-{n}@replies.example.com"
    message.set_content(_prose(rng) * 3, cte="quoted-printable")


def _odd(message: EmailMessage, _: int, rng: random.Random) -> None:
    message["Comments"] = "@raw@"
    message.set_content(". A first line that begins with a dot\n.\n" + _prose(rng))


def _with_raw_header(raw: bytes) -> bytes:
    """Put Latin-1 bytes where only ASCII may stand, as old programs do."""
    return raw.replace(b"@raw@", "Grüße aus Köln, ohne jede Kodierung".encode("latin-1"), 1)


def _png(rng: random.Random, *, side: int = 48) -> bytes:
    """A small picture of noise (PNG specification, section 5)."""
    rows = b"".join(b"\0" + rng.randbytes(side * 3) for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


KINDS: tuple[Callable[[EmailMessage, int, random.Random], None], ...] = (
    _plain,
    _alternative,
    _with_pdf,
    _reply,
    _with_picture,
    _automatic,
    _from_list,
    _with_table,
    _quoted_printable,
    _odd,
)
