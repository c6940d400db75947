"""What belongs to one pull: whose mailbox, under which lease, until when, and what it has done so far. Plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from worker.checkpoint import Backfill
from worker.errors import MailquayError
from worker.lease import Lease
from worker.mailbox import Mailbox
from worker.quay import Quay
from worker.spool import Ticket

Ring = Callable[[Ticket], None]
"""Says that a batch is ready. A bell that is lost costs latency, never mail."""


@dataclass(slots=True)
class Pulled:
    """What one pull did. `busy`: another process holds the mailbox. `more`: the deadline came before the end.

    `missing` names folders that are not there while others were pulled. `gone_back` is how far each backfill was at
    last. `failures` are those in a row, this one counted; `again`: the one before failed in the same way.
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
    gone_back: dict[str, Backfill] = field(default_factory=dict)
    failures: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Errand:
    """What belongs to one pull from its beginning to its end."""

    quay: Quay
    mailbox: Mailbox
    lease: Lease
    ring: Ring
    deadline: float
    pulled: Pulled
