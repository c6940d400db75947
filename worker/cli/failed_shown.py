"""A failed batch as people and programs see it: a line of a list, or all that is known of it.

Reasons come from servers and outputs, so they are made harmless before they are shown. The structure of messages is read
in a process of its own, because a message may lie in `failed` for having killed those that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from rich.filesize import decimal

from pipelines.message import Source
from worker.cli.moment import at
from worker.cli.words import counted
from worker.errors import MailquayError
from worker.failed import Failed
from worker.reading.outline import plain
from worker.reading.place import Place, Trouble
from worker.reading.pool import together
from worker.reading.shown import shown
from worker.reading.work import Outcome, Task
from worker.spool import Entry, Event, OpenBatch, Spool

_MOST = 2000
"""Characters of a reason that are shown."""


def as_json_line(found: Failed) -> dict[str, Any]:
    """What `failed list --json` says of a batch; times in Unix seconds, sizes in octets."""
    ticket = found.ticket
    return {
        "batch": ticket.batch,
        "mailbox": ticket.mailbox,
        "messages": ticket.messages,
        "octets": ticket.octets,
        "outputs": found.outputs,
        "failed_at": found.at,
        "pulled_at": found.pulled_at,
        "damaged": bool(found.damage),
        "reason": found.reason,
    }


def one_line(found: Failed) -> str:
    """The same for people."""
    ticket = found.ticket
    damaged = "  DAMAGED" if found.damage else ""
    outputs = ",".join(found.outputs) or "-"
    return (
        f"{ticket.batch}  {ticket.mailbox}  {outputs}  {counted(ticket.messages, 'message')}  {at(found.at)}{damaged}  "
        f"{_harmless(found.reason)}"
    )


def described(spool: Spool, found: Failed, *, content: bool, as_json: bool) -> Iterator[str]:
    """Yield the lines that say all that is known of a batch: one for programs."""
    outcomes = _structures(spool, found, content=content)
    if as_json:
        yield orjson.dumps(_whole(found, outcomes)).decode()
        return
    ticket, batch = found.ticket, found.batch
    folder = f"  folder {shown(batch.folder)}" if batch else ""
    yield f"batch {ticket.batch}  mailbox {ticket.mailbox}{folder}  pulled {at(found.pulled_at)}"
    yield f"  reason   {_harmless(found.reason)}"
    if found.damage:
        yield f"  damaged  {_harmless(found.damage)}"
    if ticket.attempts:
        yield f"  begun    {ticket.attempts} times, and never ended"
    for name, state in sorted(batch.outputs.items()) if batch else ():
        since = f", in vain since {at(state.since)}" if state.since else ""
        yield f"  output   {name}: attempts: {state.attempts}{since}"
    for event in batch.history if batch else ():
        yield f"  history  {_told(event)}"
    for entry in batch.entries if batch else ():
        yield f"  message  {_entry(entry)}"
        yield from (f"    {line}" for line in _drawn(outcomes.get(entry.id)))


def _whole(found: Failed, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    batch = found.batch
    entries = [
        {
            "id": entry.id,
            "uid": entry.uid,
            "uidl": entry.uidl,
            "flags": entry.flags,
            "received": entry.received,
            "size": entry.size,
            "sha256": entry.sha256,
            "owed": entry.owed,
            "accepted": entry.accepted,
            "structure": list(_drawn(outcomes.get(entry.id))),
        }
        for entry in (batch.entries if batch else ())
    ]
    return {
        **as_json_line(found),
        "damage": found.damage,
        "begun": found.ticket.attempts,
        "folder": batch and batch.folder,
        "uidvalidity": batch and batch.uidvalidity,
        "attempts": {name: state.attempts for name, state in batch.outputs.items()} if batch else {},
        "since": {name: state.since for name, state in batch.outputs.items()} if batch else {},
        "history": batch.history if batch else (),
        "entries": entries,
    }


def _told(event: Event) -> str:
    """One thing that happened, on a line."""
    when = at(event.first) if event.first == event.last else f"{at(event.first)} to {at(event.last)}"
    times = f", {event.times} times" if event.times > 1 else ""
    reason = f": {_harmless(event.reason)}" if event.reason else ""
    return f"{when}  {event.output}  {event.what}  {counted(event.messages, 'message')}{times}{reason}"


def _entry(entry: Entry) -> str:
    where = f"  uid {entry.uid}" if entry.uid else f"  UIDL {shown(entry.uidl)}" if entry.uidl else ""
    size = f"  {decimal(entry.size)}" if entry.sha256 else ""
    accepted = f"  accepted by {', '.join(entry.accepted)}" if entry.accepted else "  accepted by nobody"
    return f"{entry.id}{where}{size}{accepted}"


def _drawn(outcome: Outcome | None) -> Iterator[str]:
    if outcome and outcome.outline:
        yield from plain(outcome.outline)
    if outcome and outcome.trouble:
        yield f"! {outcome.trouble}"


def _structures(spool: Spool, found: Failed, *, content: bool) -> dict[str, Outcome]:
    """The structure of each message by its id, as far as the batch can be read."""
    if found.damage or found.batch is None:
        return {}
    task = Task((), "tree" if content else "structure")
    try:
        with spool.open_failed(found.ticket) as opened:
            places = (_place(opened, entry) for entry in opened.batch.entries)
            return {
                outcome.label: outcome
                for outcome in together(task, ([place] for place in places), processes=1)
            }
    except (MailquayError, FileNotFoundError):
        # It was retried or dropped a moment ago.
        return {}


def _place(opened: OpenBatch, entry: Entry) -> Place | Trouble:
    try:
        raw = bytes(opened.raw(entry))
    except MailquayError as damage:
        return Trouble(entry.id, damage.sentence)
    source = Source(opened.batch.folder, opened.batch.uidvalidity, entry.uid, entry.uidl, entry.flags)
    return Place(entry.id, raw=raw, size=entry.size, id=entry.id, source=source, sha256=entry.sha256)


def _harmless(reason: str) -> str:
    """A reason on one line, whoever wrote it."""
    return shown("; ".join(reason.splitlines()), most=_MOST)
