"""What belongs to one pull: whose mailbox, under which lease, until when, and what it has done so far. Plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.checkpoint import Backfill
from worker.errors import MailquayError, Waiting
from worker.lease import Lease
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.spool import Ticket

Ring = Callable[[Ticket], None]
"""Says that a batch is ready. A bell that is lost costs latency, never mail."""


@dataclass(slots=True)
class Pulled:
    """What one pull did. `busy`: another process holds the mailbox. `more`: the deadline came before the end.

    `missing` names folders that are not there while others were pulled, `unsettled` says why AFTER cannot be done.
    `deleted` are the UIDLs that were deleted before it. `gone_back` is how far each backfill was at last. `waits`: it was
    not its turn, or its host is away, and nothing was tried. `failures` are those in a row, this one counted; `again`: the
    one before failed in the same way.
    """

    mailbox: str
    messages: int = 0
    octets: int = 0
    batches: int = 0
    recognised: int = 0
    withheld: int = 0
    busy: bool = False
    more: bool = False
    trouble: MailquayError | None = None
    missing: MailquayError | None = None
    unsettled: MailquayError | None = None
    deleted: set[str] = field(default_factory=set)
    waits: Waiting | None = None
    gone_back: dict[str, Backfill] = field(default_factory=dict)
    failures: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Errand:
    """What belongs to one pull from its beginning to its end. `arrived` is told when a folder was opened: the host is there."""

    quay: Quay
    mailbox: Mailbox
    lease: Lease
    ring: Ring
    deadline: float
    pulled: Pulled
    arrived: Callable[[], None] = lambda: None
