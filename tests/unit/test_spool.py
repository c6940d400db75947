"""The spool: durable before it is visible, whole or known to be damaged, and gone only when somebody said so."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bed.object_spool import object_spool
from tests.bed.object_store import ObjectServer, object_server
from worker.errors import SpoolFull
from worker.spool import Batch, BatchDamaged, Entry, OutputState, Spool, Ticket
from worker.spool.archive import append
from worker.spool.file import FileSpool
from worker.spool.memory import MemorySpool

NOW = 1_800_000_000.0
RAW = (b"Subject: one\r\n\r\nfirst\r\n", b"Subject: two\r\n\r\n\xff\x00second")


def planned(*ids: str, generation: int = 0) -> Batch:
    entries = tuple(Entry(one, uid=n, owed=("crm", "archive")) for n, one in enumerate(ids, 1))
    return Batch(
        "b" * 32, "support", "INBOX", 7, int(NOW), generation, entries, {"crm": OutputState(1, 2, 3, "busy")}
    )


def put(spool: Spool, plan: Batch, *raws: bytes, due: int = int(NOW)) -> Ticket:
    with spool.new(plan) as writer:
        entries = tuple(writer.add(entry, (raw,)) for entry, raw in zip(plan.entries, raws, strict=True))
        return writer.commit(replace(plan, entries=entries), due=due)


def contents(spool: Spool, ticket: Ticket) -> dict[str, bytes]:
    """What a batch holds; bytes are compared with their digests, as deliver does."""
    with spool.open(ticket) as opened:
        found = {entry.id: bytes(opened.raw(entry)) for entry in opened.batch.entries}
        for entry in opened.batch.entries:
            if hashlib.sha256(found[entry.id]).hexdigest() != entry.sha256:
                raise BatchDamaged("digest", mailbox=opened.batch.mailbox, plan=opened.batch)
        return found


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    return FileSpool(tmp_path / "spool", clock=lambda: NOW)


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectServer]:
    with object_server() as server:
        yield server


@pytest.fixture(params=["file", "memory", "object", "s3"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Spool:
    """Every spool there is; the one in an object store both in memory and on a server."""
    if request.param == "s3":
        client = request.getfixturevalue("object_store").bucket().store()
        return object_spool(tmp_path, clock=lambda: NOW, client=client)
    if request.param == "object":
        return object_spool(tmp_path, clock=lambda: NOW)
    if request.param == "memory":
        return MemorySpool(clock=lambda: NOW)
    return FileSpool(tmp_path / "spool", clock=lambda: NOW)


def test_a_batch_comes_back_as_it_was_put(either: Spool) -> None:
    """Raw bytes, entries, what is owed, and what happened so far."""
    ticket = put(either, planned("x", "y"), *RAW)

    assert either.tickets() == [ticket]
    assert contents(either, ticket) == {"x": RAW[0], "y": RAW[1]}
    with either.open(ticket) as opened:
        entry = opened.batch.entries[1]
        assert replace(opened.batch, entries=()) == replace(planned(), entries=())
        assert (entry.uid, entry.owed, entry.size) == (2, ("crm", "archive"), len(RAW[1]))
    either.remove(ticket)
    assert either.tickets() == []


def test_what_was_not_committed_is_gone(either: Spool) -> None:
    """A pull that breaks off leaves nothing behind."""
    with either.new(planned("x")) as writer:
        writer.add(planned("x").entries[0], (RAW[0],))
    assert either.tickets() == []
    if isinstance(either, FileSpool):
        assert list((either.path / "tmp").iterdir()) == []


def test_of_several_generations_only_the_newest_counts_and_clean_removes_the_others(either: Spool) -> None:
    """A crash between two generations leaves both; the older one would ask outputs that have accepted."""
    put(either, planned("x", "y"), *RAW)
    newest = put(either, planned("y", generation=2), RAW[1], due=int(NOW) + 60)
    put(either, planned("y", generation=1), RAW[1])

    assert either.tickets() == [newest]
    assert either.clean() == 2
    assert either.tickets() == [newest]
    assert contents(either, newest) == {"y": RAW[1]}


def test_tickets_come_soonest_due_first(either: Spool) -> None:
    """So that whoever looks only at the first knows how late the spool is."""
    tickets = [
        put(either, replace(planned("x"), id=f"{n:032x}"), RAW[0], due=due)
        for n, due in enumerate((30, 9, 200))
    ]

    assert either.tickets() == [tickets[1], tickets[0], tickets[2]]


def test_an_attempt_is_counted_before_anything_is_tried(either: Spool) -> None:
    """The count is in the name: whoever lists the spool sees it, even if the process dies in the next instant."""
    ticket = put(either, planned("x"), RAW[0])

    begun = either.begin(ticket)

    assert begun == replace(ticket, attempts=1)
    assert either.tickets() == [begun]
    assert either.begin(ticket) is None
    either.postpone(begun, int(NOW) + 60)
    assert either.tickets() == [replace(ticket, attempts=0, due=int(NOW) + 60)]


def test_of_many_that_begin_a_batch_exactly_one_gets_it(spool: FileSpool) -> None:
    """No lease is needed for this: the file system decides."""
    for _ in range(20):
        ticket = put(spool, planned("x"), RAW[0])
        with ThreadPoolExecutor(8) as threads:
            got = [begun for begun in threads.map(spool.begin, [ticket] * 8) if begun]
        assert len(got) == 1
        spool.remove(got[0])


def test_failed_batches_wait_with_their_reason_and_can_be_retried_or_dropped(either: Spool) -> None:
    """A person decides; until then nothing touches them."""
    tickets = [put(either, replace(planned("x"), id=f"{n:032x}"), RAW[0]) for n in range(2)]
    begun = [either.begin(ticket) for ticket in tickets]
    for ticket in begun:
        assert ticket
        either.fail(ticket, "refused: too large")

    assert either.tickets() == []
    assert either.clean() == 0
    assert either.failed() == [(ticket, "refused: too large") for ticket in begun]
    assert begun[0]
    assert begun[1]
    waiting = either.retry(begun[0])
    either.drop(begun[1])
    assert either.failed() == []
    # Its time begins anew, and its turn.
    assert waiting == replace(begun[0], attempts=0, due=0, sequence=int(NOW * 1e6))
    assert either.tickets() == [waiting]
    with either.open(waiting) as opened:
        assert (opened.batch.created, opened.batch.outputs) == (int(NOW), {})
    assert contents(either, either.tickets()[0]) == {"x": RAW[0]}


def test_refused_messages_become_a_failed_batch_of_their_own(either: Spool) -> None:
    """They never show among what is due."""
    with either.new(planned("x")) as writer:
        entry = writer.add(planned("x").entries[0], (RAW[0],))
        ticket = writer.commit_failed(replace(planned(), entries=(entry,)), "crm: no such customer")

    assert either.tickets() == []
    assert either.failed() == [(ticket, "crm: no such customer")]


def test_a_note_is_kept_and_replaced(either: Spool) -> None:
    """The copy of the checkpoints beside the spool; another mailbox's note is another one."""
    assert either.recall("support") is None
    either.remember("support", {"folders": {"INBOX": [7, 1]}})
    either.remember("support", {"folders": {"INBOX": [7, 2]}})
    either.remember("sales", {"folders": {}})

    assert either.recall("support") == {"folders": {"INBOX": [7, 2]}}
    assert either.recall("sales") == {"folders": {}}


class Recorder:
    """The durable steps of this process, in order: fsyncs of files and directories, and renames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ready: Path) -> None:
        self.steps: list[str] = []
        self._ready = ready
        self._fsync, self._rename = os.fsync, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "rename", self.rename)

    def fsync(self, handle: int) -> None:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            assert found.st_ino == self._ready.stat().st_ino
            self.steps.append("fsync directory")
        else:
            self.steps.append(f"fsync {found.st_ino} of {found.st_size}")
        self._fsync(handle)

    def rename(self, old: Path, new: Path) -> None:
        assert not Path(new).exists()
        self.steps.append(f"rename {Path(old).stat().st_ino}")
        self._rename(old, new)


@pytest.mark.parametrize("where", ["ready", "failed", "notes"])
def test_it_is_written_then_fsynced_then_renamed_then_the_directory_is_fsynced(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Promise P1 step by step, for batches, for failed ones, and for notes: nothing is visible before it is durable."""
    folder = spool.path / where
    recorder = Recorder(monkeypatch, folder)

    if where == "ready":
        put(spool, planned("x", "y"), *RAW)
    elif where == "notes":
        spool.remember("support", {"folders": {}})
    else:
        with spool.new(planned()) as writer:
            writer.commit_failed(planned(), "why")

    (written,) = [path for path in folder.iterdir() if path.suffix != ".txt"]
    found = written.stat()
    assert recorder.steps == [
        f"fsync {found.st_ino} of {found.st_size}",
        f"rename {found.st_ino}",
        "fsync directory",
    ]


def test_any_zip_tool_opens_a_batch(spool: FileSpool) -> None:
    """A person can get at the mail without Mailquay; checksums are right."""
    ticket = put(spool, planned("x", "y"), *RAW)
    path = spool.path / "ready" / str(ticket)

    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["plan.json", "0001.eml", "0002.eml", "batch.json"]
        assert archive.read("0002.eml") == RAW[1]
        assert b'"mailbox": "support"' in archive.read("batch.json")
    if unzip := shutil.which("unzip"):
        assert subprocess.run([unzip, "-tqq", path], check=False).returncode == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_huge_message_is_streamed_in_flat_memory(spool: FileSpool) -> None:
    """60 MB go through with less than 4 MB in hand, and come back without a copy."""
    chunk = os.urandom(1 << 20)

    def chunks() -> Iterator[bytes]:
        for _ in range(60):
            yield chunk

    tracemalloc.start()
    try:
        with spool.new(planned("x")) as writer:
            entry = writer.add(planned("x").entries[0], chunks())
            ticket = writer.commit(replace(planned(), entries=(entry,)))
        with spool.open(ticket) as opened:
            view = opened.raw(entry)
            assert (len(view), view[-5:]) == (60 << 20, chunk[-5:])
            view.release()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 4 << 20
    assert entry.sha256 == hashlib.sha256(chunk * 60).hexdigest()


def test_a_batch_cut_short_anywhere_is_known_as_damaged_and_says_what_it_held(spool: FileSpool) -> None:
    """Its messages can be pulled again, as long as the plan at its beginning is there."""
    ticket = put(spool, planned("x", "y"), *RAW)
    path = spool.path / "ready" / str(ticket)
    whole = path.read_bytes()
    plan_ends = whole.index(b"PK\x03\x04", 4)

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BatchDamaged) as caught, spool.open(ticket):
            pass
        plan = caught.value.plan
        assert (plan == planned("x", "y")) if length >= plan_ends else (plan is None)
    assert "support" in str(caught.value)
    assert "Check the disk" in str(caught.value)

    for position in range(plan_ends):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 : plan_ends])
        with pytest.raises(BatchDamaged) as caught, spool.open(ticket):
            pass
        assert caught.value.plan in (None, planned("x", "y"))


def test_no_overwritten_byte_passes_for_the_message(spool: FileSpool) -> None:
    """Every byte of a batch turned over: either it comes back whole, or it is damaged, and its plan is right or none."""
    ticket = put(spool, planned("x"), RAW[0])
    path = spool.path / "ready" / str(ticket)
    whole = path.read_bytes()
    with spool.open(ticket) as opened:
        batch = opened.batch

    plans = []
    for position in range(len(whole)):
        for mask in (0x01, 0xFF):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
            try:
                assert contents(spool, ticket) == {"x": RAW[0]}
                with spool.open(ticket) as opened:
                    assert opened.batch == batch
            except BatchDamaged as error:
                plans.append(error.plan)
    assert len(plans) > 2 * len(RAW[0])
    assert all(plan in (None, planned("x"), batch) for plan in plans)


def test_unfinished_files_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    """A writer holds a lock on its file; the lock dies with its process, even by -9. Young files are let be."""
    now = [NOW]
    spool = FileSpool(tmp_path, clock=lambda: now[0])
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom worker.spool import Batch\n"
        "from worker.spool.file import FileSpool\n"
        f"spool = FileSpool(Path({str(tmp_path)!r}), clock=lambda: 0)\n"
        "spool.new(Batch('b', 'support', 'INBOX')).__enter__()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (orphan,) = (tmp_path / "tmp").iterdir()

    with spool.new(planned("x")) as writer:
        now[0] = orphan.stat().st_mtime + 30
        assert spool.clean() == 0
        now[0] += 600
        assert spool.clean() == 1
        assert not orphan.exists()
        entry = writer.add(planned("x").entries[0], (RAW[0],))
        ticket = writer.commit(replace(planned(), entries=(entry,)))

    assert contents(spool, ticket) == {"x": RAW[0]}


@pytest.fixture
def _full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 64 kB: the nearest to a full disk that any user can have."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_full_disk")
@pytest.mark.parametrize("size", [100 << 10, 5 << 20])
def test_a_full_disk_shows_nothing_and_leaves_nothing(spool: FileSpool, size: int) -> None:
    """Mail waits on its server; the sentence says so. Small batches are held back until the end, large ones are not."""
    with pytest.raises(SpoolFull, match="Mail waits on its server"):
        put(spool, planned("x"), b"x" * size)
    with pytest.raises(SpoolFull):
        spool.remember("support", {"folders": "x" * size})

    assert spool.tickets() == []
    assert list((spool.path / "tmp").iterdir()) == []
    assert spool.recall("support") is None


def test_pulling_stops_while_less_is_free_than_disk_free_min_asks_for(tmp_path: Path) -> None:
    """The disk is shared with the outputs; the last of it is not the spool's."""
    FileSpool(tmp_path, disk_free_min=1, clock=lambda: NOW).check_room()
    with pytest.raises(SpoolFull, match="DISK_FREE_MIN"):
        FileSpool(tmp_path, disk_free_min=1 << 60, clock=lambda: NOW).check_room()


@pytest.mark.parametrize(
    "name", ["x.zip", ".zip", "1.support.zip", str(planned("x").ticket()) + ".part", "notes.txt"]
)
def test_files_that_are_not_batches_are_let_be(spool: FileSpool, name: str) -> None:
    """Somebody's file in the spool stops nothing and is not removed."""
    (spool.path / "ready" / name).write_bytes(b"?")
    ticket = put(spool, planned("x"), RAW[0])

    assert spool.tickets() == [ticket]
    assert spool.clean() == 0
    assert (spool.path / "ready" / name).exists()


def test_a_batch_of_a_newer_version_is_not_guessed_at() -> None:
    """After a downgrade it waits for the program that can read it."""
    text = planned("x").dumps().replace(b'"version": 1', b'"version": 2')

    with pytest.raises(ValueError, match="version 2"):
        Batch.loads(text)


# -- what is still owed ------------------------------------------------------------------------------------------------


def paid(batch: Batch, *ids: str) -> Batch:
    """The next generation of a batch, in which these messages owe nothing any more."""
    entries = tuple(replace(entry, owed=()) if entry.id in ids else entry for entry in batch.entries)
    return replace(batch, generation=batch.generation + 1, entries=entries)


def renewed(spool: Spool, ticket: Ticket, *ids: str, due: int = 5) -> Ticket:
    with spool.open(ticket) as opened:
        found = spool.again(ticket, opened, paid(opened.batch, *ids), due=due)
    assert found
    return found


def test_what_is_still_owed_replaces_what_was_known(either: Spool) -> None:
    """The ticket says how much still owes something, and the messages are as they were."""
    ticket = put(either, planned("x", "y"), *RAW)
    begun = either.begin(ticket)
    assert begun

    later = renewed(either, begun, "x")

    assert either.tickets() == [later]
    assert (later.generation, later.attempts, later.due) == (1, 0, 5)
    assert (later.messages, later.octets) == (1, len(RAW[1]))
    with either.open(later) as opened:
        assert [(entry.id, entry.owed) for entry in opened.batch.entries] == [
            ("x", ()),
            ("y", ("crm", "archive")),
        ]
    assert contents(either, later) == dict(zip(("x", "y"), RAW, strict=True))
    again = renewed(either, later)
    assert contents(either, again) == dict(zip(("x", "y"), RAW, strict=True))


def test_a_batch_that_another_process_took_over_is_left_to_it(either: Spool) -> None:
    """It has a new name by then; what its former owner found out is not written anywhere."""
    begun = either.begin(put(either, planned("x", "y"), *RAW))
    assert begun
    with either.open(begun) as opened:
        taken = either.begin(begun)
        assert either.again(begun, opened, paid(opened.batch, "x"), due=5) is None

    assert either.tickets() == [taken]


def test_a_death_while_a_state_is_appended_leaves_the_one_before(spool: FileSpool) -> None:
    """Cut anywhere: the batch is readable, with one of the two states, and can be appended to again."""
    ticket = put(spool, planned("x", "y"), *RAW)
    path = spool.path / "ready" / str(ticket)
    before = path.read_bytes()
    later = renewed(spool, ticket, "x")
    whole = (spool.path / "ready" / str(later)).read_bytes()
    (spool.path / "ready" / str(later)).unlink()
    assert whole.startswith(before)

    for length in range(len(before), len(whole)):
        path.write_bytes(whole[:length])
        with spool.open(ticket) as opened:
            assert opened.batch.generation == 0
        assert contents(spool, ticket) == dict(zip(("x", "y"), RAW, strict=True))
        mended = renewed(spool, ticket, "y")
        with spool.open(mended) as opened:
            assert [entry.owed for entry in opened.batch.entries] == [("crm", "archive"), ()]
        (spool.path / "ready" / str(mended)).unlink()


def test_a_long_unfinished_end_hides_nothing(spool: FileSpool) -> None:
    """`zipfile` itself looks for the end of a zip in its last 64 KiB."""
    ticket = put(spool, planned("x", "y"), *RAW)
    with (spool.path / "ready" / str(ticket)).open("ab") as file:
        file.write(b"\0" * 100_000)

    assert contents(spool, ticket) == dict(zip(("x", "y"), RAW, strict=True))
    assert contents(spool, renewed(spool, ticket, "x")) == dict(zip(("x", "y"), RAW, strict=True))


def test_two_that_append_at_once_both_leave_a_readable_batch(spool: FileSpool) -> None:
    """A process that woke up too late may write beside the one that took over: the last one counts, and none tears."""
    ticket = put(spool, planned("x", "y"), *RAW)
    path = spool.path / "ready" / str(ticket)

    def write(number: int) -> None:
        append(path, "batch.json", replace(planned("x", "y"), generation=number).dumps())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(1, 65)))

    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["0001.eml", "0002.eml", "batch.json", "plan.json"]
        assert Batch.loads(archive.read("batch.json")).generation in range(1, 65)


def test_any_zip_tool_opens_a_batch_that_was_appended_to(spool: FileSpool) -> None:
    """A person sees one batch.json, the newest."""
    later = renewed(spool, put(spool, planned("x", "y"), *RAW), "x")
    path = spool.path / "ready" / str(later)

    assert subprocess.run(["unzip", "-t", path], capture_output=True, check=False).returncode in {0, 1}
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist().count("batch.json") == 1


def test_a_batch_of_which_little_is_owed_is_written_anew_and_smaller(
    spool: FileSpool, tmp_path: Path
) -> None:
    """What is done takes no room for days, unless it is to be kept."""
    large = b"x" * 3_000_000

    def left(place: FileSpool) -> tuple[int, Ticket]:
        later = renewed(place, put(place, planned("x", "y"), large, RAW[1]), "x")
        assert contents(place, later)["y"] == RAW[1]
        return (place.path / "ready" / str(later)).stat().st_size, later

    size, later = left(spool)
    assert size < 10_000
    assert spool.tickets() == [later]
    size, _ = left(FileSpool(tmp_path / "keeping", keep=60, clock=lambda: NOW))
    assert size > 3_000_000


# -- parked and kept ---------------------------------------------------------------------------------------------------


def test_a_parked_batch_is_in_no_listing_until_it_is_let_out(either: Spool) -> None:
    """Whoever was parked first is the first; of two that let one out, one does."""
    first, second = (put(either, replace(planned("x"), id=f"{n:032x}"), RAW[0]) for n in range(2))
    begun = either.begin(second)
    assert begun
    either.park(begun, "crm", NOW + 1)
    either.park(first, "crm", NOW + 2)

    assert either.tickets() == []
    assert either.parked_for() == ["crm"]
    assert [(one.batch, one.attempts) for one in either.parked("crm")] == [
        (second.batch, 0),
        (first.batch, 0),
    ]
    with either.open(either.parked("crm")[0], parked="crm") as opened:
        assert opened.batch.id == second.batch
    parked = either.parked("crm")[0]
    waiting = either.unpark(parked, "crm")
    assert waiting
    assert either.unpark(parked, "crm") is None
    assert either.tickets() == [waiting]
    assert waiting.due == 0
    assert contents(either, waiting) == {"x": RAW[0]}


def test_what_a_person_put_into_the_spool_is_in_nobodys_way(tmp_path: Path) -> None:
    """Folders among the unfinished files and among what is kept: cleaning leaves them and goes on."""
    now = NOW
    spool = FileSpool(tmp_path, keep=1, clock=lambda: now + 10 * 86400)
    (tmp_path / "tmp" / "notes").mkdir()
    (tmp_path / "kept" / "000001" / "notes").mkdir(parents=True)
    spool.finish(put(spool, planned("x"), RAW[0]), NOW)

    assert spool.clean() == 1
    assert spool.kept() == []


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_was_delivered_is_kept_for_as_long_as_keep_says(kind: str, tmp_path: Path) -> None:
    """And it can be read for so long; without KEEP it is gone at once."""
    now = NOW
    spool: Spool = (
        FileSpool(tmp_path, keep=3 * 86400, clock=lambda: now)
        if kind == "file"
        else MemorySpool(keep=3 * 86400, clock=lambda: now)
    )
    for days in range(2):
        spool.finish(put(spool, replace(planned("x"), id=f"{days:032x}"), RAW[0]), NOW + days * 86400)

    assert spool.tickets() == []
    assert [ticket.due for ticket in spool.kept()] == [NOW, NOW + 86400]
    with spool.open_kept(spool.kept()[0]) as opened:
        assert bytes(opened.raw(opened.batch.entries[0])) == RAW[0]
    assert spool.clean() == 0
    now += 5 * 86400
    assert spool.clean() == 2
    assert spool.kept() == []


def test_pulling_stops_while_more_waits_than_spool_max_allows(tmp_path: Path) -> None:
    """Parked batches count, failed ones do not: they would stop pulling until a person comes."""
    now = NOW
    spool = FileSpool(tmp_path, spool_max=3 * len(RAW[0]), clock=lambda: now)
    tickets = [put(spool, replace(planned("x"), id=f"{n:032x}"), RAW[0]) for n in range(3)]
    spool.park(tickets[0], "crm", now)

    with pytest.raises(SpoolFull, match="SPOOL_MAX"):
        spool.check_room()
    spool.fail(tickets[1], "refused")
    now += 2
    spool.check_room()
