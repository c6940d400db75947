"""Tells people who has lost access, who will, and who has it again: as a log event, and to a webhook when one is named.

An alert is raised once, when its reason appears, and cleared once, when the reason is gone; in between it is silent. The
log hears of it at once. The webhook hears of it at least once, in order, with the same `webhook-id` at each repetition:
what it did not answer with 2xx is told again at the next run. Of several processes one tells. What has been raised lies in
Redis; when that is flushed, what still stands is raised again. No secret, token, message id or subject is in an alert.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Literal, cast

import orjson
import structlog

from pipelines.output import Accepted
from pipelines.registry import load_output
from worker import errors, state
from worker.accounts import ENDED, ENDING, NEVER, Access, access
from worker.errors import AccountTrouble, MailquayError
from worker.hosts import Away, host_of
from worker.lease import held
from worker.quay import Quay
from worker.standing import Standing
from worker.timetable import ALERT

log = structlog.get_logger("alert")

Kind = Literal[
    "account.lost",
    "account.ending",
    "credential.ended",
    "credential.ending",
    "mailbox.lost",
    "mailbox.silent",
    "host.away",
]

_FAILURES = 3
"""A mailbox is lost when it failed so often in a row: servers err, too."""
_SILENT_SECONDS = 6 * 3600.0
"""A mailbox that was not pulled for so long is silent, whoever's fault that is."""
_TRIED_SECONDS = 3600.0
"""What failed when it was last tried is tried again within minutes; when it was not, it waits for a host that was away."""
_AWAY_SECONDS = 300.0
"""People are told of a host that is away for longer than a server takes to start."""
_ANSWER_SECONDS = 10.0
_TELLING_SECONDS = 30.0
"""After so long a run begins no further call; the next run goes on."""
_UNTOLD_AT_MOST = 1000

_WAITING_STATES = frozenset(
    kind.state
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, MailquayError)
    and not issubclass(kind, AccountTrouble)
    and kind.who in {"owner", "admin", "operator"}
    and not kind.retried
)
"""States of a mailbox that wait for a person and are not its account's."""
_WHO: Mapping[str, str] = {
    kind.state: kind.who
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MailquayError)
}


@dataclass(frozen=True, slots=True)
class Alert:
    """What people are told; as JSON, the body of the call.

    `id` is `kind:subject`. `who` has to act, and `sentence` says what to do. `since` is when the reason was first seen, `ends_at` when access ends
    or ended, if that is known (Unix seconds).
    """

    id: str
    kind: Kind
    subject: str
    state: Literal["raised", "cleared"]
    who: str
    sentence: str
    mailboxes: tuple[str, ...]
    since: float
    ends_at: float | None

    def to_json(self) -> str:
        """The alert as a JSON object."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def parse(cls, text: str) -> Alert:
        """Read what `to_json` wrote."""
        said = orjson.loads(text)
        return cls(**{**said, "mailboxes": tuple(said["mailboxes"])})

    def cleared(self) -> Alert:
        """The same, over."""
        return replace(self, state="cleared", sentence="the reason is gone; there is nothing left to do")


@dataclass(frozen=True, slots=True)
class Polled:
    """An enabled mailbox: who signs in for it, how it stands, and its host if that is away. Or an output, by its account alone."""

    mailbox: str
    account: str
    standing: Standing
    away: Away | None = None


# -- deciding --------------------------------------------------------------------------------------------------------


def standing_alerts(
    found: Access, mailboxes: Sequence[Polled], before: Mapping[str, Alert], *, now: float
) -> dict[str, Alert]:
    """Every alert that has a reason now, by its id; one that stood `before` is left as it was raised.

    It is raised again when it is somebody else who has to act, or when it has reached further mailboxes. Who signs in for no enabled mailbox is nobody's trouble.
    """
    polled = {one.mailbox: one for one in mailboxes}
    alerts = [
        *_of_accounts(found, polled, before, now),
        *_of_credentials(found, polled, now),
        *_of_mailboxes(mailboxes, before, now),
        *_of_hosts(mailboxes, now),
    ]
    known = {name for alert in alerts for name in alert.mailboxes}
    alerts += _of_silence(mailboxes, known, now)
    return {alert.id: _told(alert, before.get(alert.id)) for alert in alerts}


def _told(alert: Alert, before: Alert | None) -> Alert:
    """The alert as it was raised, when nothing has changed of whom it concerns."""
    same = before and before.who == alert.who and set(alert.mailboxes) <= set(before.mailboxes)
    return before if before and same else alert


def _of_accounts(
    found: Access, polled: Mapping[str, Polled], before: Mapping[str, Alert], now: float
) -> Iterator[Alert]:
    for account in found.accounts:
        names = [name for name in account.mailboxes if name in polled]
        if not names:
            continue
        # Nobody is alarmed by a mailbox that was described a moment ago, before it was asked for the first time.
        tried = any(polled[name].standing.tried_at for name in names)
        lost = account.lost and (account.state != NEVER or tried)
        # A provider that is down takes nothing back of what it refused before.
        still = account.troubled and _id("account.lost", account.account) in before
        told = (account.account, account.sentence, names)
        if lost:
            who = _WHO.get(account.state, "owner")
            yield _raised("account.lost", who, *told, now=now, ends_at=account.ends_at)
        elif still:
            yield before[_id("account.lost", account.account)]
        elif account.state == ENDING:
            yield _raised("account.ending", "owner", *told, now=now, ends_at=account.ends_at)


def _of_credentials(found: Access, polled: Mapping[str, Polled], now: float) -> Iterator[Alert]:
    kinds: Mapping[str, Kind] = {ENDING: "credential.ending", ENDED: "credential.ended"}
    for credential in found.credentials:
        names = [name for name in credential.mailboxes if name in polled]
        if names and credential.state in kinds:
            subject = f"{credential.kind} of {credential.client_id}"
            kind = kinds[credential.state]
            yield _raised(
                kind, "operator", subject, credential.sentence, names, now=now, ends_at=credential.ends_at
            )


def _of_mailboxes(mailboxes: Sequence[Polled], before: Mapping[str, Alert], now: float) -> Iterator[Alert]:
    """One alert an account, and not one for each of its fifty shared mailboxes."""
    by_account: dict[str, list[Polled]] = {}
    for one in mailboxes:
        by_account.setdefault(one.account, []).append(one)
    for account, theirs in by_account.items():
        lost = [
            one
            for one in theirs
            if one.standing.state in _WAITING_STATES and one.standing.failures >= _FAILURES
        ]
        # A server that hangs now and then takes nothing back: only a good pull does.
        told = before.get(_id("mailbox.lost", account))
        still = [
            one for one in theirs if told and one.mailbox in told.mailboxes and one.standing.failing_since
        ]
        if lost:
            names = {one.mailbox for one in [*lost, *still]}
            standing = lost[0].standing
            who = _WHO[standing.state]
            yield _raised("mailbox.lost", who, account, standing.sentence, sorted(names), now=now)
        elif told and still:
            yield told


def _of_hosts(mailboxes: Sequence[Polled], now: float) -> Iterator[Alert]:
    """One alert a host that is away, and not one for each of its thousand mailboxes."""
    for away in {one.away for one in mailboxes if one.away}:
        if now - away.since > _AWAY_SECONDS:
            names = [one.mailbox for one in mailboxes if one.away and one.away.host == away.host]
            yield _raised("host.away", "nobody", away.host, away.sentence, names, now=now)


def _of_silence(mailboxes: Sequence[Polled], known: Collection[str], now: float) -> Iterator[Alert]:
    """What was not pulled for long for a reason that waits for nobody: a server that is away, or named wrongly."""
    for one in mailboxes:
        since = one.standing.failing_since
        tried = now - one.standing.tried_at < _TRIED_SECONDS and not one.away
        if one.mailbox not in known and tried and since and now - since > _SILENT_SECONDS:
            hours = f"it was not pulled for {(now - since) / 3600:.0f} hours"
            sentence = f"{hours}: {one.standing.sentence}"
            yield _raised("mailbox.silent", "operator", one.mailbox, sentence, [one.mailbox], now=now)


def _id(kind: Kind, subject: str) -> str:
    return f"{kind}:{subject}"


def _raised(
    kind: Kind,
    who: str,
    subject: str,
    sentence: str,
    mailboxes: Sequence[str],
    *,
    now: float,
    ends_at: float | None = None,
) -> Alert:
    return Alert(
        _id(kind, subject), kind, subject, "raised", who, sentence, tuple(sorted(mailboxes)), now, ends_at
    )


# -- telling ---------------------------------------------------------------------------------------------------------


def alert(quay: Quay) -> list[Alert]:
    """Look, and tell what is new and what is over; returns that. Nothing when another process is at it.

    Raises:
        RedisUnavailable: nothing is known without Redis; the next run tells.
    """
    changed: list[Alert] = []
    with held(quay.client, "alert", ttl=quay.lease_seconds) as lease:
        if lease is not None:
            changed = _note(quay)
            _tell(quay, fresh={one.id for one in changed})
    quay.timetable.answered(ALERT)
    return changed


def _note(quay: Quay) -> list[Alert]:
    """Compare what stands with what stood, and log and queue the difference."""
    before = _before(quay)
    enabled = [
        (name, mailbox) for name, mailbox in sorted(quay.settings.mailboxes.items()) if mailbox.enabled
    ]
    away = {host: quay.hosts.away(host) for host in {host_of(mailbox.endpoint) for _, mailbox in enabled}}
    polled = [
        Polled(
            name,
            quay.settings.account(mailbox).casefold(),
            quay.standings.of(name),
            away[host_of(mailbox.endpoint)],
        )
        for name, mailbox in enabled
    ]
    served = {output for _, mailbox in enabled for output in mailbox.outputs}
    polled += [
        # Whether it was tried is not kept; it is whenever there is mail.
        Polled(signer.name, quay.settings.account(signer).casefold(), Standing(tried_at=quay.clock()))
        for signer in quay.settings.output_signers
        if signer.output in served
    ]
    now = standing_alerts(access(quay), polled, before, now=quay.clock())
    raised = [one for id_, one in now.items() if id_ not in before]
    cleared = [one.cleared() for id_, one in before.items() if id_ not in now]
    for one in [*raised, *cleared]:
        say = log.warning if one.state == "raised" else log.info
        # Logged first: a process that dies in between logs twice rather than never.
        say(
            f"alert.{one.state}",
            kind=one.kind,
            subject=one.subject,
            mailboxes=one.mailboxes,
            reason=one.sentence,
        )
        quay.client.register_script(state.NOTE_ALERT)(
            keys=[state.ALERTS, state.UNTOLD_ALERTS],
            args=[one.id, one.to_json(), int(one.state == "raised"), _UNTOLD_AT_MOST],
        )
    return [*raised, *cleared]


def _before(quay: Quay) -> dict[str, Alert]:
    found = cast("dict[str, str]", quay.client.hgetall(state.ALERTS))
    return {id_: Alert.parse(text) for id_, text in found.items()}


@dataclass(frozen=True, slots=True)
class _Call:
    """What the webhook output wants of a message: an id that is the same at each repetition, and its JSON."""

    id: str
    body: str

    def to_json(self) -> bytes:
        return self.body.encode()


def _tell(quay: Quay, *, fresh: Collection[str]) -> None:
    """Post what the webhook has not taken yet, as the webhook output does: signed, with deadlines, without redirects."""
    untold = cast("list[str]", quay.client.lrange(state.UNTOLD_ALERTS, 0, -1))
    said = quay.settings.alert
    if said.url is None:
        _forget_what_is_over(quay, untold)
        return
    if not untold:
        return
    webhook: Any = load_output("webhook")
    timeout = timedelta(seconds=_ANSWER_SECONDS)
    options = {"url": said.url, "secret": said.secret, "timeout": timeout, "parallel": 1}
    output = webhook("alert", webhook.Options.model_validate(options), clock=quay.clock)
    output.open()
    failed: dict[str, str] = {}
    give_up = quay.clock() + _TELLING_SECONDS
    try:
        for text in untold:
            one = Alert.parse(text)
            # What is over must not be told before it has begun.
            if one.id in failed or quay.clock() > give_up:
                continue
            (receipt,) = output.deliver([_Call(_webhook_id(one), text)])
            if isinstance(receipt, Accepted):
                quay.client.lrem(state.UNTOLD_ALERTS, 1, text)
            else:
                failed[one.id] = receipt.reason
    finally:
        output.close()
    if failed:
        say = log.warning if failed.keys() & set(fresh) else log.info
        say("alert.delayed", alerts=len(failed), reason=next(iter(failed.values())))


def _forget_what_is_over(quay: Quay, untold: Sequence[str]) -> None:
    """Without a webhook: one that is named later hears of what still stands, and of nothing else."""
    stands = _before(quay) if untold else {}
    for text in untold:
        if Alert.parse(text).id not in stands:
            quay.client.lrem(state.UNTOLD_ALERTS, 1, text)


def _webhook_id(alert: Alert) -> str:
    """The same for each repetition of this very alert, and another one when it is raised again later."""
    text = f"{alert.id} {alert.state} {alert.since}"
    return f"alert_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
