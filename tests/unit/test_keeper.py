"""Tokens by the real MSAL from a provider that speaks Entra's protocol: one refresh, stored before it is used."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest

from tests.bed.identity import SCOPES, Identity
from tests.bed.installation import Installation
from worker.demo.harbour import ALICE, BOB
from worker.demo.identity import Settings
from worker.errors import (
    MailquayError,
    Misconfigured,
    NeedsAdmin,
    NeedsSignIn,
    Throttled,
    TokensUnreadable,
    Unreachable,
)
from worker.quay import Quay
from worker.sign_in import by_device_code
from worker.timetable import pull_entry
from worker.tokens import AccessToken, Stored
from worker.tokens import entra as module
from worker.tokens.entra import Entra, refusal
from worker.tokens.store import TokenStore

SHORT = 200
"""Seconds: less than the margin below which a token is renewed."""


@pytest.fixture(autouse=True)
def _forget_http() -> None:
    """Each test meets a provider that this process has never asked."""
    module._HTTP_CACHE.clear()


@pytest.fixture
def ours(installation: Installation, fresh_identity: Identity) -> Installation:
    """An installation with a mailbox of Alice's that signs in at the bed's provider."""
    installation.signs_in_at(fresh_identity)
    installation.mailbox(
        "box", address=ALICE, auth="delegated", host="localhost", outputs="lines", account=ALICE
    )  # fmt: skip
    return installation


@pytest.fixture
def quay(ours: Installation) -> Quay:
    return ours.quay()


def access(quay: Quay, **options: bool) -> AccessToken:
    return quay.entra(quay.settings.mailboxes["box"]).access(ALICE, SCOPES[:1], **options)


def sign_in(quay: Quay, identity: Identity, *, lifetime: int = 3600) -> None:
    """Alice signs in; her first access token lives for `lifetime` seconds, later ones for an hour."""
    identity.provider.settings = Settings(token_lifetime=lifetime)
    by_device_code(quay, ALICE, show=lambda _, code: identity.decide(code, ALICE))
    identity.provider.settings = Settings(strict_rotation=True)
    identity.provider.requests.clear()


def refreshes(identity: Identity) -> int:
    return sum(seen.grant == "refresh_token" for seen in identity.provider.requests)


def test_a_fresh_token_costs_no_request_and_no_lock(quay: Quay, fresh_identity: Identity) -> None:
    """A poll every minute must not ask the provider every minute, nor wait for others."""
    sign_in(quay, fresh_identity)

    def locked(_: str) -> AbstractContextManager[object]:
        raise AssertionError("it was locked")

    entra = Entra(quay.settings.registration(quay.settings.mailboxes["box"]), quay.token_store, locked)
    token = entra.access(ALICE.upper(), SCOPES[:1])

    assert token.expires_at > time.time() + 3000
    assert not fresh_identity.provider.requests
    assert token.secret not in repr(token)


def test_four_processes_with_an_expired_token_refresh_it_once(
    ours: Installation, quay: Quay, fresh_identity: Identity
) -> None:
    """Where a refresh token works once, a second refresh would revoke the whole sign-in (RFC 9700 4.14.2)."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    code = (
        "import os, sys\nfrom worker.quay import quay\nhere = quay()\nmailbox = here.settings.mailboxes['box']\n"
        "entra = here.entra(mailbox)\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "print(entra.access(mailbox.account, mailbox.scopes).secret)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ours.folder,
            env=ours.full_environ(),
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    tokens = set()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        tokens.add(process.communicate(timeout=30)[0].strip())

    assert refreshes(fresh_identity) == 1
    assert len(tokens) == 1
    assert access(quay).secret in tokens


def test_threads_of_a_process_refresh_once_as_well(
    ours: Installation, quay: Quay, fresh_identity: Identity
) -> None:
    """Each with its own clients, as pool children are; the losers read what the winner stored."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    quays = [ours.quay() for _ in range(6)]

    with ThreadPoolExecutor(6) as threads:
        tokens = {token.secret for token in threads.map(access, quays)}

    assert refreshes(fresh_identity) == 1
    assert len(tokens) == 1


def test_a_refreshed_token_is_stored_before_it_is_used(
    ours: Installation, quay: Quay, fresh_identity: Identity
) -> None:
    """Another process finds the same token, and the next refresh works with the newest refresh token."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    before = quay.token_store.version(ALICE)
    first = access(quay)

    assert quay.token_store.version(ALICE) == before + 1
    assert access(ours.quay()).secret == first.secret
    second = access(ours.quay(), renewed=True)
    third = access(ours.quay(), renewed=True)
    assert len({first.secret, second.secret, third.secret}) == 3
    assert refreshes(fresh_identity) == 3


class Overtaken(TokenStore):
    """A store in which somebody else writes right behind what this process reads last, before it writes itself."""

    def __init__(
        self, store: TokenStore, other: Callable[[], None], *, loads: int = 0, versions: int = 0
    ) -> None:
        super().__init__(store._client, store._seal)
        self._other = other
        self._loads, self._versions = loads, versions

    def load(self, account: str) -> Stored:
        stored = super().load(account)
        self._loads -= 1
        if self._loads == 0:
            self._other()
        return stored

    def version(self, account: str) -> int:
        version = super().version(account)
        self._versions -= 1
        if self._versions == 0:
            self._other()
        return version


def test_a_refresh_never_overwrites_a_newer_sign_in(quay: Quay, fresh_identity: Identity) -> None:
    """Its own token serves this once; the stored one is the person's."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    stored = quay.token_store.load(ALICE)
    assert stored.cache

    def signs_in() -> None:
        assert quay.token_store.swap(ALICE, read=stored.version, cache=stored.cache or "")

    overtaken = Overtaken(quay.token_store, signs_in, loads=2)
    registration = quay.settings.registration(quay.settings.mailboxes["box"])
    token = Entra(registration, overtaken, lambda _: nullcontext(True)).access(ALICE, SCOPES[:1])

    assert token.expires_at > time.time() + 3000
    assert quay.token_store.load(ALICE).cache == stored.cache


def test_a_sign_in_is_stored_even_when_a_worker_refreshes_at_the_same_moment(
    quay: Quay, fresh_identity: Identity
) -> None:
    """What a person has just done is the newest."""
    sign_in(quay, fresh_identity)
    registration = quay.settings.registration(quay.settings.mailboxes["box"])

    def refresh() -> None:
        stored = quay.token_store.load(ALICE)
        assert quay.token_store.swap(ALICE, read=stored.version, cache="{}")

    entra = Entra(registration, Overtaken(quay.token_store, refresh, versions=1), lambda _: nullcontext(True))
    flow = entra.begin_device_flow(SCOPES)
    fresh_identity.decide(flow["user_code"], ALICE)

    assert entra.finish_device_flow(flow, ALICE) == ALICE
    assert access(quay).expires_at > time.time() + 3000


def test_somebody_else_who_signs_in_is_refused_and_nothing_is_stored(
    quay: Quay, fresh_identity: Identity
) -> None:
    """Bob at Alice's prompt would give her mailbox his token."""
    entra = quay.entra(quay.settings.mailboxes["box"])
    flow = entra.begin_device_flow(SCOPES)
    fresh_identity.decide(flow["user_code"], BOB)

    with pytest.raises(NeedsSignIn, match=f"{BOB} signed in, but this sign-in is for {ALICE}"):
        entra.finish_device_flow(flow, ALICE)

    assert quay.token_store.accounts() == []


@pytest.mark.parametrize(("decision", "words"), [("deny", "was declined"), (None, "nobody approved")])
def test_a_sign_in_that_comes_to_nothing_stores_nothing(
    quay: Quay, fresh_identity: Identity, decision: str | None, words: str
) -> None:
    """Declined, or given up on."""
    entra = quay.entra(quay.settings.mailboxes["box"])
    flow = entra.begin_device_flow(SCOPES)
    if decision:
        fresh_identity.decide(flow["user_code"], ALICE, decision=decision)

    with pytest.raises(NeedsSignIn, match=words):
        entra.finish_device_flow(flow, ALICE, give_up=lambda: True)

    assert quay.token_store.accounts() == []


def test_a_revoked_sign_in_needs_the_owner_and_goes_on_after_a_new_one(
    quay: Quay, fresh_identity: Identity
) -> None:
    """The sentence names the command; the stored refresh token is not thrown away; the mailbox is due at once."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    fresh_identity.provider.revoke(ALICE)
    before = quay.token_store.load(ALICE)

    for _ in range(2):
        with pytest.raises(NeedsSignIn, match=f"mailquay login {ALICE}"):
            access(quay)
    assert quay.token_store.load(ALICE) == before

    quay.timetable.sync({pull_entry("box"): 3600.0}, quay.clock())
    quay.timetable.park(pull_entry("box"), quay.clock() + 900)
    sign_in(quay, fresh_identity)
    assert access(quay).expires_at > time.time() + 3000
    due = quay.timetable.due(pull_entry("box"))
    assert due
    assert due <= quay.clock()


def test_nobody_has_signed_in_yet(quay: Quay, fresh_identity: Identity) -> None:
    """Known without asking the provider."""
    with pytest.raises(
        NeedsSignIn, match=f"nobody has signed in as {ALICE} yet. Run `mailquay login {ALICE}`"
    ):
        access(quay)
    assert not fresh_identity.provider.requests


def test_a_provider_that_is_down_is_unreachable_and_nothing_is_lost(
    quay: Quay, fresh_identity: Identity
) -> None:
    """The next poll tries again, with the same refresh token."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    fresh_identity.stop()
    with pytest.raises(Unreachable, match="does not answer"):
        access(quay)

    fresh_identity.start()
    assert access(quay).expires_at > time.time() + 3000


@pytest.mark.parametrize("answer", ["503", "html", "429"])
def test_a_provider_in_trouble_is_asked_again_later(
    quay: Quay, fresh_identity: Identity, answer: str
) -> None:
    """Whatever it answers instead of a token is nobody's fault here; the refresh token stays good."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    before = quay.token_store.load(ALICE)
    fresh_identity.provider.settings = Settings(answers=[answer])

    with pytest.raises((Unreachable, Throttled)) as caught:
        access(quay)

    assert caught.value.retried
    assert quay.token_store.load(ALICE) == before
    # MSAL keeps such an answer in mind for a minute.
    module._HTTP_CACHE.clear()
    assert access(quay).expires_at > time.time() + 3000


class Waiting:
    """A clock that moves only when somebody sleeps."""

    def __init__(self, now: float) -> None:
        self.now = now

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def busy(quay: Quay) -> Callable[[Waiting], Entra]:
    """A provider client whose account is always being refreshed by somebody else."""
    registration = quay.settings.registration(quay.settings.mailboxes["box"])
    return lambda time: Entra(
        registration, quay.token_store, lambda _: nullcontext(None), clock=time.clock, sleep=time.sleep
    )


def test_whoever_waits_too_long_for_anothers_refresh_uses_what_is_left_or_gives_up(
    quay: Quay, fresh_identity: Identity, busy: Callable[[Waiting], Entra]
) -> None:
    """A token that ends in minutes is better than none; one that has ended is none."""
    sign_in(quay, fresh_identity, lifetime=SHORT)
    waiting = Waiting(time.time())
    assert busy(waiting).access(ALICE, SCOPES[:1]).expires_at < time.time() + SHORT + 1
    assert waiting.now > time.time() + 19

    with pytest.raises(Unreachable, match="refreshed elsewhere"):
        busy(Waiting(time.time() + SHORT)).access(ALICE, SCOPES[:1])
    assert refreshes(fresh_identity) == 0


def test_a_wrong_key_is_named_and_not_taken_for_a_missing_sign_in(
    ours: Installation, quay: Quay, fresh_identity: Identity
) -> None:
    """Else everybody would sign in again, and the old tokens would be gone."""
    sign_in(quay, fresh_identity)
    (ours.folder / "data" / "token_keys").unlink()

    with pytest.raises(TokensUnreadable, match="TOKEN_KEYS_FILE"):
        access(ours.quay())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"error": "invalid_grant", "error_codes": [50173]}, NeedsSignIn),
        ({"error": "interaction_required"}, NeedsSignIn),
        ({"error": "no_account"}, NeedsSignIn),
        ({"error": "temporarily_unavailable"}, Unreachable),
        ({"error": "unauthorized_client", "error_codes": [700016]}, NeedsAdmin),
        ({"error": "invalid_client"}, Misconfigured),
        ({"error": "something new"}, Misconfigured),
        ({}, Misconfigured),
    ],
)
def test_the_error_code_says_who_must_act(answer: dict[str, object], expected: type[MailquayError]) -> None:
    """Decided on the code alone; what the provider writes beside it is never shown."""
    error = refusal(ALICE, {**answer, "error_description": "AADSTS0: t0p-s3cret Trace ID"})

    assert type(error) is expected
    assert "s3cret" not in str(error)
    assert all(
        f"AADSTS{code}" in str(error) for code in answer.get("error_codes", ()) if isinstance(code, int)
    )
