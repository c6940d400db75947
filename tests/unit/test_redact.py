"""Redacting changes the copy that outputs get, everywhere the same words show, and nothing of what the server sent."""

from __future__ import annotations

import sys
import time

import orjson
import pytest
from pydantic import ValidationError

from pipelines.message import Message
from pipelines.parse import parse
from pipelines.stages.redact import RedactOptions, RedactStage
from tests.bed.patience import BUSY

CARD = "4111 1111 1111 1111"
LETTER = f"""From: "Ann {CARD}" <ann@example.com>
To: Staff: a@example.com, b@example.com;
Subject: =?utf-8?q?F=C3=BCr_{CARD.replace(" ", "_")}?=
Message-ID: <4111111111111111@example.com>
X-Note: {CARD}
List-Id: <staff.example.com>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain; charset=utf-8

My card is {CARD}, and my address ann@example.com. Customer K-123456.
--b
Content-Type: application/pdf; name="{CARD}.pdf"
Content-Disposition: attachment; filename="{CARD}.pdf"

{CARD}
--b--
""".replace("\n", "\r\n").encode()


def redacted(raw: bytes | Message = LETTER, **said: str) -> Message:
    message = parse(raw) if isinstance(raw, bytes) else raw
    return RedactStage("marks", RedactOptions.model_validate(said)).apply(message)


def test_the_json_shows_the_mark_and_no_number() -> None:
    """Subject, preview, text, names of people and of attachments, header fields in any form; each is counted once."""
    found = redacted()
    json = orjson.dumps(
        found.to_dict(
            properties=[
                "header:Subject",
                "header:From:asAddresses",
                "header:X-Note:asText",
                "header:List-Id:asText",
            ]
        )
    ).decode()
    shown = orjson.loads(json)

    assert CARD not in json.replace("_", " ")
    assert shown["subject"] == "Für [redacted]"
    assert shown["header:Subject"] == "Für [redacted]"
    assert (
        shown["from"]
        == shown["header:From:asAddresses"]
        == [{"name": "Ann [redacted]", "email": "ann@example.com"}]
    )
    assert shown["preview"].startswith("My card is [redacted], and my")
    assert shown["bodyValues"]["1"]["value"].startswith("My card is [redacted], and my")
    assert (
        shown["attachments"][0]["name"] == shown["bodyStructure"]["subParts"][1]["name"] == "[redacted].pdf"
    )
    assert (shown["header:X-Note:asText"], shown["header:List-Id:asText"]) == (
        "[redacted]",
        "<staff.example.com>",
    )
    assert shown["findings"] == {"marks": {"cards": 4}}


def test_headers_of_parts_do_not_tell_the_name_either() -> None:
    """Whoever reads the part and not the JSON sees the same."""
    (part,) = redacted().attachments

    assert [text for _, text in part.headers] == [
        'application/pdf; name="[redacted].pdf"',
        'attachment; filename="[redacted].pdf"',
    ]


def test_the_message_that_came_in_and_its_bytes_stay() -> None:
    """Raw bytes are sacred; id and digest go on naming them."""
    message = parse(LETTER)
    before = message.to_json()

    found = redacted(message)

    assert bytes(found.raw) == LETTER
    assert (found.id, found.digest, found.size) == (message.id, message.digest, message.size)
    assert orjson.dumps(message.to_dict()) == before


def test_ids_and_addresses_stay_unless_one_says_otherwise() -> None:
    """Replies and threads need them."""
    with_emails = redacted(kinds="emails")
    with_envelope = redacted(kinds="emails", envelope="yes")

    assert "address [redacted]." in with_emails.body_values["1"].value
    assert with_emails.from_ == parse(LETTER).from_
    assert with_emails.headers.grouped_addresses("To") == parse(LETTER).headers.grouped_addresses("To")
    assert [to.email for to in with_envelope.to or ()] == ["[redacted]", "[redacted]"]
    assert "ann@example.com" not in (with_envelope.header("From") or "")
    assert with_envelope.message_id == ("4111111111111111@example.com",)


def test_what_earlier_stages_found_is_redacted_and_their_ids_are_not() -> None:
    """At any depth; numbers and keys stay."""
    message = parse(LETTER).with_findings(
        "words", {"text": f"No. {CARD}", "key": CARD, "events": [{"summary": CARD, "uid": CARD, "count": 4}]}
    )

    assert redacted(message).findings["words"] == {
        "text": "No. [redacted]",
        "key": CARD,
        "events": [{"summary": "[redacted]", "uid": CARD, "count": 4}],
    }


def test_a_number_that_the_preview_cuts_is_gone_as_well() -> None:
    """Half a number is no number any more, so the preview is cut anew."""
    text = "word " * 49 + CARD
    message = parse(f"Subject: x\r\n\r\n{text}\r\n".encode())
    assert message.preview.endswith("4111 1111 1")

    assert redacted(message).preview.endswith(" word [redacted]")
    assert len(redacted(message, mark="x" * 100).preview) == 256


def test_an_own_pattern_and_an_own_mark() -> None:
    """Several kinds at once; overlapping ones are one mark."""
    found = redacted(pattern=r"(?i)k-\d{6}|für", mark="***")

    assert found.subject == "*** ***"
    assert found.body_values["1"].value == "My card is ***, and my address ann@example.com. Customer ***."
    assert found.findings["marks"] == {"cards": 4, "pattern": 2}


def test_with_drop_raw_no_byte_of_the_original_is_left() -> None:
    """What a Maildir gets can be read, and says what the JSON says; attachments are described only."""
    found = redacted(kinds="cards,emails", drop_raw="yes")
    again = parse(bytes(found.raw))

    assert b"4111 1111" not in bytes(found.raw)
    assert (again.subject, again.message_id) == (found.subject, found.message_id)
    assert (again.from_, again.to) == (found.from_, found.to)
    assert again.body_values["1"].value == found.body_values["1"].value
    assert again.defects == ()
    assert all(not part.content for part in found.structure.walk())
    assert found.attachments[0].size > 0
    assert found.digest == parse(LETTER).digest


@pytest.mark.parametrize("html", [True, False])
def test_html_stays_html(html: bool) -> None:
    """The mark stands among tags without breaking them, also in the message that replaces the raw one."""
    type_ = "html" if html else "plain"
    raw = f"Content-Type: text/{type_}\r\n\r\n<p>{CARD.replace(' ', '&nbsp;')}</p>".encode()

    found = redacted(raw, drop_raw="yes")

    assert found.body_values["1"].value == "<p>[redacted]</p>"
    assert bytes(found.raw).endswith(b"\r\n\r\n<p>[redacted]</p>")
    assert parse(bytes(found.raw)).structure.type == f"text/{type_}"


@pytest.mark.parametrize(
    ("said", "field", "sentence"),
    [
        ({"kinds": "card"}, "kinds", "must be some of cards, ibans, emails, phones"),
        ({"kinds": ""}, None, "needs KINDS or PATTERN"),
        ({"pattern": "(secret"}, "pattern", "is no regular expression that RE2 knows"),
        ({"pattern": r"(?<=x)secret"}, "pattern", "is no regular expression that RE2 knows"),
        ({"pattern": r"\Csecret"}, "pattern", "is no regular expression that RE2 knows"),
        ({"pattern": "x*"}, "pattern", "must not match an empty text"),
        ({"mark": "<b>"}, "mark", "printable characters"),
        ({"mark": "a\nb"}, "mark", "printable characters"),
    ],
)
def test_wrong_options_are_errors_of_the_configuration(
    said: dict[str, str], field: str | None, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each names its variable; nobody writes the pattern anywhere, for it may be a secret in the wrong variable."""
    with pytest.raises(ValidationError) as caught:
        RedactOptions.model_validate(said)

    (error,) = caught.value.errors()
    assert error["loc"] == ((field,) if field else ())
    assert sentence in error["msg"]
    assert "secret" not in error["msg"] + "".join(capfd.readouterr())


def test_without_the_library_a_pattern_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And everything but a pattern does without it."""
    monkeypatch.setitem(sys.modules, "re2", None)

    with pytest.raises(ValidationError, match=r"pip install 'mailquay\[redact\]'"):
        RedactOptions.model_validate({"pattern": "x"})
    assert redacted().subject == "Für [redacted]"


def test_a_text_made_to_be_slow_is_replaced_instead_of_searched_to_its_end() -> None:
    """RE2 is linear for each match and not for all of them; beyond its budget the rest goes as a whole."""
    message = parse(b"Subject: x\r\n\r\n" + b"x" * 1_500_000)
    begun = time.process_time()

    found = redacted(message, pattern="x[^z]*z|x", mark="-")

    assert time.process_time() - begun < 10 * BUSY
    assert set(found.body_values["1"].value) == {"-"}
