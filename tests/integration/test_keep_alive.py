"""An account that nobody pulls with is renewed before its provider forgets it."""

from __future__ import annotations

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import Installation
from worker.demo.harbour import ALICE
from worker.keep_alive import keep_alive
from worker.quay import Quay

WEEK = 7 * 86400.0
"""What KEEP_ALIVE_AFTER is when it is not set."""


def signed_in(installation: Installation, dovecot: Dovecot, identity: Identity) -> Quay:
    """An installation whose one account has just signed in."""
    installation.signs_in_at(identity)
    installation.on_dovecot("alice", dovecot, ALICE, auth="delegated")
    quay = installation.quay()
    installation.sign_in(quay, identity, ALICE)
    return quay


def test_an_idle_account_is_renewed_and_a_busy_one_is_left_alone(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """After a week without a renewal there is exactly one; before that there is none."""
    quay = signed_in(installation, dovecot, fresh_identity)
    before = quay.token_store.glance(ALICE).version

    assert keep_alive(quay) == []
    today = quay.clock
    quay.clock = lambda: today() + WEEK + 60

    assert keep_alive(quay) == [ALICE]
    assert quay.token_store.glance(ALICE).version > before


def test_an_account_that_cannot_be_renewed_does_not_stop_the_others(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """A provider that is down is reported; nothing is raised and nothing is forgotten."""
    quay = signed_in(installation, dovecot, fresh_identity)
    before = quay.token_store.glance(ALICE).version
    fresh_identity.stop()
    today = quay.clock
    quay.clock = lambda: today() + WEEK + 60

    assert keep_alive(quay) == []
    assert quay.token_store.glance(ALICE).version == before
