"""Well-formed mail made by Python's `email` package is read back as it was meant."""

from __future__ import annotations

import email
import email.policy
from datetime import datetime, timedelta, timezone
from email.header import Header
from email.message import EmailMessage, Message
from email.utils import format_datetime, formataddr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import parse

LETTERS = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], exclude_characters="\\\"'")
WORDS = (
    st.text("abcdefgh XYZ,;:.äöüßéñ漢字あ€-_", min_size=1, max_size=60)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
LOCAL = st.from_regex(r"[a-z0-9]{1,10}([._+-][a-z0-9]{1,5})?", fullmatch=True)
PEOPLE = st.lists(st.tuples(st.one_of(st.just(""), WORDS), LOCAL), min_size=1, max_size=5)
TEXTS = st.lists(st.text(LETTERS, max_size=90), max_size=8).map(
    lambda lines: "\n".join([*lines, "end"]) + "\n"
)
MOMENTS = st.builds(
    lambda seconds, minutes: datetime.fromtimestamp(seconds, timezone(timedelta(minutes=minutes))),
    st.integers(86_400, 4_000_000_000),
    st.integers(-12 * 60, 14 * 60),
)


@settings(max_examples=150, deadline=None)
@given(people=PEOPLE, subject=WORDS, moment=MOMENTS, line_end=st.sampled_from(["\n", "\r\n"]))
def test_headers_are_read_as_they_were_written(
    people: list[tuple[str, str]], subject: str, moment: datetime, line_end: str
) -> None:
    """Names, addresses, subject and date come back as they went in, encoded and folded as the package does it."""
    # The package's modern policy loses spaces when it folds long encoded names; its older functions do not.
    mail = Message()
    mail["To"] = ",\n ".join(formataddr((name, f"{local}@example.org")) for name, local in people)
    mail["Subject"] = Header(subject, "utf-8").encode()
    mail["Date"] = format_datetime(moment)
    mail["Message-ID"] = "<1@example.org>"
    message = parse(mail.as_bytes(policy=email.policy.compat32.clone(linesep=line_end)))
    assert message.to is not None
    assert [(to.name or "", to.email) for to in message.to] == [
        (name, f"{local}@example.org") for name, local in people
    ]
    assert message.subject == subject
    assert message.sent_at == moment
    assert message.sent_at is not None
    assert message.sent_at.utcoffset() == moment.utcoffset()
    assert message.message_id == ("1@example.org",)


@settings(max_examples=100, deadline=None)
@given(
    text=TEXTS,
    cte=st.sampled_from(["base64", "quoted-printable", "8bit"]),
    data=st.binary(max_size=3_000),
    name=WORDS,
)
def test_texts_and_attachments_are_read_as_they_were_written(
    text: str, cte: str, data: bytes, name: str
) -> None:
    """Text, HTML and attachment come back as they went in, in every transfer encoding, with exact sizes."""
    mail = EmailMessage()
    mail.set_content(text, cte=cte)
    mail.add_alternative(f"<p>{text}</p>\n", subtype="html", cte=cte)
    mail.add_attachment(data, maintype="application", subtype="x-test", filename=name)
    message = parse(mail.as_bytes(policy=email.policy.SMTP))
    plain, markup = message.body_values.values()
    assert (plain.value, markup.value) == (text, f"<p>{text}</p>\n") or (
        # The last line end may belong to the delimiter.
        (plain.value + "\n", markup.value + "\n") == (text, f"<p>{text}</p>\n")
    )
    assert not plain.is_encoding_problem
    (attachment,) = message.attachments
    assert attachment.decode() == data
    assert attachment.size == len(data)
    assert attachment.name == name
    assert message.defects == ()


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 23 Nov 2026 10:00:00 +0100",
        "23 Nov 2026 10:00 GMT",
        "Mon, 23 Nov 2026 10:00:00 -0730",
        "Mon Nov 23 10:00:00 2026",
        "Mon, 23-Nov-2026 10:00:00 PST",
    ],
)
def test_dates_are_the_moments_that_the_package_reads(date: str) -> None:
    """A date in any form that the package reads is the same moment here."""
    sent_at = parse(f"Date: {date}\r\n\r\n".encode()).sent_at
    assert sent_at is not None
    assert sent_at.timestamp() == email.utils.mktime_tz(email.utils.parsedate_tz(format_datetime(sent_at)))  # type: ignore[arg-type]
    assert sent_at.timestamp() == email.utils.mktime_tz(email.utils.parsedate_tz(date) or (0,) * 10)
