"""Verifies the DKIM signatures (RFC 6376, RFC 8301, RFC 8463) and the ARC chain (RFC 8617) of one message.

The library dkimpy does the canonical forms, the chain and the arithmetic. What it leaves open is done here: the body is
hashed in flat memory, keys are checked before they are used, a name server that does not answer is no failure of the
message, and whatever would cost more than linear time is refused first.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dkim
import dkim.util

from pipelines import limits
from pipelines.authentication.body_hash import BodyHash, hash_body
from pipelines.authentication.key_records import BadKey, Keys, NameServersFailed
from pipelines.octets import Octets

# A signature's own field, in bytes, and the white space in one place of it: dkimpy's patterns are slow on more.
SIGNATURE_BYTES = 8 << 10
_LONG_SPACE = re.compile(rb"\s{41}")
# Signed names times header fields: dkimpy looks for each name in all fields.
SELECTIONS = 250_000
# How often a body is hashed, for signatures that want it in different forms or lengths.
BODY_PASSES = 4

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
_COLON = re.compile(rb"\s*+:\s*+")
# dkimpy writes pieces of the message into its log.
_SILENT = logging.Logger("dkimpy", logging.CRITICAL + 1)  # noqa: LOG001  one that nobody can turn on

_HASHES = {b"rsa-sha256": "sha256", b"ed25519-sha256": "sha256"}
_FORMS = (b"simple", b"relaxed")

Field = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Signed:
    """A message as it is verified: header fields as they stand, with CRLF, and where the body lies."""

    fields: Sequence[Field]
    body: memoryview
    is_whole: bool = True

    def named(self, name: bytes) -> list[Field]:
        """Return the fields of a name in lower case, the topmost first."""
        return [field for field in self.fields if field[0].lower() == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What became of one signature; `tags` are those of its field, `result` a word of RFC 8601 section 2.7.1."""

    result: str
    reason: str | None
    tags: dict[bytes, bytes]
    bits: int | None = None
    is_testing: bool = False
    body_length: int | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """What became of the ARC chain: `none`, `pass`, `fail`, `temperror` or `skipped`; the newest sealer first."""

    result: str
    reason: str | None
    sets: int
    domains: tuple[str, ...] = ()


class _Refused(Exception):
    """A signature that is not even computed; the sentence says why."""


def read_signed(raw: bytes | memoryview) -> Signed:
    """Cut a message into what is verified; a head beyond the limits of `pipelines.limits` is not whole."""
    octets = Octets(raw)
    size = len(octets)
    ends = [
        (found, found + len(blank))
        for blank in (b"\n\r\n", b"\n\n")
        if (found := octets.find(blank, 0, min(size, limits.HEADER_BYTES))) != -1
    ]
    head, body = min(ends, default=(size, size))
    if head > limits.HEADER_BYTES:
        return Signed((), octets.view(size, size), is_whole=False)
    lines = octets.take(0, head).removesuffix(b"\r").replace(b"\r\n", b"\n").split(b"\n")
    collected: list[tuple[bytes, list[bytes]]] = []
    for line in lines:
        match = _FIELD.match(line)
        if line[:1] in {b" ", b"\t"} and collected:
            collected[-1][1].append(line)
        elif match is not None:
            collected.append((match[1], [match[2]]))
    fields = tuple((name, b"\r\n".join([*value, b""])) for name, value in collected[: limits.HEADER_COUNT])
    return Signed(fields, octets.view(body, size), is_whole=len(collected) <= limits.HEADER_COUNT)


class Verifier:
    """Verifies the signatures of one message; keys and hashes of the body are computed once."""

    def __init__(self, signed: Signed, keys: Keys, *, received_at: datetime | None = None) -> None:
        self._signed = signed
        self._keys = keys
        self._received_at = received_at
        self._bodies: dict[tuple[bool, str, int | None], BodyHash] = {}

    def verify(self, field: Field) -> Verified:
        """Verify the DKIM signature in one of the message's fields.

        Raises:
            NameServersFailed: the key is not to be had now.
        """
        tags: dict[bytes, bytes] = {}
        try:
            self._check_size(field)
            tags = dkim.util.parse_tag_value(field[1])
            # When it expires is judged by when it was received, not by when this runs.
            dkim.validate_signature_fields(
                {key: value for key, value in tags.items() if key not in {b"t", b"x"}}
            )
            names = [name.lower() for name in _COLON.split(tags[b"h"].strip())]
            self._check_tags(tags, names)
            return self._verify(field, tags, names)
        except (_Refused, BadKey) as refusal:
            return Verified(result="permerror", reason=str(refusal), tags=tags)
        except NameServersFailed:
            raise
        # dkimpy says what is wrong in words that quote the message, and raises what its parsers happen to meet.
        except (dkim.DKIMException, dkim.util.InvalidTagValueList, *_MISHAPS):
            return Verified(result="permerror", reason="the signature cannot be read", tags=tags)

    def tags_of(self, field: Field) -> dict[bytes, bytes]:
        """Return the tags of a signature that was read before, for whoever could not verify it."""
        try:
            tags: dict[bytes, bytes] = dkim.util.parse_tag_value(field[1])
        except dkim.util.InvalidTagValueList:
            return {}
        return tags

    def _verify(self, field: Field, tags: dict[bytes, bytes], names: list[bytes]) -> Verified:
        engine = _Dkim(self)
        try:
            valid = engine.verify_sig(dict(tags), names, field, None)
        except _BodyChanged as changed:
            return Verified(
                result="fail", reason="the body was changed", tags=tags, body_length=changed.found.length
            )
        key = engine.key
        assert key is not None
        identity = tags.get(b"i", b"@" + tags[b"d"])
        if key.is_strict and identity.rpartition(b"@")[2].lower() != tags[b"d"].lower():
            raise _Refused("the key allows no subdomain in i=")
        reason = None if valid else "the header was changed, or the key is another"
        if valid and self._is_expired(tags):
            valid, reason = False, "the signature had expired when the message was received"
        return Verified(
            result="pass" if valid else "fail",
            reason=reason,
            tags=tags,
            bits=key.bits,
            is_testing=key.is_testing,
            body_length=self.hash_of(tags).length,
        )

    def verify_chain(self, limit: int) -> Chain:
        """Verify the ARC chain, if it has at most `limit` sets.

        Raises:
            NameServersFailed: a key is not to be had now.
        """
        seals = self._signed.named(b"arc-seal")
        messages = self._signed.named(b"arc-message-signature")
        results = self._signed.named(b"arc-authentication-results")
        count = max(len(seals), len(messages), len(results))
        if count == 0:
            return Chain("none", None, 0)
        if count > limit:
            return Chain("skipped", f"there are more than {limit} sets", count)
        if not len(seals) == len(messages) == len(results):
            return Chain("fail", "a set is not complete", count)
        try:
            for field in (*seals, *messages):
                self._check_size(field)
            outcome, found, _ = _Arc(self).verify(dnsfunc=None)
        except (_Refused, BadKey) as refusal:
            return Chain("fail", str(refusal), count)
        except _BodyChanged:
            return Chain("fail", "the body was changed", count)
        except (dkim.DKIMException, dkim.util.InvalidTagValueList, *_MISHAPS):
            return Chain("fail", "the chain cannot be read", count)
        domains = tuple(_text(result.get("as-domain", b"")) for result in found)
        if outcome == dkim.CV_Pass:
            return Chain("pass", None, count, domains)
        return Chain(
            "fail", "a seal or the newest signature does not hold, or a set is missing", count, domains
        )

    def hash_of(self, tags: dict[bytes, bytes]) -> BodyHash:
        """Return the hash of the body in the form and length that a signature wants."""
        form = tags.get(b"c", b"simple/simple").partition(b"/")
        if form[0] not in _FORMS or (form[2] or b"simple") not in _FORMS:
            raise _Refused("the signature names an unknown canonical form")
        length = int(tags[b"l"]) if b"l" in tags else None
        wanted = (form[2] == b"relaxed", _HASHES[tags[b"a"]], length)
        if wanted not in self._bodies:
            if len(self._bodies) == BODY_PASSES:
                raise _Refused("the signatures want the body in too many forms")
            relaxed, algorithm, limit = wanted
            self._bodies[wanted] = hash_body(
                self._signed.body, relaxed=relaxed, algorithm=algorithm, limit=limit
            )
        found = self._bodies[wanted]
        if length is not None and length > found.length:
            raise _Refused("the body is shorter than the part of it that was signed")
        return found

    def _check_size(self, field: Field) -> None:
        if len(field[1]) > SIGNATURE_BYTES or _LONG_SPACE.search(field[1]):
            raise _Refused("the signature is too long")

    def check_selection(self, names: Sequence[bytes]) -> None:
        """Refuse a signature that names so many fields that looking for them would take long."""
        if len(names) * len(self._signed.fields) > SELECTIONS:
            raise _Refused("the signature names too many fields")

    def _check_tags(self, tags: dict[bytes, bytes], names: Sequence[bytes]) -> None:
        """Refuse what RFC 6376 section 6.1.1 wants refused and dkimpy lets pass."""
        if b"from" not in names:
            raise _Refused("the signature leaves out From")
        for key in (b"t", b"x"):
            if key in tags and re.fullmatch(rb"\d{1,12}", tags[key]) is None:
                raise _Refused("a time in the signature is no number")
        if b"t" in tags and b"x" in tags and int(tags[b"x"]) <= int(tags[b"t"]):
            raise _Refused("the signature expires before it was made")

    def _is_expired(self, tags: dict[bytes, bytes]) -> bool:
        if b"x" not in tags or self._received_at is None:
            return False
        return int(tags[b"x"]) < self._received_at.timestamp()


# What dkimpy's parsing of strange input may end in.
_MISHAPS = (ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, binascii.Error)


class _BodyChanged(Exception):
    """The hash of the body is not the signed one."""

    def __init__(self, found: BodyHash) -> None:
        super().__init__("the body was changed")
        self.found = found


class _Fenced:
    """What stands between dkimpy and a stranger's message: both of its verifiers come by here for each signature."""

    headers: list[list[bytes]]
    pk: Any

    def _fence(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.key: Any = None
        self.headers = [[name, value] for name, value in verifier._signed.fields]  # noqa: SLF001  one module

    def verify_sig(self, sig: dict[bytes, bytes], names: list[bytes], field: Field, _dnsfunc: object) -> bool:
        """Check the body and the key, and let dkimpy do the rest (its method of this name, replaced)."""
        verifier = self._verifier
        if sig[b"a"] not in _HASHES:
            raise _Refused("the algorithm is not accepted (RFC 8301)")
        verifier.check_selection(names)
        signed_hash = sig.pop(b"bh", None)
        if signed_hash is not None:
            found = verifier.hash_of(sig)
            if found.digest != base64.b64decode(b"".join(signed_hash.split())):
                raise _BodyChanged(found)
        self.key = verifier._keys.find(sig[b"s"], sig[b"d"], sig[b"a"])  # noqa: SLF001  one module
        self.pk, self.keysize, self.ktag, self.seqtlsrpt = (
            self.key.parsed,
            self.key.bits,
            self.key.kind,
            False,
        )
        return bool(self.verify_sig_process(sig, names, field, None))  # type: ignore[attr-defined]


class _Dkim(_Fenced, dkim.DKIM):  # type: ignore[misc]
    def __init__(self, verifier: Verifier) -> None:
        super().__init__(logger=_SILENT)
        self._fence(verifier)


class _Arc(_Fenced, dkim.ARC):  # type: ignore[misc]
    def __init__(self, verifier: Verifier) -> None:
        super().__init__(logger=_SILENT)
        self._fence(verifier)

    def verify_sig(self, sig: dict[bytes, bytes], names: list[bytes], field: Field, _dnsfunc: object) -> bool:
        """Take a signature of an older set that does not hold for what dkimpy wants to hear: false."""
        try:
            return super().verify_sig(sig, names, field, _dnsfunc)
        except (_BodyChanged, BadKey):
            return False


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")[:255]
