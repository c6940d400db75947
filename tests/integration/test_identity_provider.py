"""The local identity provider speaks Entra's protocol well enough for the real MSAL, and can misbehave on demand."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from msal.oauth2cli.authcode import AuthCodeReceiver

from tests.bed.browser import Browser
from tests.bed.identity import SCOPES, Identity
from worker.demo.harbour import ALICE, BOB, ORDERS, SUPPORT

REDIRECT = "http://localhost:5999/"


@pytest.fixture
def session(fresh_identity: Identity) -> Any:
    with fresh_identity.session() as session:
        yield session


def once(_: object) -> bool:
    """Makes MSAL poll the token endpoint one time only."""
    return True


def sign_in(identity: Identity, app: Any, upn: str = ALICE) -> dict[str, Any]:
    flow = app.initiate_device_flow(scopes=list(SCOPES))
    identity.decide(flow["user_code"], upn)
    answer: dict[str, Any] = app.acquire_token_by_device_flow(flow, exit_condition=once)
    return answer


def ask(identity: Identity, session: requests.Session, **form: str) -> requests.Response:
    """One plain request to the token endpoint."""
    return session.post(f"{identity.authority}/oauth2/v2.0/token", data=form, timeout=5)


def refresh(identity: Identity, session: requests.Session, token: str) -> requests.Response:
    return ask(
        identity, session, grant_type="refresh_token", client_id=identity.client_id, refresh_token=token
    )


def test_device_code_sign_in_waits_for_the_person_and_then_succeeds(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Pending until the code is typed in; then tokens of the account that agreed."""
    app = fresh_identity.public_app(session)
    flow = app.initiate_device_flow(scopes=list(SCOPES))
    pending = app.acquire_token_by_device_flow(flow, exit_condition=once)
    fresh_identity.decide(flow["user_code"], ALICE)
    answer = app.acquire_token_by_device_flow(flow, exit_condition=once)

    assert pending["error"] == "authorization_pending"
    assert answer["id_token_claims"]["preferred_username"] == ALICE
    assert [account["username"] for account in app.get_accounts()] == [ALICE]
    assert fresh_identity.provider.introspect(answer["access_token"], mailbox=ALICE, service="imap").active
    assert fresh_identity.provider.counts()["device_code:ok"] == 1


@pytest.mark.parametrize(
    ("decision", "later", "error"),
    [("decline", 0, "authorization_declined"), ("accept", 901, "expired_token")],
    ids=["declined", "too late"],
)
def test_device_code_sign_in_can_fail(
    fresh_identity: Identity, session: requests.Session, decision: str, later: int, error: str
) -> None:
    """A person may say no, or come too late."""
    app = fresh_identity.public_app(session)
    flow = app.initiate_device_flow(scopes=list(SCOPES))
    fresh_identity.decide(flow["user_code"], ALICE, decision=decision)
    fresh_identity.offset = later

    assert app.acquire_token_by_device_flow(flow, exit_condition=once)["error"] == error


def test_nobody_signs_in_with_an_unknown_code_or_account(fresh_identity: Identity) -> None:
    """The sign-in page refuses what it does not know."""
    with pytest.raises(requests.HTTPError, match="400"):
        fresh_identity.decide("WRONGCODE", ALICE)


def browser_sign_in(identity: Identity, flow: dict[str, Any], decision: str = "accept") -> dict[str, str]:
    """Do what a browser does with the address that MSAL made; the parameters that come back."""
    location = identity.authorize(flow["auth_uri"], ALICE, decision)
    assert location.startswith(REDIRECT)
    return {key: values[0] for key, values in parse_qs(urlsplit(location).query).items()}


# MSAL recommends form_post; a loopback listener cannot always have it.
@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended")
def test_authorization_code_with_pkce_works_once(fresh_identity: Identity, session: requests.Session) -> None:
    """MSAL's code flow ends with tokens; the same code again does not."""
    app = fresh_identity.public_app(session)
    flow = app.initiate_auth_code_flow(scopes=list(SCOPES), redirect_uri=REDIRECT)
    answer = browser_sign_in(fresh_identity, flow)
    tokens = app.acquire_token_by_auth_code_flow(dict(flow), answer)
    form = {"client_id": app.client_id, "code": answer["code"], "redirect_uri": REDIRECT}
    again = ask(
        fresh_identity,
        session,
        grant_type="authorization_code",
        code_verifier=flow["code_verifier"],
        **form,
    )

    assert tokens["id_token_claims"]["preferred_username"] == ALICE
    assert again.json()["error_codes"] == [54005]


@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended")
def test_a_code_is_worth_nothing_without_its_verifier(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """PKCE: whoever stole the code does not have the verifier."""
    app = fresh_identity.public_app(session)
    flow = app.initiate_auth_code_flow(scopes=list(SCOPES), redirect_uri=REDIRECT)
    answer = browser_sign_in(fresh_identity, flow)
    tokens = app.acquire_token_by_auth_code_flow({**flow, "code_verifier": "x" * 43}, answer)

    assert tokens["error_codes"] == [501481]


@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended")
def test_a_person_may_cancel_at_the_sign_in_page(fresh_identity: Identity, session: requests.Session) -> None:
    """The client learns it by an error, with its state."""
    app = fresh_identity.public_app(session)
    flow = app.initiate_auth_code_flow(scopes=list(SCOPES), redirect_uri=REDIRECT)
    answer = browser_sign_in(fresh_identity, flow, "decline")

    assert answer["error"] == "access_denied"
    assert answer["state"] == flow["state"]


def test_an_answer_by_form_post_reaches_a_listener_on_loopback(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """MSAL's own listener takes it, and thanks."""
    app = fresh_identity.public_app(session)
    with AuthCodeReceiver() as receiver, ThreadPoolExecutor() as pool:
        redirect = f"http://localhost:{receiver.get_port()}"
        flow = app.initiate_auth_code_flow(
            scopes=list(SCOPES), redirect_uri=redirect, response_mode="form_post"
        )
        thanks = pool.submit(fresh_identity.authorize, flow["auth_uri"], ALICE)
        answer = receiver.get_auth_response(timeout=10, state=flow["state"])
    tokens = app.acquire_token_by_auth_code_flow(flow, answer)

    assert "Authentication complete" in thanks.result()
    assert tokens["id_token_claims"]["preferred_username"] == ALICE


@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended")
def test_the_sign_in_page_chooses_the_account_that_the_client_hints_at(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Without a hint it is the first one. `prompt` is taken."""
    app = fresh_identity.public_app(session)
    chosen = []
    with Browser(fresh_identity.ca_file) as browser:
        for hint in ({}, {"login_hint": BOB, "prompt": "select_account"}):
            flow = app.initiate_auth_code_flow(scopes=list(SCOPES), redirect_uri=REDIRECT, **hint)
            chosen.append(browser.open(flow["auth_uri"]).fields["upn"])

    assert chosen == [ALICE, BOB]


def test_nobody_is_sent_to_another_machine(fresh_identity: Identity, session: requests.Session) -> None:
    """The redirect URI is one on loopback, whatever the port."""
    address = f"{fresh_identity.authority}/oauth2/v2.0/authorize?redirect_uri=https://elsewhere.example/"
    answer = session.get(address, timeout=5, allow_redirects=False)

    assert answer.json()["error_codes"] == [50011]


def test_refreshing_gives_new_tokens_and_leaves_the_old_refresh_token_good(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """As with Entra: a refresh token may be used again."""
    app = fresh_identity.public_app(session)
    first = sign_in(fresh_identity, app)
    second = app.acquire_token_silent(list(SCOPES), app.get_accounts()[0], force_refresh=True)
    again = refresh(fresh_identity, session, first["refresh_token"])

    assert second["access_token"] != first["access_token"]
    assert second["refresh_token"] != first["refresh_token"]
    assert again.status_code == 200


def test_with_strict_rotation_an_old_refresh_token_revokes_the_whole_session(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Stricter than Entra: reuse kills the newest refresh token, too."""
    fresh_identity.provider.settings.strict_rotation = True
    first = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    second = refresh(fresh_identity, session, first).json()["refresh_token"]
    third = refresh(fresh_identity, session, second).json()["refresh_token"]
    reused = refresh(fresh_identity, session, second)
    newest = refresh(fresh_identity, session, third)

    assert reused.json()["error"] == "invalid_grant"
    assert newest.json()["error_codes"] == [50173]
    assert newest.json()["suberror"] == "bad_token"


def test_revoking_a_person_ends_their_sessions_and_nobody_elses(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """As after a new password; the answer has Entra's shape."""
    app = fresh_identity.public_app(session)
    hers, his = (sign_in(fresh_identity, app, upn)["refresh_token"] for upn in (ALICE, BOB))
    fresh_identity.provider.revoke(ALICE)
    answer = refresh(fresh_identity, session, hers).json()

    assert answer["error"] == "invalid_grant"
    assert answer["error_description"].startswith("AADSTS50173: ")
    assert {"error_codes", "timestamp", "trace_id", "correlation_id", "error_uri", "suberror"} <= set(answer)
    assert refresh(fresh_identity, session, his).status_code == 200


def test_an_idle_refresh_token_dies(fresh_identity: Identity, session: requests.Session) -> None:
    """After ninety days without use."""
    token = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    fresh_identity.offset = 91 * 86400

    assert refresh(fresh_identity, session, token).json()["error_codes"] == [700082]


def test_an_unknown_tenant_is_refused(fresh_identity: Identity, session: requests.Session) -> None:
    """Discovery knows this tenant only."""
    base = fresh_identity.authority.rpartition("/")[0]
    answer = session.get(f"{base}/elsewhere.example/v2.0/.well-known/openid-configuration", timeout=5)

    assert answer.json()["error_codes"] == [90002]


@pytest.mark.parametrize(
    ("upn", "asked", "extra", "reason"),
    [
        (ALICE, f"imap {ALICE}", {}, ""),
        (ALICE, f"pop3 {ALICE.upper()}", {}, ""),
        (ALICE, f"imap {SUPPORT}", {}, ""),
        (BOB, f"imap {SUPPORT}", {}, "no access"),
        (ALICE, f"imap {ORDERS}", {}, "no access"),
        (ALICE, "imap nobody@harbour.example", {}, "no access"),
        (ALICE, f"smtp {ALICE}", {}, "lacks the permission"),
        (ALICE, f"smtp {SUPPORT}", {"idtyp": "app", "roles": ["IMAP.AccessAsApp"]}, "lacks the role"),
        (ALICE, f"imap {ALICE}", {"scp": "POP.AccessAsUser.All"}, "lacks the permission"),
        (ALICE, f"imap {ALICE}", {"aud": "https://outlook.office365.com"}, ""),
        (ALICE, f"imap {ALICE}", {"aud": "https://graph.microsoft.com"}, "audience"),
        (ALICE, f"imap {ALICE}", {"exp": 1}, "expired"),
        (ALICE, f"imap {SUPPORT}", {"idtyp": "app", "roles": ["IMAP.AccessAsApp"]}, "not granted"),
    ],
)
def test_introspection_follows_exchange(
    fresh_identity: Identity, upn: str, asked: str, extra: dict[str, object], reason: str
) -> None:
    """Owner, Full Access, permission, audience and expiry decide."""
    service, mailbox = asked.split()
    verdict = fresh_identity.provider.introspect(
        fresh_identity.token(upn, extra=extra), mailbox=mailbox, service=service
    )

    assert verdict.active == (not reason)
    assert reason in verdict.reason


def test_introspection_refuses_a_token_of_another_key(fresh_identity: Identity) -> None:
    """A changed token is no token."""
    token = fresh_identity.token(ALICE)

    assert not fresh_identity.provider.introspect(
        token[:-8] + "AAAAAAAA", mailbox=ALICE, service="imap"
    ).active


def test_introspection_answers_over_plain_http(fresh_identity: Identity, session: requests.Session) -> None:
    """Mail servers look for this very text."""
    form = {"token": fresh_identity.token(ALICE), "user": SUPPORT, "service": "imap"}
    answer = session.post(f"{fresh_identity.lab_url}/introspect", data=form, timeout=5)

    assert '"active":true' in answer.text


def test_staged_answers_come_once_each_and_then_the_truth(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Throttled, unavailable and HTML answers, as the real ones look from outside."""
    token = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    fresh_identity.provider.settings.answers = ["429", "503", "html"]
    answers = [refresh(fresh_identity, session, token) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [429, 503, 200, 200]
    assert answers[0].headers["retry-after"] == "1"
    assert answers[2].headers["content-type"].startswith("text/html")
    assert "access_token" in answers[3].json()


def test_a_staged_drop_closes_the_connection_without_an_answer(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """And a staged 500 is one."""
    token = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    fresh_identity.provider.settings.answers = ["drop", "500"]

    with pytest.raises(requests.ConnectionError):
        refresh(fresh_identity, session, token)
    assert refresh(fresh_identity, session, token).status_code == 500
    assert refresh(fresh_identity, session, token).status_code == 200


@pytest.mark.parametrize(
    ("name", "error", "number"),
    [
        ("MFA", "interaction_required basic_action", 50076),
        ("POLICY", "interaction_required message_only", 53003),
        ("LOCKED", "invalid_grant", 50053),
        ("DISABLED", "invalid_grant", 50057),
        ("ADMIN_CONSENT", "invalid_grant consent_required", 90094),
        ("LOOP", "invalid_grant", 50196),
        ("EXPIRED_SECRET", "invalid_client", 7000222),
    ],
)
def test_any_refusal_can_be_staged_by_its_name(
    fresh_identity: Identity, session: requests.Session, name: str, error: str, number: int
) -> None:
    """At the endpoint that was named, once, in Entra's shape: error and suberror, number and sentence."""
    fresh_identity.provider.settings.answers = [f"refuse={name}@devicecode"]
    flow = fresh_identity.public_app(session).initiate_device_flow(scopes=list(SCOPES))

    assert f"{flow['error']} {flow.get('suberror', '')}".rstrip() == error
    assert flow["error_codes"] == [number]
    assert flow["error_description"].startswith(f"AADSTS{number}: ")
    assert "user_code" in fresh_identity.public_app(session).initiate_device_flow(scopes=list(SCOPES))


def test_a_staged_answer_that_nobody_knows_is_a_mistake(fresh_identity: Identity) -> None:
    """Else a test would wait for it in vain."""
    for answer in ("refuse=NOBODY", "teapot"):
        with pytest.raises(ValueError, match="answers"):
            fresh_identity.provider.settings.answers = [answer]


def test_a_tenant_may_forbid_sign_in_by_device_code(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """The person does everything right, and the client is told of the policy."""
    fresh_identity.provider.settings.device_code_blocked = True
    answer = sign_in(fresh_identity, fresh_identity.public_app(session))

    assert (answer["error"], answer["error_codes"]) == ("interaction_required", [53003])


def test_id_tokens_say_what_the_settings_want(fresh_identity: Identity, session: requests.Session) -> None:
    """A wrong audience, an address that nobody verified, no name at all."""
    fresh_identity.provider.settings.claims = {
        "aud": "somebody else",
        "email_verified": False,
        "preferred_username": None,
    }
    claims = sign_in(fresh_identity, fresh_identity.public_app(session))["id_token_claims"]

    assert (claims["aud"], claims["email_verified"]) == ("somebody else", False)
    assert "preferred_username" not in claims


def test_answers_can_have_the_habits_of_other_providers(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """No scope, no new refresh token at a refresh, and how long the refresh token lasts."""
    settings = fresh_identity.provider.settings
    settings.echo_scope, settings.rotates, settings.refresh_expires_in = False, False, 1800
    token = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    answers = [refresh(fresh_identity, session, token).json() for _ in range(2)]

    for answer in answers:
        assert "access_token" in answer
        assert "scope" not in answer
        assert "refresh_token" not in answer
        assert answer["refresh_token_expires_in"] == 1800


def test_the_newest_refresh_token_is_known_to_tests(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Of the newest sign-in, after every rotation; of nobody who never signed in."""
    app = fresh_identity.public_app(session)
    sign_in(fresh_identity, app)
    second = sign_in(fresh_identity, app)["refresh_token"]
    newest = fresh_identity.provider.newest_refresh_token

    assert newest(ALICE) == second
    third = refresh(fresh_identity, session, second).json()["refresh_token"]
    assert newest(ALICE) == third
    assert newest("nobody@harbour.example") is None


def test_a_staged_hang_ends_when_the_client_gives_up(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """A server that never answers, at the endpoint that was named."""
    fresh_identity.provider.settings.answers = ["hang@openid-configuration"]
    address = f"{fresh_identity.authority}/v2.0/.well-known/openid-configuration"

    with pytest.raises(requests.ReadTimeout):
        session.get(address, timeout=0.2)
    assert session.get(address, timeout=5).status_code == 200


def test_the_lab_page_steers_from_another_process(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """Settings and revocation over HTTP; the page shows counts and no secret."""
    token = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    wish: Any = {"settings": {"token_lifetime": 60, "strict_rotation": True}, "revoke": [ALICE]}
    shown = session.post(fresh_identity.lab_url, json=wish, timeout=5)
    wrong = session.post(fresh_identity.lab_url, json={"settings": {"token_life": 60}}, timeout=5)

    assert shown.json()["settings"]["token_lifetime"] == 60
    assert wrong.status_code == 400
    assert refresh(fresh_identity, session, token).json()["error_codes"] == [50173]
    page = session.get(fresh_identity.lab_url, timeout=5)
    assert page.json()["counts"]["refresh_token:invalid_grant"] == 1
    assert token not in json.dumps(page.json())


def test_a_provider_that_is_down_refuses_and_comes_back_with_its_memory(
    fresh_identity: Identity, session: requests.Session
) -> None:
    """The same address before and after; sessions live on."""
    token = sign_in(fresh_identity, fresh_identity.public_app(session))["refresh_token"]
    fresh_identity.stop()

    with pytest.raises(requests.ConnectionError):
        refresh(fresh_identity, session, token)

    fresh_identity.start()

    assert refresh(fresh_identity, session, token).status_code == 200
