"""Tokens by the real MSAL from a provider that speaks Entra's protocol: one refresh, stored before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from tests.bed.identity import SCOPES, Identity
from tests.bed.installation import Installation
from worker import errors, state
from worker.demo.harbour import ALICE
from worker.demo.identity import Settings
from worker.errors import (
    MailquayError,
    NeedsSignIn,
    RedisUnavailable,
    SignInDoubtful,
    Throttled,
    TokensUnreadable,
    Unreachable,
)
from worker.quay import Quay
from worker.sign_in import by_device_code
from worker.tokens import AccessToken, Stored, entra
from worker.tokens.keeper import Keeper
from worker.tokens.store import TokenStore
from worker.tokens.verdict import DOUBT_SECONDS, LATELY_SECONDS

HOUR = 3600.0


class Clock:
    """A clock that the test moves. The provider's goes with it, and whoever sleeps moves it too."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def __call__(self) -> float:
        return self._identity.now()

    def move(self, seconds: float) -> None:
        self._identity.offset += seconds


@pytest.fixture(autouse=True)
def _forget_http() -> None:
    """Each test meets a provider that this process has never asked."""
    entra._HTTP_CACHE.clear()


@pytest.fixture
def clock(fresh_identity: Identity) -> Clock:
    return Clock(fresh_identity)


@pytest.fixture
def ours(installation: Installation, fresh_identity: Identity) -> Installation:
    """An installation with a mailbox of Alice's that signs in at the bed's provider."""
    installation.signs_in_at(fresh_identity)
    installation.mailbox("box", address=ALICE, auth="delegated", host="localhost", outputs="lines")
    return installation


@pytest.fixture
def quay(ours: Installation, clock: Clock) -> Quay:
    return ours.quay(clock=clock)


@pytest.fixture
def signed_in(quay: Quay, fresh_identity: Identity) -> Quay:
    """Alice has signed in; from now on a refresh token works once, and using it again ends the session."""
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))
    fresh_identity.provider.settings = Settings(strict_rotation=True)
    fresh_identity.provider.requests.clear()
    return quay


def keeper(quay: Quay) -> Keeper:
    return quay.keeper(quay.settings.mailboxes["box"])


def access(quay: Quay) -> AccessToken:
    return keeper(quay).access(ALICE, SCOPES[:1])


def test_a_fresh_token_costs_no_request_and_no_lock(signed_in: Quay, fresh_identity: Identity) -> None:
    """A poll every minute must not ask the provider every minute, nor wait for others."""

    def locked(_: str) -> AbstractContextManager[object]:
        raise AssertionError("it was locked")

    here = keeper(signed_in)
    here._lock = locked
    token = here.access(ALICE.upper(), SCOPES[:1])

    assert token.expires_at > signed_in.clock() + 3000
    assert not fresh_identity.provider.requests
    assert token.secret not in repr(token)


def test_a_token_that_lives_for_minutes_only_is_not_renewed_at_every_poll(
    quay: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Entra calls that a loop (AADSTS50196); three quarters of its life count as fresh."""
    fresh_identity.provider.settings = Settings(token_lifetime=240)
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))

    for _ in range(9):
        clock.move(19)
        access(quay)
    assert fresh_identity.refreshes() == 0
    clock.move(19)
    access(quay)
    assert fresh_identity.refreshes() == 1


def test_a_provider_that_names_no_scopes_is_not_asked_at_every_poll(
    quay: Quay, fresh_identity: Identity
) -> None:
    """Some answer without them, and MSAL would not find the token under those that were asked for."""
    fresh_identity.provider.settings = Settings(echo_scope=False)
    by_device_code(quay, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))

    access(quay)

    assert fresh_identity.refreshes() == 0


def test_threads_of_a_process_refresh_once(
    ours: Installation, signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Each with its own clients, as pool children are; the losers read what the winner stored."""
    clock.move(HOUR)
    quays = [ours.quay(clock=clock) for _ in range(6)]

    with ThreadPoolExecutor(6) as threads:
        tokens = {token.secret for token in threads.map(access, quays)}

    assert fresh_identity.refreshes() == 1
    assert len(tokens) == 1


def test_a_refreshed_token_is_stored_before_it_is_used(
    ours: Installation, signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Another process finds the same token, and every next refresh works with the newest refresh token."""
    found = set()
    for _ in range(3):
        clock.move(HOUR)
        found.add(access(signed_in).secret)
        assert access(ours.quay(clock=clock)).secret in found
        assert fresh_identity.newest_is_stored(signed_in, ALICE)

    assert len(found) == 3
    assert fresh_identity.refreshes() == 3


def test_a_provider_that_keeps_its_refresh_token_is_refreshed_with_it_again(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Google's answers to a refresh hold no new refresh token; the old one must not be lost over that."""
    fresh_identity.provider.settings = Settings(rotates=False)
    for _ in range(3):
        clock.move(HOUR)
        access(signed_in)

    assert fresh_identity.refreshes() == 3
    assert fresh_identity.newest_is_stored(signed_in, ALICE)


class Overtaken(TokenStore):
    """A store in which somebody else writes right behind the first look under the lock."""

    def __init__(self, store: TokenStore, other: Callable[[Stored], None]) -> None:
        super().__init__(store._client, store._seal, store._copies)
        self._other = other
        self._loads = 0

    def load(self, account: str) -> Stored:
        stored = super().load(account)
        self._loads += 1
        if self._loads == 2:
            self._other(stored)
        return stored


def test_a_refresh_never_overwrites_a_newer_sign_in(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Its own token serves this once; the stored one is the person's."""
    store = signed_in.token_store

    def signs_in(stored: Stored) -> None:
        assert stored.grant
        assert store.swap(
            ALICE, stored.grant, read=stored.version, now=clock(), client_id=stored.client_id, signed_in=True
        )

    clock.move(HOUR)
    here = keeper(signed_in)
    here._store = Overtaken(store, signs_in)
    token = here.access(ALICE, SCOPES[:1])

    assert token.expires_at > clock() + 3000
    assert store.glance(ALICE).signed_in_at == pytest.approx(clock(), abs=5)
    grant = store.load(ALICE).grant
    assert grant
    assert token not in grant.tokens.values()


def test_nobody_has_signed_in_yet(quay: Quay, fresh_identity: Identity) -> None:
    """Known without asking the provider."""
    with pytest.raises(
        NeedsSignIn, match=f"nobody has signed in as {ALICE} yet. Run `mailquay login {ALICE}`"
    ):
        access(quay)
    assert not fresh_identity.provider.requests


def test_another_app_registration_needs_another_sign_in(
    ours: Installation, signed_in: Quay, clock: Clock
) -> None:
    """A refresh token belongs to the client that it was given to; the sentence says what has changed."""
    other = ours.quay(clock=clock, ENTRA__CLIENT_ID="11111111-2222-3333-4444-555555555555")

    with pytest.raises(NeedsSignIn, match="under another app registration"):
        access(other)


# -- refusals ----------------------------------------------------------------------------------------------------


def test_what_worked_lately_is_tried_again_for_a_while_before_its_owner_is_told(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """A policy that is rolled out and taken back must not send people to sign in; one that stays must."""
    fresh_identity.provider.revoke(ALICE)
    before = signed_in.token_store.load(ALICE)
    clock.move(HOUR)
    with pytest.raises(SignInDoubtful, match="It worked lately"):
        access(signed_in)

    clock.move(DOUBT_SECONDS)
    with pytest.raises(NeedsSignIn, match=f"mailquay login {ALICE}"):
        access(signed_in)

    assert signed_in.token_store.load(ALICE).grant == before.grant


def test_a_refusal_that_passes_is_forgotten(signed_in: Quay, fresh_identity: Identity, clock: Clock) -> None:
    """MSAL would repeat it from memory for a minute; the provider is asked anew, and the old refresh token still works."""
    for number, name in enumerate(("LOCKED", "POLICY", "MFA")):
        fresh_identity.provider.settings = Settings(answers=[f"refuse={name}"])
        clock.move(31 * 2**number if number else HOUR)
        with pytest.raises(SignInDoubtful):
            access(signed_in)
    clock.move(125)

    assert access(signed_in).expires_at > clock() + 3000
    assert not signed_in.token_store.glance(ALICE).troubles


def test_what_was_refused_is_not_asked_again_by_anybody_for_a_while(
    ours: Installation, signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Fifty mailboxes and a poll every minute: the provider hears of the account once an hour."""
    clock.move(LATELY_SECONDS + HOUR)
    fresh_identity.provider.revoke(ALICE)
    for _ in range(30):
        with pytest.raises(NeedsSignIn):
            access(ours.quay(clock=clock))
        clock.move(60)

    assert fresh_identity.refreshes() == 1


def test_a_new_sign_in_counts_at_once(signed_in: Quay, fresh_identity: Identity, clock: Clock) -> None:
    """Whatever was noted belongs to the version before; MSAL's memory of the refusal as well."""
    clock.move(LATELY_SECONDS + HOUR)
    fresh_identity.provider.revoke(ALICE)
    with pytest.raises(NeedsSignIn):
        access(signed_in)

    by_device_code(signed_in, ALICE, show=lambda _, code: fresh_identity.decide(code, ALICE))

    assert access(signed_in).expires_at > clock() + 3000


def test_an_outage_that_ends_in_a_refusal_is_still_given_time(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """A provider that comes back half is the very case for patience."""
    fresh_identity.provider.settings = Settings(answers=["503", "refuse=IDLE"])
    clock.move(HOUR)
    with pytest.raises(MailquayError):
        access(signed_in)
    clock.move(DOUBT_SECONDS + 60)

    with pytest.raises(SignInDoubtful):
        access(signed_in)


# -- a provider in trouble -----------------------------------------------------------------------------------------


def test_a_provider_that_is_down_is_unreachable_and_nothing_is_lost(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """It is tried again within seconds, with the same refresh token."""
    clock.move(HOUR)
    fresh_identity.stop()
    with pytest.raises(Unreachable, match="does not answer"):
        access(signed_in)

    fresh_identity.start()
    clock.move(6)
    assert access(signed_in).expires_at > clock() + 3000


@pytest.mark.parametrize("answer", ["503", "500", "html", "429", "drop"])
def test_a_provider_in_trouble_is_asked_again_later(
    signed_in: Quay, fresh_identity: Identity, clock: Clock, answer: str
) -> None:
    """Whatever it answers instead of a token is nobody's fault here; the refresh token stays good."""
    clock.move(HOUR)
    before = signed_in.token_store.load(ALICE)
    fresh_identity.provider.settings = Settings(answers=[answer] * 2, retry_after=7)

    with pytest.raises((Unreachable, Throttled)) as caught:
        access(signed_in)

    assert caught.value.retried
    assert signed_in.token_store.load(ALICE).grant == before.grant
    fresh_identity.provider.settings = Settings()
    clock.move(8)
    assert access(signed_in).expires_at > clock() + 3000


def test_what_the_provider_asks_for_is_waited_for_by_all_processes(
    ours: Installation, signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Retry-After counts for the account, not for the one process that was told."""
    clock.move(HOUR)
    fresh_identity.provider.settings = Settings(answers=["429"], retry_after=120)
    with pytest.raises(Throttled) as caught:
        access(signed_in)
    assert caught.value.seconds == 120
    asked = len(fresh_identity.provider.requests)

    clock.move(110)
    with pytest.raises(Throttled) as again:
        access(ours.quay(clock=clock))
    assert again.value.seconds == pytest.approx(10, abs=2)
    assert len(fresh_identity.provider.requests) == asked


def test_a_token_that_still_lives_is_used_while_no_better_one_is_to_be_had(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """An outage of some minutes at the right moment must not stop a single pull."""
    first = access(signed_in)
    clock.move(HOUR - 200)
    fresh_identity.stop()

    assert access(signed_in).secret == first.secret
    clock.move(180)
    with pytest.raises(Unreachable):
        access(signed_in)


def test_whoever_finds_the_account_being_refreshed_uses_what_is_left_or_waits(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """A token that ends in minutes is as good as any; one that has ended is none, and waiting has an end."""
    here = keeper(signed_in)
    here._lock = lambda _: nullcontext(None)
    here._sleep = clock.move
    clock.move(HOUR - 200)
    assert here.access(ALICE, SCOPES[:1]).expires_at < clock() + 300

    clock.move(200)
    with pytest.raises(Unreachable, match="refreshed elsewhere"):
        here.access(ALICE, SCOPES[:1])
    assert fresh_identity.refreshes() == 0


def test_a_redis_that_goes_away_between_answer_and_store_does_not_cost_the_refresh_token(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """The provider has rotated it already, so this process holds the only copy."""

    class Away(TokenStore):
        fails = 3

        def swap(self, *arguments: object, **options: object) -> bool:
            self.fails -= 1
            if self.fails >= 0:
                raise RedisUnavailable("away")
            return super().swap(*arguments, **options)  # type: ignore[arg-type]

    clock.move(HOUR)
    here = keeper(signed_in)
    here._store = Away(
        signed_in.token_store._client, signed_in.token_store._seal, signed_in.token_store._copies
    )
    here._sleep = clock.move

    here.access(ALICE, SCOPES[:1])

    assert fresh_identity.newest_is_stored(signed_in, ALICE)


# -- a token that a mail server refused ------------------------------------------------------------------------------


def test_a_refused_token_is_replaced_once_in_its_life(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """A mailbox that is switched off refuses every token; each poll would else cost a refresh (AADSTS50196)."""
    refused = access(signed_in)
    assert keeper(signed_in).another(ALICE, SCOPES[:1], refused) is None
    clock.move(HOUR / 2)

    another = keeper(signed_in).another(ALICE, SCOPES[:1], refused)
    assert another
    assert another.secret != refused.secret
    assert keeper(signed_in).another(ALICE, SCOPES[:1], refused) == another
    assert keeper(signed_in).another(ALICE, SCOPES[:1], another) is None
    assert fresh_identity.refreshes() == 1


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_named_and_not_taken_for_a_missing_sign_in(
    ours: Installation, signed_in: Quay, clock: Clock
) -> None:
    """Else everybody would sign in again, and the old tokens would be gone."""
    (ours.folder / "data" / "token_keys").unlink()

    with pytest.raises(TokensUnreadable, match="TOKEN_KEYS_FILE"):
        access(ours.quay(clock=clock))


def test_every_trouble_that_can_be_noted_is_a_known_error() -> None:
    """It is noted by the name of its class, which another process looks up."""
    for kind in (
        "NeedsSignIn",
        "NeedsAdmin",
        "SignInDoubtful",
        "RegistrationRefused",
        "OurBug",
        "Unreachable",
    ):
        assert issubclass(getattr(errors, kind), MailquayError)


# -- what an adversary would try ---------------------------------------------------------------------------------


def test_consent_that_is_missing_for_one_protocol_does_not_stop_the_other(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """A POP3 mailbox that was added later waits for its owner; the account's IMAP mailboxes go on."""
    clock.move(LATELY_SECONDS + HOUR)
    with pytest.raises(MailquayError):
        keeper(signed_in).access(ALICE, SCOPES[1:])
    for _ in range(3):
        assert access(signed_in).expires_at > clock() + 3000
        with pytest.raises(MailquayError):
            keeper(signed_in).access(ALICE, SCOPES[1:])
        clock.move(HOUR)


def test_whoever_slept_between_lock_and_request_does_not_send_a_used_refresh_token(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """A process that was stopped for longer than the lock lasts finds it lost, and uses what another has fetched."""
    clock.move(HOUR)
    sleeper = keeper(signed_in)
    lock = sleeper._lock
    slept = []

    @contextmanager
    def slowly(what: str) -> Iterator[object]:
        with lock(what) as held:
            if not slept:
                slept.append(held)
                assert held
                held._lost = True  # type: ignore[attr-defined]
                signed_in.client.delete(state.lease_key(what))
                access(signed_in)
            yield held

    sleeper._lock = slowly  # type: ignore[assignment]
    sleeper.access(ALICE, SCOPES[:1])

    assert fresh_identity.refreshes() == 1
    assert fresh_identity.newest_is_stored(signed_in, ALICE)


def test_a_provider_that_is_down_in_between_does_not_put_off_what_the_owner_must_hear(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Else a flapping provider would hide a sign-in that was revoked, for days."""
    fresh_identity.provider.revoke(ALICE)
    clock.move(HOUR)
    begun = clock()
    said: list[str] = []
    while clock() < begun + DOUBT_SECONDS + 600:
        fresh_identity.provider.settings = Settings(answers=["503"] if len(said) % 4 == 3 else [])
        try:
            access(signed_in)
        except MailquayError as error:
            said.append(error.state)
        clock.move(60)

    assert "needs sign-in" in said


def test_those_who_wait_for_an_account_in_trouble_do_not_wait_long(
    signed_in: Quay, fresh_identity: Identity, clock: Clock
) -> None:
    """Fifty mailboxes of a provider that hangs would hold every worker, and no other mailbox would be pulled."""
    clock.move(HOUR)
    fresh_identity.provider.settings = Settings(answers=["503"])
    with pytest.raises(Throttled):
        access(signed_in)
    clock.move(HOUR)
    other = keeper(signed_in)
    other._lock = lambda _: nullcontext(None)
    other._sleep = lambda _: pytest.fail("it waited")

    with pytest.raises(Throttled):
        other.access(ALICE, SCOPES[:1])
