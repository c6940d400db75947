"""What a NATS credentials file holds, and the signature by which its user signs in.

The file (`.creds`) has a user's JWT and an nkey seed, each between two lines of dashes. A seed is base32 of two octets
that say what it is, 32 octets of an Ed25519 key, and two of a CRC-16; the server sends a nonce and gets it back signed.
"""

from __future__ import annotations

import base64
import binascii
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr
from pydantic_core import PydanticCustomError

_BLOCK = re.compile(r"-+BEGIN ([A-Z ]+)-+\s+(\S+)\s+-+END \1-+")
_SEED_OCTETS = 36


class Credentials:
    """A user: `jwt` says who he is and what he may do."""

    def __init__(self, jwt: str, key: Ed25519PrivateKey) -> None:
        """Remember both."""
        self.jwt = jwt
        self._key = key

    def sign(self, nonce: str) -> bytes:
        """Return the signature of what the server sent, in base64."""
        return base64.b64encode(self._key.sign(nonce.encode()))


def read_credentials(text: SecretStr) -> Credentials:
    """Read the text of a credentials file.

    Raises:
        PydanticCustomError: it is none; the sentence does not show it.
    """
    blocks = dict(_BLOCK.findall(text.get_secret_value()))
    jwt, seed = blocks.get("NATS USER JWT"), blocks.get("USER NKEY SEED", "")
    try:
        octets = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        octets = b""
    if (
        jwt is None
        or len(octets) != _SEED_OCTETS
        or binascii.crc_hqx(octets[:-2], 0) != int.from_bytes(octets[-2:], "little")
    ):
        raise PydanticCustomError(
            "nats_credentials", "write what a credentials file (.creds) holds: a user's JWT and seed"
        )
    return Credentials(jwt, Ed25519PrivateKey.from_private_bytes(octets[2:-2]))
