"""Keys of signers: asked from name servers (RFC 6376 section 3.6), and checked before anything is computed with them.

A name server that does not answer is told apart from one that knows no key. The record belongs to a stranger: a key that
is too large, or has an exponent that would cost minutes, is refused.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dkim
import dkim.crypto
import dkim.util
import dns.exception
import dns.resolver

# Asks for the TXT records of a name, within so many seconds.
Lookup = Callable[[str, float], Sequence[bytes]]

RECORD_BYTES = 8 << 10
# RFC 8301 section 3.2: less than 1,024 bits is no signature; verifiers must know up to 4,096.
KEY_BITS = range(1024, 8193)
LARGEST_EXPONENT = 1 << 32


class NameServersFailed(Exception):
    """No name server answered in time, or none is configured: to be tried again, or for a person to mend."""


class BadKey(Exception):
    """There is no such key, or none that this signature may use; the sentence holds nothing of the record."""


class NameServers:
    """Asks the name servers at `addresses`, or those of the system; made ready at the first question."""

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._addresses = list(addresses)
        self._resolver: dns.resolver.Resolver | None = None

    def __call__(self, name: str, timeout: float) -> list[bytes]:
        """Return the TXT records of a name, none if it has none or is no name.

        Raises:
            NameServersFailed: there was no answer within `timeout` seconds.
        """
        try:
            if self._resolver is None:
                self._resolver = dns.resolver.Resolver(configure=not self._addresses)
                if self._addresses:
                    self._resolver.nameservers = self._addresses
            answer = self._resolver.resolve(
                name, "TXT", lifetime=timeout, search=False, raise_on_no_answer=False
            )
            return [b"".join(record.strings) for record in answer.rrset or ()]
        except (
            dns.resolver.NoNameservers,
            dns.resolver.NoResolverConfiguration,
            dns.exception.Timeout,
            OSError,
        ) as error:
            raise NameServersFailed(
                f"the name servers did not answer ({type(error).__name__}); see to them, or set TEMPORARY=note"
            ) from error
        except (dns.exception.DNSException, ValueError):
            return []


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may be used: dkimpy's form of it, its kind and size, and the flags of its record."""

    parsed: Any
    kind: bytes
    bits: int
    is_testing: bool
    is_strict: bool


class Keys:
    """The keys that one message needs: each is asked for once, and all together may take so many seconds."""

    def __init__(
        self, lookup: Lookup, *, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self._deadline = clock() + seconds
        self._records: dict[str, bytes] = {}

    def find(self, selector: bytes, domain: bytes, algorithm: bytes) -> Key:
        """Return the key of a signer for a signature made with `algorithm`.

        Raises:
            NameServersFailed: there was no answer in the time that is left.
            BadKey: there is no key, or it may not be used for this.
        """
        return read_key(self._record(selector, domain), algorithm)

    def _record(self, selector: bytes, domain: bytes) -> bytes:
        try:
            name = (selector + b"._domainkey." + domain).decode("utf-8").rstrip(".").lower() + "."
        except UnicodeDecodeError:
            raise BadKey("domain or selector is no name") from None
        if name not in self._records:
            left = self._deadline - self._clock()
            if left <= 0:
                raise NameServersFailed("the time for the keys of this message is over; see TIMEOUT")
            records = self._lookup(name, left)
            # RFC 6376 section 3.6.2.2 leaves open which of several counts; a policy record beside it is none.
            keys = [record for record in records if b"p=" in record.replace(b" ", b"")]
            self._records[name] = keys[0] if keys else b""
        return self._records[name]


def read_key(record: bytes, algorithm: bytes) -> Key:
    """Read a key record (RFC 6376 section 3.6.1, RFC 8463) for a signature made with `algorithm`.

    Raises:
        BadKey: it is none, or may not be used for this.
    """
    if not record:
        raise BadKey("there is no key under this name")
    if len(record) > RECORD_BYTES:
        raise BadKey("the key record is too large")
    try:
        tags: dict[bytes, bytes] = dkim.util.parse_tag_value(record)
    except dkim.util.InvalidTagValueList:
        raise BadKey("the key record cannot be read") from None
    kind = tags.get(b"k", b"rsa")
    wanted, _, hash_name = algorithm.partition(b"-")
    services = {service.strip() for service in tags.get(b"s", b"*").split(b":")}
    hashes = {name.strip() for name in tags.get(b"h", hash_name).split(b":")}
    flags = {flag.strip() for flag in tags.get(b"t", b"").split(b":")}
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise BadKey("the key record has an unknown version")
    if not tags.get(b"p"):
        raise BadKey("the key was revoked")
    if kind != wanted or hash_name not in hashes:
        raise BadKey("the key is for other algorithms")
    if not services & {b"*", b"email"}:
        raise BadKey("the key is not for mail")
    parsed, bits = _public_key(kind, tags[b"p"])
    return Key(parsed, kind, bits, is_testing=b"y" in flags, is_strict=b"s" in flags)


def _public_key(kind: bytes, text: bytes) -> tuple[Any, int]:
    try:
        data = base64.b64decode(b"".join(text.split()), validate=True)
        if kind == b"ed25519":
            import nacl.signing

            return nacl.signing.VerifyKey(data), 256
        key = dkim.crypto.parse_public_key(data)
    # The library raises what its parser happens to meet.
    except (
        binascii.Error,
        ValueError,
        TypeError,
        LookupError,
        AssertionError,
        dkim.crypto.UnparsableKeyError,
    ):
        raise BadKey("the key cannot be read") from None
    bits: int = key["modulus"].bit_length()
    if bits not in KEY_BITS or not 3 <= key["publicExponent"] < LARGEST_EXPONENT:
        raise BadKey(f"a key of {bits} bits, or with this exponent, is not used")
    return key, bits
