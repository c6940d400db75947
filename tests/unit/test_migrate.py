"""Moving a spool: everything arrives once, whoever dies where, and nothing is left behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from tests.bed.installation import Installation
from tests.bed.object_spool import object_spool
from tests.model.mortal import Died, Life
from tests.unit.test_spool import NOW, RAW, planned, put
from worker.checkpoint import Place
from worker.errors import LeaseLost, Misconfigured
from worker.lease import held
from worker.migrate import migrate
from worker.repair import Repair, Repairs
from worker.spool import Spool
from worker.spool.bucket import Bucket
from worker.spool.file import FileSpool
from worker.spool.object import ObjectSpool

KEEP = 86400.0
PLACE = Place("INBOX", "f" * 32, 7, 9)


def filled(spool: Spool) -> None:
    """One batch in every place there is, and one note of every kind."""
    batches = [replace(planned("x", "y"), id=f"{n:032x}", sequence=n) for n in range(4)]
    put(spool, batches[0], *RAW, due=int(NOW) + 60)
    spool.park(put(spool, batches[1], *RAW), "crm", NOW - 5)
    spool.fail(put(spool, batches[2], *RAW), "refused: too large")
    spool.finish(put(spool, batches[3], *RAW), NOW)
    spool.remember("support", {"folders": {"INBOX": [7, 1]}})
    Repairs(spool).note("sales", [Repair(PLACE, int(NOW), "left out")])
    spool.note_release("old", int(NOW), f"{int(NOW):011d}-a", {"uids": [1]})


def seen(spool: Spool) -> dict[str, Any]:
    """Everything in a spool."""

    def read(opened: Any) -> Any:
        with opened as batch:
            raws = [bytes(batch.raw(entry)) for entry in batch.batch.entries]
            return batch.batch, raws

    return {
        "ready": [(ticket, read(spool.open(ticket))) for ticket in spool.tickets()],
        "parked": [
            (output, ticket, read(spool.open(ticket, parked=output)))
            for output in spool.parked_for()
            for ticket in spool.parked(output)
        ],
        "failed": [
            (replace(ticket, due=0), reason, read(spool.open_failed(ticket)))
            for ticket, reason in spool.failed()
        ],
        "kept": [(ticket, read(spool.open_kept(ticket))) for ticket in spool.kept()],
        "notes": {
            mailbox: (
                spool.recall(mailbox),
                spool.noted_messages(mailbox),
                [spool.release(mailbox, int(NOW), name) for name in spool.releases(mailbox)],
            )
            for mailbox in ("support", "sales", "old")
        },
    }


class World:
    """Two spools, in a folder and in a store, and processes that move one into the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = MemoryStore()
        self.step: Callable[[Callable[[], Any]], Any] = lambda act: act()

    def file(self) -> FileSpool:
        return FileSpool(self.folder / "spool", keep=KEEP, clock=lambda: NOW)

    def object(self) -> ObjectSpool:
        spool = object_spool(self.folder, keep=KEEP, clock=lambda: NOW, client=self.client)
        tried = Bucket._tried
        spool._bucket._tried = lambda act: self.step(lambda: tried(spool._bucket, act))  # type: ignore[method-assign]
        return spool

    def left(self) -> list[str]:
        """What is left of both as files and objects, but for what they need themselves."""
        files = [str(path) for path in (self.folder / "spool").rglob("*") if path.is_file()]
        return files + [
            one["path"] for page in obstore.list(self.client) for one in page if "/" in one["path"]
        ]


def as_quay(spool: Spool) -> Any:
    """What a migration needs of a quay: nobody works."""
    client = SimpleNamespace(scan_iter=lambda *_, **__: iter(()))
    return SimpleNamespace(spool=spool, settings=SimpleNamespace(keep=KEEP), client=client)


@pytest.mark.parametrize("into_store", [True, False], ids=["into a store", "out of a store"])
def test_everything_is_moved_and_nothing_is_left_behind(tmp_path: Path, *, into_store: bool) -> None:
    """With its place, its due time, its reason, its history, and every note."""
    world = World(tmp_path)
    source, target = (world.file(), world.object()) if into_store else (world.object(), world.file())
    filled(source)
    before = seen(source)
    shown: list[tuple[int, int]] = []

    done = migrate(as_quay(source), target, show=lambda *counts: shown.append(counts))

    assert seen(target) == before
    assert (done.batches, done.messages, done.notes, done.stayed) == (4, 8, 3, [])
    assert shown == [(1, 4), (2, 4), (3, 4), (4, 4)]
    empty = {"ready": [], "parked": [], "failed": [], "kept": []}
    assert {name: found for name, found in seen(source).items() if name != "notes"} == empty
    assert source.noted() in ([], ["old", "sales"])
    held_by_target = world.left()
    assert all(("/spool/" in name) != into_store for name in held_by_target)


@pytest.mark.parametrize("into_store", [True, False], ids=["into a store", "out of a store"])
def test_a_migration_that_died_goes_on_when_it_is_run_again(tmp_path: Path, *, into_store: bool) -> None:
    """At whatever request: in the end all is there once, and nothing in the old place."""
    for steps in itertools.count(1):
        world = World(tmp_path / str(steps))
        filled(world.file() if into_store else world.object())
        before = seen(world.file() if into_store else world.object())
        world.step = Life(steps, last_one_done=bool(steps % 2)).step
        died = True
        try:
            source, target = (world.file(), world.object()) if into_store else (world.object(), world.file())
            migrate(as_quay(source), target)
        except Died:
            pass
        else:
            died = False
        world.step = lambda act: act()

        source, target = (world.file(), world.object()) if into_store else (world.object(), world.file())
        migrate(as_quay(source), target)

        # What a mover left pointing to where a batch was, is put right by whoever looks for it there.
        for ticket in target.tickets():
            with suppress(LeaseLost), target.open(ticket):
                pass
        assert seen(target) == before, steps
        assert (source.tickets(), source.failed(), source.kept()) == ([], [], []), steps
        if not died:
            break
    assert steps > 30


def test_a_batch_that_cannot_be_read_stays_and_is_told(tmp_path: Path) -> None:
    """The others are moved."""
    world = World(tmp_path)
    source, target = world.file(), world.object()
    filled(source)
    (path,) = (source.path / "ready").iterdir()
    path.write_bytes(path.read_bytes().replace(b"first", b"FIRST"))

    done = migrate(as_quay(source), target)

    assert done.batches == 3
    assert len(done.stayed) == 1
    assert "not those that were written" in done.stayed[0]
    assert len(source.tickets()) == 1
    assert target.tickets() == []


def test_what_the_other_spool_does_not_give_back_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is read back and compared before it is removed."""
    world = World(tmp_path)
    source, target = world.file(), world.object()
    put(source, planned("x", "y"), *RAW)
    put_ = Bucket.put
    monkeypatch.setattr(
        Bucket, "put", lambda self, key, data: put_(self, key, bytes(data).replace(b"first", b"FIRST"))
    )

    with pytest.raises(Exception, match="does not give back"):
        migrate(as_quay(source), target)

    assert len(source.tickets()) == 1


def test_the_command_moves_and_says_what_to_set(installation: Installation) -> None:
    """And is refused while somebody works, and for the spool that is there already."""
    installation.mailbox("box", address="a@example.com", host="localhost", password="x", outputs="lines")
    quay = installation.quay()
    ticket = put(quay.spool, planned("x", "y"), *RAW)
    elsewhere = installation.folder / "else where"

    with held(quay.client, "mailbox:box", ttl=30):
        refused = installation.run("spool", "migrate", "--to", str(elsewhere))
    same = installation.run("spool", "migrate", "--to", str(quay.settings.data_dir / "spool"))
    wrong = installation.run("spool", "migrate", "--to", "ftp://host/spool")
    moved = installation.run("spool", "migrate", "--to", str(elsewhere))

    assert (refused.returncode, same.returncode, wrong.returncode) == (1, 1, 2)
    assert "workers are at work (mailbox:box): stop them first" in refused.stderr
    assert "the spool that is configured" in same.stderr
    assert "s3://bucket/prefix" in wrong.stderr
    assert (moved.returncode, moved.stderr) == (0, "")
    url = "file://" + str(elsewhere).replace(" ", "%20")
    assert moved.stdout == (
        f"2 messages in 1 batch and 0 notes moved\nnow set SPOOL_URL={url}, then start the workers\n"
    )
    assert quay.spool.tickets() == []
    assert installation.quay(SPOOL_URL=url).spool.tickets() == [ticket]

    back = installation.run("spool", "migrate", "--to", str(quay.settings.data_dir / "spool"), SPOOL_URL=url)
    assert "now unset SPOOL_URL, then start the workers" in back.stdout
    assert quay.spool.tickets() == [ticket]


def test_nothing_is_moved_while_somebody_works(installation: Installation) -> None:
    """A lease says so."""
    quay = installation.quay()
    put(quay.spool, planned("x"), RAW[0])
    with held(quay.client, "batch:b", ttl=30), pytest.raises(Misconfigured, match="batch:b"):
        migrate(quay, quay.spool_at(installation.folder / "other"))
    assert len(quay.spool.tickets()) == 1
