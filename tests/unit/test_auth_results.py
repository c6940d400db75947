"""The auth_results stage reports what the receiving server judged, and believes nobody else."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from pipelines.authentication.results import Verdict, read_arc_results, read_received_spf, read_results
from pipelines.parse import parse
from pipelines.stages.auth_results import AuthResultsOptions, AuthResultsStage
from tests.bed.patience import BUSY

GOOGLE = (
    "mx.google.com;\r\n dkim=pass header.i=@example.com header.s=s1 header.b=ab+/c==;\r\n"
    " spf=pass (google.com: domain of prvs=1=ann@example.com designates 192.0.2.1 as permitted sender)"
    ' smtp.mailfrom="prvs=1=ann"@example.com;\r\n'
    " dmarc=pass (p=REJECT sp=NONE dis=NONE) header.from=example.com"
)
EXCHANGE = (
    "spf=pass (sender IP is 192.0.2.1)\r\n smtp.mailfrom=example.com; contoso.example; dkim=none\r\n"
    " (message not signed) header.d=none;contoso.example; dmarc=bestguesspass action=none\r\n"
    " header.from=example.com;compauth=pass reason=109"
)
HOP = "Received: from mx.example.com by mx.google.com"


def found(*fields: str, trusted: str = "") -> dict[str, Any]:
    """What the stage finds below these header fields."""
    raw = "\r\n".join((*fields, "From: ann@example.com", "", "Hello.", "")).encode()
    stage = AuthResultsStage("auth", AuthResultsOptions.model_validate({"trusted": trusted}))
    changed = stage.apply(parse(raw))
    result: dict[str, Any] = orjson.loads(changed.to_json())["findings"]["auth"]
    return result


# -- the grammar -----------------------------------------------------------------------------------------------------


def verdict(text: str) -> Verdict:
    verdicts = read_results(text).verdicts
    assert len(verdicts) == 1
    return verdicts[0]


def test_the_examples_of_the_standard_are_read() -> None:
    """RFC 8601 appendix B: nothing done, one and several methods, and comments in every place."""
    assert read_results("example.org 1; none").authserv_id == "example.org"
    assert read_results("example.org 1; none").verdicts == ()
    spf = verdict("example.com;\r\n spf=pass smtp.mailfrom=example.net")
    assert (spf.method, spf.result, spf.properties) == ("spf", "pass", {"smtp.mailfrom": "example.net"})
    several = read_results(
        "example.com; auth=pass (cram-md5) smtp.auth=sender@example.net; spf=pass smtp.mailfrom=example.net"
    )
    assert [(v.method, v.comment) for v in several.verdicts] == [("auth", "cram-md5"), ("spf", None)]
    reasoned = verdict('example.com; dkim=pass reason="good signature" header.i=@mail-router.example.net')
    assert (reasoned.reason, reasoned.properties) == (
        "good signature",
        {"header.i": "@mail-router.example.net"},
    )
    commented = read_results(
        "foo.example.net (foobar) 1 (baz); dkim (Because I like it) / 1 (One yay) = (wait for it) fail "
        "policy (A dot can go here) . (like that) expired (this surprised me) = (as I wasn't expecting it) 1362471462"
    )
    assert commented.authserv_id == "foo.example.net"
    assert (commented.verdicts[0].method, commented.verdicts[0].result) == ("dkim", "fail")
    assert commented.verdicts[0].properties == {"policy.expired": "1362471462"}


@pytest.mark.parametrize(
    ("text", "method", "result", "properties"),
    [
        ("x; dkim=pass header.b=ab+/c==", "dkim", "pass", {"header.b": "ab+/c=="}),
        ("x; spf=pass smtp.mailfrom=prvs=1=a@b", "spf", "pass", {"smtp.mailfrom": "prvs=1=a@b"}),
        ('x; spf=pass smtp.mailfrom="a b"@c', "spf", "pass", {"smtp.mailfrom": "a b@c"}),
        (r'x; spf=pass smtp.mailfrom="a\"b"@c', "spf", "pass", {"smtp.mailfrom": 'a"b@c'}),
        ("x; SPF=Pass SMTP.MailFrom=A@b", "spf", "Pass", {"smtp.mailfrom": "A@b"}),
        ("x; dkim/1=pass", "dkim", "pass", {}),
        ("x; spf=pass (a (nested \\) comment) b) smtp.helo=c", "spf", "pass", {"smtp.helo": "c"}),
        # Broken ones: what can be read is read.
        ('x; spf="open smtp.helo=c', "spf", "open", {"smtp.helo": "c"}),
        ("x; spf=pass (open smtp.helo=c", "spf", "pass", {}),
        ("x;;; = ; ) spf = pass stray words smtp.helo=c", "spf", "pass", {"smtp.helo": "c"}),
    ],
)
def test_values_may_be_anything(text: str, method: str, result: str, properties: dict[str, str]) -> None:
    """Quoted, with `=`, in any case, with nested comments, or broken."""
    one = verdict(text)

    assert (one.method, one.result, one.properties) == (method, result, properties)


def test_a_received_spf_field_is_read() -> None:
    """RFC 7208 section 9.1, its own example."""
    spf = read_received_spf(
        "pass (mybox.example.org: domain of myname@example.com designates 192.0.2.1 as permitted sender)\r\n"
        ' receiver=mybox.example.org; client-ip=192.0.2.1;\r\n envelope-from="myname@example.com"; helo=foo.example.com;'
    )

    assert spf is not None
    assert (spf.result, spf.properties["envelope-from"]) == ("pass", "myname@example.com")
    assert spf.properties["receiver"] == "mybox.example.org"
    assert read_received_spf("") is None


def test_an_arc_field_has_an_instance() -> None:
    """RFC 8617 section 4.1.1; without one it is none."""
    arc = read_arc_results("i=2; mx.example.com; spf=fail smtp.mailfrom=a@b")

    assert arc is not None
    assert (arc[0], arc[1].authserv_id, arc[1].verdicts[0].result) == (2, "mx.example.com", "fail")
    assert read_arc_results("mx.example.com; spf=fail") is None


# -- what is found ---------------------------------------------------------------------------------------------------


def test_the_verdicts_of_a_server_are_reported() -> None:
    """As Gmail writes them."""
    result = found(f"Authentication-Results: {GOOGLE}", HOP)

    assert (result["by"], result["trust"], result["untrusted"]) == ("mx.google.com", "topmost", [])
    assert (result["spf"]["result"], result["spf"]["domain"]) == ("pass", "example.com")
    assert [(d["result"], d["domain"], d["selector"]) for d in result["dkim"]] == [
        ("pass", "example.com", "s1")
    ]
    assert (result["dmarc"]["result"], result["dmarc"]["domain"]) == ("pass", "example.com")
    assert result["dmarc"]["policy"] == "reject"
    assert result["arc"] is None


def test_exchange_names_no_server() -> None:
    """Its header begins with a verdict, has domains between verdicts, `none` for a domain, and compauth."""
    result = found(HOP, f"Authentication-Results: {EXCHANGE}", HOP)

    assert (result["by"], result["trust"]) == (None, "topmost")
    assert (result["spf"]["result"], result["spf"]["domain"]) == ("pass", "example.com")
    assert (result["dkim"][0]["result"], result["dkim"][0]["domain"]) == ("none", None)
    assert result["dmarc"]["result"] == "bestguesspass"
    assert result["dmarc"]["properties"]["action"] == "none"
    assert result["others"] == [
        {"method": "compauth", "result": "pass", "reason": "109", "comment": None, "properties": {}}
    ]
    assert found(f"Authentication-Results: {EXCHANGE}", trusted="-")["trust"] == "named"


def test_exchanges_own_header_counts_where_no_other_does() -> None:
    """It writes X-MS-Exchange-Authentication-Results within an organisation."""
    own = f"X-MS-Exchange-Authentication-Results: {EXCHANGE}"

    assert found(own)["spf"]["result"] == "pass"
    both = found(own, f"Authentication-Results: {GOOGLE}")
    assert both["by"] == "mx.google.com"
    assert [entry["field"] for entry in both["untrusted"]] == ["x-ms-exchange-authentication-results"]


def test_what_stands_below_the_next_hop_is_not_believed() -> None:
    """A sender may write the receiver's own name: below the Received field it was there before."""
    forged = "Authentication-Results: mx.google.com; spf=pass smtp.mailfrom=bank.example; iprev=pass"
    for trusted in ("", "mx.google.com"):
        result = found(
            "Authentication-Results: mx.google.com; spf=fail smtp.mailfrom=evil.example",
            HOP,
            forged,
            trusted=trusted,
        )
        assert (result["spf"]["result"], result["spf"]["domain"]) == ("fail", "evil.example")
        assert result["others"] == []
        assert result["untrusted"] == [
            {"field": "authentication-results", "by": "mx.google.com", "results": ["spf=pass", "iprev=pass"]}
        ]


def test_a_forged_header_right_below_cannot_better_a_verdict() -> None:
    """Where nothing separates the two, the topmost that speaks of a method counts, for DKIM too."""
    result = found(
        "Authentication-Results: mx.google.com; dkim=fail header.d=evil.example",
        "Authentication-Results: mx.google.com; dkim=pass header.d=bank.example",
    )

    assert [d["result"] for d in result["dkim"]] == ["fail"]


def test_several_headers_of_one_server_are_joined() -> None:
    """OpenDKIM and OpenDMARC write one each."""
    result = found(
        "Authentication-Results: mx.example; dmarc=pass header.from=example.com",
        "Authentication-Results: MX.example.; dkim=pass header.d=example.com",
        HOP,
    )

    assert (result["dmarc"]["result"], result["dkim"][0]["result"]) == ("pass", "pass")
    assert result["untrusted"] == []


def test_only_named_servers_count() -> None:
    """With TRUSTED the topmost means nothing, and each named server has its own place among the hops."""
    fields = (
        "Authentication-Results: outer.example; spf=pass smtp.mailfrom=a.example",
        HOP,
        "Authentication-Results: filter.example; spf=softfail smtp.mailfrom=b.example; dkim=pass header.d=b.example",
        HOP,
        "Authentication-Results: filter.example; dmarc=pass header.from=bank.example",
    )
    result = found(*fields, trusted="filter.example")
    assert (result["by"], result["trust"], result["spf"]["result"]) == ("filter.example", "named", "softfail")
    assert result["dmarc"] is None
    assert [entry["by"] for entry in result["untrusted"]] == ["outer.example", "filter.example"]
    both = found(*fields, trusted="filter.example, outer.example")
    assert (both["spf"]["result"], both["dkim"][0]["result"]) == ("pass", "pass")
    nobody = found(*fields, trusted="mx.google.com")
    assert (nobody["by"], nobody["trust"], nobody["spf"], nobody["dkim"]) == (None, "none", None, [])
    assert len(nobody["untrusted"]) == 3


def test_received_spf_stands_in_where_the_server_wrote_it() -> None:
    """Above the hop, or by name; not if a sender wrote it, and not where the results say something else."""
    spf = "Received-SPF: SoftFail (mx.example: domain) receiver=mx.example; client-ip=192.0.2.1; envelope-from=a@b.example"
    auth = "Authentication-Results: mx.example; dkim=pass header.d=b.example"
    assert found(spf)["spf"]["result"] == "softfail"
    assert found(auth, spf, HOP)["spf"]["domain"] == "b.example"
    below = found(auth, HOP, spf)
    assert below["spf"] is None
    assert below["untrusted"] == [{"field": "received-spf", "by": "mx.example", "results": ["spf=softfail"]}]
    assert found(auth, HOP, spf, trusted="mx.example")["spf"]["result"] == "softfail"
    assert found(spf, trusted="other.example")["spf"] is None
    assert found("Authentication-Results: mx.example; spf=fail", spf)["spf"]["result"] == "fail"


def test_what_arc_carries_is_listed_and_not_believed() -> None:
    """The chain's verdict is the receiving server's; what earlier servers say stands beside it, the last one first."""
    result = found(
        "Authentication-Results: mx.google.com; arc=pass (i=2 spf=pass)",
        "ARC-Authentication-Results: i=2; lists.example; spf=pass smtp.mailfrom=a@b",
        "ARC-Authentication-Results: i=1; mx.example; dmarc=fail header.from=b",
    )

    assert (result["arc"]["result"], result["arc"]["comment"]) == ("pass", "i=2 spf=pass")
    assert result["arcSets"] == [
        {"instance": 2, "by": "lists.example", "results": ["spf=pass"]},
        {"instance": 1, "by": "mx.example", "results": ["dmarc=fail"]},
    ]
    assert (result["spf"], result["dmarc"]) == (None, None)


def test_a_message_without_any_has_none() -> None:
    """The same keys for every message."""
    assert found() == {
        "by": None, "trust": "none", "spf": None, "dkim": [], "dmarc": None, "arc": None, "arcSets": [], "others": [],
        "untrusted": [],
    }  # fmt: skip


HOSTILE = {
    "comments": "x; spf=pass " + "(" * 200_000,
    "quotes": 'x; spf=pass a.b=" ' * 30_000,
    "results": "x" + "; spf=pass" * 40_000,
    "properties": "x; spf=pass" + " a.b=c" * 60_000,
    "dots": "x; spf" + " ." * 200_000,
    "equals": "=" * 400_000,
    "words": "x; " + "word " * 80_000,
    "closed": "x; " + "() " * 120_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_costs_little(name: str) -> None:
    """Half a megabyte of the worst under a second, and without an exception."""
    message = parse(
        f"Authentication-Results: {HOSTILE[name]}\r\nReceived-SPF: {HOSTILE[name]}\r\n\r\n".encode()
    )
    begun = time.process_time()
    AuthResultsStage("auth", AuthResultsOptions()).apply(message)

    assert time.process_time() - begun < 1.0 * BUSY
