"""SASL messages to the byte, beside the examples of the documents that define them."""

from __future__ import annotations

import base64

import pytest

from worker.sources import Credentials, Endpoint
from worker.sources.sasl import answer_to_challenge, encoded, mechanism, payload

SERVER = Endpoint("server.example.com", 143, "starttls")
TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="


def test_xoauth2_is_microsofts_and_googles_example() -> None:
    """The example of Google's page on the XOAUTH2 mechanism."""
    message = encoded(
        "XOAUTH2",
        Credentials("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"),
        SERVER,
    )

    assert message == (
        b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJo"
        b"ZG1semRHRXVZMjl0Q2cBAQ=="
    )


def test_oauthbearer_is_the_example_of_rfc_7628() -> None:
    """Section 4.1."""
    message = encoded("OAUTHBEARER", Credentials("user@example.com", TOKEN), SERVER)

    assert message == (
        b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRm"
        b"dDRxbVRjMk52YjNSbGNrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
    )


def test_a_user_with_the_separators_of_the_header_is_escaped() -> None:
    """RFC 5801 section 4: a comma would end the name."""
    assert payload("OAUTHBEARER", Credentials("a=b,c", "t"), SERVER).startswith(b"n,a=a=3Db=2Cc,\x01")


def test_plain_is_the_example_of_rfc_4616() -> None:
    """Section 4, in UTF-8."""
    assert (
        payload("PLAIN", Credentials("tim", "tanstaaftanstaaf", bearer=False), SERVER)
        == b"\0tim\0tanstaaftanstaaf"
    )
    assert (
        base64.b64decode(encoded("PLAIN", Credentials("ü", "pä", bearer=False), SERVER)) == "\0ü\0pä".encode()
    )


@pytest.mark.parametrize(
    ("bearer", "offered", "chosen"),
    [
        (True, {"PLAIN", "OAUTHBEARER", "XOAUTH2"}, "XOAUTH2"),
        (True, {"PLAIN", "OAUTHBEARER"}, "OAUTHBEARER"),
        (True, {"PLAIN", "LOGIN"}, None),
        (False, {"PLAIN", "XOAUTH2"}, "PLAIN"),
        (False, {"XOAUTH2", "CRAM-MD5"}, None),
        (True, set(), None),
    ],
)
def test_a_token_is_never_sent_as_a_password_nor_the_other_way_round(
    *, bearer: bool, offered: set[str], chosen: str | None
) -> None:
    """And of those that fit, the best known comes first."""
    assert mechanism(Credentials("u", "s", bearer=bearer), frozenset(offered)) == chosen


def test_the_challenge_is_answered_so_that_the_refusal_comes() -> None:
    """RFC 7628 section 3.2.3 wants a lone control-A; XOAUTH2 an empty line."""
    assert base64.b64decode(answer_to_challenge("OAUTHBEARER")) == b"\x01"
    assert answer_to_challenge("XOAUTH2") == b""


def test_a_secret_shows_in_no_repr() -> None:
    """Promise P7."""
    assert "s3cret" not in repr(Credentials("u", "s3cret"))
