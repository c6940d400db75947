"""From a mailbox to the outputs in one process: pull, spool, checkpoint, deliver, settle, on real servers."""

from __future__ import annotations

import pytest

from tests.bed.dovecot import Dovecot
from tests.bed.identity import Identity
from tests.bed.installation import Installation, numbered
from worker.deliver import deliver
from worker.demo.harbour import ALICE, BOB, SUPPORT
from worker.errand import Pulled
from worker.pull import pull
from worker.quay import Quay
from worker.spool import Ticket


def pulled(quay: Quay, mailbox: str) -> tuple[Pulled, list[Ticket]]:
    """Pull, and collect the bells."""
    rung: list[Ticket] = []
    return pull(quay, quay.settings.mailboxes[mailbox], ring=rung.append), rung


def pull_and_deliver(quay: Quay, mailbox: str) -> Pulled:
    """Pull, and deliver all that was rung for."""
    result, rung = pulled(quay, mailbox)
    assert result.trouble is None
    for ticket in rung:
        deliver(quay, ticket)
    return result


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_every_message_arrives_byte_for_byte_and_once(
    installation: Installation, dovecot: Dovecot, protocol: str
) -> None:
    """What was put into the mailbox is what both outputs hold; a second pull brings nothing."""
    dovecot.forget(BOB)
    letters = [numbered(n) for n in range(150)]
    dovecot.save(BOB, *letters)
    installation.on_dovecot("box", dovecot, BOB, protocol=protocol)
    quay = installation.quay()

    first = pull_and_deliver(quay, "box")
    second = pull_and_deliver(quay, "box")

    assert (first.messages, second.messages) == (150, 0)
    assert sorted(installation.posted().values()) == sorted(letters)
    assert len({line["id"] for line in installation.lines()}) == 150
    assert quay.spool.tickets() == []
    assert quay.standings.of("box").delivered == 150


def test_nothing_is_marked_read(installation: Installation, dovecot: Dovecot) -> None:
    """Pulling leaves no flag on the server."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1))
    installation.on_dovecot("box", dovecot, ALICE)

    pull_and_deliver(installation.quay(), "box")

    assert dovecot.listing(ALICE) == {1: ()}


def test_a_shared_mailbox_opens_with_another_accounts_token(
    installation: Installation, dovecot: Dovecot, fresh_identity: Identity
) -> None:
    """Alice signs in by device code; her token opens support@, over IMAP and POP3."""
    dovecot.forget(SUPPORT)
    dovecot.save(SUPPORT, numbered(7))
    installation.signs_in_at(fresh_identity)
    for protocol in ("imap", "pop3"):
        installation.on_dovecot(
            protocol, dovecot, SUPPORT, protocol=protocol, auth="delegated", account=ALICE
        )
    quay = installation.quay()
    installation.sign_in(quay, fresh_identity, ALICE)

    assert pull_and_deliver(quay, "imap").messages == 1
    assert pull_and_deliver(quay, "pop3").messages == 1
    assert {line["mailbox"] for line in installation.lines()} == {"imap", "pop3"}


@pytest.mark.parametrize(
    ("protocol", "after", "left"),
    [
        ("imap", "seen", {1: ("\\Seen",), 2: ("\\Seen",)}),
        ("imap", "delete", {}),
        ("imap", "move:Done", {}),
        ("pop3", "delete", {}),
    ],
)
def test_what_was_delivered_is_settled_by_the_next_pull(
    installation: Installation, dovecot: Dovecot, protocol: str, after: str, left: dict[int, tuple[str, ...]]
) -> None:
    """AFTER is done by the pull that follows the delivery, and not before."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(1), numbered(2))
    dovecot.save(ALICE, numbered(3), folder="Done")
    installation.on_dovecot("box", dovecot, ALICE, protocol=protocol, after=after)
    quay = installation.quay()

    result, rung = pulled(quay, "box")
    assert result.messages == 2
    # Dovecot marks what RETR has fetched as read; nothing else has happened yet.
    assert list(dovecot.listing(ALICE)) == [1, 2]
    for ticket in rung:
        deliver(quay, ticket)
    pull_and_deliver(quay, "box")

    assert dovecot.listing(ALICE) == left
    assert len(dovecot.listing(ALICE, "Done")) == (3 if after.startswith("move") else 1)
    assert quay.releases.waiting("box") == 0


def test_a_new_mailbox_begins_now_by_default(installation: Installation, dovecot: Dovecot) -> None:
    """SINCE=now takes what comes after the first look."""
    for protocol in ("imap", "pop3"):
        dovecot.forget(BOB)
        dovecot.save(BOB, numbered(1))
        installation.on_dovecot(protocol, dovecot, BOB, protocol=protocol, since="now")
        quay = installation.quay()
        assert pull_and_deliver(quay, protocol).messages == 0
        dovecot.save(BOB, numbered(2))
        assert pull_and_deliver(quay, protocol).messages == 1


def test_a_huge_message_is_streamed_into_a_batch_of_its_own(
    installation: Installation, dovecot: Dovecot
) -> None:
    """A message above the batch limit arrives whole, between its neighbours."""
    for protocol in ("imap", "pop3"):
        dovecot.forget(BOB)
        letters = [numbered(1), numbered(2, size=5_000_000), numbered(3)]
        dovecot.save(BOB, *letters)
        installation.on_dovecot(protocol, dovecot, BOB, protocol=protocol)
        quay = installation.quay(BATCH_SIZE="1MiB")

        result, rung = pulled(quay, protocol)
        for ticket in rung:
            deliver(quay, ticket)

        assert result.batches == 3
        assert sorted(installation.posted().values()).count(letters[1]) == (1 if protocol == "imap" else 2)
