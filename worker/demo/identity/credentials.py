"""How an application proves that it is itself: by a secret, by a certificate, or by another issuer's token.

Pure: the caller brings the time. As with Entra an assertion may be shown again while it lasts, as MSAL does for nine
minutes; its `jti` is not remembered.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate

from worker.demo.identity import refusals
from worker.demo.identity.grants import Application
from worker.demo.identity.refusals import EntraRefusal, Reason

# What Microsoft's page "Application authentication certificate credentials" names; RS256 is the older one.
ALGORITHMS = ["PS256", "RS256"]
THUMBPRINTS = {"x5t#S256": hashes.SHA256(), "x5t": hashes.SHA1()}
_UNJUDGED = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client showed: a secret (RFC 6749 section 2.3.1), an assertion (RFC 7523 section 2.2), or nothing."""

    secret: str = field(default="", repr=False)
    assertion: str = field(default="", repr=False)


def check_proof(application: Application, proof: Proof, *, audience: str, now: float) -> None:
    """Return if `proof` is good for `application`.

    Args:
        application: The one that the client says it is; a public one has nothing to prove.
        proof: What came with the request; an assertion counts before a secret.
        audience: The token endpoint's address as the client reached it; the application's own assertions must name it.
        now: Seconds since the epoch.

    Raises:
        EntraRefusal: The proof is missing, wrong or out of date, or a public application showed one.
    """
    if not application.confidential:
        _require(not (proof.secret or proof.assertion), refusals.PUBLIC_CLIENT)
    elif proof.assertion:
        _check_assertion(application, proof.assertion, audience=audience, now=now)
    else:
        _check_secret(application, proof.secret, now=now)


def _check_secret(application: Application, secret: str, *, now: float) -> None:
    _require(secret, refusals.NO_SECRET)
    _require(
        application.secret is not None
        and secrets.compare_digest(application.secret.encode(), secret.encode()),
        refusals.WRONG_SECRET,
    )
    expires_at = application.secret_expires_at
    _require(expires_at is None or now < expires_at, refusals.EXPIRED_SECRET)


def _check_assertion(application: Application, assertion: str, *, audience: str, now: float) -> None:
    """An assertion by the application itself is signed with its certificate; any other is a federated one."""
    try:
        unproved = jwt.decode_complete(assertion, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise EntraRefusal(refusals.MALFORMED_ASSERTION) from error
    if unproved["payload"].get("iss") == application.client_id:
        certificate = _certificate_of(application, unproved["header"])
        _require(now < certificate.not_valid_after_utc.timestamp(), refusals.WRONG_SIGNATURE)
        claims = _verified(assertion, certificate.public_key(), now=now)
        _require(claims.get("aud") == audience, refusals.WRONG_AUDIENCE)
        _require(claims.get("sub") == application.client_id, refusals.WRONG_SUBJECT)
    else:
        _check_federated(application, assertion, unproved["payload"].get("iss"), now=now)


def _check_federated(application: Application, assertion: str, issuer: object, *, now: float) -> None:
    """Issuer, audience and subject must be those of one credential, letter by letter."""
    _require(application.federated, refusals.NOT_FEDERATED)
    known = [credential for credential in application.federated if credential.issuer == issuer]
    _require(known, refusals.UNKNOWN_ISSUER)
    claims = _verified(assertion, known[0].public_key, now=now)
    known = [credential for credential in known if credential.audience == claims.get("aud")]
    _require(known, refusals.UNKNOWN_AUDIENCE)
    known = [credential for credential in known if credential.subject == claims.get("sub")]
    _require(known, refusals.UNKNOWN_SUBJECT)


def _certificate_of(application: Application, header: Mapping[str, Any]) -> Certificate:
    """The certificate that a JWT's header names by its thumbprint (RFC 7515 sections 4.1.7 and 4.1.8)."""
    for certificate in application.certificates:
        for name, algorithm in THUMBPRINTS.items():
            thumbprint = urlsafe_b64encode(certificate.fingerprint(algorithm)).rstrip(b"=").decode()
            # MSAL leaves the padding on.
            if str(header.get(name)).rstrip("=") == thumbprint:
                return certificate
    raise EntraRefusal(refusals.WRONG_SIGNATURE)


def _verified(assertion: str, key: Any, *, now: float) -> dict[str, Any]:
    """The claims of an assertion that `key` signed and whose time has come and not gone."""
    assert isinstance(key, RSAPublicKey)
    try:
        claims: dict[str, Any] = jwt.decode(assertion, key, algorithms=ALGORITHMS, options=_UNJUDGED)  # type: ignore[arg-type]
    except jwt.InvalidTokenError as error:
        raise EntraRefusal(refusals.WRONG_SIGNATURE) from error
    _require(claims.get("nbf", 0) <= now < claims.get("exp", 0), refusals.WRONG_TIME)
    return claims


def _require(good: object, reason: Reason) -> None:
    if not good:
        raise EntraRefusal(reason)
