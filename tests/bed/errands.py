"""Pulls and delivers in this process, with the same code as the workers and the bells in a list."""

from __future__ import annotations

from worker.deliver import Delivered, deliver
from worker.errand import Pulled
from worker.pull import pull
from worker.quay import Quay
from worker.spool import Ticket


def pulled(quay: Quay, mailbox: str) -> Pulled:
    """Pull one mailbox once; nothing is delivered."""
    return pull(quay, quay.settings.mailboxes[mailbox], ring=lambda _: None)


def opens_every_mailbox(quay: Quay) -> bool:
    """Whether each configured mailbox is pulled well with what it signs in with."""
    return all(pulled(quay, name).trouble is None for name in quay.settings.mailboxes)


def pull_tickets(quay: Quay, mailbox: str) -> tuple[Pulled, list[Ticket]]:
    """Pull one mailbox once, and keep its bells."""
    rung: list[Ticket] = []
    return pull(quay, quay.settings.mailboxes[mailbox], ring=rung.append), rung


def deliver_due(quay: Quay) -> list[Delivered]:
    """Begin every batch that is due now, once."""
    now = quay.clock()
    found = [deliver(quay, ticket) for ticket in quay.spool.tickets() if ticket.due <= now]
    return [delivered for delivered in found if delivered]


def flow(quay: Quay, mailbox: str) -> Pulled:
    """Pull once and deliver what is due, as a beat and two workers would."""
    result = pulled(quay, mailbox)
    deliver_due(quay)
    return result
