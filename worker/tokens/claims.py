"""What tokens say: who signed in, and whether an access token fits what a mail server needs. Pure.

An id token came straight from the token endpoint over a checked connection, so its signature says nothing more (OpenID
Connect Core section 3.1.3.7); its audience, issuer and time are compared, which MSAL leaves to its callers. An access token is
read for a diagnosis only: it is the mail server's business, and many providers' are opaque.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from worker.errors import NeedsSignIn
from worker.tokens import Registration

_CLOCK_SECONDS = 300
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def vouched_name(registration: Registration, claims: Mapping[str, Any], *, now: float) -> str:
    """The name under which the provider vouches for whoever signed in.

    Raises:
        NeedsSignIn: the id token names nobody, is for another application, of another issuer, or out of its time.
    """
    objection = _objection(registration, claims, now)
    name = next((str(claims[claim]) for claim in registration.username_claims if claims.get(claim)), "")
    unverified = claims.get("email_verified") in (False, "false")
    if not objection and "email" in registration.username_claims and unverified:
        # An address that anybody may type into his profile is not his (OpenID Connect Core section 5.7). Some providers
        # write the boolean as text.
        objection = "says that it has not verified the address"
    if not objection and not name:
        objection = f"does not say who signed in (it gives no {' or '.join(registration.username_claims)})"
    if objection:
        raise NeedsSignIn(f"the identity provider {objection}; nothing was stored")
    return name


def _objection(registration: Registration, claims: Mapping[str, Any], now: float) -> str:
    if not claims:
        return "gave no id token, so nobody knows who signed in"
    audience = claims.get("aud")
    if registration.client_id not in (audience if isinstance(audience, list) else [audience]):
        return "gave an id token that is for another application"
    if _number(claims.get("exp")) < now - _CLOCK_SECONDS or _number(claims.get("nbf")) > now + _CLOCK_SECONDS:
        return "gave an id token that is out of its time; check the clock"
    # Entra's issuer holds the tenant's id where the authority may hold its name, so only the rest can be compared.
    ours, theirs = urlsplit(registration.authority), urlsplit(str(claims.get("iss", "")))
    # Google may leave the scheme out (its page on OpenID Connect).
    if registration.name != "entra" and ours.netloc not in {theirs.netloc, theirs.path}:
        return "gave an id token of another issuer"
    tenant = ours.path.strip("/").lower()
    # The id may have been copied in capitals.
    if registration.name == "entra" and _GUID.fullmatch(tenant) and claims.get("tid") != tenant:
        return "gave an id token of another tenant"
    return ""


def _number(value: object) -> float:
    # Beyond this no number is a time, and some are none that a calendar can show.
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a mail server needs of an access token. `user` is None for an application on its own.

    `permission` has to stand in `scp` for a person, in `roles` for an application.
    """

    audiences: Collection[str]
    permission: str
    user: str | None


def decoded(token: str) -> dict[str, Any] | None:
    """The claims of a JSON Web Token (RFC 7519), unchecked; None for an opaque one."""
    parts = token.split(".")
    return _json(parts[1]) if len(parts) == 3 else None


def client_information(text: str) -> dict[str, Any] | None:
    """What Entra says of an account beside its tokens: base64url JSON with `uid` and `utid`; None for anything else."""
    found = _json(text) if text else None
    known = found and all(isinstance(found.get(key), str) for key in ("uid", "utid"))
    return found if known else None


def _json(part: str) -> dict[str, Any] | None:
    """A JSON object in base64url without padding."""
    try:
        found = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError):
        return None
    return found if isinstance(found, dict) else None


def misfits(claims: Mapping[str, Any], wanted: Wanted, *, now: float) -> list[str]:
    """Each thing in which a token is not what the server needs, as a sentence without an end. Never the token itself."""
    found = []
    audience = str(claims.get("aud", "nothing"))
    if audience.rstrip("/") not in wanted.audiences:
        found.append(f"it is for {audience}, not for {' or '.join(sorted(wanted.audiences))}")
    said = claims.get("scp") if wanted.user else claims.get("roles")
    listed = said if isinstance(said, list) else []
    permissions = said.split() if isinstance(said, str) else [str(one) for one in listed]
    if wanted.permission not in permissions:
        found.append(f"it lacks {wanted.permission} (it has {', '.join(permissions) or 'no permission'})")
    ends = _number(claims.get("exp"))
    if ends <= now:
        found.append(f"it ended at {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC; check the clock")
    user = str(claims.get("upn") or claims.get("unique_name") or claims.get("preferred_username") or "")
    if wanted.user and user and user.casefold() != wanted.user.casefold():
        found.append(f"it is {user}'s, not {wanted.user}'s")
    if wanted.user and claims.get("idtyp") == "app":
        found.append("it is an application's and not a person's")
    return found
