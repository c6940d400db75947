"""The store of the spool in trouble: busy, slow, cut off, or with an answer that is lost on its way."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.bed.faulty_store import Fault, FaultyStore, busy, cut, faulty_store, forbidden, lost, stalled
from tests.bed.object_store import ObjectServer, object_server
from tests.bed.scripted_http import Request, said
from tests.unit.test_spool import NOW, RAW, contents, planned, put
from worker import settings as configuration
from worker.errors import Misconfigured, SpoolFull, SpoolUnavailable
from worker.quay import Quay
from worker.spool import Spool, Ticket, bucket

SECRET = secrets.token_hex(20)
TICKET = Ticket("b" * 32, "support", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as running:
        yield running


@pytest.fixture
def store(server: ObjectServer) -> Iterator[FaultyStore]:
    with faulty_store(server) as proxied:
        yield proxied


def spool_on(store: FaultyStore, folder: Path, *, now: float = NOW, **more: str) -> Spool:
    """The spool as a process has it, from its settings."""
    environ = {
        "REDIS_URL": "redis://127.0.0.1:1",
        "DATA_DIR": str(folder),
        "SPOOL_URL": f"s3://{store.bucket.name}/mail/spool",
        "SPOOL_ENDPOINT": store.bucket.endpoint,
        "SPOOL_ACCESS_KEY": "AKIDEXAMPLE",
        "SPOOL_SECRET_KEY": SECRET,
        "SPOOL_TIMEOUT": "300ms",
        **more,
    }
    said_so = configuration.load(environ, cwd=folder)
    quay = Quay(said_so, "redis://127.0.0.1:1", clock=lambda: now)
    quay.jitter = lambda: 0.01  # type: ignore[method-assign]
    spool = quay.spool
    quay.client.close()
    return spool


def life(spool: Spool) -> dict[str, bytes]:
    """A batch through every kind of change, and a note; what was delivered."""
    spool.remember("support", {"folders": {"INBOX": [7, 1]}})
    begun = spool.begin(put(spool, planned("x", "y"), *RAW))
    assert begun, "nobody else was there"
    found = contents(spool, begun)
    with spool.open(begun) as opened:
        waiting = spool.again(begun, opened, replace(opened.batch, generation=1), due=int(NOW))
    assert waiting, "nobody else was there"
    spool.park(waiting, "crm", NOW)
    back = spool.unpark(spool.parked("crm")[0], "crm")
    assert back, "nobody else was there"
    spool.finish(back, NOW)
    assert spool.recall("support") == {"folders": {"INBOX": [7, 1]}}
    return found


@pytest.mark.parametrize("fault", [busy, cut, lost, stalled], ids=lambda fault: fault.__name__)
def test_any_one_request_that_goes_wrong_changes_nothing(
    server: ObjectServer, tmp_path: Path, fault: Fault
) -> None:
    """It is tried again. A write that was done and whose answer was lost is not taken for another's.

    What was given up and is done in the end, when all is over, brings nothing back: a sweep finds no batch.
    """
    with faulty_store(server) as store:
        life(spool_on(store, tmp_path))
        requests = store.count

    for number in range(1, requests + 1):
        with faulty_store(server) as store:
            store.only(number, fault)

            assert life(spool_on(store, tmp_path)) == {"x": RAW[0], "y": RAW[1]}, number

            assert store.count > requests, "the fault was met"
            store.well()
            store.do_what_was_late()
            later = spool_on(store, tmp_path, now=NOW + 1e8)
            assert [later.begin(ticket) for ticket in later.tickets()] in ([], [None]), number
            later.clean()
            left = {key.removeprefix("mail/spool/") for key in store.bucket.objects()}
            assert left == {"notes/support.json", "cleaned"}, number
    assert requests > 20


def test_a_record_that_is_written_late_does_not_undo_what_became_of_its_batch(
    store: FaultyStore, tmp_path: Path
) -> None:
    """The first try to write it hung, the second succeeded; the first is done when the batch has long moved on."""
    hung: list[Request] = []

    def once(_: int, request: Request) -> Fault | None:
        if request.method == "PUT" and "record.json" in request.path and not hung:
            hung.append(request)
            return stalled
        return None

    store.fault = once
    spool = spool_on(store, tmp_path)
    begun = spool.begin(put(spool, planned("x", "y"), *RAW))
    assert begun
    with spool.open(begun) as opened:
        waiting = spool.again(begun, opened, replace(opened.batch, generation=1), due=int(NOW))

    assert len(store.late) == 1
    store.do_what_was_late()

    other = spool_on(store, tmp_path)
    assert other.tickets() == [waiting]
    assert waiting
    assert other.begin(waiting)


@pytest.mark.parametrize("fault", [busy, cut, stalled, forbidden], ids=lambda fault: fault.__name__)
def test_a_store_that_is_away_is_one_sentence_after_a_few_tries(
    store: FaultyStore, tmp_path: Path, fault: Fault
) -> None:
    """Whatever was asked: mail waits where it is. Nothing secret is in the sentence, and nobody waits for long."""
    spool = spool_on(store, tmp_path)
    begun = spool.begin(put(spool, planned("x"), RAW[0]))
    assert begun
    store.always(fault)

    def opened() -> None:
        with spool_on(store, tmp_path).open(begun):
            pass

    for act in (
        lambda: put(spool, planned("y"), RAW[1]),
        lambda: spool.begin(TICKET),
        lambda: spool.postpone(begun, 0),
        lambda: spool.finish(begun, NOW),
        lambda: spool.fail(begun, "x"),
        opened,
        spool.tickets,
        spool.failed,
        spool.kept,
        spool.parked_for,
        spool.clean,
        lambda: spool.remember("support", {}),
        lambda: spool.recall("support"),
        lambda: spool.noted_messages("support"),
        lambda: list(spool.releases("support")),
        lambda: spool.note_release("support", 1, "00000000001-x", {}),
    ):
        store.count = 0
        with pytest.raises(SpoolUnavailable, match="Mail waits on its server") as caught:
            act()
        assert isinstance(caught.value, SpoolFull)
        assert caught.value.retried
        assert SECRET not in str(caught.value)
        assert "secret-key-name" not in str(caught.value)
        # To remove what was begun is tried as well.
        assert store.count <= (6 if fault is not forbidden else 2)
        if fault is forbidden:
            assert "SPOOL_ACCESS_KEY" in str(caught.value)

    store.well()
    store.over.set()
    assert spool.tickets() == [begun]


def test_what_could_not_be_spooled_is_not_there_later(store: FaultyStore, tmp_path: Path) -> None:
    """The store takes the raw messages, and then nothing more; an hour later they are gone."""
    spool = spool_on(store, tmp_path)
    store.fault = lambda _, request: busy if request.method == "PUT" and "record" in request.path else None
    with pytest.raises(SpoolUnavailable):
        put(spool, planned("x"), RAW[0])
    store.fault = lambda _, request: busy if request.method != "GET" and "record" in request.path else None
    with pytest.raises(SpoolUnavailable):
        put(spool, planned("x"), RAW[0])
    store.well()

    assert spool.tickets() == []
    spool_on(store, tmp_path, now=NOW + 1e8).clean()
    assert [key for key in store.bucket.objects() if "cleaned" not in key] == []


def test_a_store_that_does_not_keep_conditions_is_refused(store: FaultyStore, tmp_path: Path) -> None:
    """Two processes could take the same batch there, and nobody would notice."""

    def forward(request: Request) -> bytes:
        headers = {name: value for name, value in request.headers.items() if name != "if-match"}
        return FaultyStore.forward(store, replace(request, headers=headers))

    store.forward = forward  # type: ignore[method-assign]
    spool = spool_on(store, tmp_path)
    ticket = put(spool, planned("x"), RAW[0])

    with pytest.raises(Misconfigured, match="If-Match"):
        spool.begin(ticket)
    assert spool.tickets() == [ticket]


def test_conditions_are_tried_out_once_in_the_life_of_a_process(store: FaultyStore, tmp_path: Path) -> None:
    """It costs a few requests."""
    spool = spool_on(store, tmp_path)
    for _ in range(2):
        begun = spool.begin(put(spool, planned("x"), RAW[0]))
        assert begun
        spool.finish(begun, NOW)

    probes = [request.method for request in store.requests if "/probe/" in request.path]
    assert probes == ["PUT", "PUT", "PUT", "GET"]
    assert not any("/probe/" in key for key in store.bucket.objects())


def test_pulling_stops_while_more_waits_than_spool_max(store: FaultyStore, tmp_path: Path) -> None:
    """What is parked waits, too. It goes on by itself."""
    spool = spool_on(store, tmp_path, SPOOL_MAX="50B")
    spool.check_room()
    begun = spool.begin(put(spool, planned("x", "y"), *RAW))
    assert begun
    spool.park(begun, "crm", NOW)
    with pytest.raises(SpoolFull, match="SPOOL_MAX"):
        spool_on(store, tmp_path, SPOOL_MAX="45B").check_room()
    spool_on(store, tmp_path, SPOOL_MAX="1MB").check_room()


@pytest.mark.parametrize("trouble", ["no bucket", "elsewhere", "nobody"])
def test_a_wrong_address_says_which_variable_to_look_at(
    store: FaultyStore, tmp_path: Path, trouble: str
) -> None:
    """Before any mail is pulled."""
    more: dict[str, str] = {}
    if trouble == "no bucket":
        more["SPOOL_URL"] = f"s3://{store.bucket.name}-no/spool"
    elif trouble == "nobody":
        more["SPOOL_ENDPOINT"] = "http://127.0.0.1:9"
    else:
        store.always(lambda *_: said("301 Moved Permanently"))

    with pytest.raises(SpoolUnavailable) as caught:
        spool_on(store, tmp_path, **more).tickets()

    said_so = {"no bucket": "SPOOL_URL", "elsewhere": "SPOOL_REGION", "nobody": "cannot be reached"}
    assert said_so[trouble] in str(caught.value)


def test_a_listing_that_breaks_off_goes_on_where_it_was(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that did not come is asked for again, and nothing comes twice or not at all."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    monkeypatch.setattr(bucket, "_PAGE", 10)
    many = [replace(TICKET, due=due) for due in range(35)]
    for ticket in many:
        key = f"mail/spool/kept/000000/{ticket}/{'c' * 32}.000000"
        httpx2.put(f"{store.bucket.endpoint}/{store.bucket.name}/{key}", trust_env=False)
    for number in range(1, 5):
        store.only(number, cut)
        spool: Any = spool_on(store, tmp_path)

        assert [pointer.ticket for pointer in spool._chains.pointers("kept")] == many
        assert store.count == 5
