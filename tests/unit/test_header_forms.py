"""Header fields on request have the forms of RFC 8621 section 4.1.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import parse
from pipelines.header_forms import header_property

MESSAGE = parse(
    b"Received: from a\r\n by b\r\n"
    b"Received: from =?utf-8?q?c=C3=A9?=\r\n"
    b"To: =?utf-8?q?T=C3=A9am?=: Ann <ann@example.org>, bob@example.org;, carl@example.org\r\n"
    b"List-Unsubscribe: <https://example.org/u>,\r\n <mailto:u@example.org>\r\n"
    b"X-Ref: <1@example.org> <2@example.org>\r\n"
    b"X-When: Mon, 23 Nov 2026 10:00:00 +0000\r\n"
    b"\r\n"
)
ANN, BOB, CARL = (
    {"name": name, "email": f"{local}@example.org"}
    for name, local in [("Ann", "ann"), (None, "bob"), (None, "carl")]
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("header:Received", "from =?utf-8?q?c=C3=A9?="),
        ("header:received:all", ["from a\r\n by b", "from =?utf-8?q?c=C3=A9?="]),
        ("header:Received:asText", "from cé"),
        ("header:Received:asText:all", ["from a by b", "from cé"]),
        ("header:To:asAddresses", [ANN, BOB, CARL]),
        (
            "header:To:asGroupedAddresses",
            [{"name": "Téam", "addresses": [ANN, BOB]}, {"name": None, "addresses": [CARL]}],
        ),
        ("header:List-Unsubscribe:asURLs", ["https://example.org/u", "mailto:u@example.org"]),
        ("header:X-Ref:asMessageIds", ["1@example.org", "2@example.org"]),
        ("header:X-When:asDate", "2026-11-23T10:00:00Z"),
        ("header:X-When:asURLs", None),
        ("header:To:asDate", None),
        ("header:Missing:asText", None),
        ("header:Missing:asText:all", []),
    ],
)
def test_a_header_has_the_form_that_was_asked_for(name: str, value: object) -> None:
    """The last field of a name, or with `:all` every one; null or an empty list without one."""
    assert header_property(MESSAGE.headers, name) == value
    assert MESSAGE.to_dict(properties=[name])[name] == value


@pytest.mark.parametrize(
    "name", ["subject", "header:", "header:X:asNothing", "header:X:all:asText", "header:X Y"]
)
def test_a_property_that_is_none_is_refused_by_name(name: str) -> None:
    """A typing error is not taken for a header that is missing."""
    with pytest.raises(ValueError, match="is no header property"):
        MESSAGE.to_dict(properties=[name])


@given(
    st.binary(max_size=200),
    st.sampled_from(["Raw", "Text", "Addresses", "GroupedAddresses", "MessageIds", "Date", "URLs"]),
)
def test_any_bytes_have_every_form(value: bytes, form: str) -> None:
    """No form raises, whatever stands in the header."""
    message = parse(b"X: " + value + b"\r\n\r\n")
    header_property(message.headers, f"header:X:as{form}:all")
    header_property(message.headers, f"header:X:as{form}")
