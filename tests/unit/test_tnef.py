"""The tnef stage brings to light what Outlook packed into winmail.dat, whatever is wrong with it."""

from __future__ import annotations

import random
import struct
import time
from base64 import encodebytes
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.message import Message
from pipelines.parse import parse
from pipelines.pipeline import Pipeline
from pipelines.schema import schema
from pipelines.stage import StageOptions
from pipelines.stages.calendar import CalendarStage
from pipelines.stages.tnef import TnefOptions, TnefStage
from pipelines.tnef import compressed_rtf, rtf
from pipelines.tnef.stream import checksum
from tests.bed import tnef
from tests.bed.patience import BUSY

SCHEMA = jsonschema.Draft202012Validator(schema())
WORDS = b"Only the words.\r\n"
RTF_HTML = (
    rb"{\rtf1\ansi\ansicpg1252\fromhtml1 \deff0{\fonttbl{\f0\fswiss\fcharset0 Arial;}{\f1\fcharset204 Arial;}}"
    rb"{\*\generator x;}{\colortbl;\red0\green0\blue0;}\uc1\pard\plain\deftab360 \f0\fs24"
    b"\r\n"
    rb"{\*\htmltag19 <html>}{\*\htmltag2 \par }{\*\htmltag64 <p class=\{x\}>}\htmlrtf {\htmlrtf0 "
    rb"Gr\'fc\'dfe \f1\'cf\'f0\f0  \u8364?{\*\htmltag84 &nbsp;}\htmlrtf \'a0\htmlrtf0 \u-10179?\u-8704?\par"
    rb"\htmlrtf }\htmlrtf0 {\*\htmltag84 <img src=\'22cid:pic\'22>}{\*\mhtmltag84 <img src=x>}{\*\htmltag27 </html>}}"
)
HTML = '<html>\n<p class={x}>Grüße Пр €&nbsp;\U0001f600\n<img src="cid:pic"></html>'


def mail(
    winmail: bytes, *, kind: str = "application/ms-tnef; name=winmail.dat", text: bytes = WORDS
) -> Message:
    """A message as Exchange sends it to everyone else."""
    return parse(
        b"Subject: Report\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n" + text
        + f"\r\n--b\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode()
        + encodebytes(winmail) + b"\r\n--b--\r\n"
    )  # fmt: skip


def unpacked(message: Message, **options: object) -> Message:
    changed = TnefStage("tnef", TnefOptions.model_validate(options)).apply(message)
    SCHEMA.validate(orjson.loads(changed.to_json()))
    return changed


def finding(message: Message) -> Any:
    return orjson.loads(message.to_json())["findings"]["tnef"]


def problems(message: Message) -> list[str]:
    return [problem["problem"] for problem in finding(message)["problems"]]


def packed(text: bytes, **more: Any) -> bytes:
    return tnef.compressed(text, compressed_rtf._BEGINNING, **more)


def message_properties(*properties: bytes) -> bytes:
    return tnef.attribute(1, tnef.PROPERTIES, tnef.property_list(*properties))


PDF = b"%PDF-1.7\n" + bytes(range(256)) * 20
WHOLE = tnef.stream(
    tnef.attribute(1, 0x00089006, b"\0\0\1\0"),
    tnef.attribute(1, tnef.CODE_PAGE, struct.pack("<II", 1252, 0)),
    tnef.text_attribute(1, tnef.CLASS, "IPM.Microsoft Mail.Note"),
    message_properties(tnef.prop(0x0037, tnef.UNICODE, "Grüße"), tnef.prop(0x1009, tnef.BINARY, packed(RTF_HTML))),
    tnef.attachment(PDF, tnef.prop(0x3707, tnef.UNICODE, "Bericht Übersicht.pdf")),
    tnef.attachment(b"GIF89a...", tnef.prop(0x370E, tnef.STRING8, "IMAGE/GIF"), tnef.prop(0x3712, tnef.UNICODE, "<pic>"),
                    tnef.prop(0x3714, tnef.LONG, 4)),
    tnef.attachment("Ünï".encode("cp1252"), title="Ä.txt"),
)  # fmt: skip


def test_the_real_attachments_take_the_place_of_winmail_dat() -> None:
    """With name, type, size and content; downstream they are parts like any other."""
    before = mail(WHOLE)
    message = unpacked(before)

    assert [part.name for part in before.attachments] == ["winmail.dat"]
    shown = [(part.part_id, part.name, part.type, part.disposition, part.cid) for part in message.attachments]
    assert shown == [
        ("2.2", "Bericht Übersicht.pdf", "application/pdf", "attachment", None),
        ("2.3", "SHORT~1.TXT", "image/gif", "inline", "pic"),
        ("2.4", "Ä.txt", "text/plain", "attachment", None),
    ]
    pdf = message.attachments[0]
    assert pdf.decode() == b"".join(pdf.chunks()) == pdf.open().read() == PDF
    assert (pdf.size, pdf.blob_id, pdf.sniffed_type()) == (
        len(PDF),
        f"{message.digest[:32]}.2.2",
        "application/pdf",
    )
    assert message.structure is before.structure
    assert message.has_attachment


def test_the_finding_tells_what_was_unpacked() -> None:
    """Class by today's name, subject, bodies, and each attachment with its hash."""
    found = finding(unpacked(mail(WHOLE)))

    assert found["problems"] == []
    (file,) = found["files"]
    assert (file["partId"], file["messageClass"], file["subject"], file["meeting"]) == (
        "2",
        "IPM.Note",
        "Grüße",
        None,
    )
    assert file["bodies"] == [{"partId": "2.1", "type": "text/html", "source": "rtf"}]
    assert file["attachments"][0] == {
        "partId": "2.2", "name": "Bericht Übersicht.pdf", "type": "application/pdf", "size": len(PDF), "cid": None,
        "disposition": "attachment", "sha256": sha256(PDF).hexdigest(), "message": None,
    }  # fmt: skip


def test_html_in_rtf_becomes_the_body_of_a_message_without_html() -> None:
    """Tags as they were, letters in the code pages of their fonts, and nothing that only RTF needs."""
    message = unpacked(mail(WHOLE))

    (body,) = message.html_body
    assert message.body_values["2.1"].value == body.text() == HTML
    assert [part.part_id for part in message.text_body] == ["1"]


def test_a_body_of_its_own_is_not_replaced() -> None:
    """What the sender's server wrote for everyone counts; the other is mentioned."""
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>Mine</p>\r\n--b\r\n"
    raw += b"Content-Type: application/ms-tnef\r\n\r\n" + WHOLE + b"\r\n--b--\r\n"
    message = unpacked(parse(raw))

    assert [part.part_id for part in message.html_body] == ["1"]
    assert finding(message)["files"][0]["bodies"] == [{"partId": None, "type": "text/html", "source": "rtf"}]
    assert message.attachments[0].decode() == PDF


@pytest.mark.parametrize(
    ("attributes", "kind", "source", "text"),
    [
        ([tnef.text_attribute(1, tnef.BODY, "Schön\r\nhier")], "text/plain", "text", "Schön\nhier"),
        ([message_properties(tnef.prop(0x1000, tnef.UNICODE, "Да"))], "text/plain", "text", "Да"),
        ([message_properties(tnef.prop(0x1013, tnef.BINARY, "<p>Да".encode()), tnef.prop(0x3FDE, tnef.LONG, 65001))],
         "text/html", "html", "<p>Да"),
        ([message_properties(tnef.prop(0x1013, tnef.BINARY, b'<meta charset="koi8-r"><p>\xe4\xc1'))],
         "text/html", "html", '<meta charset="koi8-r"><p>Да'),
        ([message_properties(tnef.prop(0x1009, tnef.BINARY, packed(rb"{\rtf1\ansi{\b Bold}\par{\pict 00ff}\'e9t\'e9}")))],
         "text/plain", "rtf", "Bold\nété"),
        ([message_properties(tnef.prop(0x1009, tnef.BINARY, packed(rb"{\rtf1\ansi\fromtext a\par b}")))],
         "text/plain", "rtf", "a\nb"),
    ],
)  # fmt: skip
def test_a_message_without_text_gets_the_body_that_is_there(
    attributes: list[bytes], kind: str, source: str, text: str
) -> None:
    """Plain, HTML or RTF; also its preview is made of it."""
    message = unpacked(
        mail(
            tnef.stream(tnef.attribute(1, tnef.CODE_PAGE, struct.pack("<II", 1252, 0)), *attributes),
            text=b" \r\n",
        )
    )

    assert finding(message)["files"][0]["bodies"] == [{"partId": "2.1", "type": kind, "source": source}]
    assert [part.part_id for part in message.text_body] == ["2.1"]
    assert message.body_values["2.1"].value == text
    assert message.preview
    assert problems(message) == []
    assert message.attachments == ()


@pytest.mark.parametrize(
    ("kind", "is_read"),
    [
        ("application/ms-tnef", True),
        ("application/vnd.ms-tnef; name=noname", True),
        ("application/octet-stream; name=WINMAIL.DAT", True),
        ("application/octet-stream; name=winmail2.dat", True),
        ("text/plain; name=winmail.dat", True),
        ("application/octet-stream; name=other.dat", False),
    ],
)
def test_winmail_dat_is_recognised(kind: str, is_read: bool) -> None:
    """By its type, or by its name and its first bytes."""
    assert bool(finding(unpacked(mail(WHOLE, kind=kind)))["files"]) == is_read
    assert (
        finding(unpacked(mail(b"something else", kind="application/octet-stream; name=winmail.dat")))["files"]
        == []
    )


MEETING = (
    tnef.prop(0x0037, tnef.UNICODE, "Planung"),
    tnef.prop(0x0042, tnef.UNICODE, "Ann"),
    tnef.prop(0x5D02, tnef.UNICODE, "ann@example.org"),
    tnef.prop(0x820D, tnef.TIME, datetime(2026, 11, 23, 9, tzinfo=UTC), group=tnef.APPOINTMENT),
    tnef.prop(0x820E, tnef.TIME, datetime(2026, 11, 23, 10, 30, tzinfo=UTC), group=tnef.APPOINTMENT),
    tnef.prop(0x8208, tnef.UNICODE, "Raum 1", group=tnef.APPOINTMENT),
    tnef.prop(0x8234, tnef.UNICODE, "(UTC+01:00) Berlin", group=tnef.APPOINTMENT),
    tnef.prop(0x8223, tnef.BOOLEAN, 1, group=tnef.APPOINTMENT),
    tnef.prop(0x8201, tnef.LONG, 3, group=tnef.APPOINTMENT),
    tnef.prop(0, tnef.UNICODE, "passed over", group=tnef.APPOINTMENT, name="Keywörds"),
    tnef.prop(3, tnef.BINARY, b"\x04\0\0\0\x82", group=tnef.MEETING),
)


@pytest.mark.parametrize(
    ("written", "today", "method", "participation"),
    [
        ("IPM.Microsoft Schedule.MtgReq", "IPM.Schedule.Meeting.Request", "REQUEST", None),
        ("IPM.Microsoft Schedule.MtgCncl", "IPM.Schedule.Meeting.Canceled", "CANCEL", None),
        ("IPM.Microsoft Schedule.MtgRespP", "IPM.Schedule.Meeting.Resp.Pos", "REPLY", "ACCEPTED"),
        ("IPM.Schedule.Meeting.Resp.Neg", "IPM.Schedule.Meeting.Resp.Neg", "REPLY", "DECLINED"),
        ("IPM.Schedule.Meeting.Resp.Tent", "IPM.Schedule.Meeting.Resp.Tent", "REPLY", "TENTATIVE"),
        ("IPM.Appointment", "IPM.Appointment", None, None),
    ],
)
def test_an_invitation_is_told_as_data(
    written: str, today: str, method: str | None, participation: str | None
) -> None:
    """When, where and by whom, as MS-OXOCAL has it."""
    winmail = tnef.stream(tnef.text_attribute(1, tnef.CLASS, written), message_properties(*MEETING))

    assert finding(unpacked(mail(winmail)))["files"][0]["meeting"] == {
        "class": today, "method": method, "participation": participation, "subject": "Planung",
        "start": "2026-11-23T09:00:00Z", "end": "2026-11-23T10:30:00Z", "location": "Raum 1",
        "zoneAsWritten": "(UTC+01:00) Berlin", "isAllDay": False, "isRecurring": True, "sequence": 3, "uid": "0400000082",
        "organizer": {"name": "Ann", "email": "ann@example.org"},
    }  # fmt: skip


def test_a_message_in_a_message_is_unpacked_too() -> None:
    """Its body and its attachments are attachments of the message around it."""
    inner = tnef.stream(
        tnef.text_attribute(1, tnef.SUBJECT, "Inner"),
        tnef.text_attribute(1, tnef.BODY, "words"),
        tnef.attachment(b"deep"),
    )
    message = unpacked(mail(tnef.stream(tnef.embedded(inner), tnef.attachment(b"flat"))))

    shown = [(part.part_id, part.name, part.decode()) for part in message.attachments]
    assert shown == [
        ("2.1", "Inner.txt", b"words"),
        ("2.2", "SHORT~1.TXT", b"deep"),
        ("2.3", "SHORT~1.TXT", b"flat"),
    ]
    outer = finding(message)["files"][0]["attachments"]
    assert (outer[0]["partId"], outer[0]["message"]["subject"]) == (None, "Inner")
    assert outer[0]["message"]["attachments"][0]["partId"] == "2.2"


def test_an_invitation_that_was_hidden_is_found_by_the_calendar_stage() -> None:
    """Stages see what those before them brought to light."""
    ics = b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTART:20261123\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    winmail = tnef.stream(tnef.attachment(ics, title="invite.ics"))
    stages = Pipeline([TnefStage("tnef", TnefOptions()), CalendarStage("calendar", StageOptions())])

    message = stages.run(mail(winmail))
    assert message is not None
    assert message.findings["calendar"]["events"][0]["partIds"] == ["2.1"]


def nested(depth: int) -> bytes:
    inner = tnef.stream(tnef.attachment(b"deepest"))
    for _ in range(depth):
        inner = tnef.stream(tnef.embedded(inner))
    return inner


BROKEN = {
    "no signature": (b"not TNEF at all", "signature-missing"),
    "checksum": (tnef.stream(tnef.attribute(1, tnef.BODY, b"x", checksum=7), tnef.attachment(b"kept")), "checksum-wrong"),
    "length": (tnef.stream(tnef.attachment(b"kept"), tnef.attribute(2, tnef.DATA, b"x", length=2**32 - 1)), "cut-short"),
    "cut": (tnef.stream(tnef.attachment(b"kept"), b"\1\2\3"), "cut-short"),
    "level": (tnef.stream(tnef.attachment(b"kept"), tnef.attribute(7, 1, b"")), "attribute-unreadable"),
    "count": (tnef.stream(tnef.attachment(b"kept"), tnef.attribute(1, tnef.PROPERTIES, b"\xff" * 4)), "properties-damaged"),
    "property": (tnef.stream(tnef.attachment(b"kept"), message_properties(b"\x02\x01\x37\0\1\0\0\0\xff\xff\xff\xff")), "properties-damaged"),
    "type": (tnef.stream(tnef.attachment(b"kept"), message_properties(b"\x99\x09\x37\0\0\0\0\0")), "properties-damaged"),
    "rtf": (tnef.stream(tnef.attachment(b"kept"), message_properties(tnef.prop(0x1009, tnef.BINARY, packed(b"{\\rtf1 x}", crc=1)))), "rtf-damaged"),
    "link": (tnef.stream(tnef.attachment(b"kept"), tnef.attachment(None, tnef.prop(0x3705, tnef.LONG, 2))), "attachment-without-content"),
    "depth": (tnef.stream(tnef.attachment(b"kept"), tnef.embedded(nested(6))), "too-deep"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_damaged_gives_what_it_holds_and_a_note(name: str) -> None:
    """And winmail.dat stays, unless everything was there."""
    winmail, word = BROKEN[name]
    message = unpacked(mail(winmail))

    assert problems(message) == [word]
    kept = [part.decode() for part in message.attachments]
    assert (b"kept" in kept) == (name != "no signature")
    assert (kept[0] == winmail) == (name != "checksum")


def test_several_values_and_odd_types_are_passed_over() -> None:
    """What is behind them is read."""
    several = struct.pack("<HHI", 0x1002, 0x6001, 3) + bytes(12) + struct.pack("<HHI", 0x101F, 0x6002, 2)
    several += 2 * (struct.pack("<I", 2) + b"x\0\0\0") + struct.pack("<HH", 0x0048, 0x6003) + bytes(16)
    data = struct.pack("<I", 4) + several + tnef.prop(0x0037, tnef.STRING8, "Behind")
    message = unpacked(mail(tnef.stream(tnef.attribute(1, tnef.PROPERTIES, data))))
    assert (finding(message)["files"][0]["subject"], problems(message)) == ("Behind", [])


def test_a_winmail_dat_beyond_the_limit_is_left_as_it_is() -> None:
    """It would have to be unpacked in memory."""
    message = unpacked(mail(WHOLE), largest="1KB")
    assert ([part.name for part in message.attachments], problems(message)) == (
        ["winmail.dat"],
        ["too-large"],
    )


def test_the_compression_of_rtf_is_that_of_the_standard() -> None:
    """The second example of MS-OXRTFCP section 4, and what our own writer packs."""
    example = bytes.fromhex("1a0000001c0000004c5a4675e2d44b51410004205758595a0d6e7d010eb0")
    assert compressed_rtf.decompress(memoryview(example), most=99) == (b"{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}", True)
    text = b"".join(b"%d \\par " % (number * number) for number in range(3000))
    assert compressed_rtf.decompress(memoryview(packed(text)), most=1 << 20) == (text, True)
    assert compressed_rtf.decompress(memoryview(packed(text)), most=100) == (text[:100], False)
    plain = struct.pack("<IIII", 12 + 5, 5, 0x414C454D, 0) + b"{\\rtf"
    assert compressed_rtf.decompress(memoryview(plain), most=99) == (b"{\\rtf", True)


def test_the_checksum_is_the_sum_of_all_bytes() -> None:
    """Though it is counted in blocks."""
    for data in (b"", b"\xff" * 100_000, random.Random(1).randbytes(1_000)):
        assert checksum(memoryview(data)) == sum(data) & 0xFFFF


def test_bullets_of_lists_are_kept_where_nothing_else_makes_them() -> None:
    """In HTML the tag of the item does."""
    item = rb"{\pntext\'b7\tab}item}"
    assert rtf.unwrap(rb"{\rtf1\ansi " + item).text == "·\titem"
    assert rtf.unwrap(rb"{\rtf1\ansi\fromhtml1 {\*\htmltag64 <li>}" + item).text == "<li>item"


def test_rtf_in_double_bytes_and_with_binary_is_read() -> None:
    """The second byte of a character may look like a letter; binary data may hold any brace."""
    japanese = (
        rb"{\rtf1\ansi\ansicpg932\fromtext{\fonttbl{\f0\fcharset128 x;}}\f0 \'83A\'83\'5c{\pict\bin3 }}{}z\{}"
    )
    assert rtf.unwrap(japanese).text == "アソz{"


REFERENCE = struct.pack(">H", 0 << 4 | 15)
HOSTILE = {
    "references": struct.pack("<IIII", 2**31, 2**31, 0x75465A4C, 0) + (b"\xff" + REFERENCE * 8) * 100_000,
    "literals": struct.pack("<IIII", 2**31, 2**31, 0x75465A4C, 0) + (b"\0" + b"{\\b\\u9?}") * 300_000,
    "braces": struct.pack("<IIII", 2**31, 2**31, 0x414C454D, 0) + b"{" * 3_000_000,
    "backslashes": struct.pack("<IIII", 2**31, 2**31, 0x414C454D, 0) + b"\\" * 3_000_001,
}
LARGE = {
    **{name: tnef.stream(message_properties(tnef.prop(0x1009, tnef.BINARY, data))) for name, data in HOSTILE.items()},
    "attributes": tnef.stream(tnef.attribute(1, 1, b"") * 500_000),
    "attachments": tnef.stream(tnef.attachment(b"x") * 3_000),
    "properties": tnef.stream(*[tnef.attribute(1, tnef.PROPERTIES, struct.pack("<I", 50_000) + tnef.prop(1, tnef.LONG, 1) * 50_000)] * 9),
    "values": tnef.stream(message_properties(struct.pack("<HHI", 0x101E, 1, 900_000) + bytes(3_600_000))),
    "messages": nested(300),
    "bytes": tnef.stream(tnef.attachment(b"x" * 20_000_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_no_winmail_dat_costs_more_than_its_bytes(name: str) -> None:
    """Each limit is noted, and unpacking ends in time."""
    message = mail(LARGE[name])
    begun = time.process_time()
    found = TnefStage("tnef", TnefOptions()).apply(message)
    assert time.process_time() - begun < 2.0 * BUSY
    assert (name == "bytes") == (problems(found) == [])


SEEDS = [WHOLE, tnef.stream(tnef.text_attribute(1, tnef.CLASS, "IPM.Schedule.Meeting.Request"), message_properties(*MEETING)), nested(3),
         *(winmail for winmail, _ in BROKEN.values())]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32), st.integers(1, 8))
def test_mutations_stop_nothing(seed: bytes, chance: int, count: int) -> None:
    """Bytes changed, taken out, doubled: what comes out is a message of the schema, the same each time."""
    rng = random.Random(chance)
    data = bytearray(seed)
    for _ in range(count):
        start = rng.randrange(len(data) + 1)
        end = start + rng.choice((0, 1, 2, 4, 40))
        data[start:end] = rng.choice((b"", b"\xff" * 4, b"\0", rng.randbytes(3), bytes(data[start:end]) * 2))
    changed = unpacked(mail(bytes(data)))
    assert changed.to_json() == unpacked(mail(bytes(data))).to_json()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_stop_nothing(data: bytes) -> None:
    """As a stream, as properties, as compressed and as bare RTF."""
    unpacked(mail(data))
    unpacked(mail(tnef.stream(data)))
    unpacked(
        mail(
            tnef.stream(
                tnef.attribute(1, tnef.PROPERTIES, data), tnef.attribute(2, tnef.ATTACHMENT_PROPERTIES, data)
            )
        )
    )
    rtf.unwrap(compressed_rtf.decompress(memoryview(data), most=1 << 20).data)
    rtf.unwrap(rb"{\rtf1\fromhtml1" + data).text.encode()


PIECES = st.sampled_from([b"{", b"}", b"\\*", b"\\htmltag", b"\\htmlrtf", b"\\htmlrtf0", b"\\u-10179", b"\\u0 ", b"?", b"\\uc2", b"\\'8", b"\\'83",
                          b"\\f1", b"\\fcharset128", b"\\fonttbl", b"\\bin9999999", b"\\bin-9", b"\\ansicpg65001", b"\\par", b"\\", b"a", b"\0"])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=60))
def test_pieces_of_rtf_in_any_order_stop_nothing(pieces: list[bytes]) -> None:
    """The text can be encoded and has no NUL."""
    text = rtf.unwrap(b"{\\rtf1\\fromhtml1 " + b"".join(pieces)).text
    text.encode()
    assert "\0" not in text
