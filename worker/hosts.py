"""Hosts: how much all processes together ask of one mail server, and how they find out that it is away and back.

A host is a name and a port. A pull takes a *place* for its connection and a *turn* for its login; who finds none is put back
for seconds, in the order of asking. A host at which different mailboxes fail one after the other is *away*: none of them is
tried but for one *probe* at a time, nobody's failures are counted, and one log event tells of it, one more when it is back.
It guards against incidents and crowds, not against a server that serves some mailboxes and fails others. All of it lies in
Redis and may be flushed: then it is counted anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

import structlog

from worker import state
from worker.errors import (
    HostAway,
    HostBusy,
    LoginRefused,
    MailquayError,
    Misconfigured,
    RedisUnavailable,
    SessionExpired,
    Throttled,
    Unreachable,
    Waiting,
)
from worker.host_scripts import ENTER_HOST, LEAVE_HOST, NOTE_HOST_FAILED, NOTE_HOST_THERE
from worker.mailbox import Mailbox
from worker.sources import Endpoint

log = structlog.get_logger("hosts")

_MOST_NEEDED, _LEAST_NEEDED = 5, 3
_FAILURE_COUNTS_SECONDS = 900.0
"""A mailbox that failed is tried again within five minutes; one that was not for so long is not configured any more."""
_FIRST_PROBE_SECONDS, _LAST_PROBE_SECONDS = 5.0, 300.0
_PROBE_TAKES_SECONDS = 180.0
"""Connecting, TLS and signing in may each take a minute. The probe of a process that died is over after this."""
_LONGEST_TURN_SECONDS = 2.0
_PATIENCE_SECONDS = 2.0
"""What a pull waits for a place before its process turns to mailboxes of other hosts."""
_LOOK_SECONDS = 0.1
_PUT_BACK_SECONDS = 4.0
_WAITED_FOR_SECONDS = 60.0
"""One that waits and does not ask again for so long is not waited for: its process died, or it was disabled."""

Verdict = Literal["there", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Away:
    """A host that is away: since when, when it is probed next (Unix seconds), for how many mailboxes it was found so, and why."""

    host: str
    since: float
    mailboxes: int
    reason: str
    probe_at: float

    @property
    def sentence(self) -> str:
        """What a person is told of each of its mailboxes."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return (
            f"{self.host} is away since {since}: {self.mailboxes} of its mailboxes could not be opened one after the other "
            f"({self.reason}). One is tried now and then, and all go on by themselves when it is back"
        )


@dataclass(slots=True)
class Visit:
    """One caller at a host, let in after `wait` seconds.

    `fence`: it holds a place under its lease. `probe`: how many found the host away before this one; None: it is no probe.
    `called` is set when the server is called, so that what fails before is not held against the host.
    """

    host: str
    mailbox: str
    fence: int | None = None
    wait: float = 0.0
    probe: int | None = None
    called: bool = False
    arrived: bool = False


# -- deciding --------------------------------------------------------------------------------------------------------


def host_of(endpoint: Endpoint) -> str:
    """The key of a host. The port belongs to it: a server whose POP3 is away may well give mail over IMAP."""
    return f"{endpoint.host.lower()}:{endpoint.port}"


def needed(mailboxes: int) -> int:
    """How many different mailboxes have to fail one after the other, of so many that a host has, for it to count as away.

    One that is opened in between begins the count anew, so no span of time is needed: a host of mailboxes that are polled every
    hour is found away as well as one of thousands. Five, because of a host that fails one time in ten, five in a row are chance
    once in 100,000; all, when it has four or three; fewer have no crowd that could do harm.
    """
    return max(_LEAST_NEEDED, min(_MOST_NEEDED, mailboxes))


def pause(probes: int) -> float:
    """Seconds until the next probe, after so many that found the host away."""
    return min(_LAST_PROBE_SECONDS, _FIRST_PROBE_SECONDS * 2.0 ** min(probes, 10))


def judged(visit: Visit, error: MailquayError | None) -> Verdict:
    """What a visit that ended says of its host.

    That one mailbox is refused says nothing of whether others are opened; but a server that has words for a probe is back.
    """
    if visit.arrived or not visit.called:
        return "unknown"
    if isinstance(error, Unreachable):
        return "failed"
    answered = isinstance(error, LoginRefused | Throttled | Misconfigured | SessionExpired)
    if error is None or (answered and visit.probe is not None):
        return "there"
    return "unknown"


# -- asking ----------------------------------------------------------------------------------------------------------


class Hosts:
    """The hosts of one installation. `mailboxes`: how many each has. `clock` in Unix seconds, `jitter` from 0.5 to 1."""

    def __init__(
        self,
        client: state.Client,
        mailboxes: Mapping[str, int],
        *,
        connections: int,
        logins: int,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._mailboxes = mailboxes
        self._connections = connections
        self._logins = logins
        self._clock = clock
        self._jitter = jitter
        self._sleep = sleep

    @contextmanager
    def visiting(self, mailbox: Mailbox, fence: int | None) -> Iterator[Visit]:
        """A visit to the mailbox's host for the length of the block, as soon as there is a place and a turn.

        `fence` is that of the mailbox's lease. None: a person waits, who is not kept waiting for politeness.

        Raises:
            HostBusy: there was none within two seconds.
            HostAway: the host is away, or this was the probe that found it still so.
            RedisUnavailable: there is nobody to ask.
        """
        visit = Visit(host_of(mailbox.endpoint), mailbox.name)
        if fence is not None:
            visit = self._let_in(mailbox, fence)
        try:
            yield visit
        except MailquayError as error:
            away = self.ended(visit, error)
            if away and visit.probe is not None:
                raise self.as_error(away) from error
            if away and fence is None:
                raise Unreachable(f"{error.sentence} {away.sentence}") from error
            raise
        except BaseException:
            self._leave(visit)
            raise
        else:
            self.ended(visit, None)

    def _let_in(self, mailbox: Mailbox, fence: int) -> Visit:
        patience = _PATIENCE_SECONDS * self._jitter()
        waited = 0.0
        while True:
            try:
                visit = self.ask(mailbox, fence)
            except HostBusy:
                if waited >= patience:
                    raise
                self._sleep(_LOOK_SECONDS)
                waited += _LOOK_SECONDS
            else:
                if visit.wait:
                    self._sleep(visit.wait)
                return visit

    def ask(self, mailbox: Mailbox, fence: int | None = None) -> Visit:
        """A visit, once; whoever is let in first waits for its `wait`, and says at last how it `ended`.

        Without a `fence` it takes no place: connections that only wait for news are not counted, or they would lock out pulls.

        Raises:
            HostBusy: there is no place, or no turn soon; who asks again within a minute keeps his rank.
            HostAway: the host is away.
            RedisUnavailable: there is nobody to ask.
        """
        host = host_of(mailbox.endpoint)
        # The mailbox's pull and its watcher wait each for itself.
        caller = f"watcher of {mailbox.name}" if fence is None else mailbox.name
        between = 1000 / self._logins
        keys = [*map(state.host_key, ("away", "places", "waiting", "asked", "turn"), [host] * 5)]
        args: list[str | int | float] = [
            self._now(), caller, "" if fence is None else fence, self._connections,
            between, 1000 - between, _LONGEST_TURN_SECONDS * 1000,
            int(_PROBE_TAKES_SECONDS * 1000), int(_WAITED_FOR_SECONDS * 1000),
            state.lease_key(state.mailbox_lease("")),
        ]  # fmt: skip
        found = cast("list[str | int]", self._client.register_script(ENTER_HOST)(keys=keys, args=args))
        if found[0] == "in":
            probe = None if found[2] == "" else int(found[2])
            return Visit(host, mailbox.name, fence, int(found[1]) / 1000, probe)
        if found[0] == "away" and (away := self.away(host)):
            raise self.as_error(away)
        raise self._busy(host)

    def arrived(self, visit: Visit) -> None:
        """The mailbox was opened: the host is there, whatever comes now. Told at once, because a pull may take minutes."""
        if visit.arrived:
            return
        visit.arrived = True
        keys = [state.host_key("away", visit.host), state.host_key("failing", visit.host)]
        since = self._client.register_script(NOTE_HOST_THERE)(keys=keys)
        if since:
            away = self._clock() - int(since) / 1000
            log.info("host.back", host=visit.host, mailbox=visit.mailbox, seconds=round(away))

    def ended(self, visit: Visit, error: MailquayError | None) -> Away | None:
        """Note what a visit says of its host and give its place back; returns the host if its visitor found it away.

        Without Redis nothing is noted, and the place is given back by the end of its lease.
        """
        with suppress(RedisUnavailable):
            match judged(visit, error):
                case "there":
                    self.arrived(visit)
                case "failed":
                    assert error is not None
                    self._failed(visit, error)
                    self._leave(visit)
                    return self.away(visit.host)
                case "unknown":
                    pass
            self._leave(visit, give_probe_back=not visit.arrived)
        return None

    def away(self, host: str) -> Away | None:
        """The host, if it is away."""
        found = cast("dict[str, str]", self._client.hgetall(state.host_key("away", host)))
        if not found:
            return None
        since, probe_at = int(found["since"]) / 1000, int(found["probe_at"]) / 1000
        return Away(host, since, int(found["mailboxes"]), found["reason"], probe_at)

    def waits(self, mailbox: Mailbox) -> Waiting | None:
        """What a mailbox waits for now, if it does, with the sentence that names its host."""
        host = host_of(mailbox.endpoint)
        if away := self.away(host):
            return self.as_error(away)
        rank = self._client.zscore(state.host_key("waiting", host), mailbox.name)
        return self._busy(host) if rank is not None else None

    def _failed(self, visit: Visit, error: MailquayError) -> None:
        now = self._now()
        probes = 0 if visit.probe is None else visit.probe + 1
        next_at = now + int(pause(probes) * self._jitter() * 1000)
        mailboxes = self._client.register_script(NOTE_HOST_FAILED)(
            keys=[state.host_key("away", visit.host), state.host_key("failing", visit.host)],
            args=[
                now, visit.mailbox, needed(self._mailboxes.get(visit.host, 0)), int(_FAILURE_COUNTS_SECONDS * 1000),
                error.sentence.rstrip("."), next_at, int(visit.probe is not None),
            ],
        )  # fmt: skip
        if mailboxes > 0:
            log.warning("host.away", host=visit.host, mailboxes=mailboxes, reason=error.sentence)

    def _leave(self, visit: Visit, *, give_probe_back: bool = False) -> None:
        again = self._now() if give_probe_back and visit.probe is not None else ""
        with suppress(RedisUnavailable):
            self._client.register_script(LEAVE_HOST)(
                keys=[state.host_key("away", visit.host), state.host_key("places", visit.host)],
                args=[visit.mailbox, "" if visit.fence is None else visit.fence, again],
            )

    def _busy(self, host: str) -> HostBusy:
        return HostBusy(
            f"{host} is asked for no more than {self._connections} connections at a time and {self._logins} logins a second "
            "(HOST_CONNECTIONS, HOST_LOGINS); the mailbox waits for its turn",
            seconds=_PUT_BACK_SECONDS * self._jitter(),
        )

    def as_error(self, away: Away) -> HostAway:
        """What those hear that would have called."""
        return HostAway(away.sentence, seconds=max(0.0, away.probe_at - self._clock()))

    def _now(self) -> int:
        return int(self._clock() * 1000)
