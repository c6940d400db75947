"""How an account and a credential stand, decided on plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.accounts import AccountStanding, CredentialStanding, Kind, account_standing, credential_standing
from worker.errors import AccountTrouble
from worker.mailbox import Mailbox
from worker.tokens import Registration, Stored, Trouble

NOW = 1_900_000_000.0
DAY = 86400.0
ALICE = "alice@contoso.com"
ENTRA = Registration("entra", "client", "https://login.example/contoso", ("upn",))
GOOGLE = replace(ENTRA, name="google")
OIDC = replace(ENTRA, name="oidc")
SIGNED_IN = Stored(7, signed_in_at=NOW - 40 * DAY, renewed_at=NOW - DAY, client_id="client")


def mailbox(name: str = "box", *, auth: str = "delegated") -> Mailbox:
    return Mailbox.model_validate(
        {"name": name, "provider": "microsoft365", "auth": auth, "address": ALICE, "outputs": ("x",)}
    )


def stands(
    stored: Stored, *, registration: Registration = ENTRA, auth: str = "delegated", days: int = 14
) -> AccountStanding:
    mailboxes = [mailbox("shop", auth=auth), mailbox("box", auth=auth)]
    return account_standing(ALICE, mailboxes, stored, registration, days=days, now=NOW)


def trouble(kind: str) -> Trouble:
    return Trouble(kind, f"{kind} says what to do", tries=3, again_at=NOW + 60)


def test_an_account_in_use_is_ok() -> None:
    """With everything that a person may want to know of it."""
    assert stands(SIGNED_IN) == AccountStanding(
        ALICE, "ok", "", ("box", "shop"), NOW - 40 * DAY, NOW - DAY, NOW + 89 * DAY, troubled=False
    )


def test_an_account_that_nobody_signed_in_has_no_access() -> None:
    """The sentence says how to get it."""
    found = stands(Stored(0))

    assert (found.state, found.lost, found.ends_at) == ("never signed in", True, None)
    assert f"mailquay login {ALICE}" in found.sentence


def test_an_application_needs_nobody_to_sign_in_and_its_access_has_no_end() -> None:
    """It asks whenever it likes; what ends is its credential."""
    for stored in (Stored(0), SIGNED_IN):
        found = stands(stored, auth="app")
        assert (found.state, found.lost, found.ends_at) == ("ok", False, None)


@pytest.mark.parametrize("kind", AccountTrouble.__subclasses__())
def test_what_waits_for_a_person_is_the_state_of_the_account(kind: type[AccountTrouble]) -> None:
    """With the sentence that was noted; what passes by itself is no lost access."""
    for auth in ("delegated", "app"):
        found = stands(replace(SIGNED_IN, troubles={"imap": trouble(kind.__name__)}), auth=auth)

        assert found.sentence == f"{kind.__name__} says what to do"
        assert (found.state, found.lost) == (("ok", False) if kind.retried else (kind.state, True))
        assert found.troubled


def test_a_provider_that_is_down_is_no_lost_access() -> None:
    """It comes back."""
    found = stands(replace(SIGNED_IN, troubles={"imap": trouble("Unreachable")}))

    assert (found.state, found.lost, found.troubled) == ("ok", False, True)


def test_a_sign_in_under_another_app_registration_is_none() -> None:
    """A grant is good for one application; nobody has to ask the provider to know."""
    found = stands(replace(SIGNED_IN, client_id="former"))

    assert (found.state, found.lost) == ("needs sign-in", True)
    assert "another app registration" in found.sentence


@pytest.mark.parametrize(
    ("registration", "idle", "state"),
    [
        (ENTRA, 75, "ok"),
        (ENTRA, 77, "ending"),
        (ENTRA, 91, "needs sign-in"),
        (GOOGLE, 165, "ok"),
        (GOOGLE, 167, "ending"),
        (GOOGLE, 181, "needs sign-in"),
        (OIDC, 1000, "ok"),
    ],
)
def test_a_sign_in_that_nobody_uses_ends_after_what_its_provider_allows(
    registration: Registration, idle: int, state: str
) -> None:
    """Microsoft forgets it after 90 days, Google after six months, of others nobody knows."""
    found = stands(replace(SIGNED_IN, renewed_at=NOW - idle * DAY), registration=registration)

    assert found.state == state
    assert found.lost == (state == "needs sign-in")
    assert (f"mailquay login {ALICE}" in found.sentence) == (state != "ok")


@pytest.mark.parametrize(
    ("left", "days", "state"),
    [(14.1, 14, "ok"), (14, 14, "ending"), (0.5, 14, "ending"), (0, 14, "needs sign-in"), (20, 30, "ending")],
)
def test_the_end_that_a_provider_tells_counts_more_than_what_is_known_of_it(
    left: float, days: int, state: str
) -> None:
    """Google says it for applications in testing, others always."""
    found = stands(replace(SIGNED_IN, renewed_at=NOW - DAY, ends_at=NOW + left * DAY), days=days)

    assert (found.state, found.ends_at) == (state, NOW + left * DAY)


def test_a_sign_in_that_lives_for_hours_from_use_to_use_is_not_about_to_end() -> None:
    """Each poll prolongs it; were it announced, the alert would never go. Once it has ended, that is said."""
    short = replace(SIGNED_IN, renewed_at=NOW - 60, ends_at=NOW + 1740)
    over = replace(SIGNED_IN, renewed_at=NOW - 3600, ends_at=NOW - 1800)

    assert stands(short).state == "ok"
    assert stands(over).state == "needs sign-in"


@pytest.mark.parametrize(
    ("kind", "left", "state", "named"),
    [
        ("secret", 15, "ok", ""),
        ("secret", 10, "ending", "ENTRA__CLIENT_SECRET_FILE"),
        ("secret", -1, "ended", "ENTRA__CLIENT_SECRET_EXPIRES"),
        ("certificate", 10, "ending", "ENTRA__CERTIFICATE_FILE"),
        ("certificate", 0, "ended", "ENTRA__CERTIFICATE_FILE"),
    ],
)
def test_a_credential_is_announced_before_it_ends_and_says_which_variable_to_touch(
    kind: Kind, left: float, state: str, named: str
) -> None:
    """An expired secret stops every mailbox of the application at once."""
    found = credential_standing(ENTRA, kind, NOW + left * DAY, ["box"], days=14, now=NOW)

    said: dict[str, Any] = {"state": state, "kind": kind, "client_id": "client", "ends_at": NOW + left * DAY}
    assert {name: getattr(found, name) for name in said} == said
    assert found.lost == (state == "ended")
    assert named in found.sentence
    assert bool(found.sentence) == (state != "ok")
    assert isinstance(found, CredentialStanding)
