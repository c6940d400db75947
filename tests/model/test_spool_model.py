"""Random histories of pulls, deliveries, deaths, lost leases, flushes and withheld messages: nothing is lost, nothing changes its id."""

from __future__ import annotations

import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import obstore
import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from obstore.store import MemoryStore

from tests.bed.valkey import Valkey
from tests.model.mail_server import Ledger, MailServer, MemorySource
from tests.model.mortal import Died, Life, mortal, stepwise
from worker import backfill, begin, circuit
from worker import settings as configuration
from worker.checkpoint import Backfill
from worker.deliver import deliver
from worker.identity import imap_id
from worker.parking import let_out, waiting_batches
from worker.pull import pull
from worker.quay import Quay
from worker.spool import Batch, Spool
from worker.spool import file as spool_file
from worker.spool.file import FileSpool
from worker.spool.object import ObjectSpool
from worker.spool.record import Pointer, Record, record_key

NOW = 1_800_000_000.0
OUTPUTS = ("archive", "crm")
WITHHELD = ((), (0,), (1,), (0, 3), (1, 2, 3))
"""Which of the messages that arrive together are listed and not given."""
MOODS = ("well", "well", "down", "refusing", "raising", "moody")

EXAMPLES = 30


def lives(longest: int) -> st.SearchStrategy[tuple[int, bool] | None]:
    """How many steps a process takes before it dies, and whether the last one was done; None lives on."""
    return st.none() | st.tuples(st.integers(0, longest), st.booleans())


class Files:
    """The spool in a folder."""

    def __init__(self, clock: Callable[[], float], folder: Path, keep: float) -> None:
        self._clock = clock
        self._path = folder / "spool"
        self._keep = keep

    def spool(self) -> Spool:
        """As one process has it."""
        return FileSpool(self._path, keep=self._keep, clock=self._clock)

    def batches(self) -> Iterator[Batch]:
        """What waits and has failed, as it lies there."""
        waiting = [self._path / "ready" / str(ticket) for ticket in self.spool().tickets()]
        parked = (self._path / "parked").glob("*/*.zip")
        for path in (*waiting, *parked, *(self._path / "failed").glob("*.zip")):
            with zipfile.ZipFile(path) as archive:
                yield Batch.loads(archive.read("batch.json"))


class Objects:
    """The spool in an object store."""

    def __init__(self, clock: Callable[[], float], folder: Path, keep: float) -> None:
        self._clock = clock
        self._folder = folder
        self._keep = keep
        self._client = MemoryStore()

    def spool(self) -> Spool:
        """As one process has it."""
        return ObjectSpool(stepwise(self._client), scratch=self._folder, keep=self._keep, clock=self._clock)

    def batches(self) -> Iterator[Batch]:
        """What the records say of every batch that a listing leads to."""
        keys = [one["path"] for page in obstore.list(self._client) for one in page]
        chains = {pointer.chain for key in keys if (pointer := Pointer.parse(key))}
        for chain in chains & {key.split("/")[1] for key in keys if key.endswith("/record.json")}:
            record = Record.loads(obstore.get(self._client, record_key(chain)).bytes().to_bytes())
            if record.place and record.batch:
                yield record.batch


Spools = Files | Objects


class Harbour(RuleBasedStateMachine):
    """One mailbox, its spool, its outputs, and everything that can happen to them."""

    url: str
    make_spools: Callable[[Callable[[], float], Path, float], Spools]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="mq-model-")
        self.now = NOW
        self.server = MailServer()
        self.ledgers = {name: Ledger(name) for name in OUTPUTS}
        self.owed: set[int] = set()
        """The uids that have to reach every output in the end, or to be refused."""

    @initialize(
        since=st.sampled_from(["all", "now"]),
        there=st.integers(0, 8),
        ordered=st.sampled_from(["yes", "no"]),
        keep=st.sampled_from(["0s", "1d"]),
    )
    def begin(self, since: str, there: int, ordered: str, keep: str) -> None:
        """Some messages lie in the mailbox already; SINCE says whether they are wanted. One output may have an order to keep."""
        environ = {
            "REDIS_URL": self.url,
            "DATA_DIR": self.folder.name,
            "BATCH_MESSAGES": "3",
            "LEASE_TTL": "60s",
            "KEEP": keep,
            "OUTPUT__CRM__ORDERED": ordered,
            **{f"OUTPUT__{name.upper()}__TYPE": "jsonl" for name in OUTPUTS},
            **{f"OUTPUT__{name.upper()}__PATH": f"{self.folder.name}/{name}" for name in OUTPUTS},
        }
        box = {
            "ADDRESS": "a@example.com", "HOST": "localhost", "PASSWORD": "x", "SINCE": since, "OUTPUTS": ",".join(OUTPUTS),
        }  # fmt: skip
        environ |= {f"MAILBOX__BOX__{key}": value for key, value in box.items()}
        self.settings = configuration.load(environ, cwd=Path(self.folder.name))
        self.spools = type(self).make_spools(
            lambda: self.now, self.settings.data_dir, self.settings.keep.total_seconds()
        )
        self.spool = self.spools.spool()
        self.survivor = self.quay()
        self.survivor.client.flushall()
        self.since = since
        self.arrive(there)

    @contextmanager
    def process(self, life: tuple[int, bool] | None) -> Iterator[Quay]:
        """A process that may die in the block; what it holds then stays held. With None, one that lives on and on."""
        if life is None:
            # An output that raised was let go; here there is only one of each.
            self.survivor._outputs.update(self.ledgers)
            yield self.survivor
            return
        steps, done = life
        quay = mortal(self.quay(), Life(steps, last_one_done=done))
        with suppress(Died):
            yield quay
        quay.client.connection_pool.disconnect()

    def quay(self) -> Quay:
        """One process's view of this world."""
        quay = Quay(self.settings, self.url, clock=lambda: self.now)
        quay.connect = lambda *_: MemorySource(self.server)  # type: ignore[method-assign]
        quay._outputs.update(self.ledgers)
        quay.spool = self.spools.spool()
        return quay

    # -- what can happen ---------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 8), withheld=st.sampled_from(WITHHELD))
    def arrive(self, count: int, withheld: Sequence[int] = ()) -> None:
        """New mail, some of it listed and not given.

        With SINCE=now what comes before the first look at the mailbox may be skipped, and nothing later.
        """
        first = self.server.last + 1
        self.server.arrive(count)
        self.server.withheld |= {first + number for number in withheld}
        if self.since == "all" or self.spool.recall("box") is not None:
            self.owed.update(range(first, self.server.last + 1))

    @rule()
    def give_what_was_withheld(self) -> None:
        """The server has mended itself."""
        self.server.withheld.clear()

    @rule(life=lives(25))
    def pull(self, life: tuple[int, bool] | None) -> None:
        """One pull, which may die between any two steps."""
        with self.process(life) as quay:
            pull(quay, self.settings.mailboxes["box"], ring=lambda _: None)
        self.server.during_fetch.clear()

    @rule(which=st.integers(0, 5), moods=st.tuples(*[st.sampled_from(MOODS)] * 2), life=lives(10))
    def deliver(self, which: int, moods: tuple[str, str], life: tuple[int, bool] | None) -> None:
        """One delivery to outputs in any mood, which may die between any two steps."""
        if not (tickets := self.spool.tickets()):
            return
        for ledger, mood in zip(self.ledgers.values(), moods, strict=True):
            ledger.mood = mood
        with self.process(life) as quay:
            deliver(quay, tickets[which % len(tickets)])

    @rule()
    def leases_expire(self) -> None:
        """Time passes for whatever a dead process held."""
        for key in self.survivor.client.scan_iter("mailquay:lease:*"):
            self.survivor.client.delete(key)

    @rule()
    def flush(self) -> None:
        """Redis forgets everything."""
        self.survivor.client.flushall()

    @rule(
        count=st.integers(1, 8),
        groups=st.integers(0, 2),
        also=st.sampled_from(["flush", "expire", "overtake"]),
    )
    def pull_while_the_lease_is_lost(self, count: int, groups: int, also: str) -> None:
        """In the middle of a pull its lease goes away; another process may even do all the work meanwhile."""

        def happen() -> None:
            if also == "flush":
                self.flush()
            else:
                self.leases_expire()
            if also == "overtake":
                self.pull(None)

        self.arrive(count)
        self.server.during_fetch = [*[lambda: None] * groups, happen]
        self.pull(None)

    @rule(seconds=st.sampled_from([1, 30, 700, 20_000]))
    def time_passes(self, seconds: int) -> None:
        """Retries become due."""
        self.now += seconds

    @rule(life=lives(6))
    def let_out(self, life: tuple[int, bool] | None) -> None:
        """What is parked for an output that may be back waits among the others again."""
        with self.process(life) as quay:
            let_out(quay, most=3)

    @rule()
    def clean(self) -> None:
        """What the sweep does."""
        self.spool.clean()

    @rule()
    def retry_what_failed(self) -> None:
        """A person puts everything back."""
        for ticket, _ in self.spool.failed():
            self.spool.retry(ticket)

    # -- what has to be true at any time -----------------------------------------------------------------------------

    @invariant()
    def what_the_checkpoint_has_passed_is_accounted_for(self) -> None:
        """Promises P1 and P2: every debt is accepted, or still in the spool, or waits for a person."""
        passed, ahead = self.passed(), self.still_to_be_gone_back_over()
        somewhere = self.held()
        noted = {note["place"]["id"] for note in self.spool.noted_messages("box")}
        for name, ledger in self.ledgers.items():
            there = somewhere[name] | noted | {id_ for id_, _ in ledger.accepted}
            lost = [
                uid
                for uid in self.owed
                if uid <= passed and uid not in ahead and imap_id("box", "INBOX", 7, uid) not in there
            ]
            assert not lost, f"{lost} reached {name} never, and are neither in the spool nor noted"

    @invariant()
    def an_id_means_one_message(self) -> None:
        """Promise P3: a repeat carries the same id, and nothing else ever does."""
        for ledger in self.ledgers.values():
            for id_, raw in ledger.accepted:
                uid = int(raw.rpartition(b" ")[2])
                assert (id_, raw) == (imap_id("box", "INBOX", 7, uid), self.server.raw(uid))

    def passed(self) -> int:
        """How far the mailbox counts as done: in Redis, or, when that was flushed, in the copy beside the spool."""
        if found := self.survivor.checkpoints.load("box", "INBOX"):
            return found.uid
        note = self.spool.recall("box")
        return int(note["folders"]["INBOX"][1]) if note else 0

    def still_to_be_gone_back_over(self) -> range:
        """What a backfill is durably known to bring yet; the checkpoint has passed it."""
        if self.survivor.checkpoints.load("box", "INBOX"):
            found = self.survivor.checkpoints.backfills("box").get("INBOX")
        else:
            note = (self.spool.recall("box") or {}).get("backfills", {}).get("INBOX")
            found = note and Backfill(*note)
        return range(found.low, found.high + 1) if found else range(0)

    def held(self) -> dict[str, set[str]]:
        """For each output the ids that are owed to it by a batch that waits or has failed."""
        found: dict[str, set[str]] = {name: set() for name in OUTPUTS}
        for batch in self.spools.batches():
            for entry in batch.entries:
                for output in entry.owed:
                    found[output].add(entry.id)
        return found

    def teardown(self) -> None:
        """Everybody is well again: what is owed arrives, and the spool is empty."""
        if hasattr(self, "settings"):
            self.come_to_rest()
            self.survivor.close()
        self.folder.cleanup()

    def deliver_all(self) -> None:
        """As workers do in which nothing goes wrong: every batch, and behind each the one whose turn it is then."""
        for ledger in self.ledgers.values():
            ledger.mood = "well"
        with self.process(None) as quay:
            for ticket in self.spool.tickets():
                delivered = deliver(quay, ticket)
                while delivered and delivered.next:
                    delivered = deliver(quay, delivered.next)

    def come_to_rest(self) -> None:
        """Pull and deliver until there is nothing left to do."""
        self.leases_expire()
        self.server.withheld.clear()
        for _ in range(3):
            self.retry_what_failed()
            self.now += 20_000
            self.pull(None)
            for _ in range(200):
                self.now += 700
                self.clean()
                self.let_out(None)
                if not waiting_batches(self.survivor):
                    break
                self.deliver_all()
        assert waiting_batches(self.survivor) == []
        assert self.spool.failed() == []
        assert self.spool.noted_messages("box") == []
        for ledger in self.ledgers.values():
            arrived = {int(raw.rpartition(b" ")[2]) for _, raw in ledger.accepted}
            assert self.owed <= arrived


@pytest.fixture
def _silence() -> Iterator[None]:
    """Thousands of events would be kept for a failure that does not come."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("spools", [Files, Objects])
@pytest.mark.parametrize("many", [5_000, 3])
@pytest.mark.usefixtures("_silence")
def test_whatever_happens_in_whatever_order_nothing_is_lost(
    fresh_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, many: int, spools: type[Spools]
) -> None:
    """With a new mailbox of `many` messages gone back over from the newest down, and with one pulled in order.

    Pull, deliver, death between any two steps, lost leases, flushes, retries by hand; and rest in the end.
    """
    # Two batches that fail open a circuit, and a file is written anew as soon as less than half of it is owed messages.
    monkeypatch.setattr(circuit, "_NEEDED", 2)
    monkeypatch.setattr(spool_file, "_SMALL", 0)
    monkeypatch.setattr(begin, "_MANY", many)
    monkeypatch.setattr(backfill, "_AT_ONCE", 2)
    monkeypatch.setattr(backfill, "_TURN_SECONDS", 0.0)
    history = type("History", (Harbour,), {"url": fresh_valkey.url, "make_spools": spools})
    run_state_machine_as_test(
        history,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            phases=(Phase.generate,),
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
