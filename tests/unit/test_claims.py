"""What tokens say: for whom a provider vouches, and why a mail server may refuse a token."""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace
from typing import Any

import orjson
import pytest

from worker.errors import NeedsSignIn
from worker.tokens import Registration
from worker.tokens.claims import Wanted, decoded, misfits, vouched_name

ALICE = "alice@contoso.com"
NOW = 1_900_000_000.0
CLIENT = "11111111-2222-3333-4444-555555555555"
TENANT_ID = "aaaaaaaa-8888-7777-6666-555555555555"

ENTRA = Registration(
    "entra",
    CLIENT,
    "https://login.microsoftonline.com/contoso.onmicrosoft.com",
    ("upn", "preferred_username"),
)
GOOGLE = Registration("google", CLIENT, "https://accounts.google.com", ("email",))
OIDC = Registration("oidc", CLIENT, "https://id.example:8443/realms/mail", ("preferred_username",))
SAID: dict[str, dict[str, Any]] = {
    "entra": {"preferred_username": ALICE, "iss": f"https://login.microsoftonline.com/{TENANT_ID}/v2.0"},
    "google": {"email": ALICE, "email_verified": True, "iss": "https://accounts.google.com"},
    "oidc": {"preferred_username": ALICE, "iss": "https://id.example:8443/realms/mail"},
}
REGISTRATIONS = [ENTRA, GOOGLE, OIDC]


def id_token(registration: Registration, **claims: Any) -> dict[str, Any]:
    """The claims of a good id token, and these; None takes one away."""
    found = {"aud": CLIENT, "exp": NOW + 3600, "nbf": NOW - 300, **SAID[registration.name], **claims}
    return {name: value for name, value in found.items() if value is not None}


def name_in(registration: Registration, **claims: Any) -> str:
    return vouched_name(registration, id_token(registration, **claims), now=NOW)


def objection(registration: Registration, **claims: Any) -> str:
    with pytest.raises(NeedsSignIn, match=r"nothing was stored$") as caught:
        name_in(registration, **claims)
    return caught.value.sentence


# -- who signed in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("registration", REGISTRATIONS, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"aud": ["another", CLIENT]},
        {"nbf": None},
        # Five minutes between two clocks.
        {"exp": NOW - 299},
        {"nbf": NOW + 299},
        {"exp": int(NOW) + 1},
    ],
)
def test_a_good_id_token_vouches_for_a_name(registration: Registration, claims: dict[str, Any]) -> None:
    """Of every kind of provider."""
    assert name_in(registration, **claims) == ALICE


@pytest.mark.parametrize("registration", REGISTRATIONS, ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "another"}, "for another application"),
        ({"aud": ["another", "one more"]}, "for another application"),
        ({"aud": [[CLIENT]]}, "for another application"),
        ({"aud": f"{CLIENT}0"}, "for another application"),
        ({"aud": []}, "for another application"),
        ({"aud": None}, "for another application"),
        ({"exp": NOW - 301}, "out of its time; check the clock"),
        ({"exp": None}, "out of its time"),
        ({"exp": str(int(NOW + 3600))}, "out of its time"),
        ({"exp": [NOW]}, "out of its time"),
        ({"exp": 10**400}, "out of its time"),
        ({"exp": float("nan")}, "out of its time"),
        ({"nbf": NOW + 301}, "out of its time"),
    ],
)
def test_an_id_token_of_something_else_vouches_for_nobody(
    registration: Registration, claims: dict[str, Any], words: str
) -> None:
    """MSAL leaves all of this to its callers; the sentence says what was wrong and shows no name."""
    sentence = objection(registration, **claims)

    assert words in sentence
    assert ALICE not in sentence


@pytest.mark.parametrize(
    ("registration", "issuer", "good"),
    [
        (OIDC, "https://id.example:8443/realms/mail", True),
        # Auth0 writes a slash behind it, and discovery takes both.
        (OIDC, "https://id.example:8443/realms/mail/", True),
        (OIDC, "https://id.example/realms/mail", False),
        (OIDC, "https://id.example:8443.evil.example/realms/mail", False),
        (OIDC, "https://evil.example/https://id.example:8443/", False),
        (OIDC, "https://id.example:8443@evil.example/realms/mail", False),
        (OIDC, "id.example:8443", False),
        (OIDC, "https:///id.example:8443", False),
        (OIDC, "", False),
        (OIDC, None, False),
        # Google's page on OpenID Connect allows it without the scheme.
        (GOOGLE, "accounts.google.com", True),
        (GOOGLE, "https://accounts.google.com.evil.example", False),
        (GOOGLE, "accounts.google.com.evil.example", False),
        (GOOGLE, "evil.example/accounts.google.com", False),
        # Entra's issuer has the tenant's id where the authority has its name, and another host in some clouds.
        (ENTRA, f"https://sts.windows.net/{TENANT_ID}/", True),
        (ENTRA, None, True),
    ],
)
def test_the_issuer_is_the_one_that_was_asked(
    registration: Registration, issuer: str | None, good: bool
) -> None:
    """A provider that hands on the id token of another one vouches for nothing."""
    if good:
        assert name_in(registration, iss=issuer) == ALICE
    else:
        assert "of another issuer" in objection(registration, iss=issuer)


@pytest.mark.parametrize("authority", [TENANT_ID, TENANT_ID.upper(), f"{TENANT_ID}/"])
def test_a_tenant_that_is_known_by_its_id_is_the_one_that_vouches(authority: str) -> None:
    """Another tenant can give its people any name. Behind a domain's name or `organizations` the id is not known."""
    ours = replace(ENTRA, authority=f"https://login.microsoftonline.com/{authority}")

    assert name_in(ours, tid=TENANT_ID) == ALICE
    for tenant in (None, "", CLIENT, f"{TENANT_ID}0"):
        assert "of another tenant" in objection(ours, tid=tenant)
        assert name_in(ENTRA, tid=tenant) == ALICE


def test_without_an_id_token_nobody_is_vouched_for() -> None:
    """A provider that was not asked for one, or has none."""
    for registration in REGISTRATIONS:
        with pytest.raises(NeedsSignIn, match=r"gave no id token.*nothing was stored"):
            vouched_name(registration, {}, now=NOW)


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"upn": "upn@contoso.com"}, "upn@contoso.com"),
        ({"upn": ""}, ALICE),
        ({"upn": None, "preferred_username": "other@contoso.com"}, "other@contoso.com"),
        # Whoever may edit a profile may write any address there.
        ({"email": "boss@contoso.com", "unique_name": "boss@contoso.com"}, ALICE),
    ],
)
def test_entra_vouches_with_the_claims_that_nobody_types_in_himself(
    claims: dict[str, Any], name: str
) -> None:
    """The user principal name first; `email` and `unique_name` never."""
    assert name_in(ENTRA, **claims) == name


@pytest.mark.parametrize(
    ("registration", "missing"),
    [
        (ENTRA, "it gives no upn or preferred_username"),
        (GOOGLE, "it gives no email"),
        (OIDC, "it gives no preferred_username"),
    ],
    ids=lambda one: one.name if isinstance(one, Registration) else "",
)
def test_an_id_token_without_a_name_says_which_claim_is_missing(
    registration: Registration, missing: str
) -> None:
    """The operator sets OIDC__USERNAME_CLAIM, or lets the provider put the claim in."""
    for value in (None, "", 0, []):
        claims = dict.fromkeys(registration.username_claims, value)
        assert missing in objection(registration, **{"sub": "someone", "name": ALICE, **claims})


@pytest.mark.parametrize("said", [False, "false", 0])
def test_an_address_that_the_provider_has_not_verified_is_nobodys(said: object) -> None:
    """Anybody may type it into his profile; some providers write the boolean as text."""
    by_address = replace(OIDC, username_claims=("email",))
    for registration in (GOOGLE, by_address):
        assert "has not verified the address" in objection(registration, email=ALICE, email_verified=said)


@pytest.mark.parametrize("said", [True, "true", None])
def test_an_address_counts_where_the_provider_says_nothing_against_it(said: object) -> None:
    """Many providers have no such claim; and it is no matter of names that are not addresses."""
    assert name_in(GOOGLE, email_verified=said) == ALICE
    assert name_in(OIDC, email=ALICE, email_verified=False) == ALICE


# -- what an access token says -------------------------------------------------------------------------------------------

OUTLOOK = {"https://outlook.office.com", "https://outlook.office365.com"}
EITHER = "https://outlook.office.com or https://outlook.office365.com"
PERSON = Wanted(OUTLOOK, "IMAP.AccessAsUser.All", ALICE)
APPLICATION = Wanted(OUTLOOK, "IMAP.AccessAsApp", None)
PERSONS = {
    "aud": "https://outlook.office.com",
    "scp": "IMAP.AccessAsUser.All POP.AccessAsUser.All",
    "exp": NOW + 3600,
    "upn": ALICE,
    "idtyp": "user",
}
APPLICATIONS = {
    "aud": "https://outlook.office365.com",
    "roles": ["POP.AccessAsApp", "IMAP.AccessAsApp"],
    "exp": NOW + 3600,
    "idtyp": "app",
}


def encoded(payload: bytes) -> str:
    """A JSON Web Token with this payload, and a signature of nobody."""
    parts = (b'{"alg":"RS256"}', payload, secrets.token_bytes(32))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def wrong(wanted: Wanted, **claims: Any) -> list[str]:
    """What does not fit when a good token also says these claims; None takes one away."""
    good = PERSONS if wanted.user else APPLICATIONS
    found = {name: value for name, value in {**good, **claims}.items() if value is not None}
    return misfits(found, wanted, now=NOW)


@pytest.mark.parametrize("claims", [{}, PERSONS, APPLICATIONS, {"name": "Zoë", "groups": ["x" * 36] * 9000}])
def test_the_claims_of_a_token_are_read(claims: dict[str, Any]) -> None:
    """Whatever its length, and whether or not base64 would want filling; the signature is not looked at."""
    for filling in ("", "x", "xx"):
        token = encoded(orjson.dumps({**claims, "f": filling}))
        assert decoded(token) == {**claims, "f": filling}


def test_a_token_that_cannot_be_read_is_opaque() -> None:
    """Google's, and those of anybody who wants it so; garbage of any size is no more than that."""
    for token in (
        "",
        ".",
        "..",
        "...",
        secrets.token_urlsafe(1000),
        f"ya29.{secrets.token_urlsafe(100)}",
        f"ya29.a0.{secrets.token_urlsafe(100)}",
        f"{encoded(b'{}')}.x.y",
        "a.b.c",
        "ä.ö.ü",
        "\x00.\x00.\x00",
        "x" * 1_000_000,
        "x." * 1_000_000,
        f"x.{'A' * 1_000_001}.x",
    ):
        assert decoded(token) is None, token[:20]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b'{"a":1}}',
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b"\xff\xfe",
        b'{"exp":NaN}',
        b'{"exp":1' + b"0" * 400 + b"}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"\x00" * 16,
    ],
    ids=lambda payload: payload[:8].hex(),
)
def test_a_payload_that_is_no_set_of_claims_is_opaque(payload: bytes) -> None:
    """Three parts make no JSON Web Token yet."""
    assert decoded(encoded(payload)) is None


@pytest.mark.parametrize(
    ("wanted", "claims"),
    [
        (PERSON, {}),
        (PERSON, {"aud": "https://outlook.office365.com/"}),
        (PERSON, {"upn": ALICE.upper()}),
        (PERSON, {"upn": None, "unique_name": ALICE}),
        (PERSON, {"upn": None, "preferred_username": ALICE}),
        # A token without a name may be anybody's.
        (PERSON, {"upn": None, "idtyp": None}),
        (PERSON, {"exp": NOW + 1}),
        (APPLICATION, {}),
        (APPLICATION, {"aud": "https://outlook.office365.com/", "idtyp": None}),
        (APPLICATION, {"roles": "IMAP.AccessAsApp"}),
    ],
)
def test_a_token_that_fits_is_not_blamed(wanted: Wanted, claims: dict[str, Any]) -> None:
    """What is wrong is then elsewhere, and nobody is sent the wrong way."""
    assert wrong(wanted, **claims) == []


@pytest.mark.parametrize(
    ("wanted", "claims", "sentence"),
    [
        (
            PERSON,
            {"aud": "https://graph.microsoft.com/"},
            f"it is for https://graph.microsoft.com/, not for {EITHER}",
        ),
        (PERSON, {"aud": None}, f"it is for nothing, not for {EITHER}"),
        (
            PERSON,
            {"scp": "Mail.Read SMTP.Send"},
            "it lacks IMAP.AccessAsUser.All (it has Mail.Read, SMTP.Send)",
        ),
        (PERSON, {"scp": "xIMAP.AccessAsUser.All"}, None),
        (PERSON, {"scp": None}, "it lacks IMAP.AccessAsUser.All (it has no permission)"),
        (PERSON, {"scp": ""}, "it lacks IMAP.AccessAsUser.All (it has no permission)"),
        (PERSON, {"scp": 7}, "it lacks IMAP.AccessAsUser.All (it has no permission)"),
        (
            PERSON,
            {"scp": None, "roles": ["IMAP.AccessAsUser.All"]},
            "it lacks IMAP.AccessAsUser.All (it has no permission)",
        ),
        (PERSON, {"exp": NOW - 60}, "it ended at 2030-03-17 17:45 UTC; check the clock"),
        (PERSON, {"exp": NOW}, "it ended at 2030-03-17 17:46 UTC; check the clock"),
        (PERSON, {"exp": None}, "it ended at 1970-01-01 00:00 UTC; check the clock"),
        (PERSON, {"exp": -1e300}, "it ended at 1970-01-01 00:00 UTC; check the clock"),
        (PERSON, {"exp": "soon"}, "it ended at 1970-01-01 00:00 UTC; check the clock"),
        (PERSON, {"upn": "bob@contoso.com"}, f"it is bob@contoso.com's, not {ALICE}'s"),
        (PERSON, {"upn": None, "unique_name": "bob@contoso.com"}, f"it is bob@contoso.com's, not {ALICE}'s"),
        (PERSON, {"idtyp": "app"}, "it is an application's and not a person's"),
        (
            APPLICATION,
            {"roles": ["POP.AccessAsApp"]},
            "it lacks IMAP.AccessAsApp (it has POP.AccessAsApp)",
        ),
        (APPLICATION, {"roles": None}, "it lacks IMAP.AccessAsApp (it has no permission)"),
        (
            APPLICATION,
            {"roles": None, "scp": "IMAP.AccessAsApp"},
            "it lacks IMAP.AccessAsApp (it has no permission)",
        ),
        (APPLICATION, {"roles": {"a": "IMAP.AccessAsApp"}}, None),
        (APPLICATION, {"roles": True}, None),
    ],
)
def test_each_thing_that_does_not_fit_is_said_alone(
    wanted: Wanted, claims: dict[str, Any], sentence: str | None
) -> None:
    """Exchange says only that it refuses; this is all that a person has to go by."""
    found = wrong(wanted, **claims)

    assert len(found) == 1
    assert sentence in (None, found[0])
    assert found[0][-1] != "."


def test_everything_that_does_not_fit_is_said_together() -> None:
    """The token of an application for Graph, at a mailbox that a person should open; and the other way round."""
    graphs = {"aud": "https://graph.microsoft.com", "exp": NOW - 60}

    assert [sentence.split()[1:3] for sentence in misfits({**APPLICATIONS, **graphs}, PERSON, now=NOW)] == [
        ["is", "for"],
        ["lacks", "IMAP.AccessAsUser.All"],
        ["ended", "at"],
        ["is", "an"],
    ]
    bobs = {**PERSONS, **graphs, "scp": "Mail.Read", "upn": "bob@contoso.com"}
    assert len(misfits(bobs, PERSON, now=NOW)) == 4
    # A person's name does not matter where no person is wanted.
    assert len(misfits(bobs, APPLICATION, now=NOW)) == 3


def test_nothing_that_is_said_holds_the_token() -> None:
    """Neither whole nor in part, nor claims that nobody needs for a diagnosis (P7)."""
    identifier = secrets.token_urlsafe(24)
    claims = {"aud": "x", "exp": 1, "upn": "bob@contoso.com", "idtyp": "app", "uti": identifier}
    token = encoded(orjson.dumps(claims))
    read = decoded(token)
    assert read is not None

    found = " ".join(misfits(read, PERSON, now=NOW))

    assert len(misfits(read, PERSON, now=NOW)) == 5
    assert identifier not in found
    assert not any(part[:16] in found for part in token.split("."))
    refused = objection(OIDC, aud="another", at_hash=identifier, nonce=identifier)
    assert identifier not in refused
