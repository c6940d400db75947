"""Applications prove to the local identity provider who they are: by secret, certificate or another issuer's token."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.bed.identity import APP_SCOPE, SCOPES, SUBJECT, Identity, self_signed
from worker.demo.harbour import ALICE, SUPPORT
from worker.demo.identity.routes import DEVICE_GRANT


@pytest.fixture
def session(fresh_identity: Identity) -> Any:
    with fresh_identity.session() as session:
        yield session


def ask(identity: Identity, session: requests.Session, **form: str) -> requests.Response:
    """One plain request to the token endpoint."""
    return session.post(f"{identity.authority}/oauth2/v2.0/token", data=form, timeout=5)


def pfx_file(folder: Path, pem: str) -> Path:
    """The key and the certificate of a PEM text as PKCS #12, without a password."""
    key = serialization.load_pem_private_key(pem.encode(), None)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    path = folder / "robot.pfx"
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(None, key, certificate, None, serialization.NoEncryption())  # type: ignore[arg-type]
    )
    return path


def sha1_of(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA1()).hex()


def assertion_signed_with(pem: str, identity: Identity, **extra: object) -> str:
    """What an application with that certificate shows; `extra` overrides claims."""
    now = time.time()
    claims = {
        "iss": identity.robot_id,
        "sub": identity.robot_id,
        "aud": f"{identity.authority}/oauth2/v2.0/token",
        "exp": now + 600,
    }
    certificate = x509.load_pem_x509_certificate(pem.encode())
    thumbprint = jwt.utils.base64url_encode(certificate.fingerprint(hashes.SHA256())).decode()
    key = serialization.load_pem_private_key(pem.encode(), None)
    return jwt.encode({**claims, **extra}, key, algorithm="PS256", headers={"x5t#S256": thumbprint})  # type: ignore[arg-type]


def show(identity: Identity, session: requests.Session, assertion: str) -> requests.Response:
    """Ask for an app-only token with an assertion."""
    return ask(
        identity,
        session,
        grant_type="client_credentials",
        client_id=identity.robot_id,
        scope=APP_SCOPE,
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        client_assertion=assertion,
    )


def test_an_application_signs_in_with_its_secret(fresh_identity: Identity, session: requests.Session) -> None:
    """Client credentials give an app-only token for the granted mailboxes."""
    app = fresh_identity.robot_app(session)
    answer = app.acquire_token_for_client([APP_SCOPE])
    judge = fresh_identity.provider.introspect

    assert judge(answer["access_token"], mailbox=SUPPORT, service="pop3").active
    assert not judge(answer["access_token"], mailbox=ALICE, service="pop3").active


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ({"client_secret": "not it"}, 7000215),
        ({"client_secret": ""}, 7000218),
        ({"scope": "https://outlook.office365.com/IMAP.AccessAsApp"}, 1002012),
        ({"scope": "https://unknown.example/.default"}, 500011),
        ({"client_id": "nobody"}, 700016),
        ({"grant_type": "password"}, 70003),
    ],
    ids=["wrong secret", "no secret", "no .default", "unknown resource", "unknown client", "unknown grant"],
)
def test_a_wrong_request_is_refused_by_number(
    fresh_identity: Identity, session: requests.Session, form: dict[str, str], number: int
) -> None:
    """Each mistake has Entra's own number."""
    right = {
        "grant_type": "client_credentials",
        "client_id": fresh_identity.robot_id,
        "client_secret": fresh_identity.robot_secret,
        "scope": APP_SCOPE,
    }

    assert ask(fresh_identity, session, **right).status_code == 200
    assert ask(fresh_identity, session, **{**right, **form}).json()["error_codes"] == [number]


@pytest.mark.parametrize("kind", ["PEM", "PFX", "thumbprint"])
def test_an_application_signs_in_with_its_certificate(
    fresh_identity: Identity, session: requests.Session, tmp_path: Path, kind: str
) -> None:
    """MSAL signs PS256 and names the certificate by SHA-256, or RS256 and SHA-1 when it is given the thumbprint.

    It shows the same assertion for nine minutes, so once is not enough.
    """
    pem = fresh_identity.robot_certificate
    credential = {
        "PEM": {"private_key": pem, "public_certificate": pem},
        "PFX": {"private_key_pfx_path": str(pfx_file(tmp_path, pem))},
        "thumbprint": {"private_key": pem, "thumbprint": sha1_of(pem)},
    }[kind]
    app = fresh_identity.robot_app(session, credential=credential)
    answer = app.acquire_token_for_client([APP_SCOPE])
    app.remove_tokens_for_client()
    again = app.acquire_token_for_client([APP_SCOPE])

    assert fresh_identity.provider.introspect(answer["access_token"], mailbox=SUPPORT, service="imap").active
    assert again["token_source"] == "identity_provider"


def test_an_application_signs_in_with_the_token_of_a_federated_issuer(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """MSAL asks a function for it."""
    app = fresh_identity.robot_app(
        session, credential={"client_assertion": fresh_identity.federated_assertion}
    )
    answer = app.acquire_token_for_client([APP_SCOPE])

    assert fresh_identity.provider.introspect(answer["access_token"], mailbox=SUPPORT, service="smtp").active


@pytest.mark.parametrize(
    ("extra", "number"),
    [
        ({}, None),
        ({"exp": 1}, 700024),
        ({"nbf": 1 << 40}, 700024),
        ({"aud": "https://login.microsoftonline.com/common/oauth2/v2.0/token"}, 700023),
        ({"sub": "somebody else"}, 700021),
        ({"iss": "somebody else"}, 700211),
    ],
    ids=["right", "expired", "not yet", "other audience", "other subject", "other issuer"],
)
def test_a_certificates_assertion_must_be_right_in_every_claim(
    fresh_identity: Identity, session: requests.Session, extra: dict[str, object], number: int | None
) -> None:
    """Each mistake has its number; all are invalid_client."""
    answer = show(
        fresh_identity,
        session,
        assertion_signed_with(fresh_identity.robot_certificate, fresh_identity, **extra),
    )

    if number is None:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.json()["error_codes"] == [number]


def test_a_certificate_must_be_registered_and_not_be_over(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Somebody else's certificate, the right name over a wrong signature, and the robot's own after its last day."""
    other, _ = self_signed()
    foreign = assertion_signed_with(other, fresh_identity)
    own = assertion_signed_with(fresh_identity.robot_certificate, fresh_identity)
    forged = f"{own.rpartition('.')[0]}.{foreign.rpartition('.')[2]}"
    lasting = assertion_signed_with(fresh_identity.robot_certificate, fresh_identity, exp=1 << 40)

    assert show(fresh_identity, session, lasting).status_code == 200
    for later, assertion in ((0, foreign), (0, forged), (31 * 86400, lasting)):
        fresh_identity.offset = later
        assert show(fresh_identity, session, assertion).json()["error_codes"] == [700027]


@pytest.mark.parametrize(
    ("extra", "number"),
    [
        ({"iss": "https://other.example"}, 700211),
        ({"aud": "https://other.example"}, 700212),
        ({"sub": f"{SUBJECT}-2"}, 700213),
        ({"exp": 1}, 700024),
    ],
    ids=["issuer", "audience", "subject", "expired"],
)
def test_a_federated_token_must_be_the_one_that_was_registered(
    fresh_identity: Identity, session: requests.Session, extra: dict[str, object], number: int
) -> None:
    """Issuer, audience and subject letter by letter, as Entra compares them."""
    answer = show(fresh_identity, session, fresh_identity.federated_assertion(**extra))

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.json()["error_codes"] == [number]


def test_a_federated_token_must_be_signed_by_its_issuer(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """A changed one is not; an application without a federated issuer takes none; noise is no token."""
    good = fresh_identity.federated_assertion()
    forged = show(fresh_identity, session, good[:-8] + "AAAAAAAA").json()
    applications, robot = fresh_identity.provider.applications, fresh_identity.robot_id
    applications[robot] = replace(applications[robot], federated=())
    alone = show(fresh_identity, session, good).json()
    noise = show(fresh_identity, session, "noise").json()

    assert [answer["error_codes"] for answer in (forged, alone, noise)] == [[700027], [70025], [50027]]


def test_a_secret_ends_on_its_day(fresh_identity: Identity, session: requests.Session) -> None:
    """As in every registration after two years at the latest."""
    applications, robot = fresh_identity.provider.applications, fresh_identity.robot_id
    applications[robot] = replace(applications[robot], secret_expires_at=fresh_identity.now() + 60)
    before = fresh_identity.robot_app(session).acquire_token_for_client([APP_SCOPE])
    fresh_identity.offset = 61
    after = fresh_identity.robot_app(session).acquire_token_for_client([APP_SCOPE])

    assert "access_token" in before
    assert (after["error"], after["error_codes"]) == ("invalid_client", [7000222])


def test_a_confidential_application_does_not_sign_in_by_device_code(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """It gets a code, as from Entra, and then has to prove itself, which a client of this flow cannot."""
    robot = {"client_id": fresh_identity.robot_id}
    wish = {**robot, "scope": " ".join(SCOPES)}
    flow = session.post(f"{fresh_identity.authority}/oauth2/v2.0/devicecode", data=wish, timeout=5).json()
    fresh_identity.decide(flow["user_code"], ALICE)
    answer = ask(
        fresh_identity, session, grant_type=DEVICE_GRANT, device_code=flow["device_code"], **robot
    ).json()

    assert (answer["error"], answer["error_codes"]) == ("invalid_client", [7000218])


def test_a_public_application_has_nothing_to_prove(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Showing a secret for it is a mistake in the set-up."""
    form = {"grant_type": "refresh_token", "refresh_token": "any", "client_id": fresh_identity.client_id}

    assert ask(fresh_identity, session, **form, client_secret="any").json()["error_codes"] == [700025]
