"""The dkim stage verifies signatures anew: made here by another hand than the one that verifies, and none over a network."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import orjson
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.authentication.body_hash import hash_body
from pipelines.authentication.key_records import BadKey, NameServers, NameServersFailed, read_key
from pipelines.authentication.signatures import read_signed
from pipelines.errors import StageFailed
from pipelines.parse import parse
from pipelines.pipeline import Pipeline
from pipelines.registry import MissingExtra, load_stage
from pipelines.stages.dkim import DkimOptions, DkimStage
from tests.bed.patience import BUSY

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EDWARDS = ed25519.Ed25519PrivateKey.generate()
Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

MESSAGE = (
    b"From: Ann <ann@example.com>\r\nTo: bob@example.net\r\nSubject:  Berth\r\n  7 \r\n"
    b"Message-ID: <m1@example.com>\r\n\r\nThe  crane \t is free. \r\n\r\nAnn\r\n\r\n\r\n"
)


# -- a signer of our own, so that the library is not tested by itself ------------------------------------------------


def record(key: Private, tags: str = "") -> bytes:
    """The TXT record that publishes a key."""
    public = key.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        data = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        kind = "ed25519"
    else:
        data = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        kind = "rsa"
    return f"v=DKIM1; k={kind}; {tags}p={base64.b64encode(data).decode()}".encode()


def relaxed_header(name: str, value: str) -> str:
    value = re.sub(r"[ \t]+", " ", value.replace("\r\n", "")).strip()
    return f"{name.lower()}:{value}"


def canonical_body(body: bytes, form: str) -> bytes:
    """RFC 6376 section 3.4.3 and 3.4.4, line by line."""
    lines = body.split(b"\r\n")
    if form == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines) or (b"\r\n" if form == "simple" else b"")


def fields_of(head: bytes) -> list[tuple[str, str]]:
    lines = re.split(r"\r\n(?![ \t])", head.decode())
    return [(line.partition(":")[0], line.partition(":")[2]) for line in lines if line]


def signature(key: Private, text: str) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        data = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        data = key.sign(hashlib.sha256(text.encode()).digest())
    return base64.b64encode(data).decode()


def sign(
    message: bytes,
    key: Private,
    *,
    names: str = "from:to:subject:message-id",
    forms: str = "relaxed/relaxed",
    tags: str = "",
    field: str = "DKIM-Signature",
    domain: str = "example.com",
    version: str = "v=1; ",
    body: bytes | None = None,
) -> bytes:
    """Put a signature in front of a message."""
    head, _, whole = message.partition(b"\r\n\r\n")
    header_form, _, body_form = forms.partition("/")
    hashed = base64.b64encode(
        hashlib.sha256(canonical_body(whole if body is None else body, body_form)).digest()
    )
    algorithm = "rsa-sha256" if isinstance(key, rsa.RSAPrivateKey) else "ed25519-sha256"
    value = (
        f" {version}a={algorithm}; c={forms}; d={domain}; s=s1;\r\n h={names};"
        f" {tags}bh={hashed.decode()};\r\n b="
    )
    left = list(reversed(fields_of(head)))
    chosen = []
    for name in names.split(":"):
        match = next((found for found in left if found[0].lower() == name.strip()), None)
        if match is not None:
            left.remove(match)
            chosen.append(match)
    if header_form == "relaxed":
        text = "".join(relaxed_header(*found) + "\r\n" for found in chosen) + relaxed_header(field, value)
    else:
        text = "".join(f"{name}:{found}\r\n" for name, found in chosen) + f"{field}:{value}"
    return f"{field}:{value}{signature(key, text)}\r\n".encode() + message


def seal(message: bytes, key: Private, instance: int, *, cv: str = "") -> bytes:
    """Put an ARC set (RFC 8617) in front of a message."""
    results = f"ARC-Authentication-Results: i={instance}; mx{instance}.example; spf=pass"
    signed = sign(
        message, key, field="ARC-Message-Signature", version=f"i={instance}; ", domain=f"mx{instance}.example"
    )
    signature_field = signed[: len(signed) - len(message)].decode().removesuffix("\r\n")
    cv = cv or ("none" if instance == 1 else "pass")
    value = f" i={instance}; a=rsa-sha256; t=1700000000; cv={cv};\r\n d=mx{instance}.example; s=s1;\r\n b="
    earlier = [found for found in fields_of(message.partition(b"\r\n\r\n")[0]) if found[0].startswith("ARC-")]
    ordered = []
    for number in range(1, instance):
        ours = {name: text for name, text in earlier if f"i={number};" in text}
        ordered += [
            (name, ours[name]) for name in ("ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal")
        ]
    ordered += [fields_of(results.encode())[0], fields_of(signature_field.encode())[0]]
    text = "".join(relaxed_header(*found) + "\r\n" for found in ordered) + relaxed_header("ARC-Seal", value)
    return f"ARC-Seal:{value}{signature(key, text)}\r\n{signature_field}\r\n{results}\r\n".encode() + message


# -- running it ------------------------------------------------------------------------------------------------------


def knows(key: Private = RSA, tags: str = "") -> Callable[[str, float], list[bytes]]:
    """Name servers that know one key under every name."""
    return lambda name, timeout: [record(key, tags)]


def fails(name: str, timeout: float) -> list[bytes]:
    raise NameServersFailed("no answer")


def found(
    raw: bytes,
    lookup: Callable[[str, float], list[bytes]] | None = None,
    *,
    received_at: datetime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What the stage finds in a message."""
    stage = DkimStage("dkim", DkimOptions.model_validate(options), lookup=lookup or knows())
    changed = stage.apply(parse(raw, received_at=received_at))
    result: dict[str, Any] = orjson.loads(changed.to_json())["findings"]["dkim"]
    return result


def only(
    raw: bytes, lookup: Callable[[str, float], list[bytes]] | None = None, **more: Any
) -> dict[str, Any]:
    """What became of the only signature."""
    signatures = found(raw, lookup, **more)["signatures"]
    assert len(signatures) == 1
    one: dict[str, Any] = signatures[0]
    return one


FORMS = ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"]


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("key", [RSA, OTHER, EDWARDS], ids=["rsa-2048", "rsa-1024", "ed25519"])
def test_a_signature_that_holds_passes(key: Private, forms: str) -> None:
    """RFC 6376 in all canonical forms, RFC 8463 too."""
    result = found(sign(MESSAGE, key, forms=forms), knows(key))

    assert (result["domains"], result["isTruncated"]) == (["example.com"], False)
    one = result["signatures"][0]
    assert (one["result"], one["reason"], one["domain"], one["selector"]) == (
        "pass",
        None,
        "example.com",
        "s1",
    )
    assert one["signedHeaders"] == ["from", "to", "subject", "message-id"]
    assert (one["isPartial"], one["isTesting"]) == (False, False)


def test_the_example_of_rfc_8463_passes() -> None:
    """Appendix A: the RFC's own message and key, and docs/stages.md shows what is found."""
    page = (Path(__file__).parents[2] / "docs/stages.md").read_text(encoding="utf-8")
    text, shown = re.findall(r"```email\n(DKIM-Signature.*?)```\n\n```json\n(.*?)```", page, re.DOTALL)[0]
    asked = []

    def lookup(name: str, timeout: float) -> list[bytes]:
        asked.append(name)
        return [b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]

    raw = text.replace("\n", "\r\n").encode()
    assert {"findings": {"dkim": found(raw, lookup)}} == orjson.loads(shown)
    assert asked == ["brisbane._domainkey.football.example.com."]
    # A store that keeps line feeds alone changes nothing that was signed.
    assert only(text.encode(), lookup)["result"] == "pass"


@pytest.mark.parametrize(
    ("change", "by", "reason"),
    [
        (b"crane", b"crain", "the body was changed"),
        (b"Ann\r\n\r\n", b"Ann\r\nP.S.\r\n", "the body was changed"),
        (b"bob@example.net", b"eve@example.net", "the header was changed, or the key is another"),
        # A second From is what a reader would see; dkimpy refuses it too.
        (
            b"From: Ann",
            b"From: eve@example.org\r\nFrom: Ann",
            "the header was changed, or the key is another",
        ),
    ],
)
def test_a_change_on_the_way_is_seen(change: bytes, by: bytes, reason: str) -> None:
    """In the body, in a signed field, and by adding a field that may stand once."""
    one = only(sign(MESSAGE, RSA).replace(change, by))

    assert (one["result"], one["reason"]) == ("fail", reason)


def test_changes_that_the_form_allows_are_none() -> None:
    """Relaxed: other white space, other case of names; unsigned fields may come and go."""
    raw = sign(MESSAGE, RSA).replace(b"To: bob", b"TO:    bob").replace(b"The  crane \t is", b"The crane is")

    assert only(b"Received: by mx\r\n" + raw)["result"] == "pass"
    assert (
        only(sign(MESSAGE, RSA, forms="simple/simple").replace(b"To: bob", b"TO:    bob"))["result"] == "fail"
    )


def test_what_lies_beyond_the_signed_length_is_flagged() -> None:
    """With l= anybody may write on below: it passes and says so, with both lengths."""
    signed = canonical_body(MESSAGE.partition(b"\r\n\r\n")[2], "relaxed")
    raw = sign(MESSAGE, RSA, tags=f"l={len(signed)}; ")
    assert (only(raw)["result"], only(raw)["isPartial"]) == ("pass", False)
    longer = only(raw + b"Buy!\r\n")
    assert (longer["result"], longer["isPartial"]) == ("pass", True)
    assert longer["signedLength"] == len(signed) < longer["bodyLength"]
    beyond = only(sign(MESSAGE, RSA, tags=f"l={len(signed) + 1}; "))
    assert (beyond["result"], beyond["isPartial"]) == ("permerror", True)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "there is no key under this name"),
        ([b"v=spf1 -all"], "there is no key under this name"),
        ([b"v=DKIM1; p="], "the key was revoked"),
        ([b"v=DKIM2; p=QQ=="], "the key record has an unknown version"),
        ([b"p=QQ=="], "the key cannot be read"),
        ([b"p=%%%%"], "the key cannot be read"),
        ([b"p;p=QQ=="], "the key record cannot be read"),
        ([record(RSA, "h=sha1; ")], "the key is for other algorithms"),
        ([record(RSA, "s=tlsrpt; ")], "the key is not for mail"),
        ([record(EDWARDS)], "the key is for other algorithms"),
        ([b"p=" + b"A" * 9000], "the key record is too large"),
    ],
)
def test_a_key_that_may_not_be_used_is_a_finding(records: list[bytes], reason: str) -> None:
    """Permanent ones stop no message; of several records the one with a key counts."""
    one = only(sign(MESSAGE, RSA), lambda name, timeout: records)

    assert (one["result"], one["reason"]) == ("permerror", reason)
    assert only(sign(MESSAGE, RSA), lambda name, timeout: [b"v=spf1", record(RSA)])["result"] == "pass"


def der_key(modulus: int, exponent: int) -> bytes:
    """A public key that nobody would make, as RSAPublicKey in DER."""

    def wrap(tag: int, data: bytes) -> bytes:
        return bytes([tag, 0x82]) + len(data).to_bytes(2, "big") + data

    numbers = b"".join(
        wrap(2, b"\0" + n.to_bytes((n.bit_length() + 7) // 8, "big")) for n in (modulus, exponent)
    )
    return b"p=" + base64.b64encode(wrap(0x30, numbers))


@pytest.mark.parametrize(
    ("bits", "exponent"), [(512, 65537), (16_384, 65537), (4096, (1 << 4000) + 1), (2048, 1)]
)
def test_a_key_that_is_too_weak_or_costs_minutes_is_refused(bits: int, exponent: int) -> None:
    """RFC 8301 section 3.2; the key is a stranger's, and so is the time it would take."""
    begun = time.process_time()
    with pytest.raises(BadKey, match="bits"):
        read_key(der_key((1 << bits) - 1, exponent), b"rsa-sha256")
    assert time.process_time() - begun < 0.5 * BUSY


def test_flags_of_a_key_are_heeded() -> None:
    """RFC 6376 section 3.6.1: `y` is testing, `s` forbids subdomains in i=."""
    subdomain = sign(MESSAGE, RSA, tags="i=@news.example.com; ")
    assert only(sign(MESSAGE, RSA), knows(tags="t=y; "))["isTesting"]
    assert only(subdomain)["result"] == "pass"
    assert only(subdomain, knows(tags="t=s; "))["result"] == "permerror"
    assert only(sign(MESSAGE, RSA, tags="i=@example.org; "))["result"] == "permerror"


def test_a_signature_expires_by_when_the_message_was_received() -> None:
    """Not by when it is looked at: a retry next week finds the same."""
    raw = sign(MESSAGE, RSA, tags="t=1700000000; x=1700003600; ")
    at = datetime.fromtimestamp(1_700_000_100, UTC)
    assert only(raw, received_at=at)["result"] == "pass"
    late = only(raw, received_at=at + timedelta(days=1))
    assert (late["result"], late["reason"]) == (
        "fail",
        "the signature had expired when the message was received",
    )
    assert only(raw)["result"] == "pass"
    assert only(sign(MESSAGE, RSA, tags="t=1700003600; x=1700000000; "))["result"] == "permerror"


@pytest.mark.parametrize(
    "field",
    [
        b"", b"v=1", b"v=1; a=rsa-sha256; b=; bh=; d=x; h=from; s=y", b"=;=;=", b"\xff\xfe",
        b"v=1; a=rsa-sha1; b=QQ==; bh=QQ==; d=x; h=from; s=y", b"v=1; a=rsa-sha256; b=QQ==; bh=QQ==; d=; h=from; s=",
        b"v=1; a=rsa-sha256; b=QQ==; bh=QQ==; d=x; h=from; s=y; l=99999999999999999999", b"v=1; v=1",
        b"v=1; a=rsa-sha256; b=QQ==; bh=QQ==; d=x; h=from; s=y; c=odd/odd", b"v=1; a=rsa-sha256; b=QQ==; bh=QQ==; d=x; h=to; s=y",
        b"v=1; a=rsa-sha256; b=QQ==; bh=QQ==; d=x; h=from; s=y; i=z", b"v=1; a=rsa-sha256; b=QQ==; bh=QQ==; d=x; h=from; s=y; x=a",
    ],
)  # fmt: skip
def test_a_field_that_is_no_signature_is_a_finding(field: bytes) -> None:
    """Whatever a stranger writes, the message goes on."""
    assert only(b"DKIM-Signature: " + field + b"\r\n" + MESSAGE)["result"] in {"permerror", "fail"}


def test_a_signature_that_leaves_out_from_is_none() -> None:
    """RFC 6376 section 5.4: what it signs could be put under any name."""
    one = only(sign(MESSAGE, RSA, names="to:subject"))

    assert (one["result"], one["reason"]) == ("permerror", "the signature leaves out From")


def test_an_obsolete_algorithm_is_refused() -> None:
    """RFC 8301 section 3.1: rsa-sha1 is no signature."""
    one = only(sign(MESSAGE, RSA).replace(b"rsa-sha256", b"rsa-sha1"))

    assert (one["result"], one["reason"]) == ("permerror", "the algorithm is not accepted (RFC 8301)")


def test_no_more_signatures_than_the_limit_are_verified() -> None:
    """The topmost ones, each key asked for once; that there are more is told."""
    asked = []

    def lookup(name: str, timeout: float) -> list[bytes]:
        asked.append(name)
        return [record(RSA)]

    raw = MESSAGE
    for _ in range(7):
        raw = sign(raw, RSA)
    result = found(raw, lookup, limit=3)
    assert [one["result"] for one in result["signatures"]] == ["pass"] * 3
    assert (result["isTruncated"], len(asked)) == (True, 1)


# -- ARC -------------------------------------------------------------------------------------------------------------


def test_a_chain_that_holds_passes() -> None:
    """RFC 8617: one, two and three sets, whose signers are named, the newest first."""
    raw = MESSAGE
    for instance in (1, 2, 3):
        raw = seal(raw, RSA, instance)
        arc = found(raw)["arc"]
        assert (arc["result"], arc["sets"], arc["reason"]) == ("pass", instance, None)
    assert arc["domains"] == ["mx3.example", "mx2.example", "mx1.example"]
    assert found(MESSAGE)["arc"] == {"result": "none", "reason": None, "sets": 0, "domains": []}


@pytest.mark.parametrize(
    "broken",
    [
        lambda raw: raw.replace(b"crane", b"crain"),
        lambda raw: raw.replace(b"i=1; mx1.example; spf=pass", b"i=1; mx1.example; spf=fail"),
        lambda raw: raw.replace(b"i=1; mx1.example", b"i=3; mx1.example"),
        lambda raw: raw.replace(b"bob@example.net", b"eve@example.net"),
        lambda raw: raw.replace(b"cv=pass", b"cv=none"),
        lambda raw: b"ARC-Seal: i=99999999; a=b\r\n" + raw,
        lambda raw: b"ARC-Seal: junk\r\n" + raw,
        lambda raw: b"ARC-Seal:" + b" " * 9000 + b"\r\n" + raw,
    ],
)
def test_a_chain_that_does_not_hold_fails(broken: Callable[[bytes], bytes]) -> None:
    """A changed body, header or older set, a set that is missing, one that is junk."""
    raw = seal(seal(MESSAGE, RSA, 1), RSA, 2)

    assert found(raw)["arc"]["result"] == "pass"
    assert found(broken(raw))["arc"]["result"] == "fail"


def test_a_chain_that_says_it_failed_fails() -> None:
    """RFC 8617 section 5.2: cv=fail ends it."""
    assert found(seal(seal(MESSAGE, RSA, 1), RSA, 2, cv="fail"))["arc"]["result"] == "fail"


def test_a_chain_beyond_the_limit_is_not_verified() -> None:
    """And asks nobody."""
    raw = seal(seal(seal(MESSAGE, RSA, 1), RSA, 2), RSA, 3)

    assert found(raw, fails, limit=2)["arc"]["result"] == "skipped"


# -- name servers ----------------------------------------------------------------------------------------------------


def test_a_name_server_that_does_not_answer_stops_the_message_for_a_retry() -> None:
    """As strict as every stage; the message is kept, and the words say nothing of it."""
    for raw in (sign(MESSAGE, RSA), seal(MESSAGE, RSA, 1)):
        stage = DkimStage("dkim", DkimOptions(), lookup=fails)
        with pytest.raises(StageFailed, match="'dkim' failed"):
            Pipeline([stage]).run(parse(raw))


def test_a_name_server_that_does_not_answer_is_a_finding_if_you_say_so() -> None:
    """With TEMPORARY=note; what needs no key is judged all the same."""
    result = found(sign(MESSAGE, RSA), fails, temporary="note")
    one = result["signatures"][0]
    assert (one["result"], one["domain"], result["domains"]) == ("temperror", "example.com", [])
    assert found(seal(MESSAGE, RSA, 1), fails, temporary="note")["arc"]["result"] == "temperror"
    assert only(sign(MESSAGE, RSA) + b"more", fails, temporary="note")["result"] == "fail"


def test_a_message_without_a_signature_asks_nobody() -> None:
    """Most spam has none, and costs no look-up."""
    assert found(MESSAGE, fails)["signatures"] == []


def test_all_keys_of_a_message_share_one_time_limit() -> None:
    """A stranger who names ten slow domains gets no ten times as much of it."""
    now, allowed = [0.0], []

    def slow(name: str, timeout: float) -> list[bytes]:
        allowed.append(timeout)
        now[0] += 8
        return []

    raw = MESSAGE
    for number in range(5):
        raw = sign(raw, RSA, domain=f"d{number}.example")
    stage = DkimStage(
        "dkim", DkimOptions.model_validate({"timeout": "20s"}), lookup=slow, clock=lambda: now[0]
    )
    with pytest.raises(NameServersFailed):
        stage.apply(parse(raw))
    assert allowed == [20, 12, 4]


class Server:
    """A name server on loopback that answers as it is told."""

    def __init__(self) -> None:
        self.answer: Callable[[dns.message.Message], dns.message.Message | None] = lambda query: None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(4096)
            if not data:
                return
            response = self.answer(dns.message.from_wire(data))
            if response is not None:
                self._socket.sendto(response.to_wire(), sender)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


def asking(server: Server) -> NameServers:
    """Name servers that are the one of the test, whose port is not the usual one."""
    servers = NameServers(["127.0.0.1"])
    servers._resolver = dns.resolver.Resolver(configure=False)
    servers._resolver.nameservers = ["127.0.0.1"]
    servers._resolver.port = server.port
    return servers


def test_a_real_answer_is_read(server: Server) -> None:
    """A TXT record in several strings is one; a name without any has none; so has what is no name."""

    def answer(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        if "s1" in str(query.question[0].name):
            text = f'"{record(RSA).decode()[:200]}" "{record(RSA).decode()[200:]}"'
            response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", text))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    server.answer = answer
    servers = asking(server)
    assert servers("s1._domainkey.example.com.", 5) == [record(RSA)]
    assert servers("none.example.com.", 5) == []
    for name in ("a..b.", "x" * 70 + ".example.", "\udcff.example.", "é" * 80 + "."):
        assert servers(name, 5) == []
    stage = DkimStage("dkim", DkimOptions(), lookup=servers)
    assert stage.apply(parse(sign(MESSAGE, RSA))).findings["dkim"]["domains"] == ["example.com"]  # type: ignore[index]


def test_a_server_failure_and_silence_are_temporary(server: Server) -> None:
    """SERVFAIL, and no answer within the time."""
    servers = asking(server)
    begun = time.monotonic()
    with pytest.raises(NameServersFailed):
        servers("s1._domainkey.example.com.", 0.3)
    assert time.monotonic() - begun < 3

    def broken(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    server.answer = broken
    with pytest.raises(NameServersFailed):
        servers("s1._domainkey.example.com.", 2)


# -- bounds ----------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\r\n", b"a", b"b c", b" \r\n"])).map(b"".join),
    st.booleans(),
    st.integers(1, 7),
)
def test_the_body_is_hashed_as_a_whole_whatever_its_pieces(body: bytes, relaxed: bool, window: int) -> None:
    """Window by window gives what the RFC's words give, line by line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.authentication.body_hash.WINDOW", window)
        result = hash_body(memoryview(body), relaxed=relaxed, algorithm="sha256")
    whole = canonical_body(re.sub(rb"\r?\n", b"\r\n", body), "relaxed" if relaxed else "simple")

    assert result.digest == hashlib.sha256(whole).digest()
    assert result.length == len(whole)


@cache
def hostile() -> dict[str, bytes]:
    many = MESSAGE
    for _ in range(10):
        many = sign(many, RSA, tags="z=x b" + "\r\n " * 2_400 + "; ")
    selecting = b"B: c\r\n" * 4_900 + MESSAGE
    for _ in range(3):
        selecting = sign(selecting, RSA, names="from")
    distinct = b":".join(b"%03x" % number for number in range(1_800))
    base = b"v=1; a=rsa-sha256; c=relaxed/relaxed; d=x.example; s=y; bh=QQ==; b=QQ==; h=from"
    return {
        "spaces": sign(MESSAGE, RSA) + b" " * 3_000_000,
        "lines": sign(MESSAGE, RSA) + b"\r\n" * 3_000_000,
        "folds": b"X: y" + b"\r\n z" * 200_000 + b"\r\n" + sign(MESSAGE, RSA),
        "many": b"DKIM-Signature: v=1\r\n" * 20_000 + MESSAGE,
        # With bodies that hold, so that nothing ends it before.
        "names": selecting.replace(b"h=from;", b"h=from:" + distinct + b";"),
        "folds-in-tags": many,
        "long": b"DKIM-Signature: " + base + b" " * 500_000 + b"\r\n" + MESSAGE,
        "seals": b"ARC-Seal: i=1; a=b\r\n" * 5_000 + MESSAGE,
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_message_costs_little(name: str) -> None:
    """Under a second and a half of processor time each."""
    message = parse(hostile()[name])
    stage = DkimStage("dkim", DkimOptions(), lookup=knows())
    begun = time.process_time()
    stage.apply(message)

    assert time.process_time() - begun < 1.5 * BUSY


def test_not_a_word_of_a_message_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """dkimpy writes pieces of headers into its log; it has none here."""
    with caplog.at_level(logging.DEBUG):
        found(sign(MESSAGE, RSA))
        found(sign(MESSAGE, RSA).replace(b"crane", b"crain"))
        found(seal(seal(MESSAGE, RSA, 1), RSA, 2).replace(b"bob@", b"eve@"))

    assert caplog.records == []


def test_the_configuration_is_checked() -> None:
    """Name servers are addresses, because a name would need a name server."""
    assert (
        DkimOptions.model_validate({"name_servers": "192.0.2.53, 2001:db8::53"}).name_servers[1]
        == "2001:db8::53"
    )
    with pytest.raises(ValidationError, match="IP addresses"):
        DkimOptions.model_validate({"name_servers": "dns.example"})
    assert load_stage("dkim") is DkimStage


def test_without_the_extra_the_stage_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words that fit behind the name of a variable."""
    for name in ("pipelines.stages.dkim", "pipelines.authentication.key_records"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dkim", None)

    with pytest.raises(MissingExtra, match=r"pip install 'mailquay\[dkim\]'"):
        load_stage("dkim")


def test_a_large_message_is_verified_in_flat_memory() -> None:
    """A mapped message of 60 MB costs a few windows, not copies of it."""
    raw = sign(MESSAGE, RSA) + b"0123456789abcdef0123456789abcdef\r\n" * 1_800_000
    signed = read_signed(memoryview(raw))
    tracemalloc.start()
    hash_body(signed.body, relaxed=True, algorithm="sha256")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 12 << 20
