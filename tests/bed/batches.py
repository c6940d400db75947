"""Puts batches into a spool as a pull does, without a mail server: what they owe is what the mailbox's outputs are."""

from __future__ import annotations

from dataclasses import replace

from worker.checkpoint import Place
from worker.identity import batch_id, imap_id
from worker.quay import Quay
from worker.spool import Batch, Entry, Ticket


def spooled(quay: Quay, mailbox: str, raws: list[bytes], *, first: int = 1, size: int = 1) -> list[Ticket]:
    """Batches of `size` messages each, in the order of `raws`; uids begin with `first`."""
    outputs = tuple(quay.settings.mailboxes[mailbox].outputs)
    numbered = list(enumerate(raws, first))
    tickets = []
    for start in range(0, len(numbered), size):
        some = numbered[start : start + size]
        entries = [Entry(imap_id(mailbox, "INBOX", 7, uid), uid=uid, owed=outputs) for uid, _ in some]
        plan = Batch(
            batch_id([entry.id for entry in entries]),
            mailbox,
            "INBOX",
            7,
            int(quay.clock()),
            entries=tuple(entries),
            sequence=quay.sequence(),
        )
        with quay.spool.new(plan) as writer:
            written = [writer.add(entry, (raw,)) for entry, (_, raw) in zip(entries, some, strict=True)]
            tickets.append(writer.commit(replace(plan, entries=tuple(written)), due=plan.created))
        places = [Place("INBOX", entry.id, 7, entry.uid) for entry in entries]
        quay.checkpoints.note_places(mailbox, plan.id, places)
    return tickets
