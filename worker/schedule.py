"""Celery beat's scheduler: rings `pull` for each mailbox that is due, and `sweep`, `keep_alive` and `alert`.

Any number of beats may run; none is a leader, and no schedule file exists. A tick claims what is due with one script
(`timetable.py`) and publishes it. A beat that dies between the two costs latency, never mail: the sweep rings again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from celery.beat import Scheduler
from celery.schedules import crontab
from kombu.exceptions import OperationalError

from worker import health
from worker.errors import RedisUnavailable
from worker.quay import Quay, quay
from worker.timetable import ALERT, KEEP_ALIVE, SWEEP, pull_entry

_LONGEST_NAP_SECONDS = 1.0
"""A mailbox that is unparked by a sign-in, or added, waits no longer than this."""
_KEEP_ALIVE_SECONDS = 6 * 3600.0
_ALERT_SECONDS = 60.0

log = structlog.get_logger("beat")


def next_cron(line: str, now: float, app: Any) -> float:
    """The Unix time after `now` that a five-field cron line names next, in UTC. `app` is Celery's, set to UTC."""
    minute, hour, day, month, weekday = line.split()
    moment = datetime.fromtimestamp(now, UTC)
    schedule = crontab(
        minute=minute,
        hour=hour,
        day_of_month=day,
        month_of_year=month,
        day_of_week=weekday,
        nowfun=lambda: moment,
        app=app,
    )
    wait: timedelta = schedule.remaining_estimate(moment)
    # Celery rounds down to the second; a second too early would name the same minute twice.
    return now + max(wait.total_seconds(), 1.0)


class MailboxScheduler(Scheduler):  # type: ignore[misc]  # celery has no types
    """One entry a mailbox, claimed from the timetable in Redis."""

    def __init__(self, *args: Any, clock: Callable[[], float] = time.time, **options: Any) -> None:
        self._clock = clock
        super().__init__(*args, **options)

    def setup_schedule(self) -> None:
        """Bring the timetable in line with the configuration."""
        self._quay = quay()
        self._synced = False

    def tick(self, *args: Any, **options: Any) -> float:  # noqa: ARG002  (celery hands its own arguments on)
        """Claim and ring everything due; returns the seconds until the next look."""
        now = self._clock()
        try:
            if not self._synced:
                self._sync(self._quay, now)
            while taken := self._quay.timetable.claim(now):
                for entry in taken:
                    self._ring(entry, now)
            health.sign_of_life(self._quay, "beat")
            due = self._quay.timetable.next_due()
        except RedisUnavailable as error:
            log.warning("beat.waiting", reason=error.sentence)
            # A Redis that comes back may have lost entries; they are filled in again.
            self._synced = False
            return _LONGEST_NAP_SECONDS
        except OperationalError as error:
            # What was claimed and not rung is noted as unanswered: the sweep rings it.
            log.warning("beat.waiting", reason=f"the broker does not answer ({type(error).__name__})")
            return _LONGEST_NAP_SECONDS
        if due is None:
            # It was flushed.
            self._synced = False
        return min(_LONGEST_NAP_SECONDS, max(0.0, (due or 0) - self._clock()))

    @property
    def info(self) -> str:
        """What beat's banner says."""
        return "    . timetable -> Redis, claimed by any number of beats"

    def _sync(self, quay: Quay, now: float) -> None:
        mailboxes = {
            pull_entry(name): mailbox.every.seconds
            for name, mailbox in quay.settings.mailboxes.items()
            if mailbox.enabled
        }
        others = {
            SWEEP: quay.settings.sweep_every.total_seconds(),
            KEEP_ALIVE: _KEEP_ALIVE_SECONDS,
            ALERT: _ALERT_SECONDS,
        }
        quay.timetable.sync({**mailboxes, **others}, now)
        self._synced = True
        if not mailboxes:
            log.warning(
                "beat.no_mailboxes",
                remedy="no mailbox is configured: describe one in .env (see .env.example and docs/configuration.md), "
                "then start again",
            )

    def _ring(self, entry: str, now: float) -> None:
        kind, _, mailbox = entry.partition(":")
        # Another beat may know a mailbox that this one does not; its puller will.
        found = self._quay.settings.mailboxes.get(mailbox)
        if found and found.every.cron:
            self._quay.timetable.park(entry, next_cron(found.every.cron, now, self.app))
        args = [mailbox] if mailbox else []
        self.app.send_task(f"mailquay.{kind}", args=args)
