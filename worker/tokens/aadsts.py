"""What Microsoft Entra's error numbers mean, for people. Help only: nothing decides on a number, because they change.

The sentences follow Microsoft's page "Microsoft Entra authentication and authorization error codes".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

_PASSWORD = "a new password, or an administrator, has ended every sign-in from before"  # noqa: S105  (a sentence)
_MFA = "the tenant asks for another factor"
_POLICY = "a conditional access policy of the tenant does not allow this sign-in"
_CONSENT = "an administrator has to consent to the application's permissions"
_MOMENT = "Entra has a trouble of its own; it usually passes"
_AGENT = "the tenant's own servers, which check its passwords, do not answer Entra in time"
_NO_APPLICATION = "there is no such application in the tenant; check ENTRA__CLIENT_ID and ENTRA__TENANT"
_CERTIFICATE = (
    "the certificate is not one of the app registration's, or its private key does not belong to it"
)
_LOOP = "Entra saw the same request too often in a short time; tokens are not kept, which is a bug: report it"

HELP: Mapping[int, str] = MappingProxyType(
    {
        # The owner.
        65001: "the owner, or an administrator, has not consented to a permission that is asked for",
        65004: "the owner declined to consent",
        50072: _MFA,
        50074: _MFA,
        50076: _MFA,
        50078: "the other factor was given too long ago",
        50079: "the owner has to register another factor first",
        50158: "another security check of the tenant has not been passed",
        50173: _PASSWORD,
        50132: _PASSWORD,
        50133: _PASSWORD,
        50055: "the owner's password has expired",
        50144: "the owner's password has expired",
        50135: "the owner's password has to be changed, because the account is at risk",
        70000: "the grant is not valid for this application",
        70008: "the grant has expired or was used before",
        700082: "the grant was not used for 90 days",
        700084: "the redirect URI is registered as a single-page application, whose grants end after a day",
        70043: "the tenant's sign-in frequency policy ends sign-ins after a while; ask an administrator for an exception",
        50089: "the sign-in has ended",
        # An administrator.
        90094: _CONSENT,
        90095: _CONSENT,
        90008: _CONSENT,
        50005: _POLICY,
        50131: _POLICY,
        53000: "the tenant wants a managed device",
        53001: "the tenant wants a domain-joined device",
        53002: "the tenant does not allow this application on the device",
        53003: f"{_POLICY}; many tenants block the device code flow, so try `mailquay login --browser`",
        53011: "the account is blocked as being at risk",
        530032: "the tenant's security policy blocks it",
        530034: "a delegated administrator was blocked",
        530035: "the tenant's security defaults block it",
        50105: "the account is not assigned to the application",
        50057: "the account is disabled",
        50034: "there is no such account in the tenant",
        51004: "there is no such account in the tenant",
        50020: "the account belongs to another tenant",
        50053: "the account is locked, or signs in from a blocked address",
        700016: _NO_APPLICATION,
        700011: _NO_APPLICATION,
        70001: _NO_APPLICATION,
        7000112: "the application is disabled in the tenant",
        500011: "the tenant has no Exchange Online, or nobody consented to its permissions yet",
        65005: "the application's permissions do not list what is asked for",
        650052: "the tenant has no subscription for Exchange Online",
        650056: "the application's permissions do not list what is asked for",
        650057: "the application's permissions do not list what is asked for",
        # The operator.
        7000215: "the client secret is wrong; use the secret's value and not its id",
        7000222: "the client secret has expired; make a new one in the app registration",
        7000218: "the app registration wants a secret or a certificate, or does not allow public client flows",
        700024: "the client's assertion is outside its time; check the clock",
        700025: "the app registration is a public client, and a secret or certificate was sent",
        700027: _CERTIFICATE,
        70021: "no federated credential of the app registration matches the token",
        700213: "no federated credential of the app registration matches the token",
        50011: "the redirect URI is not one of the app registration's; add http://localhost to it",
        70011: "the scope is not valid",
        28002: "the scope is not valid",
        28003: "no scope was asked for",
        1002012: "the scope of client credentials must end in /.default",
        700022: "scopes of several resources were asked for at once",
        90002: "there is no such tenant; check ENTRA__TENANT",
        50059: "the tenant cannot be told from the request; set ENTRA__TENANT",
        50194: "the application belongs to one tenant; set ENTRA__TENANT",
        90124: "the address for all tenants does not serve what is asked for; set ENTRA__TENANT to the tenant itself",
        9001023: "this grant wants ENTRA__TENANT to be a tenant of its own, organizations or consumers",
        9002332: "the application is for personal accounts; set ENTRA__TENANT=consumers",
        90038: "the tenant is in another cloud; set ENTRA__CLOUD",
        900382: "the tenant is in another cloud; set ENTRA__CLOUD",
        900432: "the tenant is in another cloud; set ENTRA__CLOUD",
        # Nobody.
        50033: _MOMENT,
        50087: _MOMENT,
        50088: _MOMENT,
        90006: _MOMENT,
        90012: _MOMENT,
        90024: _MOMENT,
        90033: _MOMENT,
        90090: _MOMENT,
        70012: _MOMENT,
        80001: _AGENT,
        80002: _AGENT,
        80005: _AGENT,
        80014: _AGENT,
        90055: "Entra throttles the tenant",
        # Us.
        50196: _LOOP,
        54005: "the code was used before",
    }
)


def help_for(codes: Iterable[object]) -> str:
    """The first sentence that is known for these numbers, or an empty text."""
    return next((HELP[code] for code in codes if isinstance(code, int) and code in HELP), "")
