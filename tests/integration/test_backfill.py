"""Going back over folders, and moving checkpoints back: on real servers, beside the pulling of new mail."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dates import parse_date
from tests.bed.clients import imap_login
from tests.bed.dovecot import Dovecot
from tests.bed.errands import deliver_due, flow, pull_tickets, pulled
from tests.bed.identity import Identity
from tests.bed.installation import Installation, number_of, numbered
from tests.bed.processes import wait_until
from tests.bed.scripted import Scripted
from tests.bed.valkey import Valkey
from worker import begin, catch_up, state
from worker.checkpoint import Checkpoint
from worker.cli import status
from worker.demo.certificates import Certificates
from worker.demo.harbour import ALICE
from worker.errors import LeaseLost, Misconfigured, Unreachable
from worker.identity import imap_id
from worker.lease import held
from worker.mailbox import Since
from worker.pull import pull
from worker.quay import Quay
from worker.sources import Credentials, Endpoint
from worker.sources.arrival import arrival
from worker.sources.pop3 import Pop3Source
from worker.spool import Ticket

ALL = Since("all")


@pytest.fixture
def small_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of five messages, so that new mail is looked for very often."""
    monkeypatch.setattr("worker.backfill._TURN_SECONDS", 0.0)
    monkeypatch.setattr("worker.backfill._AT_ONCE", 5)


def numbers(installation: Installation) -> list[int]:
    return [int(str(line["subject"]).rpartition(" ")[2]) for line in installation.lines()]


def go_back(quay: Quay, since: Since = ALL, *, folder: str = "INBOX") -> list[Ticket]:
    """Note a backfill, work it off and deliver; returns the bells in their order."""
    rung: list[Ticket] = []
    box = quay.settings.mailboxes["box"]
    catch_up.note(quay, box, folder, since)
    catch_up.work_off(quay, box, folder, ring=rung.append, progress=lambda _: None)
    deliver_due(quay)
    return rung


def checkpoint(quay: Quay) -> Checkpoint:
    found = quay.checkpoints.load("box", "INBOX")
    assert found
    return found


# -- back over a folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
def test_what_since_now_skipped_can_be_had_later_and_the_checkpoint_stays(
    installation: Installation, dovecot: Dovecot, protocol: str
) -> None:
    """Each message once, with the id that it always has; the next pull finds nothing new."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(20)))
    installation.on_dovecot("box", dovecot, ALICE, protocol=protocol, since="now")
    quay = installation.quay()
    flow(quay, "box")
    before = checkpoint(quay)
    assert numbers(installation) == []

    go_back(quay)

    assert sorted(numbers(installation)) == list(range(20))
    assert checkpoint(quay) == before
    assert quay.checkpoints.backfills("box") == {}
    assert quay.checkpoints.backfilled("box") == frozenset()
    assert flow(quay, "box").messages == 0
    if protocol == "imap":
        uids = dovecot.listing(ALICE)
        ids = {imap_id("box", "INBOX", before.uidvalidity or 0, uid) for uid in uids}
        assert {line["id"] for line in installation.lines()} == ids


@pytest.mark.usefixtures("small_turns")
def test_new_mail_comes_first_while_years_are_gone_back_over(
    installation: Installation, dovecot: Dovecot
) -> None:
    """From the newest down, a turn at a time; what arrives in between is the very next to come."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(30)))
    installation.environ["BATCH_MESSAGES"] = "5"
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    quay = installation.quay()
    pulled(quay, "box")
    box = quay.settings.mailboxes["box"]
    order: list[list[int]] = []

    def ring(ticket: Ticket) -> None:
        with quay.spool.open(ticket) as reader:
            order.append([number_of(bytes(reader.raw(entry))) for entry in reader.batch.entries])
        if len(order) == 2:
            dovecot.save(ALICE, numbered(100))

    catch_up.note(quay, box, "INBOX", ALL)
    catch_up.work_off(quay, box, "INBOX", ring=ring, progress=lambda _: None)

    assert order == [
        [25, 26, 27, 28, 29], [20, 21, 22, 23, 24], [100],
        [15, 16, 17, 18, 19], [10, 11, 12, 13, 14], [5, 6, 7, 8, 9], [0, 1, 2, 3, 4],
    ]  # fmt: skip


@pytest.mark.usefixtures("small_turns")
def test_the_schedule_goes_on_with_a_backfill_that_nobody_watches(
    installation: Installation, dovecot: Dovecot
) -> None:
    """Whoever asked for it went away; an ordinary pull takes its turns, and `status` says how far it is."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(12)))
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    quay = installation.quay()
    pulled(quay, "box")
    catch_up.note(quay, quay.settings.mailboxes["box"], "INBOX", ALL)
    pull(quay, quay.settings.mailboxes["box"], ring=lambda _: None, deadline=time.monotonic())
    [line] = status.lines(quay)
    assert 0 < line.going_back["INBOX"] < 1

    flow(quay, "box")

    assert sorted(numbers(installation)) == list(range(12))
    assert quay.checkpoints.backfills("box") == {}


def test_a_backfill_that_is_killed_goes_on_where_it_was(installation: Installation, dovecot: Dovecot) -> None:
    """SIGKILL in the middle, then the same command again: everything is there, and most of it once."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *(numbered(number, size=3_000) for number in range(3_000)))
    installation.environ |= {"BATCH_MESSAGES": "20", "LEASE_TTL": "2s"}
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    quay = installation.quay()
    pulled(quay, "box")
    command = [sys.executable, "-m", "worker.cli", "pull", "box", "--since", "all"]
    process = subprocess.Popen(
        command, cwd=installation.folder, env=installation.full_environ(), stderr=subprocess.DEVNULL
    )
    try:
        wait_until(
            lambda: any(going.messages for going in quay.checkpoints.backfills("box").values()),
            timeout=30,
            what="the first step of the backfill",
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (going,) = quay.checkpoints.backfills("box").values()
    assert 0 < going.messages < 3_000

    done = installation.run("pull", "box", "--since", "all")

    assert done.returncode == 0, done.stderr
    assert "gone back over" in done.stdout
    raws: list[int] = []
    for ticket in quay.spool.tickets():
        with quay.spool.open(ticket) as reader:
            raws += [number_of(bytes(reader.raw(entry))) for entry in reader.batch.entries]
    assert set(raws) == set(range(3_000))
    # What was spooled since the last step is all that may be there twice.
    assert len(raws) <= 3_000 + 512


def test_a_flushed_redis_does_not_forget_a_backfill(
    installation: Installation, dovecot: Dovecot, fresh_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large new mailbox the checkpoint has passed everything: only the backfill knows what is still to come."""
    monkeypatch.setattr(begin, "_MANY", 10)
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(20)))
    installation.on_dovecot("box", dovecot, ALICE, since="all")
    quay = installation.quay()
    box = quay.settings.mailboxes["box"]
    with catch_up.alone(quay, box) as (errand, source):
        begin.checkpoint(errand, source, source.open("INBOX", writable=False))
    assert checkpoint(quay).uid == quay.checkpoints.backfills("box")["INBOX"].high

    fresh_valkey.flush()
    flow(quay, "box")

    assert sorted(numbers(installation)) == list(range(20))


@pytest.mark.usefixtures("small_turns")
def test_a_large_new_mailbox_is_pulled_from_the_newest_down(
    installation: Installation, dovecot: Dovecot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SINCE=all, too, what arrives now does not wait behind years; a small one comes in its order."""
    monkeypatch.setattr(begin, "_MANY", 10)
    installation.environ["BATCH_MESSAGES"] = "5"
    for count, first in ((20, 15), (10, 0)):
        dovecot.forget(ALICE)
        dovecot.save(ALICE, *map(numbered, range(count)))
        installation.on_dovecot(f"box{count}", dovecot, ALICE, since="all")
        quay = installation.quay()

        result, rung = pull_tickets(quay, f"box{count}")

        assert (result.messages, result.more, result.trouble) == (count, False, None)
        with quay.spool.open(rung[0]) as reader:
            assert number_of(bytes(reader.raw(reader.batch.entries[0]))) == first


def test_a_folder_that_is_away_keeps_what_is_still_to_be_had_of_it(
    installation: Installation, dovecot: Dovecot
) -> None:
    """A server may hide a folder for a while. Whoever watches is told; the schedule goes on when it is back."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, numbered(0))
    dovecot.save(ALICE, *map(numbered, range(1, 6)), folder="Old")
    installation.on_dovecot("box", dovecot, ALICE, folders="INBOX,Old", since="now")
    quay = installation.quay()
    box = quay.settings.mailboxes["box"]
    pulled(quay, "box")
    catch_up.note(quay, box, "Old", ALL)
    lies, aside = dovecot._mail / ALICE / "Maildir" / ".Old", dovecot.folder / "aside"
    lies.rename(aside)

    with pytest.raises(Unreachable, match="does not open Old any more"):
        catch_up.work_off(
            quay, box, "Old", ring=lambda _: None, progress=lambda _: None, sleep=lambda _: None
        )
    assert list(quay.checkpoints.backfills("box")) == ["Old"]
    aside.rename(lies)
    flow(quay, "box")

    assert sorted(numbers(installation)) == [1, 2, 3, 4, 5]


def test_a_renumbered_folder_ends_its_backfill(installation: Installation, dovecot: Dovecot) -> None:
    """Its uids mean other messages; all of it is pulled anew anyway."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(5)))
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    quay = installation.quay()
    pulled(quay, "box")
    catch_up.note(quay, quay.settings.mailboxes["box"], "INBOX", ALL)
    dovecot.uidvalidity(ALICE, 4711)

    flow(quay, "box")

    assert sorted(numbers(installation)) == list(range(5))
    assert quay.checkpoints.backfills("box") == {}


def test_a_folder_that_is_not_pulled_can_be_gone_back_over(
    installation: Installation, dovecot: Dovecot
) -> None:
    """It is had once; its new mail stays none of ours."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(5)), folder="Archive")
    installation.on_dovecot("box", dovecot, ALICE, since="all")
    quay = installation.quay()

    go_back(quay, folder="Archive")
    dovecot.save(ALICE, numbered(9), folder="Archive")
    flow(quay, "box")

    assert sorted(numbers(installation)) == list(range(5))


def test_only_as_far_back_as_a_day(installation: Installation, dovecot: Dovecot, identity: Identity) -> None:
    """The server counts days by the time of arrival."""
    dovecot.forget(ALICE)
    client = imap_login(dovecot.imaps_port, dovecot.ca_file, ALICE, identity.token(ALICE))
    for day in (1, 5, 9):
        client.append("INBOX", "", f'"{day:2d}-Jan-2026 12:00:00 +0000"', numbered(day))
    client.logout()
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    quay = installation.quay()
    flow(quay, "box")

    go_back(quay, Since("date", day=date(2026, 1, 5)))

    assert sorted(numbers(installation)) == [5, 9]
    assert go_back(quay, Since("date", day=date(2026, 2, 1))) == []


def test_the_same_wish_goes_on_and_another_one_begins_anew(
    installation: Installation, dovecot: Dovecot
) -> None:
    """And one that nobody wants any more is given up."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *map(numbered, range(5)))
    installation.on_dovecot("box", dovecot, ALICE, since="now")
    quay = installation.quay()
    box = quay.settings.mailboxes["box"]
    pulled(quay, "box")
    first = catch_up.note(quay, box, "INBOX", ALL)
    assert first
    with catch_up.alone(quay, box) as (errand, _):
        quay.checkpoints.move_backfill(errand.lease.fence, "box", "INBOX", replace(first, high=3))

    same = catch_up.note(quay, box, "INBOX", ALL)
    other = catch_up.note(quay, box, "INBOX", Since("days", days=3))

    assert same == replace(first, high=3)
    assert other == replace(first, since="3d")
    assert catch_up.give_up(quay, box, "INBOX")
    assert not catch_up.give_up(quay, box, "INBOX")
    assert pulled(quay, "box").messages == 0


# -- POP3 and dates --------------------------------------------------------------------------------------------------


def dated(number: int, day: int, *, received: bool = True) -> bytes:
    """A message of a day in January 2026."""
    said = f"{day} Jan 2026 12:00:00 +0000"
    head = f"Received: from a by b;\r\n\t{said}\r\n" if received else ""
    return f"{head}Date: {said}\r\n".encode() + numbered(number)


def test_a_pop3_mailbox_can_begin_at_a_day(installation: Installation, dovecot: Dovecot) -> None:
    """POP3 tells no dates, so the messages' own heads are asked; one that tells nothing is pulled, lest it be lost."""
    dovecot.forget(ALICE)
    dovecot.save(
        ALICE,
        *(dated(number, 1) for number in range(3)),
        dated(3, 9),
        dated(4, 9, received=False),
        numbered(5),
    )
    installation.on_dovecot("box", dovecot, ALICE, protocol="pop3", since="2026-01-05")
    quay = installation.quay()

    flow(quay, "box")
    dovecot.save(ALICE, dated(6, 2))
    flow(quay, "box")

    # A message that arrives later is new, whatever its head says.
    assert sorted(numbers(installation)) == [3, 4, 5, 6]


def test_pop3_heads_are_asked_from_the_newest_and_not_all(certificates: Certificates) -> None:
    """A hundred in a row that are too old end it: a maildrop of years is not gone through for one day."""
    count = 450
    listing = b"".join(b"%d u%d\r\n" % (number, number) for number in range(1, count + 1))
    old, young = dated(1, 1), dated(2, 9)
    answers = {
        b"CAPA": b"+OK\r\nTOP\r\nUIDL\r\nPIPELINING\r\n.\r\n",
        b"AUTH": b"+ \r\n",
        b"dXNlcj1": b"+OK\r\n",
        b"UIDL": b"+OK\r\n" + listing + b".\r\n",
        b"TOP 450 ": b"+OK\r\n" + young + b".\r\n",
        b"TOP": b"+OK\r\n" + old + b".\r\n",
    }
    with pop3(certificates, answers) as (source, server):
        opened = source.open("INBOX", writable=False)
        _, skipped = source.start(opened, date(2026, 1, 5))
        assert len(skipped) == count - 1
        assert "u450" not in skipped
        assert len(server.commands(b"TOP")) == 200


def test_a_pop3_server_without_top_says_what_to_do(certificates: Certificates) -> None:
    """To skip everything or to pull everything would both be a guess."""
    answers = {
        b"CAPA": b"-ERR\r\n",
        b"AUTH": b"+ \r\n",
        b"dXNlcj1": b"+OK\r\n",
        b"UIDL": b"+OK\r\n1 a\r\n.\r\n",
        b"TOP": b"-ERR unknown command\r\n",
    }
    with (
        pop3(certificates, answers) as (source, _),
        pytest.raises(Misconfigured, match="SINCE=now or SINCE=all"),
    ):
        source.start(source.open("INBOX", writable=False), date(2026, 1, 5))


class pop3:  # noqa: N801  (reads as a verb)
    """A session with a scripted server."""

    def __init__(self, certificates: Certificates, answers: dict[bytes, bytes]) -> None:
        self._server = Scripted(certificates, b"+OK ready\r\n", answers, tagged=False)

    def __enter__(self) -> tuple[Pop3Source, Scripted]:
        self._server.__enter__()
        self._source = Pop3Source(
            Endpoint("localhost", self._server.port, "implicit", str(self._server.ca_file)),
            Credentials("support@contoso.com", "t0ken"),
            message_max=1 << 20,
            answer_seconds=5,
            clock=lambda: 0,
        )
        return self._source, self._server

    def __exit__(self, *what: object) -> None:
        self._source.close()
        self._server.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("head", "day"),
    [
        (
            b"Received: by b; Fri, 9 Jan 2026 12:00:00 +0000\r\nReceived: by a; 1 Jan 2026 12:00:00 +0000\r\n",
            9,
        ),
        (b"Date: 1 Jan 2026 12:00:00 +0000\r\nReceived: by b;\r\n 9 Jan 2026 12:00:00 +0000\r\n", 9),
        (b"received: by b (no date)\nDate: 1 Jan 2026 12:00:00 +0000\n", 1),
        (b"X-Received: by b; 1 Jan 2026 12:00:00 +0000\r\n", None),
        (b"Subject: Date: 1 Jan 2026 12:00:00 +0000\r\n", None),
        (b"", None),
    ],
)
def test_the_topmost_received_tells_when_a_message_arrived(head: bytes, day: int | None) -> None:
    """`Date` only where there is none, because it is the sender's claim."""
    found = arrival(head)

    assert (found and found.day) == day


@given(st.binary(max_size=200))
def test_no_head_is_too_strange_to_be_asked_for_its_date(head: bytes) -> None:
    """It may be anybody's."""
    found = arrival(b"Received: a; " + head + b"\r\nDate: " + head)

    assert found is None or isinstance(found, type(parse_date("1 Jan 2026 12:00:00 +0000")))


# -- moving a checkpoint back ----------------------------------------------------------------------------------------


@pytest.fixture
def ten(installation: Installation, dovecot: Dovecot, identity: Identity) -> Quay:
    """A mailbox with messages of the first to the tenth of January 2026, all handed over."""
    dovecot.forget(ALICE)
    client = imap_login(dovecot.imaps_port, dovecot.ca_file, ALICE, identity.token(ALICE))
    for day in range(1, 11):
        client.append("INBOX", "", f'"{day:2d}-Jan-2026 12:00:00 +0000"', dated(day, day))
    client.logout()
    installation.on_dovecot("box", dovecot, ALICE)
    quay = installation.quay()
    flow(quay, "box")
    assert len(installation.lines()) == 10
    return quay


@pytest.mark.parametrize(("to", "again"), [(8, 3), (1, 10), (date(2026, 1, 9), 2)])
def test_a_checkpoint_that_is_moved_back_brings_the_same_ids_again(
    ten: Quay, installation: Installation, to: int | date, again: int
) -> None:
    """To a uid, to the start, to a day. Outputs that have them recognise them, as this one does."""
    ids = [line["id"] for line in installation.lines()]

    catch_up.rewind(ten, ten.settings.mailboxes["box"], "INBOX", to)
    result, rung = pull_tickets(ten, "box")

    assert result.messages == again
    found = []
    for ticket in rung:
        with ten.spool.open(ticket) as reader:
            found += [entry.id for entry in reader.batch.entries]
    assert found == ids[-again:]


def test_a_pop3_checkpoint_is_moved_back_by_date_or_to_the_start(
    installation: Installation, dovecot: Dovecot
) -> None:
    """It is a set of UIDLs, and knows no numbers."""
    dovecot.forget(ALICE)
    dovecot.save(ALICE, *(dated(day, day) for day in range(1, 7)))
    installation.on_dovecot("box", dovecot, ALICE, protocol="pop3")
    quay = installation.quay()
    box = quay.settings.mailboxes["box"]
    flow(quay, "box")

    assert "2 messages" in catch_up.rewind(quay, box, "INBOX", date(2026, 1, 5))
    assert pulled(quay, "box").messages == 2
    assert "6 messages" in catch_up.rewind(quay, box, "INBOX", 1)
    assert pulled(quay, "box").messages == 6
    with pytest.raises(Misconfigured, match="no uids"):
        catch_up.rewind(quay, box, "INBOX", 3)


def test_a_checkpoint_is_never_moved_ahead(ten: Quay) -> None:
    """What lies between would be skipped without a word; nor is there anything to move in a folder never pulled."""
    box = ten.settings.mailboxes["box"]
    with pytest.raises(Misconfigured, match="back only"):
        catch_up.rewind(ten, box, "INBOX", 12)
    with pytest.raises(Misconfigured, match="back only"):
        catch_up.rewind(ten, box, "INBOX", date(2026, 2, 1) + timedelta(days=1))
    ten.checkpoints._client.hdel(state.checkpoint_key("box"), "folder:INBOX")
    ten.spool.remember("box", {"folders": {}, "uidls": []})
    with pytest.raises(Misconfigured, match="never pulled"):
        catch_up.rewind(ten, box, "INBOX", 3)


def test_a_rewound_checkpoint_survives_a_flush(ten: Quay, fresh_valkey: Valkey) -> None:
    """The copy beside the spool is moved back too."""
    catch_up.rewind(ten, ten.settings.mailboxes["box"], "INBOX", 8)
    fresh_valkey.flush()

    assert pulled(ten, "box").messages == 3


def test_a_pull_under_way_is_waited_for_and_not_for_ever(ten: Quay) -> None:
    """Both write the checkpoint, so only one may."""
    box = ten.settings.mailboxes["box"]
    waits: list[float] = []
    holding = held(ten.client, state.mailbox_lease("box"), ttl=60)
    with holding, pytest.raises(LeaseLost, match="all the time"):
        catch_up.rewind(ten, box, "INBOX", 3, sleep=waits.append)
    assert sum(waits) == ten.settings.pull_limit.total_seconds()
