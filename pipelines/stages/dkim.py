"""Verifies the DKIM signatures and the ARC chain of a message anew, with keys that name servers give now.

Needs the extra `dkim`. A signature that does not hold is a finding. A name server that does not answer stops the message
for a retry, or is a finding too, as you say. Keys are taken back after a while: an old message may no longer verify, and
the same message may find something else tomorrow. Whether the signer is the author is not judged; that is DMARC's.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from datetime import timedelta
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from pipelines.authentication.key_records import Keys, Lookup, NameServers, NameServersFailed
from pipelines.authentication.signatures import Chain, Signed, Verified, Verifier, read_signed
from pipelines.charset import clean
from pipelines.message import Message
from pipelines.options import Duration, Names
from pipelines.stage import Stage, StageOptions

# Characters of one value that a signature declares, and names of header fields.
VALUE_CHARACTERS = 255
SIGNED_NAMES = 100


class DkimOptions(StageOptions):
    """Whom to ask, how long, and what if nobody answers."""

    temporary: Literal["retry", "note"] = Field(
        default="retry",
        description="What if no name server answers: `retry` stops the message and tries it again, `note` goes on with "
        "the result `temperror`.",
    )
    timeout: Duration = Field(
        default=timedelta(seconds=20),
        gt=timedelta(0),
        le=timedelta(minutes=5),
        description="How long name servers may take for one message, all its keys together.",
    )
    limit: int = Field(
        default=10,
        ge=1,
        le=50,
        description="How many signatures of one message are verified, from the top, and how long an ARC chain may be.",
    )
    name_servers: Names = Field(
        default=(),
        description="Addresses of the name servers to ask; those of the system without any.",
        examples=["192.0.2.53"],
    )

    @field_validator("name_servers")
    @classmethod
    def _are_addresses(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                ipaddress.ip_address(name)
            except ValueError:
                raise PydanticCustomError("address", "write IP addresses, separated by commas") from None
        return names


class DkimStage(Stage):
    """Adds what became of each signature, and of the ARC chain."""

    type_name: ClassVar[str] = "dkim"
    Options: ClassVar[type[StageOptions]] = DkimOptions

    options: DkimOptions

    def __init__(
        self,
        name: str,
        options: DkimOptions,
        *,
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember the options; `lookup` asks for TXT records in the place of name servers."""
        super().__init__(name, options)
        self._lookup = lookup or NameServers(options.name_servers)
        self._clock = clock

    def apply(self, message: Message) -> Message:
        """Return the message with its finding.

        Raises:
            NameServersFailed: no name server answered, and TEMPORARY is `retry`.
        """
        signed = read_signed(message.raw)
        keys = Keys(self._lookup, seconds=self.options.timeout.total_seconds(), clock=self._clock)
        verifier = Verifier(signed, keys, received_at=message.received_at)
        fields = signed.named(b"dkim-signature")
        signatures = [_describe(self._verify(verifier, field)) for field in fields[: self.options.limit]]
        found = {
            "domains": sorted({str(one["domain"]) for one in signatures if one["result"] == "pass"}),
            "signatures": signatures,
            "isTruncated": len(fields) > self.options.limit or not signed.is_whole,
            "arc": self._chain(verifier, signed),
        }
        return message.with_findings(self.name, found)

    def _verify(self, verifier: Verifier, field: tuple[bytes, bytes]) -> Verified:
        try:
            return verifier.verify(field)
        except NameServersFailed:
            if self.options.temporary == "retry":
                raise
            tags = verifier.tags_of(field)
            return Verified(result="temperror", reason="the name servers did not answer", tags=tags)

    def _chain(self, verifier: Verifier, signed: Signed) -> dict[str, object]:
        try:
            chain = verifier.verify_chain(self.options.limit)
        except NameServersFailed:
            if self.options.temporary == "retry":
                raise
            chain = Chain("temperror", "the name servers did not answer", len(signed.named(b"arc-seal")))
        return {
            "result": chain.result,
            "reason": chain.reason,
            "sets": chain.sets,
            "domains": [clean(domain) for domain in chain.domains],
        }


def _describe(verified: Verified) -> dict[str, object]:
    """Return one signature as JSON values."""
    tags = verified.tags
    names = [_text(name) for name in tags.get(b"h", b"").split(b":")[:SIGNED_NAMES]]
    signed_length = int(tags[b"l"]) if tags.get(b"l", b"").isdigit() and len(tags[b"l"]) <= 15 else None
    length = verified.body_length
    return {
        "result": verified.result,
        "reason": verified.reason,
        "domain": (_text(tags.get(b"d")) or "").lower() or None,
        "selector": _text(tags.get(b"s")),
        "identity": _text(tags.get(b"i")),
        "algorithm": _text(tags.get(b"a")),
        "keyBits": verified.bits,
        "signedHeaders": [name.lower() for name in names if name],
        # With l= anybody may write on below what was signed.
        "signedLength": signed_length,
        "bodyLength": length,
        "isPartial": signed_length is not None and (length is None or signed_length < length),
        "isTesting": verified.is_testing,
    }


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    return clean(" ".join(value.decode("utf-8", "replace").split())[:VALUE_CHARACTERS]) or None
