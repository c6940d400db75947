"""How Entra says no: the AADSTS numbers, OAuth errors and bodies that clients of the real one meet.

Only the refusals that the local provider can give are listed. The numbers follow Microsoft's page "Microsoft Entra
authentication and authorization error codes"; the body follows its page on the token endpoint's error response.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Reason:
    """One way of saying no: AADSTS number, OAuth 2.0 error, HTTP status, sentence and suberror."""

    number: int
    error: str
    status: int
    sentence: str
    suberror: str = ""


# Device authorization, RFC 8628 section 3.5.
PENDING = Reason(70016, "authorization_pending", 400, "Authorization is pending. Continue polling.")
DECLINED = Reason(70018, "authorization_declined", 400, "The user declined the sign-in.")
DEVICE_EXPIRED = Reason(70020, "expired_token", 400, "The device code has expired.")
DEVICE_UNKNOWN = Reason(70019, "bad_verification_code", 400, "The device code is not known.")
# Grants, RFC 6749 section 5.2.
REVOKED = Reason(50173, "invalid_grant", 400, "The grant has been revoked; sign in again.", "bad_token")
USED = Reason(70008, "invalid_grant", 400, "The grant has expired or was used before.", "bad_token")
UNKNOWN_GRANT = Reason(70000, "invalid_grant", 400, "The provided grant is not valid.")
IDLE = Reason(700082, "invalid_grant", 400, "The refresh token has expired due to inactivity.", "bad_token")
CODE_USED = Reason(54005, "invalid_grant", 400, "The authorization code was already redeemed.")
WRONG_VERIFIER = Reason(501481, "invalid_grant", 400, "The code_verifier does not match the code_challenge.")
NO_CONSENT = Reason(65001, "invalid_grant", 400, "The user has not consented to this.", "consent_required")
CANCELLED = Reason(65004, "access_denied", 400, "The user declined to consent.")
# What a tenant or an account gets into: sign-in stops, or stops working.
MFA = Reason(50076, "interaction_required", 400, "Multi-factor authentication is required.", "basic_action")
POLICY = Reason(53003, "interaction_required", 400, "Blocked by Conditional Access policies.", "message_only")
LOCKED = Reason(50053, "invalid_grant", 400, "The account is locked: too many wrong sign-ins.")
DISABLED = Reason(50057, "invalid_grant", 400, "The user account is disabled.")
ADMIN_CONSENT = Reason(90094, "invalid_grant", 400, "An administrator must consent.", "consent_required")
LOOP = Reason(50196, "invalid_grant", 400, "A loop was encountered: the same request came too often.")
# Clients and requests.
UNKNOWN_CLIENT = Reason(700016, "unauthorized_client", 400, "The application was not found in the directory.")
WRONG_SECRET = Reason(7000215, "invalid_client", 401, "Invalid client secret provided.")
EXPIRED_SECRET = Reason(7000222, "invalid_client", 401, "The provided client secret keys are expired.")
NO_SECRET = Reason(
    7000218, "invalid_client", 401, "The request must contain client_assertion or client_secret."
)
PUBLIC_CLIENT = Reason(
    700025, "invalid_client", 401, "The client is public: no client_assertion or client_secret, please."
)
# Client assertions, RFC 7523.
MALFORMED_ASSERTION = Reason(50027, "invalid_request", 400, "The JWT is invalid or malformed.")
WRONG_SIGNATURE = Reason(700027, "invalid_client", 401, "The client assertion has an invalid signature.")
WRONG_TIME = Reason(700024, "invalid_client", 401, "The client assertion is not within its valid time range.")
WRONG_AUDIENCE = Reason(700023, "invalid_client", 401, "The client assertion is for another audience.")
WRONG_SUBJECT = Reason(700021, "invalid_client", 401, "The client assertion is about another application.")
NOT_FEDERATED = Reason(70025, "invalid_client", 401, "The client has no federated identity credentials.")
UNKNOWN_ISSUER = Reason(700211, "invalid_client", 401, "No federated identity record has this issuer.")
UNKNOWN_AUDIENCE = Reason(700212, "invalid_client", 401, "No federated identity record has this audience.")
UNKNOWN_SUBJECT = Reason(700213, "invalid_client", 401, "No federated identity record has this subject.")
NOT_DEFAULT = Reason(1002012, "invalid_scope", 400, "The scope of client credentials must end in /.default.")
WRONG_SCOPE = Reason(70011, "invalid_scope", 400, "The provided scope is not valid.")
UNKNOWN_RESOURCE = Reason(500011, "invalid_resource", 400, "The resource principal was not found.")
UNKNOWN_TENANT = Reason(90002, "invalid_tenant", 400, "The tenant was not found.")
WRONG_REDIRECT = Reason(50011, "invalid_request", 400, "The redirect URI is not one of this application.")
NO_CHALLENGE = Reason(9002325, "invalid_request", 400, "A code_challenge with the method S256 is required.")
UNKNOWN_GRANT_TYPE = Reason(70003, "unsupported_grant_type", 400, "The grant type is not supported.")

BY_NAME = {name: value for name, value in globals().items() if isinstance(value, Reason)}
"""Every reason by the name it has here, for answers that are staged by name."""


class EntraRefusal(Exception):
    """The identity provider says no, for `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"AADSTS{reason.number}")
        self.reason = reason


def describe(reason: Reason, *, now: float, correlation_id: str | None = None) -> dict[str, object]:
    """The JSON body of a refusal, in the shape of Entra's token endpoint.

    Args:
        reason: What is said.
        now: Seconds since the epoch.
        correlation_id: The client's `client-request-id`, echoed; a new one when the client sent none.
    """
    timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    trace_id, correlation = str(uuid4()), correlation_id or str(uuid4())
    body: dict[str, object] = {
        "error": reason.error,
        "error_description": f"AADSTS{reason.number}: {reason.sentence} Trace ID: {trace_id} "
        f"Correlation ID: {correlation} Timestamp: {timestamp}",
        "error_codes": [reason.number],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation,
        "error_uri": f"https://login.microsoftonline.com/error?code={reason.number}",
    }
    if reason.suberror:
        body["suberror"] = reason.suberror
    return body
