"""What waits for a person in `failed`: which of it somebody means, and what is known of it. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worker.errors import Misconfigured
from worker.spool import Batch, BatchDamaged, Spool, Ticket


@dataclass(frozen=True, slots=True)
class Failed:
    """One batch that waits, and why. Of one that is damaged, `batch` is its plan, or None, and `damage` says so."""

    ticket: Ticket
    reason: str
    batch: Batch | None
    damage: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that do not have its messages, by name."""
        entries = self.batch.entries if self.batch else ()
        return tuple(sorted({output for entry in entries for output in entry.owed}))

    @property
    def at(self) -> float:
        """When an output last said something of it or, when none ever did, when it was pulled; in Unix seconds."""
        history = self.batch.history if self.batch else ()
        heard = [event.last for event in history if event.output in self.outputs]
        return max(heard, default=self.pulled_at)

    @property
    def pulled_at(self) -> float:
        """When it was pulled, or last retried, in Unix seconds."""
        return self.ticket.sequence / 1e6 or (self.batch.created if self.batch else 0.0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which batches a person means: all that every one of these is true for. `batch` is an id, or how one begins.

    `reason` is a part of the reason, in any case; `before` and `after` bound when it failed, in Unix seconds.
    """

    batch: str = ""
    mailboxes: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    reason: str = ""
    before: float | None = None
    after: float | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing was said."""
        return self == Wanted()

    def by_name(self, ticket: Ticket, reason: str) -> bool:
        """Whether what is known without opening it lets a batch through."""
        return (
            ticket.batch.startswith(self.batch)
            and (not self.mailboxes or ticket.mailbox in self.mailboxes)
            and self.reason.casefold() in reason.casefold()
        )

    def by_content(self, found: Failed) -> bool:
        """Whether the rest does, too."""
        return (
            (not self.outputs or not self.outputs.isdisjoint(found.outputs))
            and (self.before is None or found.at <= self.before)
            and (self.after is None or found.at >= self.after)
        )


def failed(spool: Spool, wanted: Wanted) -> Iterator[Failed]:
    """Yield the failed batches that somebody means, in the order of their names.

    Raises:
        Misconfigured: `wanted` names one batch, and there is none, or several, whose id begins so.
    """
    named = [(ticket, reason) for ticket, reason in spool.failed() if wanted.by_name(ticket, reason)]
    if wanted.batch and (meant := len({ticket.batch for ticket, _ in named})) != 1:
        what = "there is no failed batch" if not meant else f"the ids of {meant} failed batches begin with"
        raise Misconfigured(f"{what} {wanted.batch}; `mailquay failed list` shows them")
    for ticket, reason in named:
        found = _read(spool, ticket, reason)
        if found and wanted.by_content(found):
            yield found


def _read(spool: Spool, ticket: Ticket, reason: str) -> Failed | None:
    """What is known of a batch; None when somebody retried or dropped it a moment ago."""
    try:
        with spool.open_failed(ticket) as opened:
            return Failed(ticket, reason, opened.batch)
    except BatchDamaged as damage:
        return Failed(ticket, reason, damage.plan, damage.sentence)
    except FileNotFoundError:
        return None
