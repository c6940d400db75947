"""Message ids: where a message lies is what it is called, for ever."""

from __future__ import annotations

from worker.identity import batch_id, imap_id, pop3_id


def test_ids_never_change_between_releases() -> None:
    """Downstream systems hold these ids as their keys against duplicates, so the recipe is fixed for good."""
    assert imap_id("support", "INBOX", 1700000000, 42) == "3be1933366693608716cc2c878dbea57"
    assert pop3_id("support", "uidl-1") == "b0aa048c9e7821fa1cea36ba11f77681"
    assert batch_id(["a", "b"]) == "aaef812120317ae970ca477514f41bd0"


def test_each_part_of_a_place_makes_another_id() -> None:
    """Mailbox, folder, uidvalidity and uid all count, and none can be mistaken for a neighbour."""
    ids = [
        imap_id("support", "INBOX", 1, 23),
        imap_id("sales", "INBOX", 1, 23),
        imap_id("support", "INBOX/1", 1, 23),
        imap_id("support", "INBOX", 12, 3),
        imap_id("support", "INBOX", 1, 2),
        pop3_id("support", "23"),
        pop3_id("support", "INBOX"),
        batch_id(["support", "INBOX"]),
    ]

    assert len(set(ids)) == len(ids)
    assert all(len(one) == 32 and int(one, 16) for one in ids)


def test_the_same_messages_make_the_same_batch() -> None:
    """A batch that is pulled again after a crash is known as the same one; a part of it is another."""
    assert batch_id(["a", "b"]) == batch_id(["a", "b"])
    assert len({batch_id(["a", "b"]), batch_id(["a"]), batch_id(["b", "a"])}) == 3
