"""Everything that one process works with, built once from the settings: clients, stores, sources, outputs.

The only place where implementations are chosen. Nothing is made at import: a pool's child makes its own clients when
the first task comes, because connections do not survive a fork. Time and chance enter the worker here.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipelines.account import SignsIn
from pipelines.output import Output
from pipelines.pipeline import Pipeline
from pipelines.registry import PluginError, load_output, load_stage
from pipelines.stage import Stage
from worker import settings as configuration
from worker import state
from worker.checkpoint import Checkpoints
from worker.circuit import Circuits
from worker.errors import Misconfigured, Unreachable
from worker.hosts import Hosts, host_of
from worker.hurdles import Hurdles
from worker.kept import Kept
from worker.lease import held
from worker.lent import Lent
from worker.mailbox import Mailbox
from worker.news import News
from worker.owing import Terms
from worker.recognise import Handed
from worker.release import Releases
from worker.repair import Repairs
from worker.routing import Routing, condition
from worker.settings import Settings
from worker.signer import Signer
from worker.sources import Credentials, Listener, Source
from worker.sources.idle import IdleSession
from worker.sources.idle_wire import Authorities
from worker.sources.imap import ImapSource
from worker.sources.pop3 import Pop3Source
from worker.spool import Spool
from worker.spool.file import FileSpool
from worker.standing import Standings
from worker.timetable import Timetable
from worker.tokens.copies import Copies
from worker.tokens.keeper import Keeper
from worker.tokens.store import TokenStore

if TYPE_CHECKING:
    from worker.tokens.entra import Entra
    from worker.tokens.seal import KeyFile

_ANSWER_SECONDS = 60.0
"""What a mail server may take for one answer."""
_REFRESH_SECONDS = 10.0
"""How long a process that died while refreshing keeps the others from it. One that lives prolongs its lock."""


class Quay:
    """One process's clients and stores. `redis_url` is the settings' own, or that of an embedded server.

    `answer_seconds` is what a mail server may take for one answer.
    """

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        *,
        clock: Callable[[], float] = time.time,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self.settings = settings
        self.redis_url = redis_url
        self.clock = clock
        self._answer_seconds = answer_seconds
        self.client = state.connect(redis_url)
        self.lease_seconds = settings.lease_ttl.total_seconds()
        self.timetable = Timetable(self.client)
        self.checkpoints = Checkpoints(self.client)
        self.handed = Handed(self.client)
        self.hurdles = Hurdles(self.client)
        self.standings = Standings(self.client)
        self.news = News(self.client)
        self.kept = Kept(clock)
        self._outputs: dict[str, Output] = {}
        self._pipelines: dict[str, Pipeline] = {}
        self._routings: dict[str, Routing] = {}
        self._last_sequence = 0

    @cached_property
    def spool(self) -> Spool:
        """The spool that SPOOL_URL names, or the one in DATA_DIR."""
        return self.spool_at(self.settings.spool_url or self.settings.data_dir / "spool")

    def spool_at(self, place: str | Path) -> Spool:
        """The spool in a folder or under a URL, on the same terms as the configured one.

        Raises:
            Misconfigured: the extra is not installed, or the address and the keys do not make a store.
        """
        said = self.settings
        if isinstance(place, str) and place.startswith("file:"):
            place = Path(unquote(urlsplit(place).path))
        if isinstance(place, Path):
            return FileSpool(
                place,
                disk_free_min=said.disk_free_min,
                spool_max=said.spool_max,
                keep=said.keep.total_seconds(),
                clock=self.clock,
            )
        try:
            # The library comes with an extra.
            from worker.spool.object import ObjectSpool
            from worker.spool.opening import open_bucket
        except ModuleNotFoundError as error:
            raise Misconfigured(
                "SPOOL_URL: it needs a library that is not installed: pip install 'mailquay[s3]'"
            ) from error
        return ObjectSpool(
            open_bucket(said.model_copy(update={"spool_url": place}), jitter=self.jitter),
            scratch=said.data_dir / "fetched",
            spool_max=said.spool_max,
            keep=said.keep.total_seconds(),
            clock=self.clock,
        )

    @cached_property
    def circuits(self) -> Circuits:
        """Which outputs are known to be away."""
        return Circuits(self.client, clock=self.clock, jitter=self.jitter)

    def terms(self, mailbox: str) -> Terms:
        """The terms on which what a mailbox owes is delivered; also those of outputs that are configured no more."""
        found = self.settings.mailboxes.get(mailbox)
        retry_for = {name: said.terms.retry_for for name, said in self.settings.outputs.items()}
        return Terms(retry_for, found.fallback if found else None)

    def routing(self, mailbox: str) -> Routing:
        """Which outputs get a message of a mailbox, made once."""
        if mailbox not in self._routings:
            found = self.settings.mailboxes.get(mailbox)
            whens = {name: said.terms.when for name, said in self.settings.outputs.items() if said.terms.when}
            conditions = {name: condition(when) for name, when in whens.items()}
            self._routings[mailbox] = Routing(conditions, found.fallback if found else None)
        return self._routings[mailbox]

    @cached_property
    def hosts(self) -> Hosts:
        """The mail servers, and what is asked of each by all processes together."""
        said = self.settings
        enabled = [mailbox for mailbox in said.mailboxes.values() if mailbox.enabled]
        return Hosts(
            self.client,
            Counter(host_of(mailbox.endpoint) for mailbox in enabled),
            connections=said.host_connections,
            logins=said.host_logins,
            clock=self.clock,
            jitter=self.jitter,
        )

    @property
    def repairs(self) -> Repairs:
        """The repair queues, beside the spool."""
        return Repairs(self.spool)

    @property
    def releases(self) -> Releases:
        """What was handed over and may be settled, beside the spool."""
        return Releases(self.spool)

    @cached_property
    def token_keys(self) -> KeyFile:
        """The keys that seal tokens: those of TOKEN_KEYS_FILE, or one made in DATA_DIR."""
        from worker.tokens.seal import KeyFile

        path = self.settings.token_keys_file
        return KeyFile(path or self.settings.data_dir / "token_keys", create=path is None)

    @cached_property
    def token_store(self) -> TokenStore:
        """The sealed grants."""
        from worker.tokens.seal import Seal

        in_clear = self.settings.dangerously_store_tokens_in_clear
        copies = Copies(self.settings.data_dir / "tokens")
        return TokenStore(self.client, Seal(self.token_keys, in_clear=in_clear), copies)

    def now(self) -> datetime:
        """The clock as an aware moment."""
        return datetime.fromtimestamp(self.clock(), UTC)

    def jitter(self) -> float:
        """A factor from 0.5 to 1.0, so that what failed together does not come back together."""
        return random.uniform(0.5, 1.0)  # noqa: S311  (no secret hangs on it)

    def chance(self) -> float:
        """A number from 0 to 1."""
        return random.random()  # noqa: S311  (no secret hangs on it)

    def sequence(self) -> int:
        """The time in microseconds, or one more than what this gave before: no two batches of a process have the same."""
        self._last_sequence = max(int(self.clock() * 1e6), self._last_sequence + 1)
        return self._last_sequence

    def entra(self, mailbox: Signer) -> Entra:
        """The identity provider of the mailbox's app registration."""
        # MSAL takes a sixth of a short pull's time to load, and a mailbox with a password needs none of it.
        from worker.tokens.entra import Entra

        return Entra(self.settings.registration(mailbox), clock=self.clock)

    def keeper(self, mailbox: Signer) -> Keeper:
        """Where the mailbox's account gets its tokens, and what keeps them fresh."""
        entra = self.entra(mailbox)
        delegated = mailbox.auth == "delegated"
        return Keeper(
            entra.refresh if delegated else entra.client_credentials,
            self.token_store,
            lambda what: held(self.client, what, ttl=_REFRESH_SECONDS),
            client_id=self.settings.registration(mailbox).client_id,
            signed_in=delegated,
            clock=self.clock,
        )

    def connect(self, mailbox: Mailbox, credentials: Credentials) -> Source:
        """A session with the mailbox's server, signed in."""
        kind: Callable[..., Source] = ImapSource
        if mailbox.protocol == "pop3":
            # Where the last pull broke, answers are waited for one by one: some servers lose commands sent ahead.
            broke = self.standings.of(mailbox.name).state == Unreachable.state
            kind = partial(Pop3Source, ahead=not broke)
        return kind(
            mailbox.endpoint,
            credentials,
            message_max=self.settings.message_max,
            answer_seconds=self._answer_seconds,
            clock=time.monotonic,
        )

    @cached_property
    def _authorities(self) -> Authorities:
        return Authorities()

    async def listen(self, mailbox: Mailbox, folder: str, credentials: Credentials) -> Listener:
        """A session with the mailbox's server, signed in, that waits for new mail in one folder."""
        return await IdleSession.begun(
            mailbox.endpoint, credentials, folder, self._authorities, answer_seconds=self._answer_seconds
        )

    def pipeline(self, mailbox: str) -> Pipeline:
        """The stages of a mailbox, made once.

        Raises:
            Misconfigured: the mailbox is not configured any more, or a stage cannot be loaded.
        """
        if mailbox not in self._pipelines:
            found = self.settings.mailboxes.get(mailbox)
            if found is None:
                raise Misconfigured(
                    f"the mailbox {mailbox} is not configured any more; its batches wait for it"
                )
            self._pipelines[mailbox] = Pipeline([self._stage(name) for name in found.stages])
        return self._pipelines[mailbox]

    def _stage(self, name: str) -> Stage:
        said = self.settings.stages[name]
        try:
            return load_stage(said.type)(name, said.options)
        except PluginError as error:
            raise Misconfigured(f"stage {name}: {error}") from error

    def output(self, name: str) -> Output:
        """An output, opened in this process at its first use.

        Raises:
            Misconfigured: it is not configured any more, or cannot be loaded.
        """
        if name not in self._outputs:
            said = self.settings.outputs.get(name)
            if said is None:
                raise Misconfigured(f"the output {name} is not configured any more; what is owed to it waits")
            try:
                output = load_output(said.type)(name, said.options)
            except PluginError as error:
                raise Misconfigured(f"output {name}: {error}") from error
            self._outputs[name] = output
            if isinstance(output, SignsIn):
                output.tokens = self._lent(name)
            # When this raises, `forget_output` closes what was half open.
            output.open()
        return self._outputs[name]

    def _lent(self, output: str) -> Lent | None:
        """The tokens of the account as which an output signs in; None when it does so without."""
        signers = [signer for signer in self.settings.output_signers if signer.output == output]
        if not signers:
            return None
        return Lent(partial(self.keeper, signers[0]), self.settings.account(signers[0]), signers[0].scopes)

    def forget_output(self, name: str) -> None:
        """Close an output that raised, so that its next use opens it anew."""
        if output := self._outputs.pop(name, None):
            # An output in trouble may not even close well; that is no reason to lose the receipts of the others.
            with suppress(Exception):
                output.close()

    def close(self) -> None:
        """Let all clients go."""
        for name in list(self._outputs):
            self.forget_output(name)
        self.kept.close()
        self.client.close()


_quays: dict[int, Quay] = {}


def quay(environ: Mapping[str, str] | None = None) -> Quay:
    """This process's quay, built from the environment at the first call; a forked child builds its own.

    Raises:
        ConfigurationError: the settings are wrong, or no Redis is named.
    """
    pid = os.getpid()
    if pid not in _quays:
        settings = configuration.load(environ or os.environ, cwd=Path.cwd())
        if settings.redis_url is None:
            raise Misconfigured("REDIS_URL is not set: start the workers with `mailquay up`, or set it")
        _quays[pid] = Quay(settings, settings.redis_url)
    return _quays[pid]
