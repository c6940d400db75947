"""A provider that nobody here wrote works with the real MSAL by every flow, and a real Dovecot takes its tokens."""

from __future__ import annotations

import imaplib
import poplib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msal
import pytest
import requests
from msal.oauth2cli.authcode import AuthCodeReceiver

from tests.bed.clients import imap_login, pop3_login
from tests.bed.dovecot import Dovecot
from tests.bed.identity import APP_SCOPE, SCOPES
from tests.bed.oidc_provider import OidcProvider
from worker.demo.harbour import ALICE, BOB, ORDERS, SUPPORT


@pytest.fixture
def session(oidc_provider: OidcProvider) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(oidc_provider.ca_file)
        yield session


@pytest.fixture
def app(oidc_provider: OidcProvider, session: requests.Session) -> Any:
    """MSAL's public client."""
    return msal.PublicClientApplication(
        oidc_provider.client_id, oidc_authority=oidc_provider.issuer, http_client=session
    )


@pytest.fixture
def robot(oidc_provider: OidcProvider, session: requests.Session) -> Any:
    """MSAL's confidential client."""
    return msal.ConfidentialClientApplication(
        oidc_provider.robot_id,
        client_credential=oidc_provider.robot_secret,
        oidc_authority=oidc_provider.issuer,
        http_client=session,
    )


def once(_: object) -> bool:
    """Makes MSAL poll the token endpoint one time only."""
    return True


def sign_in(provider: OidcProvider, app: Any, upn: str = ALICE) -> dict[str, Any]:
    flow = app.initiate_device_flow(scopes=list(SCOPES))
    provider.approve_device(flow["user_code"], upn)
    answer: dict[str, Any] = app.acquire_token_by_device_flow(flow, exit_condition=once)
    return answer


def answered(location: str) -> dict[str, str]:
    """The parameters that the browser was sent back with."""
    return dict(parse_qsl(urlsplit(location).query))


def refresh(provider: OidcProvider, session: requests.Session, token: str) -> requests.Response:
    form = {"grant_type": "refresh_token", "client_id": provider.client_id, "refresh_token": token}
    return session.post(f"{provider.issuer}/token", data=form, timeout=5)


@pytest.fixture(params=[imap_login, pop3_login], ids=["imap", "pop3"])
def opens(request: pytest.FixtureRequest, oidc_dovecot: Dovecot) -> Callable[[str, str], bool]:
    """Whether Dovecot opens a mailbox to a token, by each protocol."""
    login = request.param
    port = oidc_dovecot.imaps_port if login is imap_login else oidc_dovecot.pop3s_port

    def opens(mailbox: str, token: str) -> bool:
        try:
            client = login(port, oidc_dovecot.ca_file, mailbox, token)
        except (imaplib.IMAP4.error, poplib.error_proto) as refused:
            if "AUTH" not in str(refused):
                raise
            return False
        (client.logout if login is imap_login else client.quit)()
        return True

    return opens


def test_a_device_code_sign_in_opens_the_persons_mailboxes(
    oidc_provider: OidcProvider, app: Any, opens: Callable[[str, str], bool]
) -> None:
    """Pending before the person comes; afterwards a token for her mailbox and the shared one, and for no other."""
    flow = app.initiate_device_flow(scopes=list(SCOPES))
    # A copy, because MSAL warns of polling too soon.
    pending = app.acquire_token_by_device_flow(dict(flow), exit_condition=once)
    oidc_provider.approve_device(flow["user_code"], ALICE)
    answer = app.acquire_token_by_device_flow(flow, exit_condition=once)

    assert pending["error"] == "authorization_pending"
    claims = answer["id_token_claims"]
    assert {claims["upn"], claims["preferred_username"], claims["email"]} == {ALICE}
    assert claims["email_verified"] is True
    token = answer["access_token"]
    assert [opens(mailbox, token) for mailbox in (ALICE, SUPPORT, BOB, ORDERS)] == [True, True, False, False]
    assert not opens(ALICE, token[:-8] + "AAAAAAAA")


def test_a_wrong_user_code_is_no_sign_in(oidc_provider: OidcProvider) -> None:
    """The provider asks for the code again, and the person is at a loss."""
    with pytest.raises((LookupError, requests.HTTPError)):
        oidc_provider.approve_device("BBBB-BBBB", ALICE)


@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended")
def test_an_authorization_code_with_pkce_works_at_any_loopback_port_and_once(
    oidc_provider: OidcProvider, app: Any, session: requests.Session
) -> None:
    """MSAL's code flow through the provider's own pages; the same code again is refused.

    Nobody was asked for consent anew, so there is no refresh token (OpenID Connect Core section 11).
    """
    redirect = "http://localhost:5999"
    flow = app.initiate_auth_code_flow(scopes=list(SCOPES), redirect_uri=redirect)
    location = oidc_provider.authorize(flow["auth_uri"], BOB)
    answer = answered(location)
    tokens = app.acquire_token_by_auth_code_flow(dict(flow), answer)
    form = {"grant_type": "authorization_code", "client_id": oidc_provider.client_id, "code": answer["code"]}
    proof = {"redirect_uri": redirect, "code_verifier": flow["code_verifier"]}
    again = session.post(f"{oidc_provider.issuer}/token", data=form | proof, timeout=5)

    assert location.startswith(redirect)
    assert tokens["id_token_claims"]["preferred_username"] == BOB
    assert "refresh_token" not in tokens
    assert oidc_provider.verdict(tokens["access_token"], mailbox=ORDERS, service="smtp").reason.startswith(
        "the token lacks"
    )
    assert oidc_provider.verdict(tokens["access_token"], mailbox=ORDERS, service="imap").active
    assert again.json()["error"] == "invalid_grant"


def test_an_answer_by_form_post_reaches_a_listener_on_loopback(oidc_provider: OidcProvider, app: Any) -> None:
    """MSAL's own listener takes it, and thanks."""
    with AuthCodeReceiver() as receiver, ThreadPoolExecutor() as pool:
        redirect = f"http://localhost:{receiver.get_port()}"
        flow = app.initiate_auth_code_flow(
            scopes=list(SCOPES), redirect_uri=redirect, response_mode="form_post"
        )
        thanks = pool.submit(oidc_provider.authorize, flow["auth_uri"], ALICE)
        answer = receiver.get_auth_response(timeout=10, state=flow["state"])

    assert "access_token" in app.acquire_token_by_auth_code_flow(flow, answer)
    assert "Authentication complete" in thanks.result()


def test_a_refresh_token_used_twice_ends_its_session(
    oidc_provider: OidcProvider, app: Any, session: requests.Session
) -> None:
    """Each refresh brings a new refresh token; the old one again kills the newest one too (RFC 9700 section 4.14.2)."""
    first = sign_in(oidc_provider, app)
    second = app.acquire_token_silent(list(SCOPES), app.get_accounts()[0], force_refresh=True)

    assert second["access_token"] != first["access_token"]
    assert second["refresh_token"] != first["refresh_token"]
    assert refresh(oidc_provider, session, first["refresh_token"]).json()["error"] == "invalid_grant"
    assert refresh(oidc_provider, session, second["refresh_token"]).json()["error"] == "invalid_grant"


def test_an_application_opens_the_mailboxes_granted_to_it(
    robot: Any, opens: Callable[[str, str], bool]
) -> None:
    """Client credentials with the secret in the form."""
    token = robot.acquire_token_for_client([APP_SCOPE])["access_token"]

    assert opens(SUPPORT, token)
    assert not opens(ALICE, token)


@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended")
def test_a_person_signs_in_to_a_confidential_application_too(
    oidc_provider: OidcProvider, robot: Any, session: requests.Session
) -> None:
    """Its token is the person's, and the refresh token is worth nothing without the secret."""
    redirect = "http://127.0.0.1:5999"
    flow = robot.initiate_auth_code_flow(scopes=list(SCOPES), redirect_uri=redirect, prompt="consent")
    answer = answered(oidc_provider.authorize(flow["auth_uri"], ALICE))
    tokens = robot.acquire_token_by_auth_code_flow(flow, answer)
    again = robot.acquire_token_silent(list(SCOPES), robot.get_accounts()[0], force_refresh=True)
    form = {"grant_type": "refresh_token", "client_id": oidc_provider.robot_id}
    form["refresh_token"] = again["refresh_token"]
    stolen = session.post(f"{oidc_provider.issuer}/token", data=form, timeout=5)

    assert oidc_provider.verdict(again["access_token"], mailbox=ALICE, service="pop3").active
    assert again["refresh_token"] != tokens["refresh_token"]
    assert stolen.json()["error"] == "invalid_client"


def test_an_application_with_a_wrong_secret_gets_no_token(
    oidc_provider: OidcProvider, session: requests.Session
) -> None:
    """The provider compares."""
    form = {"grant_type": "client_credentials", "client_id": oidc_provider.robot_id, "scope": APP_SCOPE}
    answer = session.post(
        f"{oidc_provider.issuer}/token",
        data={**form, "client_secret": oidc_provider.robot_secret[:-1]},
        timeout=5,
    )

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_access_tokens_can_be_made_short(oidc_provider: OidcProvider, app: Any) -> None:
    """For tests of renewal; the ordinary lifetime comes back."""
    with oidc_provider.lifetime(20):
        assert sign_in(oidc_provider, app)["expires_in"] == 20
    assert sign_in(oidc_provider, app)["expires_in"] == 3600


def test_dovecot_is_unavailable_while_the_provider_is_down(
    oidc_provider: OidcProvider, oidc_dovecot: Dovecot, app: Any
) -> None:
    """A token cannot be judged; after a restart it is one of a stranger, because the key is a new one."""
    token = sign_in(oidc_provider, app)["access_token"]
    oidc_provider.stop()
    with pytest.raises(imaplib.IMAP4.error, match="UNAVAILABLE"):
        imap_login(oidc_dovecot.imaps_port, oidc_dovecot.ca_file, ALICE, token)
    oidc_provider.start()

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        imap_login(oidc_dovecot.imaps_port, oidc_dovecot.ca_file, ALICE, token)
