"""Signs tokens with an RSA key that lives as long as the process, and reads its own tokens back.

Tokens are JSON Web Tokens (RFC 7519), signed RS256. Expiry is not judged here: time belongs to the caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

KEY_ID = "demo-1"


class Signer:
    """One signing key. Making it takes some 50 ms of computing, and nothing else."""

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public = self._private.public_key()

    def sign(self, claims: Mapping[str, object]) -> str:
        """A signed token that states `claims`."""
        return jwt.encode(dict(claims), self._private, algorithm="RS256", headers={"kid": KEY_ID})

    def read(self, token: str) -> dict[str, Any] | None:
        """The claims of a token that this key signed, or None for any other text."""
        unjudged = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
        try:
            claims: dict[str, Any] = jwt.decode(token, self._public, algorithms=["RS256"], options=unjudged)  # type: ignore[arg-type]
        except jwt.InvalidTokenError:
            return None
        return claims

    def key_set(self) -> dict[str, object]:
        """The public key as a JSON Web Key Set (RFC 7517 section 5)."""
        key = json.loads(RSAAlgorithm.to_jwk(self._public))
        return {"keys": [{**key, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]}
