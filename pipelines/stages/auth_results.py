"""Says how the receiving server judged a message: SPF, DKIM, DMARC, ARC and the rest (RFC 8601).

Anybody can write such a header, so only those count that name a trusted server and stand where it writes: above the
Received field that follows the topmost of them. Of several the topmost that speaks of a method counts. All others are
listed as untrusted. It asks no name server and verifies nothing; the stage `dkim` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from pipelines.authentication.results import (
    Results,
    Verdict,
    read_arc_results,
    read_received_spf,
    read_results,
)
from pipelines.charset import clean
from pipelines.message import Message
from pipelines.options import Names
from pipelines.stage import Stage, StageOptions

# How many header fields of one message are looked at, and how many are listed.
FIELDS = 100
LISTED = 20

AUTHENTICATION_RESULTS = "authentication-results"
EXCHANGE = "x-ms-exchange-authentication-results"
ARC = "arc-authentication-results"
SPF = "received-spf"
# Written in TRUSTED for a header that names no server.
NAMELESS = "-"

_SINGLE = ("spf", "dmarc", "arc")
_POLICY = re.compile(r"\bp=(none|quarantine|reject)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9-]{1,40}")


class AuthResultsOptions(StageOptions):
    """Whose word counts."""

    trusted: Names = Field(
        default=(),
        description="Names (authserv-id) of the servers whose headers count; `-` is a header without a name, as Exchange "
        "Online writes it. Without any, the name in the topmost header is taken.",
        examples=["mx.google.com"],
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """One header field that judges, and where it stands; `name` is that of the server or `-`."""

    place: int
    field: str
    name: str
    results: Results


class AuthResultsStage(Stage):
    """Adds what trusted servers found, and what others claim."""

    type_name: ClassVar[str] = "auth_results"
    Options: ClassVar[type[StageOptions]] = AuthResultsOptions

    options: AuthResultsOptions

    def apply(self, message: Message) -> Message:
        """Return the message with its finding."""
        return message.with_findings(self.name, read_auth_results(message, self.options.trusted))


def read_auth_results(message: Message, names: Sequence[str] = ()) -> dict[str, object]:
    """Return the verdicts of the servers called `names`, or of the one that the topmost header names."""
    fields: list[tuple[int, str, str]] = []
    hops: list[int] = []
    for place, (name, text) in enumerate(message.headers):
        key = name.lower()
        if key == "received":
            hops.append(place)
        elif key in {AUTHENTICATION_RESULTS, EXCHANGE, ARC, SPF} and len(fields) < FIELDS:
            fields.append((place, key, text))
    judgements = list(_judgements(fields))
    named = {name.lower().rstrip(".") for name in names}
    trusted = _trusted(judgements, named, hops)
    spf = _received_spf(fields, trusted, named, hops)
    by = trusted[0].results.authserv_id if trusted else None
    counting = {method: judgement for judgement in reversed(trusted) for method in _methods(judgement)}
    verdicts = [
        verdict
        for judgement in trusted
        for verdict in judgement.results.verdicts
        if counting[verdict.method] is judgement
    ]
    single = {method: next((v for v in verdicts if v.method == method), None) for method in _SINGLE}
    single["spf"] = single["spf"] or (spf[1] if spf else None)
    counted = {judgement.place for judgement in trusted} | ({spf[0]} if spf else set())
    return {
        "by": _clean(by),
        "trust": ("named" if named else "topmost") if trusted or spf else "none",
        "spf": _spf(single["spf"]),
        "dkim": [_dkim(verdict) for verdict in verdicts if verdict.method == "dkim"],
        "dmarc": _dmarc(single["dmarc"]),
        "arc": _arc(single["arc"]),
        "arcSets": _arc_sets(fields),
        "others": [
            {"method": clean(verdict.method), **_verdict(verdict)}
            for verdict in verdicts
            if verdict.method not in {*_SINGLE, "dkim"}
        ],
        "untrusted": list(_untrusted(fields, judgements, counted))[:LISTED],
    }


def _judgements(fields: Sequence[tuple[int, str, str]]) -> Iterator[Judgement]:
    for place, key, text in fields:
        if key in {AUTHENTICATION_RESULTS, EXCHANGE}:
            results = read_results(text)
            yield Judgement(place, key, (results.authserv_id or NAMELESS).lower().rstrip("."), results)


def _trusted(judgements: Sequence[Judgement], named: set[str], hops: Sequence[int]) -> list[Judgement]:
    """Return the fields that count, the topmost first; Exchange's own header counts where no other does."""
    for field in (AUTHENTICATION_RESULTS, EXCHANGE):
        candidates = [judgement for judgement in judgements if judgement.field == field]
        names = named or {judgement.name for judgement in candidates[:1]}
        found = []
        for name in names:
            ours = [judgement for judgement in candidates if judgement.name == name]
            if ours:
                end = _hop_after(ours[0].place, hops)
                found += [judgement for judgement in ours if judgement.place < end]
        if found:
            return sorted(found, key=lambda judgement: judgement.place)
    return []


def _hop_after(place: int, hops: Sequence[int]) -> float:
    """Return where the next Received field stands: what is below it was there before the server got the message."""
    return next((hop for hop in hops if hop > place), float("inf"))


def _methods(judgement: Judgement) -> set[str]:
    return {verdict.method for verdict in judgement.results.verdicts}


def _received_spf(
    fields: Sequence[tuple[int, str, str]], trusted: Sequence[Judgement], named: set[str], hops: Sequence[int]
) -> tuple[int, Verdict] | None:
    """Return the topmost Received-SPF, if it stands among the trusted fields or names a trusted server itself."""
    place, text = next(((place, text) for place, key, text in fields if key == SPF), (0, ""))
    verdict = read_received_spf(text)
    if verdict is None:
        return None
    if verdict.properties.get("receiver", NAMELESS).lower().rstrip(".") in named:
        return place, verdict
    if trusted:
        return (place, verdict) if place < _hop_after(trusted[0].place, hops) else None
    return None if named else (place, verdict)


def _untrusted(
    fields: Sequence[tuple[int, str, str]], judgements: Sequence[Judgement], counted: set[int]
) -> Iterator[dict[str, object]]:
    known = {judgement.place: judgement.results for judgement in judgements}
    for place, key, text in fields:
        if place in counted or key == ARC:
            continue
        verdict = read_received_spf(text) if key == SPF else None
        results = known.get(place, Results(None, () if verdict is None else (verdict,)))
        receiver = None if verdict is None else verdict.properties.get("receiver")
        yield {"field": key, "by": _clean(results.authserv_id or receiver), "results": _brief(results)}


def _arc_sets(fields: Sequence[tuple[int, str, str]]) -> list[dict[str, object]]:
    """List what the servers of an ARC chain say that they found, the last one first; nothing of it is verified."""
    sets = [found for _, key, text in fields if key == ARC and (found := read_arc_results(text)) is not None]
    sets.sort(key=lambda found: -found[0])
    return [
        {"instance": instance, "by": _clean(results.authserv_id), "results": _brief(results)}
        for instance, results in sets[:LISTED]
    ]


def _brief(results: Results) -> list[str]:
    return [f"{clean(v.method)}={_result(v)}"[:100] for v in results.verdicts[:LISTED]]


def _spf(verdict: Verdict | None) -> dict[str, object] | None:
    if verdict is None:
        return None
    names = ("smtp.mailfrom", "smtp.mail", "envelope-from", "smtp.helo", "helo")
    return {"domain": _domain(verdict, *names), **_verdict(verdict)}


def _dkim(verdict: Verdict) -> dict[str, object]:
    return {
        "domain": _domain(verdict, "header.d", "header.i"),
        "selector": _clean(verdict.properties.get("header.s")),
        **_verdict(verdict),
    }


def _dmarc(verdict: Verdict | None) -> dict[str, object] | None:
    """The policy is what the domain publishes; Google and OpenDMARC write it into a comment."""
    if verdict is None:
        return None
    declared = verdict.properties.get("policy.dmarc") or verdict.properties.get(
        "policy.published-domain-policy"
    )
    commented = _POLICY.search(verdict.comment or "")
    policy = declared or (commented[1] if commented else None)
    return {
        "domain": _domain(verdict, "header.from"),
        "policy": _clean(policy.lower() if policy else None),
        **_verdict(verdict),
    }


def _arc(verdict: Verdict | None) -> dict[str, object] | None:
    return None if verdict is None else _verdict(verdict)


def _verdict(verdict: Verdict) -> dict[str, object]:
    return {
        "result": _result(verdict),
        "reason": _clean(verdict.reason),
        "comment": _clean(verdict.comment),
        "properties": {clean(key): clean(value) for key, value in verdict.properties.items()},
    }


def _result(verdict: Verdict) -> str:
    """Return the result in lower case, `unknown` for what no server writes as one."""
    result = verdict.result.lower()
    return result if _WORD.fullmatch(result) else "unknown"


def _domain(verdict: Verdict, *names: str) -> str | None:
    """Return the domain of the first of these properties that names one; Exchange writes `none` for none."""
    for name in names:
        domain = verdict.properties.get(name, "").strip("<>").rpartition("@")[2].lower().rstrip(".")
        if domain and domain != "none":
            return clean(domain)
    return None


def _clean(text: str | None) -> str | None:
    return None if text is None else clean(text)
