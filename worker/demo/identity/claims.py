"""What the tokens of the local identity provider say, claim by claim, in the shapes that Entra uses.

Pure: the caller brings the time and signs the result. Times are whole seconds since the epoch.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from uuid import NAMESPACE_DNS, uuid4, uuid5

from worker.demo.identity.scopes import Scopes


def object_id(name: str) -> str:
    """The stable id (`oid`, `tid`) of a person or a tenant."""
    return str(uuid5(NAMESPACE_DNS, name))


def access_claims(
    *, client_id: str, tenant_id: str, audience: str, now: int, lifetime: int
) -> dict[str, object]:
    """What every access token says; Exchange's are version 1 tokens."""
    return {
        "aud": audience,
        "iss": f"https://sts.windows.net/{tenant_id}/",
        "iat": now,
        "nbf": now,
        "exp": now + lifetime,
        "appid": client_id,
        "tid": tenant_id,
        "uti": uuid4().hex,
        "ver": "1.0",
    }


def user_claims(upn: str, scopes: Scopes) -> dict[str, object]:
    """What an access token adds about the person who signed in, and what the application may do for them."""
    return {"upn": upn, "unique_name": upn, "oid": object_id(upn), "scp": " ".join(scopes.permissions)}


def app_claims(roles: tuple[str, ...]) -> dict[str, object]:
    """What an app-only access token adds."""
    return {"idtyp": "app", "roles": list(roles)}


def id_claims(
    *, client_id: str, tenant_id: str, issuer: str, upn: str, nonce: str | None, now: int, lifetime: int
) -> dict[str, object]:
    """What an id token says (OpenID Connect Core section 2, and Entra's `oid`, `tid`, `preferred_username`)."""
    claims: dict[str, object] = {
        "aud": client_id,
        "iss": issuer,
        "iat": now,
        "nbf": now,
        "exp": now + lifetime,
        "name": upn.partition("@")[0].title(),
        "preferred_username": upn,
        "oid": object_id(upn),
        "sub": object_id(f"{client_id}:{upn}"),
        "tid": tenant_id,
        "ver": "2.0",
    }
    return {**claims, "nonce": nonce} if nonce else claims


def client_info(upn: str, tenant_id: str) -> str:
    """What MSAL builds an account's id from: the ids of the person and the tenant, as base64url JSON."""
    text = json.dumps({"uid": object_id(upn), "utid": tenant_id})
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
