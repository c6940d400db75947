"""Watches mailboxes with PUSH=yes: one waiting IMAP connection a mailbox, and a bell as soon as new mail is announced.

Nothing depends on it: the schedule finds whatever is missed here, so every trouble is answered by a pause, and the pull is
the one that tells people. A session lives as long as its token; an account that gets none is waited for, not asked about.
One process holds thousands of sessions with `asyncio`; what blocks (Redis, tokens, bells) is done in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from typing import ParamSpec, TypeVar

import structlog

from worker import health
from worker.errors import (
    AccountTrouble,
    HostAway,
    LoginRefused,
    MailquayError,
    RedisUnavailable,
    SessionExpired,
    Throttled,
    Unreachable,
)
from worker.folders import plain
from worker.mailbox import Mailbox
from worker.pace import Pace
from worker.quay import Quay
from worker.shares import Shares
from worker.sources import Credentials, Listener, NoPush
from worker.standing import parking
from worker.tokens import AccessToken

log = structlog.get_logger("watch")

_SETTLED_SECONDS = 60.0
"""A session that lasted for so long was a good one: the next pause is a short one again."""
_SPREAD_SECONDS = 300.0
"""So long before a token ends at the most its sessions are begun anew, one after the other; a new one is to be had then."""
_LOOK_SECONDS = 5.0
"""How often an account without a token is looked at in Redis, however many of its mailboxes wait."""
_LONGEST_AWAY_SECONDS = 60.0
"""How often at least it is looked whether a host that was away is back: one command in Redis a mailbox."""

P = ParamSpec("P")
T = TypeVar("T")


def watched_folder(mailbox: Mailbox) -> str:
    """The one folder that can be watched: the first that FOLDERS names, or INBOX when it holds patterns only."""
    return next(iter(plain(mailbox.folders)), "INBOX")


class Watcher:
    """The share of one process. `ring` calls the pull of a mailbox; it may take its time, and raises nothing."""

    def __init__(
        self,
        quay: Quay,
        shares: Shares,
        ring: Callable[[str], None],
        *,
        pace: Pace | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._quay = quay
        self._shares = shares
        self._ring = ring
        self._pace = pace or Pace(quay.hosts)
        self._sleep = sleep
        said = quay.settings.mailboxes
        self._wanted = {name: mailbox for name, mailbox in said.items() if mailbox.push and mailbox.enabled}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}
        # The version of each account's grant before it was asked for a token.
        self._versions: dict[str, int] = {}
        self._counted: dict[str, int] = {}
        # A provider that hangs must keep neither the share nor the bells waiting.
        self._asking = ThreadPoolExecutor(8, thread_name_prefix="tokens")
        self._sharing = ThreadPoolExecutor(1, thread_name_prefix="shares")
        self._ringing = ThreadPoolExecutor(1, thread_name_prefix="bells")
        self.listening: set[str] = set()
        """The mailboxes whose news are heard now."""

    async def run(self, stop: asyncio.Event) -> None:
        """Watch this process's share until `stop` is set."""
        log.info("watch.begun", mailboxes=len(self._wanted))
        try:
            while not stop.is_set():
                await self._share()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._quay.lease_seconds / 3):
                        await stop.wait()
        finally:
            await self._end()

    async def _share(self) -> None:
        """Take on and give up mailboxes, so that each is watched by one process."""
        try:
            mine = await self._in_thread(self._sharing, self._shares.mine, self._wanted, set(self._watching))
            await self._in_thread(self._sharing, health.sign_of_life, self._quay, "watcher")
        except RedisUnavailable as error:
            # Without Redis nobody else can take them either.
            log.warning("watch.waiting", reason=error.sentence)
            return
        for name in self._watching.keys() - mine:
            self._watching.pop(name).cancel()
        for name in mine - self._watching.keys():
            self._watching[name] = asyncio.create_task(self._watch(self._wanted[name]))
        counted = {"mailboxes": len(self._wanted), "mine": len(mine), "listening": len(self.listening)}
        if counted != self._counted:
            self._counted = counted
            log.info("watch.counted", **counted)

    async def _end(self) -> None:
        tasks = [*self._watching.values(), *self._waiting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(RedisUnavailable):
            await self._in_thread(self._sharing, self._shares.leave)
        for threads in (self._asking, self._sharing, self._ringing):
            threads.shutdown(wait=False, cancel_futures=True)
        self._pace.close()

    # -- one mailbox -----------------------------------------------------------------------------------------------

    async def _watch(self, mailbox: Mailbox) -> None:
        """Session after session, with pauses that grow while none of them lasts."""
        clock = asyncio.get_running_loop().time
        failures, ended = 0, None
        while True:
            token: AccessToken | None = None
            begun: float | None = None
            try:
                async with self._pace.turn(mailbox) as visit:
                    credentials, token = await self._in_thread(
                        self._asking, self._credentials, mailbox, ended
                    )
                    visit.called = True
                    listener = await self._quay.listen(mailbox, watched_folder(mailbox), credentials)
                begun, ended = clock(), None
                with closing(listener):
                    await self._listen(mailbox, listener, token)
            except AccountTrouble as trouble:
                self._say(mailbox, trouble, failures=1)
                await self._until_signed_in(self._quay.settings.account(mailbox).casefold())
            except HostAway as away:
                # One event told of it already, and it is no failure of this mailbox.
                seconds = min(_LONGEST_AWAY_SECONDS, max(_LOOK_SECONDS, away.seconds))
                await self._sleep(seconds * self._quay.jitter())
            except NoPush as error:
                log.warning(
                    "watch.impossible",
                    mailbox=mailbox.name,
                    reason=f"{error.sentence}; it is pulled on schedule",
                )
                return
            except MailquayError as error:
                failures = 1 if begun and clock() - begun > _SETTLED_SECONDS else failures + 1
                ended = token if isinstance(error, SessionExpired | LoginRefused) else None
                self._say(mailbox, error, failures)
                await self._sleep(self._pause(error, failures))
            except Exception:
                # A mistake of ours with one mailbox must not leave it unwatched for ever, and no other one at all.
                log.exception("watch.failed", mailbox=mailbox.name)
                failures += 1
                await self._sleep(self._pause(Unreachable(""), failures))
            else:
                failures = 0

    async def _listen(self, mailbox: Mailbox, listener: Listener, token: AccessToken | None) -> None:
        """Ring for everything that a session hears, until its token is near its end."""
        ends_at = self._ends_at(token)
        self.listening.add(mailbox.name)
        try:
            while (left := ends_at - self._quay.clock()) > 0:
                if await listener.news(left):
                    await self._in_thread(self._ringing, self._ring_for, mailbox.name)
        finally:
            self.listening.discard(mailbox.name)

    def _ends_at(self, token: AccessToken | None) -> float:
        """When a session is begun anew: before its token ends, and not together with all others that live on it."""
        if token is None:
            return float("inf")
        left = token.expires_at - self._quay.clock()
        spread = min(_SPREAD_SECONDS, (token.expires_at - token.issued_at) / 4)
        # An old token serves while the provider is away; then what is left of it is halved, and halved again.
        return self._quay.clock() + max(left - spread * self._quay.jitter(), left / 2)

    def _pause(self, error: MailquayError, failures: int) -> float:
        """Seconds until the next try. A session that ended with its token is begun anew at once, but only once."""
        if isinstance(error, SessionExpired) and failures == 1:
            return 0.0
        if isinstance(error, Throttled):
            # What the server asked for is the least.
            return error.seconds * (1.5 - self._quay.jitter() / 2)
        return parking(error, failures) * self._quay.jitter()

    def _say(self, mailbox: Mailbox, error: MailquayError, failures: int) -> None:
        """One line when it begins. People are told by the pull, which has the same trouble if it matters."""
        say = log.info if failures == 1 else log.debug
        say(
            "watch.interrupted",
            mailbox=mailbox.name,
            state=error.state,
            reason=error.sentence,
            failures=failures,
        )

    # -- accounts and bells, in threads ------------------------------------------------------------------------------

    def _credentials(
        self, mailbox: Mailbox, ended: AccessToken | None
    ) -> tuple[Credentials, AccessToken | None]:
        """What to sign in with now; `ended` is a token that the server has just refused or called expired."""
        if mailbox.auth == "password":
            assert mailbox.password is not None
            secret = mailbox.password.get_secret_value()
            return Credentials(mailbox.username, secret, bearer=False), None
        account = self._quay.settings.account(mailbox)
        self._versions[account.casefold()] = self._quay.token_store.glance(account).version
        keeper = self._quay.keeper(mailbox)
        token = (ended and keeper.another(account, mailbox.scopes, ended)) or keeper.access(
            account, mailbox.scopes
        )
        return Credentials(mailbox.username, token.secret), token

    def _ring_for(self, mailbox: str) -> None:
        """Ring, unless a bell is on its way already. Without Redis there is nothing to be pulled with."""
        with suppress(RedisUnavailable):
            if self._quay.news.noted(mailbox, self._quay.clock()):
                self._ring(mailbox)

    async def _until_signed_in(self, account: str) -> None:
        """Wait until something else is stored for an account. The mailboxes that share it share the look, too."""
        if account not in self._waiting:
            self._waiting[account] = asyncio.create_task(self._changed(account))
            self._waiting[account].add_done_callback(lambda _: self._waiting.pop(account, None))
        # One mailbox that is given up must not take the wait from the others.
        await asyncio.shield(self._waiting[account])

    async def _changed(self, account: str) -> None:
        version = self._versions.get(account)
        while True:
            await self._sleep(_LOOK_SECONDS)
            with suppress(RedisUnavailable):
                found = await self._in_thread(self._sharing, self._quay.token_store.glance, account)
                if found.version != version:
                    return

    async def _in_thread(
        self, threads: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, partial(work, *args, **options))
